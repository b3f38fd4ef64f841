"""Asks a Prometheus, or what speaks like one, for one number at a time. Its address is the administrator's alone."""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from slipway.signals.answer import Answer, read

_CONNECT_S = 2.0
_BODY_MAX = 64 << 10
"""One number has 100 bytes; a few hundred series, whose number is then told, fit as well."""
_LOOK_S = 60.0


class Unreachable(Exception):
    """There is no connection to be had, whatever is asked."""


async def nobody(_query: str) -> Answer:
    """In place of a Prometheus where there is none."""
    raise Unreachable("no Prometheus is configured: set prometheus.url in the values of Slipway's chart")


@dataclass(slots=True)
class Place:
    """Where Prometheus is, and what it wants to see: a folder that may have `token` and `ca.crt`.

    They are read anew each minute, as a Secret changes under a process that runs.
    """

    url: str
    folder: Path | None = None
    _token: str = field(default="", repr=False)
    _authority: str = field(default="", repr=False)
    _tls: ssl.SSLContext | None = None
    _read_at: float = float("-inf")

    @classmethod
    def parse(cls, url: str, folder: str = "") -> "Place":
        """Raises ValueError when this is no address of a server."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(url)
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(url)
        return cls(url, Path(folder) if folder else None)

    def look(self, now: float) -> None:
        """Read the folder when that is due."""
        if self.folder is None or now - self._read_at < _LOOK_S:
            return
        self._read_at = now
        words = _text(self.folder / "token").split()
        self._token = words[0] if len(words) == 1 else ""
        authority = _text(self.folder / "ca.crt")
        if authority != self._authority:
            self._authority, self._tls = authority, None

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def tls(self) -> ssl.SSLContext | bool:
        """Trusts `ca.crt` alone where there is one, else what the image trusts.

        Raises:
            Unreachable: it holds no certificate.
        """
        if not self.url.startswith("https"):
            return True
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cadata=self._authority or None)
            except OSError as error:
                raise Unreachable(f"ca.crt for Prometheus holds no certificate: {error}") from error
        return self._tls


def _text(path: Path) -> str:
    """Nothing where there is none, as the Secret need not have it."""
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeError):
        return ""


class Prometheus:
    """Not for threads. The session is the caller's and carries no credentials."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        place: Place,
        *,
        answer_s: float = 5.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._session, self._place, self._wall, self._answer_s = session, place, wall, answer_s
        self._url = f"{place.url.rstrip('/')}/api/v1/query"

    async def __call__(self, query: str) -> Answer:
        """The number that a query gives now.

        Raises:
            Unreachable
        """
        try:
            async with asyncio.timeout(self._answer_s):
                status, body = await self._post(query)
        except aiohttp.ConnectionTimeoutError as error:
            raise Unreachable(f"Prometheus cannot be reached within {_CONNECT_S:g} s") from error
        except TimeoutError:
            return Answer(None, f"Prometheus does not answer within {self._answer_s:g} s", failed=True)
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError) as error:
            return Answer(None, f"Prometheus breaks off: {error or type(error).__name__}", failed=True)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"Prometheus cannot be reached: {error or type(error).__name__}") from error
        if body is None:
            return Answer(None, "a very large answer: make one number of it, by sum(...) for instance", failed=True)
        return read(status, body, self._wall())

    async def _post(self, query: str) -> tuple[int, bytes | None]:
        """Code and body; None in place of one that is too large."""
        self._place.look(time.monotonic())
        async with self._session.post(
            self._url,
            data={"query": query, "timeout": f"{self._answer_s:g}s"},
            headers=self._place.headers(),
            ssl=self._place.tls(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_S),
        ) as response:
            parts, size = [], 0
            async for part in response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > _BODY_MAX:
                    return response.status, None
            return response.status, b"".join(parts)
