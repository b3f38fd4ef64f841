"""A revision on a virtual clock, for the tests of scaling decisions: what it is told happens, second by second."""

from dataclasses import dataclass, field, replace

from slipway.api.scaled import ScalingState
from slipway.decide.scaling import decide
from slipway.decide.scaling.types import Code, Gateway, Launch, Metric, Observation, Pods, Reason, Replicas, Wanted

EPOCH = 1_700_000_000.0


@dataclass
class Revision:
    """`ready` follows `replicas` after `lead_s`; requests take `service_s` in a replica of `slots`."""

    wanted: Wanted
    replicas: int = 1
    lead_s: float = 0.0
    service_s: float = 1.0
    state: ScalingState | None = None
    now: float = EPOCH
    arrived: float = 0.0
    in_flight: float = 0.0
    queued: float = 0.0
    reasons: tuple[Reason, ...] = ()
    history: list[int] = field(default_factory=list)
    launched: list[float] = field(default_factory=list)
    """When those that load were launched."""
    launches: tuple[Launch, ...] = ()
    changes: dict[str, object] = field(default_factory=dict)
    """Fields of the observation that are not as they would be."""

    def see(self, **changes: object) -> Observation:
        ready = self.replicas - len(self.launched)
        seen = Observation(
            wanted=self.wanted,
            replicas=Replicas(
                asked=self.replicas,
                ready=ready,
                loading=tuple(self.now - at for at in self.launched),
                launches=self.launches,
            ),
            gateway=Gateway(
                age_s=1.0,
                arrived=self.arrived,
                in_flight=self.in_flight,
                queued=self.queued,
                judged=self.arrived,
            ),
            pods=Pods(
                age_s=5.0,
                answered=self.arrived,
                busy_s=self.arrived * self.service_s,
                running=self.in_flight - self.queued,
                queued=0.0,
            ),
        )
        return replace(seen, **(self.changes | changes))  # type: ignore[arg-type]

    def look(self, **changes: object) -> int:
        """One decision, carried out."""
        self.state, replicas, self.reasons = decide(self.state, self.see(**changes), self.now)
        if replicas > self.replicas and self.lead_s:
            self.launched += [self.now] * (replicas - self.replicas)
        elif replicas < self.replicas:
            self.launched = self.launched[: max(0, len(self.launched) - (self.replicas - replicas))]
        self.replicas = replicas
        self.history.append(replicas)
        return replicas

    def run(self, seconds: float, *, rate: float | None = None, every: float = 2.0, **changes: object) -> int:
        """Time passes with `rate` requests per second; without, what is in flight stays as it is."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + every)
            if rate is not None:
                self.arrived += rate * every
                self.in_flight = rate * self.service_s
            up = [at for at in self.launched if self.now - at >= self.lead_s]
            self.launches = tuple(Launch(self.now, 1.0, load_s=self.lead_s - 1.0) for _ in up)
            self.launched = [at for at in self.launched if self.now - at < self.lead_s]
            self.look(**changes)
        return self.replicas

    @property
    def codes(self) -> set[Code]:
        return {reason.code for reason in self.reasons}


def by_concurrency(target: float = 10.0, least: int = 1, most: int = 100, **more: object) -> Wanted:
    return replace(Wanted(min_replicas=least, max_replicas=most, concurrency=target), **more)  # type: ignore[arg-type]


def by_queue(least: int = 1, most: int = 64, slots: int = 4, **more: object) -> Wanted:
    return replace(Wanted(min_replicas=least, max_replicas=most, queue_s=1.0, slots=slots), **more)  # type: ignore[arg-type]


def promql(value: float | None, age_s: float = 1.0) -> Metric:
    return Metric(age_s, value)
