"""Why a model could not be fetched, in a word that becomes the reason of a condition, and a sentence.

Failure
  FetchError            ends the fetch
    Transient           worth another try of the same request; after the last one it ends the fetch
"""

from enum import StrEnum

from slipway_runtime.errors import Failure


class Why(StrEnum):
    """The same words are in the operator's `api/conditions.py`."""

    URI = "StorageUriInvalid"
    REFUSED = "SourceRefused"
    """The administrator's policy forbids the scheme, the host or the address."""
    DENIED = "AccessDenied"
    MISSING = "ModelNotFound"
    CHECKSUM = "ChecksumMismatch"
    CHANGED = "SourceChanged"
    LIMIT = "LimitExceeded"
    ARCHIVE = "ArchiveRefused"
    DISK = "DiskFull"
    STORE = "StoreUnavailable"
    SLOW = "StoreTooSlow"


# Of sysexits.h, so that a person who runs it by hand can tell them apart too.
EXIT_CODES = {
    Why.URI: 78,
    Why.REFUSED: 78,
    Why.DENIED: 77,
    Why.MISSING: 66,
    Why.CHECKSUM: 65,
    Why.CHANGED: 75,
    Why.LIMIT: 65,
    Why.ARCHIVE: 65,
    Why.DISK: 73,
    Why.STORE: 75,
    Why.SLOW: 75,
}


class FetchError(Failure):
    def __init__(self, why: Why, sentence: str) -> None:
        super().__init__(sentence)
        self.why = why
        self.exit_code = EXIT_CODES[why]


class Transient(FetchError):
    """`after_s`: how long the store asks to be left alone."""

    def __init__(self, sentence: str, after_s: float = 0.0, why: Why = Why.STORE) -> None:
        super().__init__(why, sentence)
        self.after_s = after_s


def size(count: float) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{int(count)} bytes"
