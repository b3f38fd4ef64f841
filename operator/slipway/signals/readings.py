"""The numbers that releases in progress are judged by besides the gateways' counts, each with its age.

    of(service, metrics) ─► wanted for a minute ─► its namespace's lane ─► one question each 15 s ─► the last answer

A namespace asks one question at a time, so that slow ones delay nobody else's. While Prometheus cannot be reached one
question each 15 s tries it, and the others are not asked. What nobody wants any more is forgotten; then nothing runs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from slipway.api.manifest import Key
from slipway.decide.promql import Names, Unfit, rewrite
from slipway.decide.release import Reading
from slipway.signals.answer import Answer
from slipway.signals.prometheus import Unreachable

PERIOD_S = 15.0
WANTED_S = 60.0
"""How long a question is asked on after somebody looked at its answer."""
KEPT_S = 40.0
"""One lost answer or two leave the last number as it is, with its growing age."""
SLOWNESS = 8
"""A question that takes a second is asked again after so many at the soonest."""
ABREAST = 8

Ask = Callable[[str], Awaitable[Answer]]
"""A query -> its number; raises Unreachable."""
Observe = Callable[[str], None]
"""Told the result of every question: ok, nothing, failed or unreachable."""


@dataclass(slots=True)
class _Question:
    wanted_until: float
    due: float
    last: Answer | None = None
    measured: float = float("-inf")
    """When the last number was true."""
    number: float | None = None


@dataclass(slots=True)
class _Lane:
    """The questions of one namespace, by their text."""

    questions: dict[str, _Question] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Readings:
    """Not for threads."""

    def __init__(
        self, ask: Ask, *, observe: Observe = lambda _result: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._observe, self._clock = ask, observe, clock
        self._lanes: dict[str, _Lane] = {}
        self._idle: asyncio.Queue[str] = asyncio.Queue()
        self._abreast = asyncio.Semaphore(ABREAST)
        self._unreachable = ""
        self._try_at = float("-inf")
        """When the next question may find out whether Prometheus is back."""

    def of(self, key: Key, metrics: Mapping[str, str], stable: str, candidate: str) -> dict[str, Reading]:
        """Name -> number, of metrics given as name -> PromQL. One that was not answered yet is left out.

        Looking is wanting: a question is asked as long as somebody comes for its answer.
        """
        names = Names(key[0], key[1], stable, candidate)
        found = {name: self._reading(names, text) for name, text in metrics.items()}
        return {name: reading for name, reading in found.items() if reading is not None}

    def of_each(self, key: Key, metrics: Mapping[str, str], revisions: Iterable[str]) -> dict[tuple[str, str], Reading]:
        """Name and revision -> number, likewise, of metrics that are asked of each revision by itself."""
        found: dict[tuple[str, str], Reading] = {}
        for revision in revisions:
            names = Names(key[0], key[1], "", "", revision)
            for name, text in metrics.items():
                if (reading := self._reading(names, text)) is not None:
                    found[name, revision] = reading
        return found

    async def run(self) -> None:
        """Ask what is wanted, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                namespace = await self._idle.get()
                group.create_task(self._serve(namespace), name=f"questions of {namespace}")

    def _reading(self, names: Names, text: str) -> Reading | None:
        try:
            query = rewrite(text, names)
        except Unfit as error:
            return Reading(None, str(error), failed=True)
        question, now = self._want(names.namespace, query), self._clock()
        if question.last is None:
            return None
        age_s = now - question.measured
        if question.number is not None and (question.last.value is not None or age_s <= KEPT_S):
            return Reading(question.number, "", age_s)
        return Reading(None, question.last.words, failed=question.last.failed)

    def _want(self, namespace: str, query: str) -> _Question:
        now = self._clock()
        lane = self._lanes.get(namespace)
        if lane is None:
            lane = self._lanes[namespace] = _Lane()
            self._idle.put_nowait(namespace)
        question = lane.questions.get(query)
        if question is None:
            question = lane.questions[query] = _Question(wanted_until=now + WANTED_S, due=now)
            lane.news.set()
        question.wanted_until = now + WANTED_S
        return question

    async def _serve(self, namespace: str) -> None:
        """One question after the other, until none is wanted."""
        lane = self._lanes[namespace]
        while True:
            now = self._clock()
            lane.questions = {text: each for text, each in lane.questions.items() if each.wanted_until > now}
            if not lane.questions:
                del self._lanes[namespace]
                return
            query, question = min(lane.questions.items(), key=lambda pair: pair[1].due)
            if question.due > now:
                await self._rest(lane, question.due - now)
            else:
                await self._put(query, question)

    async def _rest(self, lane: _Lane, seconds: float) -> None:
        lane.news.clear()
        try:
            async with asyncio.timeout(seconds):
                await lane.news.wait()
        except TimeoutError:
            return

    async def _put(self, query: str, question: _Question) -> None:
        """Ask one question, unless nobody can be asked, and take over its answer."""
        async with self._abreast:
            asked = self._clock()
            question.due = asked + PERIOD_S
            if self._unreachable and asked < self._try_at:
                question.last = Answer(None, self._unreachable, failed=True)
                return
            self._try_at = asked + PERIOD_S
            try:
                answer = await self._ask(query)
            except Unreachable as error:
                self._unreachable = str(error)
                self._observe("unreachable")
                question.last = Answer(None, self._unreachable, failed=True)
                return
        self._unreachable = ""
        self._observe("failed" if answer.failed else "nothing" if answer.value is None else "ok")
        question.due = asked + max(PERIOD_S, SLOWNESS * (self._clock() - asked))
        question.last = answer
        if not answer.failed:
            question.number, question.measured = answer.value, asked - answer.age_s
