"""What a service says of its model over the model's own config: its typed options, as one JSON object. Pure.

    {"maxBatchSize": 16, "preferredBatchSizes": [4, 8], "maxQueueDelayMicroseconds": 2000,
     "instances": 2, "device": "cpu",
     "inputs": [{"name": "x", "datatype": "FP32", "shape": [3, -1, -1]}], "outputs": [...],
     "versions": "latest:2", "responseCache": true, "warmUp": true,
     "dtype": "bfloat16", "quantization": "dynamic-int8", "compile": true, "batchBuckets": [1, 2, 4]}

The operator writes it into SLIPWAY_MODEL_OPTIONS; each server refuses by `only` what it does not do.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from slipway_runtime.errors import BadConfig
from slipway_runtime.models.fields import Fields
from slipway_runtime.tensors import DATATYPES

VARIABLE = "SLIPWAY_MODEL_OPTIONS"
MOST_INSTANCES, MOST_BATCH, MOST_DELAY_S = 256, 1 << 20, 10
VERSIONS = r"all|latest:[1-9]\d{0,3}|[1-9]\d{0,17}(,[1-9]\d{0,17}){0,31}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """`dims` are without the batch; -1 = any size."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overrides:
    """None, "" and () = nothing was said."""

    max_batch_size: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int | None = None
    instances: int | None = None
    device: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    versions: str = ""
    response_cache: bool | None = None
    warm_up: bool | None = None
    dtype: str = ""
    quantization: str = ""
    compile: bool | None = None
    batch_buckets: tuple[int, ...] = ()
    given: tuple[str, ...] = ()
    """Names of what was said, as they are written."""

    def only(self, known: Collection[str], server: str) -> None:
        """Raises BadConfig for what is not `known` to a server."""
        if unknown := [name for name in self.given if name not in known]:
            raise BadConfig(f"option {unknown[0]} of the model is not for {server}; leave it out, or change runtimes")


def read(text: str) -> Overrides:
    """Raises BadConfig, with the option and what is allowed."""
    try:
        raw = json.loads(text or "{}")
        return _read(Fields(raw), tuple(raw))
    except (TypeError, ValueError) as exc:
        raise BadConfig(f"the options of the model ({VARIABLE}) cannot be honoured: {exc}; correct them") from exc


def _read(top: Fields, given: tuple[str, ...]) -> Overrides:
    found = Overrides(
        max_batch_size=_whole(top, "maxBatchSize", 0, MOST_BATCH),
        preferred_batch_sizes=top.wholes("preferredBatchSizes", low=1),
        max_queue_delay_us=_whole(top, "maxQueueDelayMicroseconds", 0, MOST_DELAY_S * 1_000_000),
        instances=_whole(top, "instances", 1, MOST_INSTANCES),
        device=top.choice("device", ("cpu", "gpu"), ""),
        inputs=_tensors(top, "inputs"),
        outputs=_tensors(top, "outputs"),
        versions=_versions(top),
        response_cache=_flag(top, "responseCache"),
        warm_up=_flag(top, "warmUp"),
        dtype=top.choice("dtype", ("float32", "bfloat16", "float16"), ""),
        quantization=top.choice("quantization", ("none", "dynamic-int8", "static-int8"), ""),
        compile=_flag(top, "compile"),
        batch_buckets=top.wholes("batchBuckets", low=1),
        given=given,
    )
    top.end()
    return found


def _whole(top: Fields, key: str, low: int, high: int) -> int | None:
    return None if top.get(key) is None else top.whole(key, low=low, high=high)


def _flag(top: Fields, key: str) -> bool | None:
    return None if top.get(key) is None else top.flag(key)


def _versions(top: Fields) -> str:
    text = top.text("versions")
    if text and not re.fullmatch(VERSIONS, text):
        raise ValueError(f"versions is {text[:80]!r}, must be all, latest:N or numbers with commas")
    return text


def _tensors(top: Fields, key: str) -> tuple[Tensor, ...]:
    found = []
    for item in top.children(key):
        name, datatype = item.text("name"), item.choice("datatype", DATATYPES, "")
        if not name or not datatype:
            raise ValueError(f"{item.where} must have a name and a datatype")
        found.append(Tensor(name, datatype, item.wholes("shape", low=-1)))
        item.end()
    names = [tensor.name for tensor in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{key} names '{twice[0]}' twice; name each once")
    return tuple(found)


def applied(config: Mapping[str, Any], said: Overrides) -> dict[str, Any]:
    """A model's config as JSON (Triton's ModelConfig) with what was said in place of its own word.

    Raises:
        BadConfig: the model is of a kind for which it cannot be said.
    """
    out = dict(config)
    _refuse_where_others_batch(config, said)
    if said.max_batch_size is not None:
        out["max_batch_size"] = said.max_batch_size
    for field, tensors in (("input", said.inputs), ("output", said.outputs)):
        if tensors:
            out[field] = [_tensor(tensor) for tensor in tensors]
    if said.instances is not None or said.device:
        out["instance_group"] = [_group(config.get("instance_group") or [], said)]
    if said.preferred_batch_sizes or said.max_queue_delay_us is not None:
        out["dynamic_batching"] = _batching(config.get("dynamic_batching") or {}, said)
    if said.versions:
        out["version_policy"] = _policy(said.versions)
    if said.response_cache is not None:
        out["response_cache"] = {"enable": said.response_cache}
    if own := _parameters(said):
        out["parameters"] = {**(config.get("parameters") or {}), **own}
    return out


def _refuse_where_others_batch(config: Mapping[str, Any], said: Overrides) -> None:
    batching = {"preferredBatchSizes", "maxQueueDelayMicroseconds"}
    kinds = {"ensemble_scheduling": {*batching, "instances", "device"}, "sequence_batching": batching}
    for field, names in kinds.items():
        if field in config and (wrong := [name for name in said.given if name in names]):
            raise BadConfig(f"option {wrong[0]} is not for a model with {field}; say it in the model's own config")


def _tensor(tensor: Tensor) -> dict[str, Any]:
    kind = f"TYPE_{tensor.datatype.replace('BYTES', 'STRING')}"
    return {"name": tensor.name, "data_type": kind, "dims": list(tensor.dims)}


def _group(groups: list[Any], said: Overrides) -> dict[str, Any]:
    """One group for those of the config: of its kind, where all have the same and none is asked for."""
    kinds = {str(group.get("kind") or "KIND_AUTO") for group in groups}
    kind = f"KIND_{said.device.upper()}" if said.device else kinds.pop() if len(kinds) == 1 else "KIND_AUTO"
    return {"count": said.instances or sum(int(group.get("count") or 1) for group in groups) or 1, "kind": kind}


def _batching(own: Mapping[str, Any], said: Overrides) -> dict[str, Any]:
    out = dict(own)
    if said.preferred_batch_sizes:
        out["preferred_batch_size"] = list(said.preferred_batch_sizes)
    if said.max_queue_delay_us is not None:
        out["max_queue_delay_microseconds"] = said.max_queue_delay_us
    return out


def _policy(versions: str) -> dict[str, Any]:
    if versions == "all":
        return {"all": {}}
    if versions.startswith("latest:"):
        return {"latest": {"num_versions": int(versions.removeprefix("latest:"))}}
    return {"specific": {"versions": [int(number) for number in versions.split(",")]}}


def _parameters(said: Overrides) -> dict[str, Any]:
    values = {
        "dtype": said.dtype,
        "quantization": said.quantization,
        "compile": "" if said.compile is None else "on" if said.compile else "off",
        "buckets": ",".join(map(str, said.batch_buckets)),
    }
    return {name: {"string_value": value} for name, value in values.items() if value}
