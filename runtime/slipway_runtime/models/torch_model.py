"""A PyTorch model that answers one request at a time with named tensors, as the server uses it today."""

from collections.abc import Sequence

from slipway_runtime.errors import RequestError, invalid
from slipway_runtime.models import load as loading
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel, LoadOptions
from slipway_runtime.tensors import Metadata, Tensor


class TorchModel:
    """A loaded model. `run` is not thread-safe."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    @property
    def metadata(self) -> Metadata:
        return self._model.metadata

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All outputs for `inputs`, which are in the order of the metadata and are not changed.

        Raises:
            RequestError: INTERNAL with the model's own message when it fails; INVALID where an exported
                program says that an input is outside of what it was exported for.
        """
        for tensor, spec in zip(inputs, self.metadata.inputs, strict=True):
            if tensor.datatype == "BF16" and not spec.datatype:
                raise invalid(f"tensor '{tensor.name}' is BF16, which needs a config.json that says so")
        rows = inputs[0].data.shape[0] if self.metadata.max_batch else 1
        (answer,) = self._model.runners[0].run([OwnCall([tensor.data for tensor in inputs], rows)])
        if isinstance(answer, RequestError):
            raise answer
        specs = self.metadata.outputs
        return [Tensor(spec.name, spec.datatype, data) for spec, data in zip(specs, answer, strict=True)]

    def warm_up(self) -> bool:
        """Whether shapes are known, so that there was one. Raises BadModel."""
        return self._model.warm_up()


def load(artifact: Artifact, device: str, threads: int) -> TorchModel:
    """Read the model from disk onto the device. Raises BadModel, BadConfig."""
    return TorchModel(loading.load(artifact, LoadOptions(device=device, threads=threads)))
