"""Slipway's own options of a model, typed, out of `parameters` of its config. Pure.

dtype          float32, bfloat16, float16: what the weights and the arithmetic are in
compile        on, off: torch.compile, once per bucket, at load
buckets        batch sizes that a batch is filled up to, as "1,2,4,8"; only with compile
quantization   none, dynamic-int8, static-int8
device         auto, cpu, cuda, cuda:N
instances      processes, threads: how several instances on CPUs are kept apart; threads share the weights
class          MODULE:CLASS of a model.safetensors;  class_args: JSON object of its arguments
shards         in how many parts the model is, each in a process and on a device of its own; the model says how
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from slipway_runtime.errors import BadModel
from slipway_runtime.models.config import ModelConfig

Dtype = Literal["", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "dynamic-int8", "static-int8"]
OWN = ("dtype", "compile", "buckets", "quantization", "device", "instances", "class", "class_args", "shards")

MOST_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Options:
    """`dtype` "" = as the file has it. `buckets` ascend, the last one is max_batch; empty without compile."""

    dtype: Dtype = ""
    compile: bool = False
    buckets: tuple[int, ...] = ()
    quantization: Quantization = "none"
    device: str = "auto"
    instances: Literal["processes", "threads"] = "processes"
    class_name: str = ""
    class_args: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1
    others: tuple[str, ...] = ()
    """Parameters that are not ours; only a model of the user's own code reads them."""


def options_of(config: ModelConfig) -> Options:
    """Raises BadModel, with the parameter, its value and what is allowed."""
    given = config.parameters
    compiled = _one_of(given, "compile", "off", "on") == "on"
    if "buckets" in given and not compiled:
        raise BadModel("parameter 'buckets' is given without compile=on, where it would do nothing; remove it")
    options = Options(
        dtype=cast("Dtype", _one_of(given, "dtype", "", "float32", "bfloat16", "float16")),
        compile=compiled,
        buckets=_buckets(given.get("buckets", ""), config.max_batch) if compiled else (),
        quantization=cast("Quantization", _one_of(given, "quantization", "none", "dynamic-int8", "static-int8")),
        device=_device(given.get("device", "auto")),
        instances=cast("Any", _one_of(given, "instances", "processes", "threads")),
        class_name=_class_name(given.get("class", "")),
        class_args=_class_args(given.get("class_args", "")),
        shards=_shards(given.get("shards", "1")),
        others=tuple(sorted(given.keys() - set(OWN))),
    )
    if options.shards > 1 and (wrong := [name for name in ("compile", "quantization") if _is_on(given, name)]):
        raise BadModel(f"parameter '{wrong[0]}' is not there for a model in shards; remove it, or parameter 'shards'")
    if options.shards > 1 and options.instances == "threads":
        raise BadModel("parameter 'instances' is 'threads', but shards are processes; remove it")
    return options


def _is_on(given: Mapping[str, str], name: str) -> bool:
    return given.get(name, "off") not in ("off", "none")


def _shards(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:4]) <= MOST_SHARDS:
        raise BadModel(f"parameter 'shards' is '{text[:80]}', must be a whole number from 1 to {MOST_SHARDS}")
    return int(text)


def _one_of(given: Mapping[str, str], key: str, default: str, *others: str) -> str:
    value = given.get(key, default)
    if value not in (default, *others):
        allowed = ", ".join(word for word in (default, *others) if word)
        raise BadModel(f"parameter '{key}' is '{value[:80]}', must be one of {allowed}")
    return value


def _buckets(text: str, max_batch: int) -> tuple[int, ...]:
    """Powers of two where nothing is said. A model that does not batch has the one shape it is given."""
    if not max_batch:
        if text:
            raise BadModel("parameter 'buckets' is given, but max_batch_size is 0: there are no batches to fill up")
        return ()
    if not text:
        powers = [1 << power for power in range(max_batch.bit_length())]
        return tuple(sorted({*powers, max_batch}))
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and 1 <= int(size) <= max_batch for size in sizes):
        raise BadModel(f"parameter 'buckets' is '{text[:80]}', must be numbers from 1 to {max_batch} like '1,2,4'")
    return tuple(sorted({*map(int, sizes), max_batch}))


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise BadModel(f"parameter 'device' is '{text[:80]}', must be auto, cpu, cuda or cuda:N")
    return text


def _class_name(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", text):
        raise BadModel(f"parameter 'class' is '{text[:80]}', must be MODULE:CLASS like 'my.models:Net'")
    return text


def _class_args(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as exc:
        raise BadModel(f"parameter 'class_args' is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BadModel("parameter 'class_args' must be a JSON object, the arguments of the class by name")
    return value
