"""What is done in the process of a shard: it joins the others, and takes its part of the weights. Imports torch."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from slipway_runtime.errors import BadConfig, BadModel, cause
from slipway_runtime.models.load import Shard
from slipway_runtime.models.shards import device_of

_COLLECTIVE_S = 600.0
"""How long a rank waits for the others in a collective: they may still load, or compute."""


def join(shard: Shard, threads: int) -> str:
    """Meet the other ranks in torch's default process group: NCCL on GPUs, gloo on CPUs. Returns the device.

    Raises:
        BadConfig: there are not enough GPUs, or this torch cannot do it.
    """
    torch.set_num_threads(threads)
    device = device_of(shard, torch.cuda.device_count())
    backend = "gloo" if device == "cpu" else "nccl"
    if not distributed.is_available() or not distributed.is_backend_available(backend):
        raise BadConfig(
            f"the model has {len(shard.devices)} shards, for which this torch lacks torch.distributed with {backend}; "
            "install another build of torch"
        )
    # All ranks are on this machine: nobody else is to reach the ports on which they listen.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    if device != "cpu":
        torch.cuda.set_device(device)
    store = distributed.FileStore(f"/proc/self/fd/{shard.store}", len(shard.devices))  # type: ignore[attr-defined]
    try:
        distributed.init_process_group(
            backend,
            store=store,
            rank=shard.rank,
            world_size=len(shard.devices),
            timeout=timedelta(seconds=_COLLECTIVE_S),
            device_id=None if device == "cpu" else torch.device(device),
        )
    except RuntimeError as exc:
        raise BadConfig(f"the model's shards cannot find each other by {backend}: {cause(exc)}") from exc
    return device


def group() -> Any:
    """The process group of all ranks."""
    return distributed.group.WORLD


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def part_of(made: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """This rank's part of the weights in a file, which is read for the parts only. Raises what the class's code raises.

    Raises:
        BadModel: the class does not say how it is sharded.
    """
    from safetensors import safe_open  # noqa: PLC0415 - needed for such files only

    take = getattr(made, "shard", None)
    if not callable(take):
        raise BadModel(
            f"class {type(made).__name__} of '{path}' does not say how it is sharded; give it a method "
            "shard(self, name, whole) that returns this rank's part of a weight, or remove parameter 'shards'"
        )
    with safe_open(path, framework="pt") as file:
        parts = {name: take(name, file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 - it is no dict
    return {name: part for name, part in parts.items() if part is not None}
