"""The typed options of a model: what the server is told, and what the chosen runtime cannot honour."""

import json
from collections.abc import Iterator
from typing import Any

from slipway.api.conditions import Reason
from slipway.api.model import Model
from slipway.decide.runtimes import Runtime
from slipway.decide.types import Refusal


def given(model: Model) -> dict[str, Any]:
    """What is said, by the names of the API."""
    return model.options.model_dump(by_alias=True, exclude_defaults=True) if model.options is not None else {}


def text(model: Model) -> str:
    """The same as the server reads it; empty when nothing is said."""
    said = given(model)
    return json.dumps(said, sort_keys=True, separators=(",", ":")) if said else ""


def check(model: Model, runtime: Runtime) -> Refusal | None:
    words = next(_flaws(model, runtime), "")
    return Refusal(Reason.OPTION_NOT_SUPPORTED, f"spec.predictor.model.options.{words}") if words else None


def _flaws(model: Model, runtime: Runtime) -> Iterator[str]:
    said = given(model)
    taken = {option.name: option.arg for option in runtime.spec.options}
    flags = {word.partition("=")[0] for word in model.args}
    for name in said:
        if name not in taken:
            yield f"{name}: {runtime.title} does not take it; it takes: {', '.join(taken) or 'no options'}"
        elif taken[name] in flags:
            yield f"{name} and the argument {taken[name]} say the same; keep one of them"
    most = said.get("maxBatchSize")
    for name in ("preferredBatchSizes", "batchBuckets"):
        if most is not None and (large := [size for size in said.get(name, ()) if size > most]):
            yield f"{name} has {large[0]}, more than maxBatchSize, which is {most}"
    for name in ("inputs", "outputs"):
        names = [tensor["name"] for tensor in said.get(name, ())]
        if twice := [one for one in names if names.count(one) > 1]:
            yield f"{name} has {twice[0]!r} twice; name each once"
