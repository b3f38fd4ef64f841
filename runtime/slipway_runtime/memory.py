"""How glibc's malloc treats large blocks: kept while a model serves, given back when one is unloaded."""

import ctypes
import gc

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


def _libc() -> ctypes.CDLL | None:
    """None where the C library is another one, which has neither the trouble nor the functions."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
