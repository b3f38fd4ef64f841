"""The kinds of model files that are loaded. Imports nothing, for who wants to name them only."""

from typing import Literal, get_args

Format = Literal["torchscript", "torch-export", "aotinductor", "safetensors", "onnx", "python", "ensemble"]
FORMATS: tuple[str, ...] = get_args(Format)
