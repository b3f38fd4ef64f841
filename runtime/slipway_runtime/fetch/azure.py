"""The address of one blob, signed with the account's key: for names that obstore signs as they are encoded.

Azure wants the signature of the plain name, and denies the other: https://learn.microsoft.com/rest/api/storageservices/
create-service-sas ("canonicalizedResource ... must be URL-decoded").
"""

import base64
import binascii
import hashlib
import hmac
import re
import time
from urllib.parse import quote, urlencode

from slipway_runtime.fetch.failures import FetchError, Why

_VERSION = "2020-12-06"


def is_plain(key: str) -> bool:
    """Whether a name is the same encoded."""
    return re.fullmatch(r"[A-Za-z0-9._~/-]*", key) is not None


def signed(base: str, resource: str, account_key: str, lasts_s: float) -> str:
    """URL that reads a blob.

    Args:
        base: URL of the container, without a slash at its end.
        resource: ACCOUNT/CONTAINER/NAME, as it is.
        account_key: in base64, as Azure gives it.
        lasts_s: seconds from now.

    Raises:
        FetchError: the key is none.
    """
    try:
        key = base64.b64decode(account_key, validate=True)
    except binascii.Error as error:
        raise FetchError(Why.DENIED, "AZURE_STORAGE_ACCOUNT_KEY is not a key of an account") from error
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + lasts_s))
    # Permissions, start, end, resource; identifier, IP, protocol; version, kind; snapshot, scope and five headers.
    fields = ("r", "", until, f"/blob/{resource}", "", "", "", _VERSION, "b", *[""] * 7)
    made = hmac.new(key, "\n".join(fields).encode(), hashlib.sha256).digest()
    query = {"sv": _VERSION, "sp": "r", "sr": "b", "se": until, "sig": base64.b64encode(made).decode()}
    return f"{base}/{quote(resource.split('/', 2)[2])}?{urlencode(query)}"
