"""A model in an OCI registry: an artifact whose layers are files, or an image with the model below /models.

A layer of an artifact is a file when it has a title; what is neither titled nor a tar is left out, as ORAS does.
"""

import hashlib
import json
import re
from typing import Any
from urllib.parse import urlencode

from slipway_runtime.fetch.credentials import basic_header
from slipway_runtime.fetch.errand import Errand
from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.http import Request, check
from slipway_runtime.fetch.items import Digest, Item, Listing, is_archive, safe_path
from slipway_runtime.fetch.uri import Registry

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_TITLE = "org.opencontainers.image.title"
_MANIFEST_MAX = 4 << 20


def listing(errand: Errand, registry: Registry) -> Listing:
    """The layers to take. Raises FetchError."""
    base = _base(errand, registry)
    secret = _authorized(errand, registry, base)
    manifest = _manifest(errand, registry, base, registry.reference, secret)
    if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
        manifest = _manifest(errand, registry, base, _platform(manifest), secret)
    try:
        return _listing(manifest["layers"], f"{base}/blobs", secret)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FetchError(
            Why.STORE, f"'{errand.uri}' has a manifest that is neither an artifact's nor an image's"
        ) from error


def _base(errand: Errand, registry: Registry) -> str:
    if endpoint := errand.storage.endpoint.rstrip("/"):
        return f"{endpoint}/v2/{registry.repository}"
    # What everybody calls docker.io is served under another name.
    host = "registry-1.docker.io" if registry.host == "docker.io" else registry.host
    shown = f"[{host}]" if ":" in host else host
    port = "" if registry.port == 443 else f":{registry.port}"
    return f"https://{shown}{port}/v2/{registry.repository}"


def _authorized(errand: Errand, registry: Registry, base: str) -> dict[str, str]:
    """Headers that the registry wants. Source: distribution's "Token Authentication Specification"."""
    known = None if errand.storage.anonymous else errand.credentials.registry(registry.host, registry.port)
    status, headers, _ = errand.session.fetch(
        Request(f"{base}/manifests/{registry.reference}", {"Accept": ", ".join(_MANIFESTS + _INDEXES)})
    )
    if status != 401:
        return {}
    challenge = headers.get("www-authenticate", "")
    if challenge.lower().startswith("basic") and known:
        return {"Authorization": basic_header(*known)}
    fields = dict(re.findall(r'([a-z]+)="([^"]*)"', challenge))
    if not challenge.lower().startswith("bearer") or not fields.get("realm", "").startswith("http"):
        raise FetchError(Why.DENIED, f"the registry denies access to '{errand.uri}': it wants a user and a password")
    query = {"scope": f"repository:{registry.repository}:pull"} | (
        {"service": fields["service"]} if "service" in fields else {}
    )
    asked = Request(
        f"{fields['realm']}?{urlencode(query)}", secret={"Authorization": basic_header(*known)} if known else {}
    )
    told = errand.session.json(asked)
    token = (told.get("token") or told.get("access_token")) if isinstance(told, dict) else None
    if not isinstance(token, str) or not token.isprintable():
        raise FetchError(Why.DENIED, f"the registry gives no token for '{errand.uri}'")
    return {"Authorization": f"Bearer {token}"}


def _manifest(errand: Errand, registry: Registry, base: str, reference: str, secret: dict[str, str]) -> dict[str, Any]:
    url = f"{base}/manifests/{reference}"
    status, _, body = errand.session.fetch(
        Request(url, {"Accept": ", ".join(_MANIFESTS + _INDEXES)}, secret), _MANIFEST_MAX
    )
    check(status, url)
    if reference.startswith("sha256:") and hashlib.sha256(body).hexdigest() != reference[7:]:
        raise FetchError(Why.CHECKSUM, f"the manifest of '{errand.uri}' is not the one of that digest")
    try:
        found = json.loads(body)
    except ValueError as error:
        raise FetchError(Why.STORE, f"'{errand.uri}' has a manifest that is not JSON") from error
    if not isinstance(found, dict):
        raise FetchError(Why.STORE, f"'{errand.uri}' has a manifest that is none")
    return found


def _platform(index: dict[str, Any]) -> str:
    """Digest of the manifest for this kind of machine, else of the first."""
    entries = [entry for entry in index.get("manifests") or () if isinstance(entry, dict)]
    ours = [
        entry
        for entry in entries
        if (entry.get("platform") or {}).get("os") == "linux"
        and (entry.get("platform") or {}).get("architecture") == "amd64"
    ]
    found = next((str(entry.get("digest")) for entry in [*ours, *entries]), "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
        raise FetchError(Why.MISSING, "the index names no manifest for this kind of machine")
    return found


def _listing(layers: list[Any], blobs: str, secret: dict[str, str]) -> Listing:
    titled = [layer for layer in layers if (layer.get("annotations") or {}).get(_TITLE)]
    if titled:
        items = [_item(layer, safe_path(layer["annotations"][_TITLE]), blobs, secret) for layer in titled]
        return Listing(tuple(items), "archive" if len(items) == 1 and is_archive(items[0].path) else "")
    found = [(layer, _tar(str(layer.get("mediaType", "")))) for layer in layers]
    tars = [(layer, end) for layer, end in found if end]
    return Listing(tuple(_item(layer, f"{n:04d}{end}", blobs, secret) for n, (layer, end) in enumerate(tars)), "image")


def _tar(media_type: str) -> str:
    """What a layer's file is called, so that it is unpacked as what it is; empty: it is no tar."""
    found = re.search(r"[.]tar(?:[+.](gzip|zstd))?$", media_type)
    return {None: ".tar", "gzip": ".tar.gz", "zstd": ".tar.zst"}[found[1]] if found else ""


def _item(layer: Any, path: str, blobs: str, secret: dict[str, str]) -> Item:
    digest = str(layer["digest"])
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(digest)
    request = Request(f"{blobs}/{digest}", secret=secret)
    return Item(path, int(layer["size"]), "", lambda: request, Digest("sha256", digest[7:]))
