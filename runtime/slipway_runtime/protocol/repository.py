"""What a client may say when it loads or unloads a model, the same in REST and in gRPC. Pure."""

from collections.abc import Mapping
from typing import Any

from slipway_runtime.errors import Kind, RequestError, invalid


def load_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """{"config": JSON text} or nothing.

    Raises:
        RequestError: UNSUPPORTED for files, which Triton lets clients put in the place of a model's own.
    """
    for key, value in given.items():
        if key.startswith("file:"):
            raise RequestError(
                Kind.UNSUPPORTED,
                f"parameter '{key[:80]}': files are not taken from a request, put them where the server has its models",
            )
        if key != "config":
            raise invalid(f"parameter '{key[:80]}' is not known for loading a model, 'config' is")
        if type(value) is not str:
            raise invalid("parameter 'config' must be a string, the model's configuration as JSON")
    return dict(given)


def unload_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing; {"unload_dependents": false} may be said.

    Raises:
        RequestError: UNSUPPORTED for true: the steps of an ensemble are models of their own.
    """
    for key, value in given.items():
        if key != "unload_dependents":
            raise invalid(f"parameter '{key[:80]}' is not known for unloading a model, 'unload_dependents' is")
        if type(value) is not bool:
            raise invalid("parameter 'unload_dependents' must be true or false")
        if value:
            raise RequestError(
                Kind.UNSUPPORTED, "'unload_dependents' true is not served: unload the models of the ensemble one by one"
            )
    return {}
