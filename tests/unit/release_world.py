"""A service in a release, without a cluster: pods that take time, gateways that acknowledge, requests that are counted.

Time is moved by `wait`, each second of it is one look of the operator, and what it decides is stored as JSON and read
back, as a restart would. Every stored version is checked against DESIGN.md's rules 1 to 4.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from slipway.api.conditions import Phase, Reason
from slipway.api.progress import Outcome, RolloutStatus, Verdict
from slipway.api.rollout import Analysis, Rollout
from slipway.api.traffic import WHOLE
from slipway.decide import capacity, rollout
from slipway.decide.release import EDGES_MS, Command, Decision, Judge, News, Reading, Sample, Scene, Side, Window
from slipway.decide.scene import is_left_alone

DRAIN_S = 5


class Counts:
    """A judge that compares shares of errors, and is never in doubt for long."""

    def fold(
        self,
        evidence: dict[str, Any] | None,
        window: Window,
        stable: str,
        candidate: str,
        policy: Analysis,
        *,
        mirrored: bool,
        kept: bool = False,
        readings: Mapping[str, Reading] | None = None,
    ) -> dict[str, Any]:
        known = evidence or {"n": 0, "x": 0, "m": 0, "y": 0}
        mine = (window.copies if mirrored else window.samples).get(candidate, Sample())
        theirs = window.samples.get(stable, Sample())
        more = {"n": mine.requests, "x": mine.errors, "m": theirs.requests, "y": theirs.errors}
        return {key: known[key] + more[key] for key in more}

    def verdicts(
        self, evidence: dict[str, Any] | None, policy: Analysis, readings: Mapping[str, Reading]
    ) -> tuple[Verdict, ...]:
        n, x, m, y = ((evidence or {}).get(key, 0) for key in "nxmy")
        words = f"{x} of {n} requests failed against {y} of {m}"
        is_worse = n > 0 and x / n > 0.05 and x / n > 2 * (y / m if m else 0)
        outcome: Outcome = "Fail" if is_worse else "Pass" if n >= policy.min_requests else "NoData"
        if outcome == "Pass" and x / n > 0.05:
            outcome = "Inconclusive"
        found = [Verdict(metric="errorRate", verdict=outcome, message=words, evidence=100 if is_worse else 1)]
        for metric in policy.metrics:
            reading = readings.get(metric.name, Reading(None))
            verdict: Outcome = "Error" if reading.failed else "NoData" if reading.value is None else "Pass"
            if reading.value is not None and metric.max is not None and reading.value > metric.max:
                verdict = "Fail"
            found.append(Verdict(metric=metric.name, verdict=verdict, message=f"{metric.name}: {reading.words}"))
        return tuple(
            sorted(found, key=lambda one: ("Fail", "Error", "Inconclusive", "NoData", "Pass").index(one.verdict))
        )

    def overall(self, verdicts: Sequence[Verdict]) -> Outcome:
        return verdicts[0].verdict if verdicts else "NoData"


@dataclass
class Model:
    """What a revision does once it has pods."""

    lead_s: float = 3
    """Until a pod is ready; infinite: never."""
    error_rate: float = 0
    fault: tuple[Reason, str, bool] | None = None
    restarts: int = 0
    down: int = 0
    """Of its pods, this many are not ready though they were."""


def sample(requests: float, errors: float) -> Sample:
    latency = [0] * (len(EDGES_MS) + 1)
    latency[8] = int(requests)
    return Sample(int(requests), min(int(errors), int(requests)), tuple(latency))


@dataclass(frozen=True)
class Route:
    version: int
    serving: str
    candidate: str | None = None
    weight: int = 0
    mirror: int = 0
    preview: str | None = None

    def share(self, name: str | None) -> int:
        if name is not None and name == self.candidate:
            return self.weight
        return WHOLE - self.weight if name == self.serving else 0


@dataclass
class World:
    policy: Rollout = field(default_factory=Rollout)
    replicas: int = 1
    """That the whole traffic needs; 0: nobody asks."""
    had: int = 1
    """The same when it was last seen to."""
    is_fixed: bool = True
    target: str = "v1"
    judge: Judge = field(default_factory=Counts)
    now: datetime = datetime(2026, 1, 1, 10, tzinfo=UTC)
    models: dict[str, Model] = field(default_factory=dict)
    pods: dict[str, list[datetime]] = field(default_factory=dict)
    """Revision -> when each of its pods got a place; the future: none yet."""
    asked: dict[str, int] = field(default_factory=dict)
    room: int | None = None
    """Pods that have a place at once."""
    rps: float = 100
    ack_s: float = 1
    is_observed: bool = True
    look_s: float = 1.0
    readings: dict[str, Reading] = field(default_factory=dict)
    commands: tuple[Command, ...] = ()
    stored: str = ""
    stable: str | None = None
    previous: str = ""
    route: Route | None = None
    written: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    in_use: list[Route] = field(default_factory=list)
    """What some gateway may serve: the routing that all acknowledged last, and those since."""
    silent: tuple[str, ...] = ()
    """Gateways that acknowledge nothing."""
    leaving: dict[str, datetime | None] = field(default_factory=dict)
    window_from: datetime = datetime(2026, 1, 1, 10, tzinfo=UTC)
    window_age_s: float = 0
    counted: dict[str, list[float]] = field(default_factory=dict)
    copied: dict[str, list[float]] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    """Requests and copies that each revision has had since a release began."""
    news: list[News] = field(default_factory=list)
    weights: list[tuple[str | None, int]] = field(default_factory=list)
    """Candidate and weight of every routing ever stored."""
    writes: int = 0
    decision: Decision | None = None

    # What is seen

    @property
    def state(self) -> RolloutStatus:
        return RolloutStatus.model_validate_json(self.stored)

    @property
    def phase(self) -> Phase:
        return self.state.phase

    @property
    def reasons(self) -> list[str]:
        return [one.reason for one in self.news]

    def told(self, reason: Reason) -> list[str]:
        return [one.note for one in self.news if one.reason is reason]

    @property
    def served(self) -> bool:
        return self.route is not None and not self.silent and self.now >= self.written + timedelta(seconds=self.ack_s)

    def model(self, name: str) -> Model:
        return self.models.setdefault(name, Model())

    def ready(self, name: str | None) -> int:
        if name is None:
            return 0
        lead = self.model(name).lead_s
        up = sum((self.now - placed).total_seconds() >= lead for placed in self.pods.get(name, []))
        return max(0, up - self.model(name).down)

    def side(self, name: str) -> Side:
        model = self.model(name)
        waiting = sum(placed > self.now for placed in self.pods.get(name, []))
        fault = model.fault if self.pods.get(name) else None
        return Side(
            name=name,
            replicas=self.asked.get(name, 0),
            ready=self.ready(name),
            fault=(fault[0], fault[1]) if fault else None,
            is_terminal=fault[2] if fault else False,
            restarts=model.restarts if self.pods.get(name) else 0,
            lacks="nvidia.com/gpu" if waiting else "",
        )

    def scene(self) -> Scene:
        names = {self.target, *self.asked, self.previous, self.stable or self.target} - {""}
        sides = {name: self.side(name) for name in names}
        route = self.route
        state = RolloutStatus.model_validate_json(self.stored) if self.stored else None
        window = Window(
            seconds=(self.now - self.window_from).total_seconds(),
            age_s=self.window_age_s,
            samples={name: sample(*counts) for name, counts in self.counted.items()},
            copies={name: sample(*counts) for name, counts in self.copied.items()},
        )
        return Scene(
            policy=self.policy,
            target=self.target,
            stable=sides[self.stable] if self.stable else None,
            candidate=sides[self.target],
            sides=sides,
            replicas=max(1, self.replicas),
            is_asleep=not self.replicas and is_left_alone(state, self.target, sides.get(self.stable or "")),
            is_fixed=self.is_fixed,
            more=max(0, self.replicas - self.had),
            served=str(route.version) if route is not None and self.served else "",
            waiting_for=self.silent,
            served_weight=route.weight if route is not None else 0,
            is_observed=self.is_observed,
            window=window,
            readings=self.readings,
            commands=self.commands,
            previous=self.previous,
        )

    # What happens

    def wait(self, seconds: float) -> "World":
        """A look each `look_s`, and one more where the decision asked for it in between."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            due = (
                self.decision.requeue_after_s
                if self.decision and self.decision.requeue_after_s is not None
                else self.look_s
            )
            self._pass(min(self.look_s, due, (end - self.now).total_seconds()))
            self.operate()
        return self

    def until(self, *phases: Phase, limit_s: float = 1200) -> "World":
        for _ in range(int(limit_s)):
            if self.phase in phases:
                return self
            self.wait(1)
        raise AssertionError(f"still {self.state.phase} {self.state.stage} after {limit_s} s: {self.state.next}")

    def say(self, verb: str, ident: str = "1") -> "World":
        self.commands = (
            *(c for c in self.commands if (c.verb == "abort") != (verb == "abort")),
            Command(verb, ident, "kubectl"),
        )
        return self.operate()

    def serve(self, name: str = "v1") -> "World":
        """The first revision, ready."""
        self.target = name
        self.operate()
        for _ in range(200):
            if self.phase is Phase.HEALTHY and self.ready(name) >= self.replicas:
                break
            self.wait(1)
        self.news.clear()
        self.weights.clear()
        return self

    def apply(self, target: str) -> "World":
        self.target = target
        return self.operate()

    def _pass(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        route, requests = self.route, self.rps * seconds
        self._place()
        if route is None:
            return
        for name in {route.serving, route.candidate or route.serving}:
            share = requests * route.share(name) / WHOLE
            if self.ready(name):
                entry = self.counted.setdefault(name, [0.0, 0.0])
                entry[0] += share
                self.answered[name] = self.answered.get(name, 0) + share
                entry[1] += share * self.model(name).error_rate
        if route.candidate and route.mirror:
            entry = self.copied.setdefault(route.candidate, [0.0, 0.0])
            entry[0] += requests * route.mirror / WHOLE
            self.answered[route.candidate] = self.answered.get(route.candidate, 0) + requests * route.mirror / WHOLE
            entry[1] += requests * route.mirror / WHOLE * self.model(route.candidate).error_rate

    def _place(self) -> None:
        """Pods that wait for room get it, those of stable last: they are there already."""
        placed = sum(at <= self.now for pods in self.pods.values() for at in pods)
        for pods in self.pods.values():
            for index, at in enumerate(pods):
                if at > self.now and (self.room is None or placed < self.room):
                    pods[index], placed = self.now, placed + 1

    def operate(self) -> "World":
        """Looks, decides, writes, and does, until nothing more is due at this moment."""
        for _ in range(12):
            before = self.stored, self.route, dict(self.asked)
            self.act(self.decide())
            if (self.stored, self.route, self.asked) == before:
                return self
        raise AssertionError(f"restless: {self.stored}")

    def decide(self) -> Decision:
        state = RolloutStatus.model_validate_json(self.stored) if self.stored else None
        return rollout.step(state, self.scene(), self.now, self.judge)

    def act(self, decision: Decision, *, dies_before: str = "") -> None:
        """`dies_before`: the operator ends before it writes status, or before it sees to the pods."""
        self.decision = decision
        if dies_before != "status":
            self._write(decision)
        if not dies_before:
            self._see_to_pods(decision)

    def _write(self, decision: Decision) -> None:
        text = decision.state.model_dump_json(by_alias=True, exclude_none=True)
        assert len(text) <= 4096
        route = Route(0, decision.serving, decision.candidate, decision.weight, decision.mirror, decision.preview)
        last = replace(self.route, version=0) if self.route else None
        if text != self.stored:
            self.writes += 1
            self.stored = text
            self.news.extend(decision.events)
            if any(one.reason is Reason.ROLLOUT_STARTED for one in decision.events):
                self.answered.clear()
            json.loads(text)
        else:
            assert not decision.events, "told without a write"
        if route != last:
            self.check(decision)
            self.in_use = self.in_use[-1:] if self.served else self.in_use
            self.route = replace(route, version=(self.route.version if self.route else 0) + 1)
            self.in_use.append(self.route)
            self.written = self.now
            self.weights.append((route.candidate, route.weight))
        if self.stable != decision.serving and self.ready(decision.serving):
            self.stable, self.previous = decision.serving, self.stable or ""
        if decision.closes_window:
            self.window_from = self.now
            for counts in (*self.counted.values(), *self.copied.values()):
                counts[:] = [count % 1 for count in counts]  # half a request is counted when it is whole

    def _see_to_pods(self, decision: Decision) -> None:
        for name, replicas in decision.replicas.items():
            self.leaving.pop(name, None)
            pods = self.pods.setdefault(name, [])
            pods.sort()
            if replicas < len(pods):
                self.check_shrink(name, replicas)
            pods[replicas:] = []
            pods.extend([self.now + timedelta(days=999)] * (replicas - len(pods)))
            self.asked[name] = replicas
        for name in [name for name in self.asked if name not in decision.replicas]:
            until = self.leaving.get(name)
            if not self.ready(name) or (until is not None and self.now >= until):
                self.asked.pop(name)
                self.pods.pop(name, None)
                self.leaving.pop(name, None)
            elif self.served and until is None:
                self.leaving[name] = self.now + timedelta(seconds=DRAIN_S)
        self.had = self.replicas
        self._place()

    # What must always hold

    def check(self, decision: Decision) -> None:
        """Of every routing that is stored."""
        weight, candidate = decision.weight, decision.candidate
        assert 0 <= weight <= WHOLE
        assert 0 <= decision.mirror <= WHOLE
        assert decision.serving != candidate
        if weight:
            assert candidate is not None
            ready, others = self.ready(candidate), self.ready(decision.serving)
            assert ready, "no weight without a ready endpoint"
            needed = max(1, self.replicas)
            have = max(1, min(needed - (self.policy.capacity == "Borrow" and needed > 1), ready + others))
            assert capacity.need(weight, have) <= ready, "capacity before traffic"

    def check_shrink(self, name: str, replicas: int) -> None:
        """Pods leave only when no gateway needs them."""
        if replicas >= self.replicas:
            return  # its user wants no more
        self.in_use = self.in_use[-1:] if self.served else self.in_use
        share = max(route.share(name) for route in self.in_use)
        lent = self.policy.capacity == "Borrow" and self.replicas > 1
        assert capacity.need(share, self.replicas - lent) <= replicas, f"a gateway may lead more to {name}"


def world(
    steps: Sequence[Mapping[str, Any]] = (
        {"weight": "5%", "hold": "60s"},
        {"weight": "25%", "hold": "60s"},
        {"weight": "50%", "hold": "60s"},
    ),
    *,
    replicas: int = 1,
    analysis: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    **more: Any,
) -> World:
    spec = {"strategy": "Canary", "steps": list(steps), "analysis": dict(analysis or {}), **more}
    if spec["strategy"] != "Canary":
        spec.pop("steps")
    return World(policy=Rollout.model_validate(spec), replicas=replicas, judge=judge or Counts())
