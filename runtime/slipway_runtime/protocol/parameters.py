"""The parameters of a request and of its tensors, which mean the same in REST and in gRPC. Pure.

    priority                    0 = the model's default, 1 = highest
    timeout                     microseconds, 0 = none
    sequence_id, sequence_start, sequence_end       kept, checked
    triton_*                    refused: Triton keeps these names for itself
    any other                   kept for the model

and of a tensor: shared_memory_region, shared_memory_offset, shared_memory_byte_size. Hints that some clients add to
tensors (content_type and the like) say nothing that we need, and are ignored.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import InferRequest, Region

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "priority": ((int,), "an integer >= 0"),
    "timeout": ((int,), "an integer >= 0"),
    "sequence_id": ((int, str), "an integer >= 0 or a string"),
    "sequence_start": ((bool,), "true or false"),
    "sequence_end": ((bool,), "true or false"),
}
_SCALARS = (str, int, float, bool)


class Regions(Protocol):
    """Shared memory, as far as a request and an answer need it."""

    def read(self, part: Region) -> memoryview: ...
    def check(self, part: Region) -> None: ...
    def write(self, part: Region, data: bytes | bytearray | memoryview, output: str) -> None: ...


def served(regions: Regions | None) -> Regions:
    if regions is None:
        raise RequestError(Kind.UNSUPPORTED, "shared memory is not served here, send the bytes")
    return regions


def apply(request: InferRequest, parameters: Mapping[str, Any]) -> None:
    """Put the parameters of a request, as a client sent them, where they belong."""
    kept: dict[str, Any] = {}
    for key, value in parameters.items():
        _check(key, value)
        if key == "priority":
            request.priority = value
        elif key == "timeout":
            request.timeout_s = value / 1e6 or None
        else:
            kept[key] = value
    request.parameters = kept


def _check(key: str, value: object) -> None:
    kinds, sentence = _KINDS.get(key, (_SCALARS, "a string, a number, true or false"))
    if type(value) not in kinds or (key in _KINDS and type(value) is int and not 0 <= value < 2**64):
        raise invalid(f"parameter '{key[:80]}' must be {sentence}")
    if key.startswith("triton_"):
        raise invalid(
            f"parameter '{key[:80]}' is reserved: names that begin with 'triton_' are not the client's to give"
        )


def region_of(parameters: Mapping[str, Any], name: str) -> Region | None:
    """Where tensor `name` lies in shared memory, or None. Offset and size are those of the client, unchecked."""
    region = parameters.get("shared_memory_region")
    if region is None:
        if "shared_memory_byte_size" in parameters or "shared_memory_offset" in parameters:
            raise invalid(f"tensor '{name}' has a shared memory size or offset, but no 'shared_memory_region'")
        return None
    size = parameters.get("shared_memory_byte_size")
    offset = parameters.get("shared_memory_offset", 0)
    if type(region) is not str:
        raise invalid(f"tensor '{name}': 'shared_memory_region' must be a string")
    if type(size) is not int or size < 0 or type(offset) is not int or offset < 0:
        raise invalid(
            f"tensor '{name}' in region '{region[:80]}' needs 'shared_memory_byte_size' and offset, integers >= 0"
        )
    return Region(region, offset, size)


def classes_of(parameters: Mapping[str, Any], name: str) -> int:
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise invalid(f"output '{name}': 'classification' must be how many classes to give, an integer >= 0")
    if classes and "shared_memory_region" in parameters:
        raise invalid(f"output '{name}': classes cannot be put into shared memory, ask for one of the two")
    return classes
