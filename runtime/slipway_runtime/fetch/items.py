"""The files of a model, as a source lists them, and whether their names may be files of ours. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.http import Request
from slipway_runtime.fetch.settings import Limits

STAGING = ".slipway-fetch"
MARKER = ".slipway-fetched"
_DEPTH_MAX = 32


@dataclass(frozen=True, slots=True)
class Digest:
    """`git`: SHA-1 of a blob as git has it."""

    kind: Literal["sha256", "md5", "git"]
    hex: str


@dataclass(frozen=True, slots=True)
class Item:
    path: str
    """Relative to the model's folder."""
    size: int | None
    """None: the store does not tell before."""
    version: str
    """What the store calls this content (ETag); empty: it has no word for it, or it can never change."""
    request: Callable[[], Request]
    """Made anew for each try: signatures expire."""
    digest: Digest | None = None
    ranged: bool = True
    """Whether the store can be asked for a part."""
    modified: str = ""
    """When it was changed, where the store has no word for a content: it tells versions apart too, by the second."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All that a URI names. `unpack`: the files are archives whose content is the model."""

    items: tuple[Item, ...]
    unpack: Literal["", "archive", "image"] = ""


ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def safe_path(name: str) -> str:
    """A name as a relative path of ours.

    Raises:
        FetchError: it could be a path elsewhere, or is none.
    """
    path = name.rstrip("/")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or path.startswith("~"):
        raise _odd(name, "leaves the model's folder")
    if "\\" in path or any(ord(one) < 32 or ord(one) == 127 for one in path) or path[1:2] == ":":
        raise _odd(name, "is no plain path")
    try:
        too_long = any(len(part.encode()) > 255 for part in parts)
    except UnicodeEncodeError as error:
        raise _odd(name, "is not UTF-8") from error
    if len(parts) > _DEPTH_MAX or too_long or len(path) > 1024:
        raise _odd(name, "is too deep or too long")
    if parts[0] in (STAGING, MARKER):
        raise _odd(name, "is a name that the fetcher keeps for itself")
    return path


def relative(keys: Iterable[str], prefix: str) -> list[str]:
    """Keys below a prefix, as paths below it."""
    cut = len(prefix) + 1 if prefix else 0
    return [safe_path(key[cut:]) for key in keys]


def check(items: Iterable[Item], limits: Limits, uri: str) -> int:
    """Bytes in all, as far as they are known.

    Raises:
        FetchError: they are none, too many or too large, or two of them cannot be beside each other.
    """
    total, count, seen = 0, 0, set[str]()
    for item in items:
        count += 1
        within(limits, item.path, item.size or 0)
        total += item.size or 0
        if item.path in seen:
            raise _odd(item.path, "is there twice")
        seen.add(item.path)
        if count > limits.max_files or total > limits.max_bytes:
            what = (
                f"more than {limits.max_files} files"
                if count > limits.max_files
                else f"more than {size(limits.max_bytes)}"
            )
            raise FetchError(Why.LIMIT, f"'{uri}' has {what}, which is the limit here")
    if not count:
        raise FetchError(Why.MISSING, f"there is nothing at '{uri}': check the path in storageUri")
    for path in seen:
        if any(str(parent) in seen for parent in PurePosixPath(path).parents):
            raise _odd(path, "is below a name that is a file")
    return total


def within(limits: Limits, path: str, count: int) -> None:
    if count > limits.max_file_bytes:
        raise FetchError(
            Why.LIMIT, f"'{path}' has {size(count)}, more than the {size(limits.max_file_bytes)} of a file here"
        )


def _odd(name: str, words: str) -> FetchError:
    return FetchError(Why.ARCHIVE, f"the name {name[:100]!r} {words}; the model is refused")
