"""How much memory there is, and how glibc's malloc treats large blocks: kept while a model serves, then given back."""

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 256 << 20


def keep_large_blocks() -> None:
    """Tensors of requests come and go all the time.

    By default each large block is fetched from the kernel and given back, and its pages are cleared on first touch:
    for a request of 600 kB that costs more than copying it twice.
    """
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def settle() -> None:
    """What is there now is there to stay: let the garbage collector not look at it again.

    torch brings a million objects; looking through them takes 80 ms, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """To the kernel, what is free."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What this container may use, by its cgroup (v1 or v2); None: it has no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # the other version; "max"
            return int((root / name).read_text(encoding="ascii"))
    return None


def _libc() -> ctypes.CDLL | None:
    """None where the C library is another one, which has neither the trouble nor the functions."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
