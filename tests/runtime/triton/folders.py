"""Models as they lie on disk after they were fetched, as small as they can be."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from slipway_runtime.triton import wishes
from slipway_runtime.triton.wishes import Settings

ONNX = b"\x08\x09rest"
"""Begins as an ONNX file does, which is all that the layout looks at."""
CODE = "class TritonPythonModel: ..."
INPUT = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }'
OUTPUT = 'output { name: "y" data_type: TYPE_FP32 dims: 4 }'
ENSEMBLE = f"""
platform: "ensemble" max_batch_size: 8 {INPUT} {OUTPUT}
ensemble_scheduling {{
  step {{ model_name: "double" model_version: -1 input_map {{ key: "x" value: "x" }}
         output_map {{ key: "y" value: "twice" }} }}
  step {{ model_name: "increase" model_version: -1 input_map {{ key: "x" value: "twice" }}
         output_map {{ key: "y" value: "y" }} }}
}}
"""


def torchscript() -> bytes:
    """A zip archive with the record by which TorchScript is known."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    return file.getvalue()


def put(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Files by their paths below `root`, which is given back."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def settings(model: Path, *argv: str, name: str = "shop", form: str = "auto", **env: str) -> Settings:
    """As in a pod of the service `shop`; `env` without SLIPWAY_."""
    told = {"SLIPWAY_MODEL_PATH": str(model), "SLIPWAY_MODEL_NAME": name, "SLIPWAY_MODEL_FORMAT": form}
    return wishes.read(argv, told | {f"SLIPWAY_{key}": value for key, value in env.items()})
