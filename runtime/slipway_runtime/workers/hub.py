"""The supervisor's side of what workers have in common: their figures together, and changes that all of them make.

Changes happen one after the other, in the same order everywhere. A worker that is started again loads what there is by
now, and makes what else it has missed before it takes requests, so it does not matter who answers. Nobody waits for
long for a worker that does not answer: it is killed, and has everything when it comes again.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.metrics import Family
from slipway_runtime.workers import totals
from slipway_runtime.workers.journal import Journal, Models, Past
from slipway_runtime.workers.link import Link

log = logging.getLogger("slipway.workers")
JsonObject = dict[str, Any]
_OF_MODELS = ("load", "unload")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a worker may take."""

    figures: float = 2.0
    """Who is busy for longer counts with what it said last,"""
    quiet: float = 10.0
    """and is not asked again for so long."""
    models: float = 600.0
    """For loading a model, or unloading it."""
    change: float = 30.0
    """For any other change."""
    ping: float = 2.0
    """Between two questions whether it hears at all;"""
    late: float = 3.0
    """who does not is passed over,"""
    hung: float = 10.0
    """and killed after so much more, unless it loads: some libraries hold Python's lock for as long as that takes."""


@dataclass(eq=False, slots=True)
class Member:
    """One run of a worker's process. `kill` ends it; `away` is told when it stops hearing, and when it hears again."""

    number: int
    link: Link
    kill: Callable[[], None]
    away: Callable[[bool], None]
    asked: bool = False
    """It has asked us something, so it is there to answer."""
    joined: bool = False
    made: int = 0
    """Up to which change its models are."""
    changing: bool = False
    quiet_until_s: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Made:
    result: Any
    """RequestError when it was refused."""
    models: Models | None


class Hub:
    """Must be made inside a running event loop."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._members: list[Member] = []
        self._gone: list[Family] = []
        self._gone_rows: list[JsonObject] = []
        self._journal = Journal()
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._clock = asyncio.get_running_loop().time

    def connect(self, member: Member) -> None:
        self._members.append(member)

    def leave(self, member: Member) -> None:
        """It is gone; what it had counted, as far as it was ever asked, stays."""
        self._members.remove(member)
        for what in ("metrics", "statistics"):
            self._keep(member, what, [])

    # --- who comes

    def past(self, member: Member) -> Past | None:
        """What it is to load in place of what lies in the files; None before anybody has loaded."""
        member.asked, member.made = True, self._journal.number
        return self._journal.past()

    async def join(self, member: Member) -> None:
        """It has loaded: let it make what it has missed. From then on it makes all changes.

        It does not wait for one that is being made: that one comes to it as to the others.
        """
        member.asked, number = True, -1
        if self._journal.models is None:
            models = Models(**await member.link.ask("models"))
            self._journal.models = self._journal.models or models
        while number != self._journal.number:
            number = self._journal.number
            for change in self._journal.after(member.made):
                made = await self._make(member, change)
                if made is not None and isinstance(made.result, RequestError) and change["what"] != "unload":
                    about = {"of": member.number, "change": change["what"], "reason": made.result.message}
                    log.error("a worker could not make a change that others had made", extra={"f": about})
            member.made = number
        if member in self._members:  # else it died, and another has its number
            member.joined = True

    async def watch(self, member: Member) -> None:
        """Until it is gone: is there still somebody who hears?"""
        try:
            while True:
                await asyncio.sleep(self._patience.ping)
                await self._ping(member)
        except ConnectionError:
            return

    async def _ping(self, member: Member) -> None:
        answer = asyncio.create_task(member.link.ask("ping"))
        try:
            heard, _ = await asyncio.wait({answer}, timeout=self._patience.late)
            if not heard:
                member.away(True)
            while not heard:
                heard, _ = await asyncio.wait({answer}, timeout=self._patience.hung)
                if not heard and not member.changing:
                    self._kill(member, "it does not answer")
            await answer
            member.quiet_until_s = 0.0
            member.away(False)
        finally:
            answer.cancel()

    def _kill(self, member: Member, why: str) -> None:
        log.error("a worker is killed", extra={"f": {"of": member.number, "reason": why}})
        member.kill()

    # --- figures

    async def metrics(self) -> list[Family]:
        said = await self._all("metrics")
        return totals.with_gone(totals.families(said), self._gone)

    async def statistics(self) -> list[JsonObject]:
        said = await self._all("statistics")
        return list(totals.statistics([*said, self._gone_rows]).values())

    async def _all(self, what: str) -> list[Any]:
        """What each worker says, or said last."""
        now_s = self._clock()
        asked = [member for member in self._members if member.asked and now_s >= member.quiet_until_s]
        await asyncio.gather(*(self._ask_for(member, what) for member in asked))
        return [member.said[what] for member in self._members if what in member.said]

    async def _ask_for(self, member: Member, what: str) -> None:
        try:
            async with asyncio.timeout(self._patience.figures):
                answer = await member.link.ask(what)
        except TimeoutError:
            member.quiet_until_s = self._clock() + self._patience.quiet
        except (ConnectionError, RequestError):
            return
        else:
            if member in self._members:
                self._keep(member, what, answer)

    def _keep(self, member: Member, what: str, now: list[Any]) -> None:
        """What it counted before and counts anew by now is kept apart."""
        before = member.said.get(what, [])
        member.said[what] = now
        if what == "metrics":
            self._gone = totals.families([self._gone, totals.fallen(before, now)])
        else:
            rows = totals.fallen_statistics(before, now)
            self._gone_rows = list(totals.statistics([self._gone_rows, rows]).values())

    # --- changes

    async def change(self, change: JsonObject) -> Any:
        """Have every worker make it. Returns what the first of them says.

        It is made to its end, also when who asked for it is gone.

        Raises:
            RequestError: why one could not; others may have made it.
        """
        task = asyncio.create_task(self._change(change))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _change(self, change: JsonObject) -> Any:
        async with self._changing:
            if not any(member.joined for member in self._members):
                raise RequestError(Kind.UNAVAILABLE, f"cannot {change['what']} yet: the server is still loading")
            said = await self._made_by_all(change)
            # Who died meanwhile has it when it comes again.
            refused = [made for made in said if isinstance(made.result, RequestError)]
            done = [made for made in said if made not in refused]
            if change["what"] in _OF_MODELS:
                models = next((made.models for made in [*done, *refused] if made.models is not None), None)
                if models is not None:
                    self._journal.add_models(change, models, was_made=bool(done))
            elif done:
                self._journal.add(change)
            if refused:
                raise refused[0].result
            if not done:
                raise RequestError(Kind.UNAVAILABLE, f"cannot {change['what']}: every worker died; try again")
            return done[0].result

    async def _made_by_all(self, change: JsonObject) -> list[_Made]:
        """Also by who joins meanwhile. There is no turn of the loop between the last look for them and the return."""
        asked: set[Member] = set()
        said: list[_Made | None] = []
        while rest := [member for member in self._members if member.joined and member not in asked]:
            asked.update(rest)
            said += await asyncio.gather(*(self._make(member, change) for member in rest))
        return [made for made in said if made is not None]

    async def _make(self, member: Member, change: JsonObject) -> _Made | None:
        """None: it is gone, or killed because it did not answer in time."""
        limit_s = self._patience.models if change["what"] in _OF_MODELS else self._patience.change
        try:
            async with asyncio.timeout(self._patience.late + self._patience.hung):
                await member.link.ask("ping")  # who has hung already is not given all that time
            async with asyncio.timeout(limit_s):
                member.changing = True
                return await self._made(member, change)
        except TimeoutError:
            self._kill(member, f"it did not make a change in time: {change['what']}")
        except ConnectionError:
            pass
        finally:
            member.changing = False
        return None

    async def _made(self, member: Member, change: JsonObject) -> _Made:
        try:
            result = await member.link.ask("change", change)
        except RequestError as refusal:
            result = refusal
        if change["what"] not in _OF_MODELS:
            return _Made(result, None)
        return _Made(result, Models(**await member.link.ask("models")))
