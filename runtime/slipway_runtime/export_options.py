"""What `slipway-runtime export` is asked for, as values. Refuses what is out of range with a sentence."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway_runtime.errors import BadConfig

FORMATS = {"torch-export": "model.pt2", "torchscript": "model.pt", "onnx": "model.onnx"}
"""What a module can be exported as, and the file that it becomes."""
MOST_BATCH = 65536


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """`inputs` are as NAME:DATATYPE:DIMS, without the batch. `max_batch` 0 = no batch: the dims are all there is."""

    module: str
    name: str
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: Mapping[str, Any]
    weights: Path | None
    example: Path | None
    max_batch: int
    folder: Path

    @property
    def source(self) -> str:
        return f"{self.module}:{self.name}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("SOURCE", help="MODULE:NAME of a torch.nn.Module: a class, a function that makes one, or one itself")
    add("FOLDER", help="to be made: the model, and a slipway.yaml about it")
    add("--to", default="torch-export", metavar="FORMAT", help=f"{', '.join(FORMATS)} [default: torch-export]")
    about = "an input, in the order of the module's, as NAME:DATATYPE:4 or NAME:DATATYPE:3x224x224, without the batch"
    add("--input", action="append", metavar="INPUT", help=about)
    add(
        "--outputs", default="", metavar="NAMES", help="of the outputs, with commas [default: the keys of a dict, or y]"
    )
    add("--weights", metavar="FILE", help="what is loaded into it: .safetensors, or a state_dict by torch.save")
    add("--args", default="{}", metavar="JSON", help="an object: arguments of the class or the function, by name")
    add("--example", metavar="FILE", help="a JSON object: rows by the name of the input, in place of random numbers")
    add("--max-batch", default="64", metavar="ROWS", help="largest batch; 0: the model does not batch [default: 64]")


def read(given: Mapping[str, Any]) -> ExportOptions:
    """Raises BadConfig."""
    module, _, name = given["SOURCE"].partition(":")
    if not module or not name:
        raise BadConfig(f"'{given['SOURCE'][:200]}' must be MODULE:NAME, such as shop.models:Net")
    if given["to"] not in FORMATS:
        raise BadConfig(f"--to is '{given['to'][:80]}', must be one of {', '.join(FORMATS)}")
    if not given["input"]:
        raise BadConfig("no input is named; give --input NAME:DATATYPE:DIMS for each, such as x:FP32:4")
    batch = given["max_batch"]
    if not batch.isdecimal() or len(batch) > len(str(MOST_BATCH)) or int(batch) > MOST_BATCH:
        raise BadConfig(f"--max-batch is '{batch[:80]}', must be a whole number from 0 to {MOST_BATCH}")
    return ExportOptions(
        module=module,
        name=name,
        format=given["to"],
        inputs=tuple(given["input"]),
        outputs=tuple(filter(None, map(str.strip, given["outputs"].split(",")))),
        arguments=_arguments(given["args"]),
        weights=Path(given["weights"]) if given["weights"] else None,
        example=Path(given["example"]) if given["example"] else None,
        max_batch=int(batch),
        folder=Path(given["FOLDER"]),
    )


def _arguments(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise BadConfig(f"--args is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise BadConfig("--args must be a JSON object, the arguments by name")
    return found
