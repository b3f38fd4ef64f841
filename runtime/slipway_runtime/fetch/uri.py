"""What a storage URI names. Pure, and strict: what is not plainly one thing is refused, with a sentence that says why.

    s3://BUCKET/KEY  gs://BUCKET/KEY  az://ACCOUNT/CONTAINER/KEY     a file, or all below KEY
    https://HOST/PATH                                                a file
    hf://ORG/NAME[@REVISION][/PATH]                                  a repository of models, or a part of it
    oci://HOST/REPOSITORY:TAG or @sha256:DIGEST                      an artifact, or an image with /models in it

Everything else is a path (`local.py`).
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.settings import SCHEMES

MAX = 1024
_PLAIN = re.compile(r"[a-z0-9]+://[A-Za-z0-9._~!$&'()*+,;=:@%/\[\]-]+")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"({_LABEL}\.)*{_LABEL}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_HUB = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,95})/([A-Za-z0-9][A-Za-z0-9._-]{0,95})")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Bucket:
    scheme: Literal["s3", "gs", "az"]
    account: str
    """Of Azure."""
    name: str
    key: str
    is_folder: bool
    """Whether it ends with a slash."""


@dataclass(frozen=True, slots=True)
class Web:
    host: str
    port: int
    path: str
    """As written, percent-encoded."""
    name: str
    """Of the file."""


@dataclass(frozen=True, slots=True)
class Hub:
    repository: str
    revision: str
    path: str


@dataclass(frozen=True, slots=True)
class Registry:
    host: str
    port: int
    repository: str
    reference: str
    """A tag or a digest."""


Remote = Bucket | Web | Hub | Registry
LOCAL = ("sample", "pvc", "file")


def parse(uri: str) -> Remote | None:
    """What a URI names; None: something that is here already (`local.py` tells whether it is right)."""
    scheme, _, rest = uri.partition("://")
    if scheme in LOCAL:
        return None
    _plain(uri, scheme, rest)
    match scheme:
        case "s3" | "gs":
            name, _, key = rest.partition("/")
            return _bucket(uri, scheme, "", name, key)
        case "az":
            account, _, rest = rest.partition("/")
            name, _, key = rest.partition("/")
            if not re.fullmatch(r"[a-z0-9]{3,24}", account):
                raise _wrong(uri, "must be az://ACCOUNT/CONTAINER/PATH")
            return _bucket(uri, "az", account, name, key)
        case "https":
            return _web(uri, rest)
        case "hf":
            return _hub(uri, rest)
        case "oci":
            return _registry(uri, rest)
    raise AssertionError(scheme)


def _plain(uri: str, scheme: str, rest: str) -> None:
    """What is wrong in every scheme."""
    if scheme not in SCHEMES:
        raise _wrong(uri, f"is not understood; use one of {', '.join(f'{each}://' for each in SCHEMES)}")
    if len(uri) > MAX or not _PLAIN.fullmatch(uri):
        raise _wrong(uri, "has a character that no storage URI has, or is too long")
    if "//" in rest or any(part in (".", "..") for part in _decoded(uri, rest).split("/")):
        raise _wrong(uri, "has an empty part or climbs out of its folder ('.', '..')")


def host_port(uri: str, text: str, default: int) -> tuple[str, int]:
    """Host and port of an authority. A host is a name, or an address in its one usual notation."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@%]+)(?::([0-9]{1,5}))?", text)
    if found is None:
        raise _wrong(uri, "must name a host, and no user, password or zone")
    host, port = found[1].lower(), int(found[2] or default)
    if not 0 < port < 1 << 16:
        raise _wrong(uri, "names a port that does not exist")
    return _host(uri, host), port


def _host(uri: str, host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise _wrong(uri, "names an address that is none") from error
    last = host.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        try:
            return str(ipaddress.IPv4Address(host))  # refuses octal, hexadecimal, short and decimal forms
        except ValueError as error:
            raise _wrong(uri, "names an address in an unusual notation") from error
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise _wrong(uri, "names a host that is none")
    return host


def _bucket(uri: str, scheme: Literal["s3", "gs", "az"], account: str, name: str, key: str) -> Bucket:
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise _wrong(uri, "must be " + ("az://ACCOUNT/CONTAINER/PATH" if account else f"{scheme}://BUCKET/PATH"))
    if "%" in key:
        raise _wrong(uri, "has a '%': write the key as it is")
    return Bucket(scheme, account, name, key.strip("/"), is_folder=key.endswith("/") or not key)


def _web(uri: str, rest: str) -> Web:
    authority, _, path = rest.partition("/")
    host, port = host_port(uri, authority, 443)
    name = unquote(path.rpartition("/")[2])
    if not name:
        raise _wrong(uri, "must be https://HOST/PATH of one file")
    return Web(host, port, "/" + path, name)


def _hub(uri: str, rest: str) -> Hub:
    owner, _, rest = rest.partition("/")
    name, _, path = rest.partition("/")
    name, at, revision = name.partition("@")
    if not _HUB.fullmatch(f"{owner}/{name}") or (at and not _REVISION.fullmatch(revision)) or "%" in path:
        raise _wrong(uri, "must be hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME@REVISION/PATH")
    return Hub(f"{owner}/{name}", revision or "main", path.strip("/"))


def _registry(uri: str, rest: str) -> Registry:
    authority, _, image = rest.partition("/")
    repository, at, digest = image.partition("@")
    repository, _, tag = repository.partition(":")
    right = _DIGEST.fullmatch(digest) if at else _TAG.fullmatch(tag)
    if not right or len(repository) > 255 or not _REPOSITORY.fullmatch(repository):
        raise _wrong(uri, "must be oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST")
    host, port = host_port(uri, authority, 443)
    return Registry(host, port, repository, digest or tag)


def _decoded(uri: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise _wrong(uri, "has a '%' that encodes nothing")
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise _wrong(uri, "has an encoded character that is none") from error
    if any(ord(one) < 32 or ord(one) == 127 or one in "\\?#" for one in plain) or "%" in plain:
        raise _wrong(uri, "has an encoded character that no name of a model has")
    if "%2f" in text.lower():
        raise _wrong(uri, "has an encoded slash")
    return plain


def _wrong(uri: str, words: str) -> FetchError:
    # A URI may carry what was meant to be secret; what is before an @ is not repeated.
    shown = re.sub(r"//[^/]*@", "//...@", uri.encode("ascii", "backslashreplace").decode())
    return FetchError(Why.URI, f"storageUri {shown[:120]!r} {words}")
