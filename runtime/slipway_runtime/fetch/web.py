"""One file from an HTTPS server: what it says of itself, found out by asking for its first byte."""

import re
from urllib.parse import unquote

from slipway_runtime.fetch.errand import Errand
from slipway_runtime.fetch.http import Request, check, check_up, patiently
from slipway_runtime.fetch.items import Item, Listing, is_archive, safe_path
from slipway_runtime.fetch.uri import Web


def listing(errand: Errand, web: Web) -> Listing:
    """The file. Raises FetchError."""
    host = f"[{web.host}]" if ":" in web.host else web.host
    port = "" if web.port == 443 else f":{web.port}"
    request = Request(
        f"https://{host}{port}{web.path}", secret={} if errand.storage.anonymous else errand.credentials.authorization()
    )
    item = patiently(lambda: _probed(errand, request, safe_path(unquote(web.name))))
    return Listing((item,), "archive" if is_archive(item.path) else "")


def _probed(errand: Errand, request: Request, name: str) -> Item:
    answer, asked = errand.session.get(request, {"Range": "bytes=0-0"})
    try:
        check_up(answer, asked.url)
        if answer.status == 416:  # an empty file has no first byte
            return Item(name, 0, "", lambda: request)
        check(answer.status, asked.url)
        version = answer.headers.get("etag", "")
        modified = "" if version else answer.headers.get("last-modified", "")
        total = re.fullmatch(r"bytes 0-0/([0-9]+)", answer.headers.get("content-range", ""))
        if answer.status == 206 and total:
            # Parts that nothing tells apart may be of two files: then it is one piece.
            ranged = bool(version or modified)
            return Item(name, int(total[1]), version, lambda: request, ranged=ranged, modified=modified)
        return Item(name, answer.length, version, lambda: request, ranged=False)
    finally:
        errand.session.drop(answer)
