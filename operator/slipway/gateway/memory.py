"""How the C library keeps memory that was freed. Where it is not glibc, nothing happens."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_BLOCK_BYTES = 128 << 10


def keep_little() -> None:
    """From now on large blocks go back to the system when they are freed.

    Left to itself glibc keeps ever larger ones once some were freed, and what Envoy is sent when it starts anew, some
    25 MiB at 1,000 services, would stay with this process for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            library.mallopt(parameter, _BLOCK_BYTES)


def give_back() -> None:
    """What is free now."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
