"""System shared memory: tensors that a client on the same machine puts into /dev/shm, and reads from there.

A region is a part of one POSIX shared memory object: `register` names it, tensors then say which bytes of it they are.
Only names of objects are taken, never paths, so nothing outside of the directory can be opened.

A client that shrinks the object while it is read would end us by SIGBUS: its size is looked at before each use, which
leaves only a client that does it in that very moment. Who can write there runs in the same pod.
"""

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import Buffer, Region

DIRECTORY = Path("/dev/shm")  # noqa: S108 - that is where POSIX shared memory lies on Linux
MAX_REGIONS = 1024
CUDA_REFUSAL = "CUDA shared memory is not served here, use system shared memory or send the bytes"


@dataclass(slots=True)
class _Mapped:
    key: str
    offset: int
    size: int
    descriptor: int
    map: mmap.mmap
    start: int  # of the region within the map, which begins at a page

    def __del__(self) -> None:
        # Tensors may still be views of the map; it goes with the last of them.
        os.close(self.descriptor)


class SharedMemory:
    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory
        self._regions: dict[str, _Mapped] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Name `size` bytes of the object `key` from `offset` on.

        Raises:
            RequestError: EXISTS, when the name is taken; INVALID, when there are no such bytes.
        """
        if not name:
            raise invalid("a shared memory region must have a name")
        if name in self._regions:
            raise RequestError(Kind.EXISTS, f"shared memory region '{name}' already in manager, unregister it first")
        if len(self._regions) >= MAX_REGIONS:
            raise invalid(f"there are {MAX_REGIONS} shared memory regions already, unregister those not in use")
        if size <= 0 or offset < 0:
            raise invalid(f"shared memory region '{name}' must have byte_size > 0 and offset >= 0")
        self._regions[name] = self._mapped(name, _file_name(key), key, offset, size)

    def _mapped(self, name: str, file_name: str, key: str, offset: int, size: int) -> _Mapped:
        try:
            descriptor = os.open(self._directory / file_name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            raise invalid(f"Unable to open shared memory region: '{key}': {os.strerror(exc.errno or 0)}") from None
        try:
            _check_size(descriptor, name, offset + size)
            start = offset % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(descriptor, start + size, offset=offset - start)
        except (OSError, ValueError, OverflowError) as exc:
            os.close(descriptor)
            raise invalid(f"shared memory region '{name}' cannot be mapped: {exc}") from None
        except RequestError:
            os.close(descriptor)
            raise
        return _Mapped(key, offset, size, descriptor, mapped, start)

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them if `name` is "". One that is not known is no error."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str) -> list[dict[str, Any]]:
        """Raises RequestError NOT_FOUND for a name that is not registered; "" = all of them."""
        if name:
            self._region(name)
        return [
            {"name": each, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for each, region in self._regions.items()
            if name in ("", each)
        ]

    def read(self, part: Region) -> memoryview:
        """A view, not a copy."""
        region, begin = self._checked(part)
        return memoryview(region.map)[begin : begin + part.size].toreadonly()

    def check(self, part: Region) -> None:
        """Whether `write` will find its place, asked before the model has worked for it."""
        self._checked(part)

    def write(self, part: Region, data: Buffer, output: str) -> None:
        region, begin = self._checked(part)
        size = len(data)
        if size > part.size:
            raise invalid(
                f"shared memory size specified with the request for output '{output}' ({part.size} bytes) should be at "
                f"least {size} bytes to hold the results"
            )
        region.map[begin : begin + size] = data

    def _region(self, name: str) -> _Mapped:
        region = self._regions.get(name)
        if region is None:
            raise RequestError(Kind.NOT_FOUND, f"Unable to find shared memory region: '{name[:200]}'")
        return region

    def _checked(self, part: Region) -> tuple[_Mapped, int]:
        region = self._region(part.name)
        if part.offset > region.size or part.size > region.size - part.offset:
            raise invalid(
                f"Invalid offset + byte size for shared memory region: '{part.name}': {part.offset} + {part.size} is "
                f"beyond its {region.size} bytes"
            )
        _check_size(region.descriptor, part.name, region.offset + region.size)
        return region, region.start + part.offset


def _check_size(descriptor: int, name: str, needed: int) -> None:
    there = os.fstat(descriptor)
    if not stat.S_ISREG(there.st_mode) or there.st_size < needed:
        raise invalid(f"shared memory region '{name}' needs {needed} bytes, its object has {there.st_size}")


def _file_name(key: str) -> str:
    """POSIX names begin with a slash, which is not part of the file's name; there is no other."""
    name = key.removeprefix("/")
    if not name or "/" in name or "\0" in name or name in (".", "..") or len(name.encode()) > 255:
        raise invalid(f"shared memory key '{key[:80]}' must be one name with at most a leading '/', without others")
    return name


def cuda_unsupported() -> RequestError:
    return RequestError(Kind.UNSUPPORTED, CUDA_REFUSAL)
