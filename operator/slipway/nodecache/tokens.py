"""Whose pod is asking? Its token says it, and the API server says whether the token is true.

An owner is one ServiceAccount of one namespace in one of its lives (its uid): a namespace that is made anew under an
old name inherits nothing. A token must have been made for this audience: it opens nothing else, and no other opens the
cache.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from slipway.api.manifest import Manifest
from slipway.decide.fetching import AUDIENCE

_TRUE_S, _FALSE_S = 60.0, 5.0
"""How long an answer counts."""
_KNOWN_MAX = 4096
_USER = "system:serviceaccount:"


class Tokens:
    """Not for threads."""

    def __init__(
        self, review: Callable[[Manifest], Awaitable[Manifest]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`review`: a TokenReview -> the same with its status; raises KubeError."""
        self._review, self._clock = review, clock
        self._known: OrderedDict[bytes, tuple[float, str | None]] = OrderedDict()

    async def owner(self, token: str) -> str | None:
        """None: the token is none of ours. Raises KubeError: the API server does not answer."""
        mark, now = hashlib.sha256(token.encode()).digest(), self._clock()
        until_s, owner = self._known.get(mark, (0.0, None))
        if now >= until_s:
            body = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "metadata": {},
                "spec": {"token": token, "audiences": [AUDIENCE]},
            }
            owner = _owner((await self._review(body)).get("status") or {})
            self._known[mark] = (now + (_TRUE_S if owner else _FALSE_S), owner)
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        return owner


def _owner(status: dict[str, Any]) -> str | None:
    user = status.get("user") or {}
    is_ours = AUDIENCE in (status.get("audiences") or ()) and str(user.get("username", "")).startswith(_USER)
    return str(user["uid"]) if status.get("authenticated") and is_ours and user.get("uid") else None
