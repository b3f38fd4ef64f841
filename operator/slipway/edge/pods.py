"""Asks pods of models what they tell of themselves. They are tenants': answers are bounded, and never followed."""

import asyncio

import aiohttp

from slipway.signals.pods import Flood, Silent

_ANSWER_S = 1.0
_BODY_MAX = 128 << 10
_HEADERS = {"Accept": "text/plain", "Accept-Encoding": "identity"}


class PodAsker:
    """The session is the caller's; it carries no credentials and unpacks nothing."""

    def __init__(self, session: aiohttp.ClientSession, path: str = "/metrics", most: int = _BODY_MAX) -> None:
        """`most`: bytes of an answer."""
        self._session, self._path, self._most = session, path, most

    async def __call__(self, address: str, port: int) -> bytes:
        """Raises Silent."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._session.get(
                    f"http://{host}:{port}{self._path}", allow_redirects=False, headers=_HEADERS
                ) as response,
            ):
                if response.status != 200:
                    raise Silent(f"{address} answers {response.status}")
                return await _bounded(response.content, self._most)
        except TimeoutError as error:
            raise Silent(f"{address} does not answer within {_ANSWER_S:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Silent(f"{address}: {error or type(error).__name__}") from error


async def _bounded(content: aiohttp.StreamReader, most: int) -> bytes:
    parts, size = list[bytes](), 0
    async for part in content.iter_any():
        size += len(part)
        if size > most:
            raise Flood(f"more than {most >> 10} KiB")
        parts.append(part)
    return b"".join(parts)
