"""Digests of files: those that a store announces, that of a whole model, and the comparison."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.items import Digest

_CHUNK = 1 << 20


def verify(path: Path, digest: Digest, name: str) -> None:
    """Raises FetchError when a file is not what it should be."""
    found = digest_of(path, digest.kind)
    if found != digest.hex.lower():
        words = f"'{name}' has the {digest.kind} {found}, and not {digest.hex.lower()}"
        raise FetchError(Why.CHECKSUM, f"{words}: it was damaged on its way, or is another file")


def digest_of(path: Path, kind: str) -> str:
    """In hexadecimal."""
    if kind == "git":
        made = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        made = hashlib.new(kind, usedforsecurity=False)
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            made.update(buffer[:count])
    return made.hexdigest()


def of_model(folder: Path) -> str:
    """The SHA-256 of a model: of its file, or of the list of its files as `sha256sum` prints it, by path.

    Example:
        (cd model && find * -type f | LC_ALL=C sort | xargs sha256sum) | sha256sum
    """
    files = sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: str(p.relative_to(folder)).encode()
    )
    if len(files) == 1 and files[0].parent == folder:
        return digest_of(files[0], "sha256")
    lines = (f"{digest_of(path, 'sha256')}  {path.relative_to(folder)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def announced(headers: Mapping[str, str]) -> Digest | None:
    """What the store says of the whole file, be the answer a part of it: RFC 9530, Google's and Azure's own headers."""
    if found := re.search(r"sha-256=:([A-Za-z0-9+/=]+):", headers.get("repr-digest", "")):
        return _digest("sha256", found[1], 32)
    if found := re.search(r"md5=([A-Za-z0-9+/=]+)", headers.get("x-goog-hash", "")):
        return _digest("md5", found[1], 16)
    if text := headers.get("x-ms-blob-content-md5", ""):
        return _digest("md5", text, 16)
    return None


def _digest(kind: str, text: str, length: int) -> Digest | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return Digest(kind, raw.hex()) if len(raw) == length else None  # type: ignore[arg-type]
