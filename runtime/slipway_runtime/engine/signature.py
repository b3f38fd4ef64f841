"""Does a request fit the model? Pure; the sentences are Triton's, so that people find them on the web."""

from collections.abc import Iterable, Sequence

from slipway_runtime.errors import invalid
from slipway_runtime.tensors import InferRequest, Metadata, Tensor, TensorSpec


def ordered_inputs(request: InferRequest, metadata: Metadata, model: str) -> list[Tensor]:
    """The request's tensors in the model's order.

    Raises:
        RequestError: INVALID, naming the first tensor that does not fit.
    """
    given = {tensor.name: tensor for tensor in request.inputs}
    if len(given) < len(request.inputs):
        raise invalid(f"an input is given twice for model '{model}', got {_names(request.inputs)}")
    wanted = {spec.name for spec in metadata.inputs}
    for name in given:
        if name not in wanted:
            raise invalid(
                f"unexpected inference input '{name}' for model '{model}', it takes {_names(metadata.inputs)}"
            )
    missing = [spec.name for spec in metadata.inputs if spec.name not in given]
    if missing:
        raise invalid(
            f"expected {len(wanted)} inputs but got {len(given)} inputs for model '{model}'. Got input(s) "
            f"{sorted(given)}, but missing required input(s) {missing}. Please provide all required input(s)."
        )
    for spec in metadata.inputs:
        _check(given[spec.name], spec, model)
    inputs = [given[spec.name] for spec in metadata.inputs]
    if metadata.max_batch:
        _check_batch(inputs, metadata.max_batch, model)
    return inputs


def check_outputs(request: InferRequest, names: Sequence[str], model: str) -> None:
    """`names` are what the model gives."""
    asked = [choice.name for choice in request.outputs or ()]
    for name in asked:
        if name not in names:
            raise invalid(f"unexpected inference output '{name}' for model '{model}', it gives {list(names)}")
    if len(set(asked)) < len(asked):
        raise invalid(f"an output is asked for twice of model '{model}'")


def chosen(outputs: Sequence[Tensor], request: InferRequest) -> Sequence[Tensor]:
    """The outputs the request asked for, in its order. `check_outputs` has passed."""
    if request.outputs is None:
        return outputs
    by_name = {tensor.name: tensor for tensor in outputs}
    return [by_name[choice.name] for choice in request.outputs]


def _check(tensor: Tensor, spec: TensorSpec, model: str) -> None:
    if spec.datatype and tensor.datatype != spec.datatype:
        raise invalid(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{model}' "
            f"expects '{spec.datatype}'"
        )
    if not spec.accepts(tensor.data.shape):
        raise invalid(
            f"unexpected shape for input '{tensor.name}' for model '{model}'. "
            f"Expected {list(spec.shape or ())}, got {list(tensor.data.shape)}."
        )


def _check_batch(inputs: Sequence[Tensor], max_batch: int, model: str) -> None:
    sizes = {tensor.data.shape[0] for tensor in inputs}
    if len(sizes) > 1:
        raise invalid(f"inputs of one request for model '{model}' have different batch sizes {sorted(sizes)}")
    size = sizes.pop()
    if not 1 <= size <= max_batch:
        raise invalid(f"inference request batch-size must be <= {max_batch} for '{model}' and at least 1, got {size}")


def _names(items: Iterable[Tensor | TensorSpec]) -> list[str]:
    return [item.name for item in items]
