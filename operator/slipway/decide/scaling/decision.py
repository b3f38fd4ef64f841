"""How many replicas one revision shall have, from what was seen of it: `decide`. Pure; the same in the simulator.

    look     what changed, what is learnt (look.py)
    need     what the objective, the queue and the last while ask for
    move     up at once; down only when all is known, and has been lower for a while; to sleep and awake
    limit    room in the cluster, failing launches, pace, pause, bounds

Every step tells why. The state is all the memory there is: it goes into status and comes back.
"""

import math
from dataclasses import dataclass, replace

from slipway.api.scaled import Limits, ScalingState
from slipway.decide.scaling import limits, staffing, trust, zero
from slipway.decide.scaling.hindsight import worth_buying
from slipway.decide.scaling.lead import etas
from slipway.decide.scaling.look import Look, look
from slipway.decide.scaling.schedules import in_force
from slipway.decide.scaling.trust import Level
from slipway.decide.scaling.types import Code, Observation, Reason, Wanted

TOLERANCE = 0.1
UNKNOWN_USE = 0.7
"""Of the slots, while it is not known how long a request takes."""
WAKE_QUEUE = 10.0
"""Requests per slot that a first replica may find waiting, while nothing is known."""
CONSOLIDATE = 0.85
"""The most that the remaining replicas may be used after some have gone."""
DOWN_MIN_S, DOWN_LEADS = 60.0, 1.0
START_MIN_S, START_LEADS = 600.0, 3.0
"""Before so much has been seen nothing that was there at the start goes, unless the user gives a delay."""
GROWTH_MOST = 3.0


@dataclass(frozen=True, slots=True)
class _Need:
    replicas: int
    reason: Reason


def decide(state: ScalingState | None, seen: Observation, now: float) -> tuple[ScalingState, int, tuple[Reason, ...]]:
    """New state, replicas, and why. `now` is wall time in seconds; it may jump."""
    known = state or ScalingState(at=now if math.isfinite(now) else 0.0)
    asked = seen.replicas.asked
    if seen.conflict:
        note = f"{seen.conflict} scales the same Deployment: remove one of the two"
        return known, asked, (Reason(Code.CONFLICT, note),)
    if not math.isfinite(now):
        return known, asked, (Reason(Code.NO_DATA, "there is no time"),)
    if state is None:
        known = _begun(known, seen)
    at = look(known, seen, now)
    least, bound = _least(seen, now)
    wish, why, peaks = _wish(at, seen, least)
    is_waking = asked > 0 and seen.replicas.ready == 0 and least == 0
    sleep = zero.wake(
        at.state.zero,
        dt=at.dt * (zero.ROOMLESS if is_waking and seen.replicas.missing else 1.0),
        is_waking=is_waking,
        is_ready=seen.replicas.ready > 0,
        wanted=seen.wanted,
    )
    # Who asked may have given up before the load was over, and will ask again: idleness begins when it is ready.
    is_believed = at.levels.gateway is Level.FRESH and at.levels.is_whole and not is_waking
    sleep = zero.pass_time(sleep, dt=at.dt, is_busy=at.is_busy, is_believed=is_believed)
    at = replace(at, state=at.state.changed(zero=sleep, limits=at.state.limits.changed(peaks=peaks)))
    if least == 0:
        wish, why = _asleep_or_awake(at, seen, wish, why)
    if at.carries.alone_s and seen.replicas.ready > 0:
        words = f"a request takes {at.carries.alone_s:.3g} s by itself: no number of replicas keeps this objective"
        why = why._replace(note=f"{why.note}; {words}")
    kept, replicas, more = _limited(at, seen, wish, least, bound)
    if not seen.wanted.is_timed:  # else hindsight knows what comes back
        kept = limits.learn_hold(kept, seen.replicas.asked, replicas, at.state.clock, _window_s(at, seen.wanted))
    final = at.state.changed(limits=kept, target=replicas)
    return final, replicas, (why, *more)


def _begun(known: ScalingState, seen: Observation) -> ScalingState:
    """Nothing is remembered: where the counters stand is where counting begins."""
    counted = known.counted
    if (gateway := seen.gateway) and trust.of_gateway(gateway) >= Level.STALE:
        counted = counted.changed(
            epoch=gateway.epoch, arrived=gateway.arrived, judged=gateway.judged, late=gateway.late
        )
    if (pods := seen.pods) and trust.of_pods(pods, known.trust) >= Level.STALE:
        counted = counted.changed(pods_epoch=pods.epoch, answered=pods.answered, busy_s=pods.busy_s)
    return known.changed(counted=counted)


def _least(seen: Observation, now: float) -> tuple[int, str]:
    """The bound from below, and who says so."""
    least, bound = seen.wanted.min_replicas, "minReplicas"
    if not seen.reachable:
        least, bound = 0, "nothing leads here"
    elif (window := in_force(seen.wanted.windows, now)) and window.min_replicas > least:
        least, bound = window.min_replicas, f"schedule {window.name}"
    if seen.floor > least:
        least, bound = seen.floor, "traffic on its way"
    return min(least, max(seen.wanted.max_replicas, seen.floor)), bound


def _wish(at: Look, seen: Observation, least: int) -> tuple[int, Reason, list[list[float]]]:
    """What it should be by load alone, why, and the needs of the window that are still of weight."""
    asked = seen.replicas.asked
    if not seen.reachable:
        return 0, Reason(Code.FEWER, "no route leads to this revision"), []
    needs = _needs(at, seen)
    if not needs:
        code = Code.METRICS_DEGRADED if at.state.target >= 0 else Code.NO_DATA
        note = f"no signal can be believed ({at.levels.missing() or 'none yet'}): replicas stay"
        return asked, Reason(code, note), list(at.state.limits.peaks)
    top = max(needs, key=lambda need: need.replicas)
    peaks, peak = limits.peak_in(at.state.limits, top.replicas, at.state.clock, _window_s(at, seen.wanted))
    lost = len(seen.replicas.loading) - len(etas(seen.replicas.loading, at.lead))
    supply = asked - lost
    more = _more(at, top, supply)
    if more is not None:
        return more.replicas + lost, more.reason, peaks
    kept = max(peak, at.recurrence, _consolidated(at, top.replicas), least)
    wish, why = _fewer(at, seen, top, kept, supply)
    return wish, why, peaks


def _more(at: Look, top: _Need, supply: int) -> _Need | None:
    """What is needed beyond what there is and what is on its way."""
    if top.replicas > supply:
        return top
    if at.recurrence > supply and at.levels.is_whole:
        note = f"{at.recurrence} replicas would have kept the objective in the last while, {supply} not"
        return _Need(worth_buying(at.state.hindsight, at.recurrence, supply), Reason(Code.RECURRENCE, note))
    return None


def _fewer(at: Look, seen: Observation, top: _Need, kept: int, supply: int) -> tuple[int, Reason]:
    """`kept` replicas are enough: whether the others may go."""
    asked, window = seen.replicas.asked, _window_s(at, seen.wanted)
    if kept >= supply:
        if supply > top.replicas:
            return asked, Reason(Code.HELD, f"{top.replicas} needed now, {kept} within the last while")
        return asked, Reason(Code.STEADY, top.reason.note)
    if (stop := _stays(at, seen, window)) is not None:
        return asked, stop
    return kept, Reason(Code.FEWER, f"{kept} have been enough for {window:.0f} s: {top.reason.note}")


def _stays(at: Look, seen: Observation, window: float) -> Reason | None:
    """Why nothing may go although less is needed."""
    if seen.is_shifting:
        return Reason(Code.SHIFTING, "a revision is on its way: nothing goes down")
    if not at.levels.is_whole:
        return Reason(Code.METRICS_DEGRADED, f"{at.levels.missing()}: nothing goes down")
    clock = at.state.clock
    if seen.wanted.is_timed and not seen.wanted.down.delay_s:
        window = max(window, START_MIN_S, START_LEADS * at.lead)
    if clock - at.state.whole_since < window or not trust.may_go_down(at.state.trust, clock, window):
        return Reason(Code.HELD, f"all has not been seen for {window:.0f} s yet")
    return None


def _needs(at: Look, seen: Observation) -> list[_Need]:
    """What each objective asks for; one whose signal is lost asks for nothing."""
    wanted, asked = seen.wanted, seen.replicas.asked
    found: list[_Need] = []
    is_known = at.levels.gateway >= Level.STALE
    if wanted.is_timed and (is_known or at.levels.pods >= Level.STALE):
        found.append(_for_time(at, seen) if is_known and at.carries.service_s > 0 else _for_unknown(at, seen))
    if wanted.concurrency is not None and (is_known or at.levels.pods >= Level.STALE):
        value = at.usual_in_flight * _growth(at)
        replicas = staffing.for_target(value, wanted.concurrency, asked, TOLERANCE)
        note = f"{value:.4g} requests at once, {wanted.concurrency:g} for each"
        found.append(_Need(replicas, Reason(Code.OBJECTIVE, note)))
    if wanted.requests_per_second is not None and is_known:
        value = max(at.outlook.safe, at.outlook.peak)
        replicas = staffing.for_target(value, wanted.requests_per_second, asked, TOLERANCE)
        note = f"{value:.4g} requests/s, {wanted.requests_per_second:g} for each"
        found.append(_Need(replicas, Reason(Code.OBJECTIVE, note)))
    if wanted.promql_target is not None and seen.promql and at.levels.promql >= Level.STALE:
        value = seen.promql.value or 0.0
        replicas = staffing.for_target(value, wanted.promql_target, asked, TOLERANCE)
        note = f"the query says {value:.4g}, {wanted.promql_target:g} for each"
        found.append(_Need(replicas, Reason(Code.OBJECTIVE, note)))
    return found


def _growth(at: Look) -> float:
    """By how much more there will be at the lead time."""
    if at.outlook.now <= 0 or len(at.state.forecast.residuals) < 2:
        return 1.0
    return min(GROWTH_MOST, max(1.0, at.outlook.ahead / at.outlook.now))


def _for_time(at: Look, seen: Observation) -> _Need:
    carries, ready = at.carries, seen.replicas.ready
    rate = at.outlook.ahead
    # A burst matters at once only where the free slots cannot take it.
    if at.in_flight > ready * carries.slots:
        rate = max(rate, at.outlook.peak)
    by_rate = staffing.for_rate(rate, carries, at.state.beta)
    by_margin = staffing.for_rate(at.outlook.safe, carries, at.state.beta)
    # The margin is for what may come; what did come of late says how much of it is of use.
    by_rate = max(by_rate, min(by_margin, at.recurrence + 1) if at.recurrence else by_margin)
    loading = etas(seen.replicas.loading, at.lead)
    by_queue = staffing.for_backlog(at.queued, rate, carries, ready=ready, etas=loading, lead=at.lead)
    note = (
        f"{rate:.4g} requests/s in {at.lead:.0f} s of {carries.service_s:.3g} s each,"
        f" {carries.slots:.3g} at once in a replica"
    )
    if by_queue > by_rate:
        return _Need(by_queue, Reason(Code.BACKLOG, f"{at.queued:.0f} wait; {note}"))
    return _Need(by_rate, Reason(Code.OBJECTIVE, note))


def _for_unknown(at: Look, seen: Observation) -> _Need:
    """Before a service time is known, or while only the pods speak: as many as what is in flight fills."""
    # A replica of one slot that works on one request is no sign of too few.
    per = max(1.0, at.carries.slots * (UNKNOWN_USE if seen.replicas.ready > 0 else WAKE_QUEUE))
    replicas = math.ceil(at.in_flight / per)
    return _Need(replicas, Reason(Code.OBJECTIVE, f"{at.in_flight:.0f} requests in flight"))


def _consolidated(at: Look, need: int) -> int:
    """Replicas that would not be used too much after the others have gone."""
    offered = at.outlook.now * at.carries.service_s
    return max(need, math.ceil(offered / (CONSOLIDATE * at.carries.slots) - 1e-9))


def _window_s(at: Look, wanted: Wanted) -> float:
    return wanted.down.delay_s or max(DOWN_MIN_S, DOWN_LEADS * at.lead, at.state.limits.hold_s)


def _asleep_or_awake(at: Look, seen: Observation, wish: int, why: Reason) -> tuple[int, Reason]:
    """For one that may sleep."""
    known, wanted = at.state.zero, seen.wanted
    if not seen.reachable:
        return wish, why
    if known.barred_s > 0:
        note = f"no replica became ready in {wanted.progress_deadline_s:.0f} s: next try in {known.barred_s:.0f} s"
        return 0, Reason(Code.ACTIVATION_FAILED, note)
    span = zero.returns_in_s(known)
    is_expected = span is not None and span[0] - at.lead <= known.idle_s <= span[1]
    # What hindsight and forecasts would like to have is no ground to wake: somebody has to ask.
    value = _asked_by_query(at, seen)
    if seen.replicas.asked == 0 and (at.is_busy or value > 0):
        awake = max(1, wanted.activation_replicas, wish)
        note = f"{at.in_flight:.0f} requests wait for it" if at.is_busy else f"the query says {value:.4g}"
        return awake, Reason(Code.WAKING, note)
    if seen.replicas.asked == 0:
        note = "requests usually come back about now" if is_expected else "no requests"
        return int(is_expected), Reason(Code.WAKING if is_expected else Code.IDLE, note)
    limit = zero.idle_limit_s(known, wanted, at.lead)
    is_idle = at.levels.is_whole and at.in_flight == 0 and seen.replicas.ready > 0
    may_sleep = is_idle and not (seen.is_shifting or is_expected or value > 0)
    if may_sleep and known.idle_s >= limit and trust.may_go_down(at.state.trust, at.state.clock, limit):
        return 0, Reason(Code.IDLE, f"no requests for {known.idle_s:.0f} s")
    return max(1, wish), why


def _asked_by_query(at: Look, seen: Observation) -> float:
    """The value of a PromQL objective, 0 where it is too small to say anything."""
    target = seen.wanted.promql_target
    if target is None or seen.promql is None or seen.promql.value is None or at.levels.promql < Level.STALE:
        return 0.0
    return seen.promql.value if seen.promql.value > TOLERANCE * target else 0.0


def _limited(at: Look, seen: Observation, wish: int, least: int, bound: str) -> tuple[Limits, int, tuple[Reason, ...]]:
    wanted, asked, clock = seen.wanted, seen.replicas.asked, at.state.clock
    known, more = at.state.limits, list[Reason]()
    most = max(wanted.max_replicas, seen.floor)
    want = min(most, max(least, wish))
    if want != wish:
        more.append(Reason(Code.BOUND, f"{wish} would be right; {bound if want > wish else 'maxReplicas'} says {want}"))
    needs, lasting = limits.lasting(known, want, clock, wanted.up.delay_s)
    if want > asked > 0:  # who waits for a first replica has waited long enough
        want = max(asked, least, min(want, lasting))
    if least <= asked <= most:
        pacing = wanted.up if want > asked else wanted.down
        if (slow := limits.paced(known, asked, want, pacing, clock)) != want:
            more.append(Reason(Code.PACED, f"{want} would be right; behavior allows {slow} now"))
            want = slow
    known, want, reason = limits.growth(known, seen.replicas, want, at.dt)
    if reason:
        more.append(reason)
    if (want > asked and wanted.holds_up) or (want < asked and wanted.holds_down):
        more.append(Reason(Code.PAUSED, f"{want} would be right; paused says {asked}"))
        want = asked
    keep_s = max(wanted.up.period_s, wanted.down.period_s)
    is_paced = wanted.up.is_limited or wanted.down.is_limited
    changes = limits.with_change(known, want - asked, clock, keep_s) if is_paced else []
    return known.changed(changes=changes, needs=needs), want, tuple(more)
