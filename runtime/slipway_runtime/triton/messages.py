"""Triton's ModelConfig, read from a model's folder and written in protobuf's text form. Nothing is pasted together.

`Config` is the message as tritonclient brings it.
"""

import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from slipway_runtime.errors import BadModel

Config: Any = model_config_pb2.ModelConfig
TEXT_FILE, JSON_FILE = "config.pbtxt", "config.json"
CONFIGS = (TEXT_FILE, JSON_FILE)
MOST_BYTES = 1 << 20
_PLATFORMS = {name: name for name in ("onnxruntime", "tensorrt", "pytorch", "ensemble")}
"""A platform is a backend and a format, such as onnxruntime_onnx; this is the older field."""


def read_config(folder: Path) -> Config:
    """The config that lies in a model's folder, as text or, as for slipway-runtime, as JSON; else an empty one.

    Raises:
        BadModel: it is not a ModelConfig.
    """
    there = [folder / name for name in CONFIGS if (folder / name).is_file()]
    if len(there) > 1:
        raise BadModel(f"folder '{folder}' has {TEXT_FILE} and {JSON_FILE}; keep one of them")
    if not there:
        return Config()
    path = there[0]
    if path.stat().st_size > MOST_BYTES:
        raise BadModel(f"'{path}' is larger than {MOST_BYTES >> 20} MiB, which no config is; correct it")
    return parse(path.read_bytes(), str(path), is_json=path.name == JSON_FILE)


def parse(data: bytes, source: str, *, is_json: bool) -> Config:
    try:
        text = data.decode()
        if is_json:
            return json_format.ParseDict(json.loads(text), Config())
        return text_format.Parse(text, Config())
    except (ValueError, RecursionError, json_format.ParseError, text_format.ParseError) as exc:
        words = " ".join(str(exc).split())[:300]
        raise BadModel(f"'{source}' is not a model config of Triton's: {words}; correct it") from exc


def to_text(config: Config) -> str:
    """Parses to the same message. Fields are in the order of their numbers, maps by key."""
    text: str = text_format.MessageToString(config)
    return text


def backend_of(config: Config) -> str:
    """The backend that a config names, by itself or by its platform; empty when it names none."""
    return str(config.backend or _PLATFORMS.get(config.platform.partition("_")[0], config.platform))
