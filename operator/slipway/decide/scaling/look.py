"""One look at a revision: what has changed since the last one, and what is learnt from it. Decides nothing yet."""

import math
from dataclasses import dataclass

from slipway.api.scaled import Capacity, Counted, Forecast, ScalingState
from slipway.decide.scaling import capacity, forecast, hindsight, lead, trust
from slipway.decide.scaling.capacity import Carries
from slipway.decide.scaling.forecast import Outlook
from slipway.decide.scaling.trust import Level, Levels
from slipway.decide.scaling.types import Gateway, Observation, Pods, Wanted

GAP_S = 60.0
"""A longer step is no step: the operator was away, or the clock was set. Nothing is concluded from it."""
ARRIVALS_MOST = 1e7
"""Per second: beyond that a counter has leapt, and nobody came."""
LOOKS, LOOKS_FAR_S = 8, 10.0
"""Over which requests in flight are averaged, and how far apart they are of one load."""
LEAP = 5.0
"""Standard deviations of independent requests."""
JUDGE_S = 30.0
BETA_MIN, BETA_MAX = 0.2, 4.0
BETA_UP, BETA_UP_MOST, BETA_DOWN = 0.3, 0.6, 0.99
MARGIN_BASE, MARGIN_BETA, MARGIN_MOST = 0.6, 0.13, 0.99
"""Of earlier forecasts, how many the margin would have covered: the more, the higher the headroom has become."""
GOAL_SHARE = 0.5
"""Of what the objective leaves to be late, how much is aimed at: the rest is for what nobody could have known."""


@dataclass(frozen=True, slots=True)
class Look:
    """The state with all that was learnt, and what the decision needs of this moment."""

    state: ScalingState
    levels: Levels
    dt: float
    is_busy: bool
    in_flight: float
    usual_in_flight: float
    """Over the last looks, save for a leap that chance does not make."""
    queued: float
    carries: Carries
    lead: float
    outlook: Outlook
    recurrence: int
    """Replicas that would have been enough of late; 0: not known."""


@dataclass(frozen=True, slots=True)
class _Delta:
    """What the counters grew by."""

    arrived: float = 0.0
    judged: float = 0.0
    late: float = 0.0
    answered: float = 0.0
    busy_s: float = 0.0
    restarted: bool = False
    """Some gateway began anew: what it had counted is not known."""


def look(known: ScalingState, seen: Observation, now: float) -> Look:
    step = now - known.at
    is_gap = not 0.0 <= step <= GAP_S
    dt = 0.0 if is_gap else step
    clock = known.clock + dt
    levels = Levels(seen, known.trust)
    gateway = seen.gateway if levels.gateway is Level.FRESH else None
    pods = seen.pods if levels.pods is Level.FRESH and seen.pods and seen.pods.coverage >= trust.HALF else None
    counted, delta = _counted(known, gateway, pods, dt=dt, is_gap=is_gap)
    if is_gap:
        known = known.changed(
            whole_since=clock,
            # The last minute of the own clock stays: an average that begins anew within a step is wrong for a while.
            forecast=known.forecast.changed(pending=[]),
            hindsight=known.hindsight.changed(queues=[]),
        )
    elif delta.restarted:
        known = known.changed(whole_since=clock)
    learnt = _learn_capacity(known, seen, gateway, pods, delta)
    leads = lead.learn(known.lead, seen.replicas.launches)
    ahead_s = lead.lead_s(leads)
    carries = capacity.carries(learnt, seen.wanted, pods.slots if pods else None)
    beta, judged, late, judged_at = _closed_loop(known, seen, delta, clock, can_be_kept=not carries.alone_s)
    foreseen, behind = known.forecast, known.hindsight
    if gateway is not None and dt > 0:
        foreseen = _foreseen(foreseen, delta.arrived, dt, clock=clock, ahead_s=ahead_s, now=now)
        if seen.wanted.is_timed:
            behind = hindsight.look(
                behind,
                arrived=delta.arrived,
                dt=dt,
                carries=carries,
                most=seen.wanted.max_replicas,
                clock=clock,
                lead=ahead_s,
            )
    state = known.changed(
        at=now,
        clock=clock,
        beta=beta,
        judged=judged,
        late=late,
        judged_at=judged_at,
        counted=counted,
        capacity=learnt,
        lead=leads,
        forecast=foreseen,
        hindsight=behind,
        trust=trust.after(known.trust, levels, clock),
    )
    in_flight, queued = _waiting(seen, levels)
    usual = _usual([] if is_gap or dt > LOOKS_FAR_S else known.in_flight, in_flight)
    state = state.changed(in_flight=usual)
    return Look(
        state=state,
        levels=levels,
        dt=dt,
        # What replicas answer counts too: a gateway that nobody hears goes on for who is connected to it.
        is_busy=in_flight > 0 or delta.arrived > 0 or (delta.answered > 0 and seen.replicas.asked > 0),
        in_flight=in_flight,
        usual_in_flight=sum(usual) / len(usual),
        queued=queued,
        carries=carries,
        lead=ahead_s,
        outlook=_outlook(state, carries, ahead_s, now),
        recurrence=_recurrence(state, seen.wanted, carries, ahead_s),
    )


def _foreseen(known: Forecast, arrived: float, dt: float, *, clock: float, ahead_s: float, now: float) -> Forecast:
    counted = forecast.count(known, arrived, clock, dt)
    return forecast.forward(counted, clock=clock, lead=ahead_s, now=now, is_new_step=counted.step != known.step)


def _outlook(state: ScalingState, carries: Carries, ahead_s: float, now: float) -> Outlook:
    return forecast.outlook(
        state.forecast,
        clock=state.clock,
        lead=ahead_s,
        service_s=carries.service_s,
        now=now,
        share=min(MARGIN_MOST, MARGIN_BASE + MARGIN_BETA * state.beta),
        headroom=hindsight.headroom(state.hindsight, state.clock, ahead_s),
    )


def _recurrence(state: ScalingState, wanted: Wanted, carries: Carries, ahead_s: float) -> int:
    if not wanted.is_timed:
        return 0
    return hindsight.enough(
        state.hindsight,
        most=wanted.max_replicas,
        share_late=GOAL_SHARE * (1 - wanted.share_in_time),
        clock=state.clock,
        lead=ahead_s,
        usual=forecast.mean_rate(state.forecast, state.clock, forecast.LONG_S) / (carries.rate or 1.0),
    )


def _counted(
    before: ScalingState, gateway: Gateway | None, pods: Pods | None, *, dt: float, is_gap: bool
) -> tuple[Counted, _Delta]:
    """Where the counters stand now, and by how much they grew in `dt`. After a restart they grew by what they say.

    What the gateways counted while they were not heard is of a longer time than `dt`: nobody knows when it came.
    """
    known = before.counted
    update: dict[str, str | float] = {}
    arrived = judged = late = answered = busy = 0.0
    restarted = False
    if gateway is not None:
        arrived = _growth(known.arrived, gateway.arrived)
        is_possible = arrived <= ARRIVALS_MOST * max(1.0, dt)
        is_same = gateway.epoch == known.epoch and not is_gap and before.trust.gateway >= 0 and is_possible
        restarted = (gateway.epoch != known.epoch and bool(known.epoch)) or not is_possible
        if not is_same:
            arrived = 0.0
        else:
            judged, late = _growth(known.judged, gateway.judged), _growth(known.late, gateway.late)
        update |= {"epoch": gateway.epoch, "arrived": gateway.arrived, "judged": gateway.judged, "late": gateway.late}
    if pods is not None:
        if pods.epoch == known.pods_epoch and not is_gap:
            answered, busy = _growth(known.answered, pods.answered), _growth(known.busy_s, pods.busy_s)
        update |= {"pods_epoch": pods.epoch, "answered": pods.answered, "busy_s": pods.busy_s}
    return known.changed(**update), _Delta(arrived, judged, late, answered, busy, restarted)


def _growth(before: float, after: float) -> float:
    # Who counts anew says so by another epoch. Less within one is a part that went: all of the rest came long ago.
    return max(0.0, after - before)


def _learn_capacity(
    known: ScalingState, seen: Observation, gateway: Gateway | None, pods: Pods | None, delta: _Delta
) -> Capacity:
    if pods is None or seen.replicas.ready <= 0:
        return known.capacity
    queued = pods.queued if pods.queued is not None else (gateway.queued if gateway else 0.0)
    running = pods.running if pods.running is not None else (max(0.0, gateway.in_flight - queued) if gateway else 0.0)
    learnt = capacity.learn(
        known.capacity,
        answered=delta.answered,
        busy_s=delta.busy_s,
        running=running,
        waiting=queued,
        ready=seen.replicas.ready,
    )
    return capacity.with_tail(learnt, pods.tail)


def _closed_loop(
    known: ScalingState, seen: Observation, delta: _Delta, clock: float, *, can_be_kept: bool
) -> tuple[float, float, float, float]:
    """The headroom, raised when the objective is missed and lowered slowly while it is kept (AIMD).

    What is missed while replicas are on their way says nothing about the headroom: more had been wanted already. Nor
    does what no number of replicas could have kept.
    """
    if seen.replicas.ready < seen.replicas.asked or not can_be_kept:
        return known.beta, 0.0, 0.0, clock
    judged, late = known.judged + delta.judged, known.late + delta.late
    if clock - known.judged_at < JUDGE_S or judged <= 0:
        return known.beta, judged, late, known.judged_at
    goal = max(1e-4, GOAL_SHARE * (1 - seen.wanted.share_in_time))
    missed = late / judged
    if missed > goal:
        beta = min(BETA_MAX, known.beta + min(BETA_UP_MOST, BETA_UP * (missed / goal) ** 0.5))
    else:
        beta = max(BETA_MIN, known.beta * BETA_DOWN)
    return beta, 0.0, 0.0, clock


def _usual(before: list[float], now: float) -> list[float]:
    """The last looks at what is in flight; those before a leap are of another load."""
    mean = sum(before) / len(before) if before else now
    is_leap = abs(now - mean) > LEAP * math.sqrt(max(1.0, mean))
    return [now] if is_leap else [*before, now][-LOOKS:]


def _waiting(seen: Observation, levels: Levels) -> tuple[float, float]:
    """In flight and queued, by the best source there is; what a part of the pods says is at least so much."""
    if seen.gateway is not None and levels.gateway >= Level.STALE:
        return seen.gateway.in_flight, seen.gateway.queued
    if seen.pods is not None and levels.pods >= Level.STALE:
        queued = seen.pods.queued or 0.0
        return (seen.pods.running or 0.0) + queued, queued
    return 0.0, 0.0
