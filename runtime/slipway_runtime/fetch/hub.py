"""A repository of models on a Hugging Face hub, by its two public endpoints: what there is at a revision, and a file.

The revision is resolved to a commit first, so that all files are of the same one; each is checked against the digest
that the hub has of it.
"""

import fnmatch
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from slipway_runtime.fetch.errand import Errand
from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.http import Request
from slipway_runtime.fetch.items import Digest, Item, Listing, is_archive, safe_path
from slipway_runtime.fetch.uri import Hub

ENDPOINT = "https://huggingface.co"
_SAFETENSORS = ("*.safetensors", "*.safetensors.index.json")
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.yaml", "*.yml", "LICENSE*", "*.md")
"""What belongs to weights: configuration and tokenizers; never code, never a pickle."""


def listing(errand: Errand, hub: Hub) -> Listing:
    """The files to take. Raises FetchError."""
    endpoint = (errand.storage.endpoint or ENDPOINT).rstrip("/")
    secret = {} if errand.storage.anonymous else errand.credentials.authorization()
    url = f"{endpoint}/api/models/{hub.repository}/revision/{quote(hub.revision, safe='')}?blobs=true"
    told = errand.session.json(Request(url, secret=secret))
    try:
        commit, files = bytes.fromhex(told["sha"]).hex(), list(told["siblings"])
        chosen = list(_chosen(hub, files, errand.storage.allow_patterns))
        return _listing(hub, chosen, f"{endpoint}/{hub.repository}/resolve/{commit}", secret)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FetchError(Why.STORE, f"the hub does not answer as a hub about '{hub.repository}'") from error


def _chosen(hub: Hub, files: list[Any], patterns: tuple[str, ...]) -> Iterable[Any]:
    names = [str(file["rfilename"]) for file in files]
    if hub.path:
        exact = [file for file, name in zip(files, names, strict=True) if name == hub.path]
        below = [file for file, name in zip(files, names, strict=True) if name.startswith(hub.path + "/")]
        return exact or _matching(below, patterns)
    return _matching(files, patterns)


def _matching(files: list[Any], patterns: tuple[str, ...]) -> list[Any]:
    wanted = patterns or _SAFETENSORS + _BESIDE
    found = [file for file in files if any(fnmatch.fnmatchcase(str(file["rfilename"]), each) for each in wanted)]
    if not patterns and files and not any(str(file["rfilename"]).endswith(".safetensors") for file in found):
        words = "it has no safetensors; name what to take instead in storage.allowPatterns, such as ['*.onnx']"
        raise FetchError(Why.MISSING, f"of this repository nothing would be taken: {words}")
    return found


def _listing(hub: Hub, files: list[Any], base: str, secret: dict[str, str]) -> Listing:
    items = []
    for file in files:
        name = str(file["rfilename"])
        is_file = name == hub.path
        path = safe_path(name.rpartition("/")[2] if is_file else name[len(hub.path) + 1 :] if hub.path else name)
        request = Request(f"{base}/{quote(name)}", secret=secret)
        items.append(Item(path, int(file["size"]), "", lambda made=request: made, _digest(file)))  # type: ignore[misc]
    is_single = len(items) == 1 and files[0]["rfilename"] == hub.path
    return Listing(tuple(items), "archive" if is_single and is_archive(items[0].path) else "")


def _digest(file: Any) -> Digest | None:
    if lfs := file.get("lfs"):
        return Digest("sha256", str(lfs["sha256"]))
    return Digest("git", str(file["blobId"])) if file.get("blobId") else None
