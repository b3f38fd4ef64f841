"""The kinds of model files that are loaded. Imports nothing, for who wants to name them only."""

from typing import Literal, get_args

Format = Literal[
    "torchscript",
    "torch-export",
    "aotinductor",
    "safetensors",
    "onnx",
    "python",
    "ensemble",
    "sklearn",
    "xgboost",
    "lightgbm",
]
FORMATS: tuple[str, ...] = get_args(Format)
TABULAR = ("sklearn", "xgboost", "lightgbm")
"""Rows of features in, a value for each row out."""
MLFLOW = "mlflow"
"""What a service may name in place of a format: whichever the MLmodel beside the model says."""
