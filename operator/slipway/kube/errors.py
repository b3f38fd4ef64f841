"""What can go wrong between Slipway and the API server.

    KubeError
    ├── NotFound         the object, its namespace or its kind is not there
    ├── AlreadyExists    a create met an object of that name
    ├── Conflict         uid or resourceVersion is not the one the decision was made on
    ├── Gone             the resourceVersion or continue token is too old
    ├── Invalid          the server understood and refused: bad body, schema, admission
    ├── Forbidden        RBAC, quota, or a namespace that is terminating
    ├── Throttled        429; says for how long
    ├── Unavailable      no certain answer: 5xx, 401, time-outs, resets. The write may have happened
    └── Fenced           not sent: this process is not certain to be the leader

Responses and aiohttp's exceptions are mapped here and in `client.py`, once, and nowhere else.
"""

import json
from collections.abc import Mapping

_DEFAULT_RETRY_AFTER_S = 1.0


class KubeError(Exception):
    """Says which call on which object failed, and why."""

    retry_after_s = 0.0
    """At least so long until another attempt can make sense."""


class NotFound(KubeError):
    pass


class AlreadyExists(KubeError):
    pass


class Conflict(KubeError):
    pass


class Gone(KubeError):
    pass


class Invalid(KubeError):
    pass


class Forbidden(KubeError):
    pass


class Throttled(KubeError):
    def __init__(self, message: str, retry_after_s: float = _DEFAULT_RETRY_AFTER_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(KubeError):
    pass


class Fenced(KubeError):
    retry_after_s = 1.0


_BY_STATUS: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unavailable,  # a token being rotated: the next attempt reads the new one
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    410: Gone,
    413: Invalid,
    422: Invalid,
}


def from_response(what: str, status: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """The error for an answer of 400 or more. `what` names the call and the object."""
    reason, message = _status(body)
    text = f"{what}: {message or f'HTTP {status}'}"
    if status == 429:
        return Throttled(text, _retry_after_s(headers))
    if reason == "AlreadyExists":
        return AlreadyExists(text)
    return _BY_STATUS.get(status, Unavailable if status >= 500 else Invalid)(text)


def _status(body: bytes) -> tuple[str, str]:
    """Reason and message of a `Status` object; proxies answer with something else, which is quoted in part."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return str(status.get("reason", "")), str(status.get("message", ""))
    return "", body[:200].decode("utf-8", "replace").strip()


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds asked for; the API server sends whole seconds, never a date."""
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return _DEFAULT_RETRY_AFTER_S
