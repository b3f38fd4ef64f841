"""What the tests of loaded models share: models of code, and that what was loaded is closed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.tensors import Array
from tests.runtime.test_torch_runner import config_of

TRUSTED = LoadOptions(device="cpu", allow_code=True, allowed_classes=("slipway_runtime.samples:*", "tests.*"))
XY = config_of({"x": ("FP32", [4])}, {"y": ("FP32", [-1])})
THREADS = {"parameters": {"instances": {"string_value": "threads"}}}

loaded: list[LoadedModel] = []


def close_loaded() -> None:
    while loaded:
        loaded.pop().close()


def trusted(folder: Path) -> LoadedModel:
    loaded.append(load(find(str(folder)), TRUSTED))
    return loaded[-1]


def code(folder: Path, source: str, config: Mapping[str, Any] = XY) -> LoadedModel:
    (folder / "model.py").write_text(source)
    (folder / "config.json").write_text(json.dumps(config))
    return trusted(folder)


def texts(*items: bytes | str, rows: int = 1) -> OwnCall:
    return OwnCall([np.array(items, object).reshape(rows, -1)], rows)


def sample(samples: Path, name: str) -> LoadedModel:
    model = trusted(samples / name)
    assert model.warm_up()
    return model


def streamed(model: LoadedModel, *inputs: Array) -> list[list[Any]]:
    return [[array.tolist() for array in rows] for rows in model.runners[0].stream(OwnCall(list(inputs)))]
