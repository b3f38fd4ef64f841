"""Asks pods of models for their /metrics. They are tenants': what they answer is bounded, and never followed."""

import asyncio

import aiohttp

from slipway.signals.pods import Flood, Silent

_ANSWER_S = 1.0
_BODY_MAX = 128 << 10
_HEADERS = {"Accept": "text/plain", "Accept-Encoding": "identity"}


class PodAsker:
    """The session is the caller's; it carries no credentials and unpacks nothing."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, address: str, port: int) -> bytes:
        """Raises Silent."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._session.get(f"http://{host}:{port}/metrics", allow_redirects=False, headers=_HEADERS) as response,
            ):
                if response.status != 200:
                    raise Silent(f"{address} answers {response.status}")
                return await _bounded(response.content)
        except TimeoutError as error:
            raise Silent(f"{address} does not answer within {_ANSWER_S:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Silent(f"{address}: {error or type(error).__name__}") from error


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    parts, size = list[bytes](), 0
    async for part in content.iter_any():
        size += len(part)
        if size > _BODY_MAX:
            raise Flood(f"more than {_BODY_MAX >> 10} KiB")
        parts.append(part)
    return b"".join(parts)
