"""Refuses tensors that a model does not take before their values are read: those of a small body may be millions.

For bodies above `EARLY_BYTES` only: a smaller one is soon read, and `engine.signature`, whose sentences these are,
looks at all of them afterwards.
"""

from slipway_runtime.engine.signature import check_batch, check_tensor, unexpected
from slipway_runtime.tensors import Metadata, checked_shape

EARLY_BYTES = 64 << 10


class Expected:
    def __init__(self, metadata: Metadata, model: str) -> None:
        self._metadata = metadata
        self._model = model
        self._specs = {spec.name: spec for spec in metadata.inputs}

    def shape(self, shape: object, name: str, datatype: str) -> tuple[int, ...]:
        """The shape of a tensor that the model takes. Raises RequestError INVALID."""
        sizes = checked_shape(shape, name)
        spec = self._specs.get(name)
        if spec is None:
            raise unexpected(name, self._metadata.inputs, self._model)
        check_tensor(datatype, sizes, spec, self._model)
        if self._metadata.max_batch and sizes:
            check_batch(sizes[0], self._metadata.max_batch, self._model)
        return sizes
