"""The others, as one worker sees them: who is ready, what all of them count, and changes that all have to make."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway_runtime.engine.endpoint import Load
from slipway_runtime.metrics import Family
from slipway_runtime.share import Share
from slipway_runtime.workers.journal import Models, Past
from slipway_runtime.workers.link import Link
from slipway_runtime.workers.page import Page, Seat

JsonObject = dict[str, Any]
_PUBLISH_S = 0.01  # how old a worker's load may be to the others


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is started with: its number from 0, how many there are, and descriptors that it inherits."""

    number: int
    count: int
    is_again: bool
    """It takes the place of one that died: it serves nobody before it has loaded."""
    page: int
    link: int
    listeners: tuple[int, ...]


class Crew:
    """Must be made inside a running event loop. The page is there at once, the link after `connect`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.load_now = SharedLoad(lambda share: self._page.busy(place.number, share))
        self.listeners = [socket.socket(fileno=fd) for fd in place.listeners]
        self._page = Page(place.count, place.page)
        self._link: Link | None = None

    async def connect(self, asked: Mapping[str, Callable[[], Any]], made: Mapping[str, Callable[..., Any]]) -> None:
        """`asked`: what this worker tells the others. `made`: the changes it makes, perhaps coroutines."""

        async def answer(what: str, about: Any) -> Any:
            if what != "change":
                return asked[what]()
            result = made[about["what"]](*about["arguments"])
            return await result if hasattr(result, "__await__") else result

        self._link = await Link.over(socket.socket(fileno=self.place.link), answer)

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()

    # --- seats

    def seats(self) -> list[Seat]:
        return self._page.seats()

    def sit(self, *, ready: bool) -> None:
        self._page.sit(self.place.number, Seat.READY if ready else Seat.PARTLY)

    def connected(self, count: int) -> None:
        self._page.connected(self.place.number, count)

    def is_turn(self) -> bool:
        """Whether the next connection is for this worker."""
        return self._page.has_fewest(self.place.number)

    def load_report(self, own: Share) -> Share:
        """Of all together; the utilization is that of all their instances."""
        shares = self._page.shares()
        shares[self.place.number] = own
        answering = sum(seat in (Seat.READY, Seat.PARTLY) for seat in self.seats())
        return Share(
            sum(share.waiting for share in shares),
            sum(share.running for share in shares),
            sum(share.utilization for share in shares) / max(1, answering),
        )

    # --- questions

    async def past(self) -> Past | None:
        """What to load in place of what lies in the files."""
        said = await self._ask("past")
        return Past(Models(**said["models"]), said["configs"]) if said is not None else None

    async def join(self) -> None:
        """Make what the others have changed meanwhile, and from now on all that they change."""
        await self._ask("join")

    async def loaded(self) -> None:
        """This worker has its seat."""
        await self._ask("loaded")

    async def failed(self, exit_code: int, sentence: str) -> None:
        if self._link is None:
            await self.connect({}, {})
        await self._ask("failed", [exit_code, sentence])

    async def metrics(self) -> list[Family]:
        families: list[Family] = await self._ask("metrics")
        return families

    async def statistics(self) -> list[JsonObject]:
        rows: list[JsonObject] = await self._ask("statistics")
        return rows

    async def change(self, what: str, arguments: Sequence[Any]) -> Any:
        """Raises RequestError when a worker cannot make it."""
        return await self._ask("change", {"what": what, "arguments": list(arguments)})

    async def _ask(self, what: str, about: Any = None) -> Any:
        assert self._link is not None  # noqa: S101 - connected before anything is served
        return await self._link.ask(what, about)


class SharedLoad(Load):
    """Told to the others when something was asked or answered: at once when it is all over, else now and then."""

    share: Callable[[], Share] = staticmethod(Share)

    def __init__(self, publish: Callable[[Share], None]) -> None:
        self._publish = publish
        self._published_s = 0.0
        self._is_zero = True
        self._asked_s = 0.0
        super().__init__()

    @property
    def last_asked_s(self) -> float:
        return self._asked_s

    @last_asked_s.setter
    def last_asked_s(self, now_s: float) -> None:
        self._asked_s = now_s
        if not self.in_flight:
            if not self._is_zero:
                self._publish(Share())
                self._is_zero = True
        elif now_s - self._published_s > _PUBLISH_S:
            self._published_s, self._is_zero = now_s, False
            self._publish(self.share())
