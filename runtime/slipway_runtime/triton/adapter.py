"""Models of formats that this Triton has no backend for, run by slipway-runtime's own loaders in the Python backend.

A Triton from PyPI has the Python backend alone. What a version folder then gets as its model.py is two lines that make
`stub.TritonPythonModel`; Triton's batching, queue, protocol and metrics stay what they are.
"""

from pathlib import Path

from slipway_runtime.errors import BadConfig
from slipway_runtime.triton.layout import Model
from slipway_runtime.triton.messages import Config, backend_of

FORMATS = ("onnx", "torchscript", "torch-export")
LIBTORCH = ("torchscript",)
"""What Triton's own PyTorch backend reads."""
FILE, MAX_BATCH = "slipway_file", "slipway_max_batch"
"""Parameters of the config by which the adapter is told."""
# The process of the Python backend is isolated: it knows its environment's packages, and no PYTHONPATH.
CODE = f"""\
import sys
from pathlib import Path

sys.path.append({str(Path(__file__).parents[2])!r})
from slipway_runtime.triton.stub import model_at

TritonPythonModel = model_at(Path(__file__).parent)
"""


def adapt(config: Config, model: Model, installed: frozenset[str], max_batch: int) -> bool:
    """Have a model run by the adapter, where that is needed. Whether it was.

    `max_batch`: of a model whose config says nothing, and which can have any batch.

    Raises:
        BadConfig: this Triton cannot run it.
    """
    backend = backend_of(config)
    has_backend = backend in installed and (backend != "pytorch" or model.format in LIBTORCH)
    if backend == "ensemble" or has_backend:
        return False
    if model.format not in FORMATS or "python" not in installed:
        raise BadConfig(
            f"this Triton has no backend '{backend}' for model '{model.name}' "
            f"(it has: {', '.join(sorted(installed))}); use an image of Triton that has it"
        )
    config.backend = "python"
    for field in ("platform", "default_model_filename", "optimization", "cc_model_filenames"):
        config.ClearField(field)  # of the backend that is not there
    config.parameters[FILE].string_value = model.filename
    config.parameters[MAX_BATCH].string_value = str(max_batch)
    return True
