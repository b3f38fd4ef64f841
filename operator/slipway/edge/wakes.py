"""Hears at once for which services requests wait in gateways: one long question to each gateway pod.

A gateway that does not answer is asked again a little later and delays no other. What the reports of each second say is
enough to serve; this only saves the second.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Set

import aiohttp

from slipway.api.manifest import Key
from slipway.signals.gateways import GatewayPod
from slipway.signals.report import ReportError, Wakes, key_of_revision, parse_wakes

log = logging.getLogger(__name__)

_ANSWER_S = 30.0
"""Agents answer after 20 s if there is nothing to be told."""
_BODY_MAX = 4 << 20
_LOOK_S = 1.0
_RETRY_S = (1.0, 3.0)
_BREATH_S = 0.02
"""Between questions, should an agent answer each at once."""

_ABREAST = 10
"""Services woken before others have their turn."""
Hold = Callable[[str, Mapping[str, int]], Set[str]]
"""Told the name of a gateway pod, and for which revisions requests wait there: those for which none did before."""
Wake = Callable[[Key], None]


class WakeWatch:
    """The session is the caller's and carries no credentials."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        port: int,
        pods: Callable[[], Iterable[GatewayPod]],
        hold: Hold,
        wake: Wake,
    ) -> None:
        self._session, self._port, self._pods, self._hold, self._wake = session, port, pods, hold, wake

    async def run(self) -> None:
        """Until cancelled."""
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                pods = {pod.uid: pod for pod in self._pods()}
                for uid in tasks.keys() - pods.keys():
                    tasks.pop(uid).cancel()
                for uid in pods.keys() - tasks.keys():
                    tasks[uid] = group.create_task(self._follow(pods[uid]), name=f"wakes of {pods[uid].name}")
                await asyncio.sleep(_LOOK_S)

    async def _follow(self, pod: GatewayPod) -> None:
        number, held = -1, frozenset[str]()
        while True:
            try:
                wakes = await self._ask(pod.address, number)
            except ReportError as error:
                log.debug("wakes of gateway %s: %s", pod.name, error)
                number, held = -1, frozenset()
                await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 (spreads retries)
                continue
            number = wakes.number
            # That requests went on is told by reports only: a revision may sleep and be waited for again meanwhile.
            anew = self._hold(pod.name, wakes.revisions) | (wakes.revisions.keys() - held)
            news = {key for name in anew if (key := key_of_revision(name))}
            held = frozenset(wakes.revisions)
            for count, key in enumerate(sorted(news), start=1):
                self._wake(key)
                if count % _ABREAST == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(_BREATH_S)

    async def _ask(self, address: str, number: int) -> Wakes:
        host = f"[{address}]" if ":" in address else address
        query = {"since": str(number)} if number >= 0 else {}
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._session.get(f"http://{host}:{self._port}/wakes", params=query, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise ReportError(f"{address} answers {response.status}")
                body = await response.content.read(_BODY_MAX)
                while len(body) < _BODY_MAX and (more := await response.content.read(_BODY_MAX - len(body))):
                    body += more
        except TimeoutError as error:
            raise ReportError(f"{address} does not answer within {_ANSWER_S:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReportError(f"{address}: {error or type(error).__name__}") from error
        return parse_wakes(body)
