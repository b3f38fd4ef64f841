"""One turn of a release: the state on its way from what was stored to what will be, and what is told of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from slipway.api.conditions import UNWANTED, Phase, Reason
from slipway.api.progress import Abort, Pause, RolloutStatus, Verdict
from slipway.api.rollout import Rollout
from slipway.decide import capacity
from slipway.decide.release import Judge, News, Scene, Side
from slipway.decide.stops import LAST, Stop, percent

UNDER_WAY = frozenset({Phase.PROVISIONING, Phase.SHADOWING, Phase.PROGRESSING, Phase.PROMOTING})
"""The candidate is on its way up."""
ROUTED = UNDER_WAY - {Phase.PROVISIONING}
"""Gateways know of it."""
ACK_PATIENCE_S = 30.0
"""Gateways take a routing in a second; one that takes longer than this is told of."""
TOLD_AGAIN_S = 600.0
"""History has room for twenty decisions, and a pause may come and go each minute."""
WORDS_MAX, ABORT_WORDS_MAX = 250, 1024
"""Of a pause and of an abort, whose state has no evidence any more."""

PauseReason = Literal[
    "Manual", "StepGate", "Inconclusive", "LowTraffic", "MetricsUnavailable", "CapacityBlocked", "GatewayNotVerified"
]
CALM: frozenset[str] = frozenset({"Manual", "StepGate"})
"""Pauses that somebody asked for."""


_CANCELS = frozenset({Reason.ABORT_COMMANDED, *UNWANTED})
"""Nothing was found: somebody wanted it no more while it was looked at."""


def stamp(moment: datetime) -> str:
    """A moment as Kubernetes writes times, to the millisecond: a hold ends neither early nor a second late."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True, slots=True)
class Turn:
    scene: Scene
    now: datetime
    judge: Judge
    stops: tuple[Stop, ...]
    state: RolloutStatus
    serving: str
    """Revision that has the service's own share."""
    news: tuple[News, ...] = ()
    has_moved: bool = False
    """The routing will be another: what gateways acknowledged so far says nothing of it."""
    has_flipped: bool = False
    """The pointer moves: nothing more is decided before that is written."""
    closes_window: bool = False

    @property
    def policy(self) -> Rollout:
        return self.scene.policy

    @property
    def candidate(self) -> Side:
        return self.side(self.state.candidate)

    @property
    def stop(self) -> Stop:
        """Where the release is, or is going to."""
        return self.stops[self.state.step] if self.state.step < len(self.stops) else LAST

    @property
    def is_held(self) -> bool:
        """Whether somebody said to wait."""
        return self.is_paused("Manual")

    @property
    def is_acknowledged(self) -> bool:
        """Whether no gateway that takes traffic serves anything but the weights of this state."""
        return not self.has_moved and capacity.is_served(self.scene, self.state)

    def is_paused(self, reason: PauseReason) -> bool:
        return self.state.pause is not None and self.state.pause.reason == reason

    @property
    def is_forwarded(self) -> bool:
        """Whether the candidate has everything before its time, because stable has no ready pod."""
        return self.state.phase is Phase.PROMOTING and self.state.step < len(self.stops)

    def side(self, name: str) -> Side:
        if name == self.scene.candidate.name:
            return self.scene.sides.get(name, self.scene.candidate)
        return self.scene.sides.get(name, Side(name))

    def passed(self, moment: str | None) -> bool:
        return moment is not None and self.now >= datetime.fromisoformat(moment)

    def after(self, seconds: float, moment: str | None = None) -> datetime:
        """So long after a moment, or after now."""
        return (datetime.fromisoformat(moment) if moment else self.now) + timedelta(seconds=seconds)

    def since_s(self, moment: str | None) -> float:
        return (self.now - datetime.fromisoformat(moment)).total_seconds() if moment else 0.0

    def go(self, phase: Phase | None = None, **changes: Any) -> "Turn":
        """With another state; a phase that is entered begins now."""
        if phase is not None and phase is not self.state.phase:
            changes |= {"phase": phase, "since": stamp(self.now)}
        return replace(self, state=self.state.model_copy(update=changes)) if changes else self

    def move(self, weight: int, mirror: int, *, stage: str = "Verifying") -> "Turn":
        """With other shares, which every gateway has yet to acknowledge."""
        until = stamp(self.after(ACK_PATIENCE_S))
        turned = self.go(weight=weight, mirror=mirror, stage=stage, until=until, soaking_since=None)
        return replace(turned, has_moved=True)

    def tell(self, reason: Reason, note: str, *, warning: bool = False) -> "Turn":
        return replace(self, news=(*self.news, News(reason, note, warning)))

    def wait(self, reason: PauseReason, message: str) -> "Turn":
        """Paused; a reason that comes and goes is told now and then. What a person asked for stays the reason."""
        known, message = self.state.pause, message[:WORDS_MAX]
        if self.is_held or (known is not None and (known.reason, known.message) == (reason, message)):
            return self
        if known is not None and known.reason == reason:
            return self.go(pause=known.model_copy(update={"message": message}))
        told = {one: at for one, at in (self.state.told or {}).items() if self.since_s(at) < TOLD_AGAIN_S}
        is_known = reason in told and reason != "Manual"
        told = told if is_known else told | {reason: stamp(self.now)}
        turned = self.go(pause=Pause(reason=reason, message=message, since=stamp(self.now)), told=told or None)
        if is_known:
            return turned
        return turned.tell(Reason.ROLLOUT_PAUSED, f"{reason}: {message}", warning=reason not in CALM)

    def resume(self, *reasons: PauseReason) -> "Turn":
        """No longer paused for one of these reasons; any but a person's without them."""
        known = self.state.pause
        if known is None or (known.reason not in reasons if reasons else self.is_held):
            return self
        return self.go(pause=None)

    def abort(self, reason: str, message: str) -> "Turn":
        """All traffic goes back. `rollout` decides how fast: within this very turn where stable can carry it."""
        about = f"revision {self.state.candidate} goes back from {percent(self.state.weight)}"
        turned = replace(self, has_moved=self.has_moved or self.state.phase in ROUTED).go(
            Phase.ROLLING_BACK,
            stage="Verifying",
            until=stamp(self.after(ACK_PATIENCE_S)),
            soaking_since=None,
            pause=None,
            verdicts=_cancelled(self.state.verdicts) if reason in _CANCELS else self.state.verdicts,
            abort=Abort(reason=reason, message=message[:ABORT_WORDS_MAX], at=stamp(self.now)),
            evidence=None,
        )
        return turned.tell(Reason.ROLLOUT_ABORTED, f"{about}: {reason}: {message}"[:1024], warning=True)


def _cancelled(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """With the numbers that there were."""
    return [one if one.verdict == "Fail" else one.model_copy(update={"verdict": "Cancelled"}) for one in verdicts]
