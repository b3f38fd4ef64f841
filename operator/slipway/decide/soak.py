"""A candidate at one of its stops: evidence is gathered by the interval; it leaves when nothing stands against it.

Between intervals nothing is judged, so that evidence and what is concluded from it are always one write.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from slipway.api.conditions import Phase, Reason
from slipway.api.progress import Verdict
from slipway.api.schema import seconds
from slipway.decide.release import Window
from slipway.decide.stops import LAST, Stop
from slipway.decide.turn import CALM, PauseReason, Turn, stamp

INTERVAL_S, SHORT_S = 5.0, 2.0
CHECKPOINT_S = 30.0
"""At a gate that may stay open for days; what is in the window until then is judged at every look all the same."""
PATIENCE_S = 6.0
"""After a hold: an interval, and its way here."""
AHEAD_S = 5.0
"""On top of the start-up that the first replica took: gateways have to hear of a pod too."""
STALE_S = 10.0
"""Gateways report each second."""
VERDICTS_MAX, WORDS_OF_ONE_MAX = 1000, 250
"""Characters: with evidence, which has 2 kB, the state stays below 4 kB."""
_AROUND_WORDS = 60
"""Of the JSON of a verdict, without its metric."""


def is_fresh(window: Window | None) -> bool:
    return window is not None and window.age_s <= STALE_S


def judged(turn: Turn) -> Turn:
    """With one more interval of evidence when it is full; aborted when that says so.

    Stable's record is kept from the first pod of the candidate on; there are verdicts once that has requests.
    """
    window, state, scene = turn.scene.window, turn.state, turn.scene
    if window is None or not is_fresh(window) or scene.stable is None or window.seconds < _interval_s(turn):
        return turn
    turn = replace(turn, closes_window=True)
    if state.skip_analysis:
        return turn
    policy, mirrored, readings = scene.policy.analysis, state.mirror > 0, scene.readings
    if state.phase is Phase.PROVISIONING:
        # What an earlier attempt answered is no evidence of this one, nor is what is measured of pods without requests.
        readings = {}
        known = window.samples.get(scene.stable.name)
        window = replace(window, samples={scene.stable.name: known} if known is not None else {}, copies={})
    evidence = turn.judge.fold(
        state.evidence,
        window,
        scene.stable.name,
        state.candidate,
        policy,
        mirrored=mirrored,
        kept=scene.is_sticky,
        readings=readings,
    )
    if state.phase is Phase.PROVISIONING:
        return turn.go(evidence=evidence)
    found = turn.judge.verdicts(evidence, policy, scene.readings)
    outcome = turn.judge.overall(found)
    if outcome == "Pass" and window.seconds < CHECKPOINT_S and _is_calm(turn):
        return replace(turn, closes_window=False)
    counted = (window.copies if mirrored else window.samples).get(state.candidate)
    more = counted.requests if counted is not None and state.stage == "Soaking" else 0
    turn = turn.go(evidence=evidence, verdicts=_short(found), requests=state.requests + more)
    if outcome != "Fail":
        return turn
    return turn.abort(Reason.ANALYSIS_FAILED, "; ".join(v.message for v in found if v.verdict == "Fail"))


def _is_calm(turn: Turn) -> bool:
    """Whether nothing but a person's word is missing, so that what speaks for the candidate may wait to be written.

    Not with metrics of the spec: of a longer window it could not be told how long one was beyond its limit.
    """
    state, policy = turn.state, turn.policy.analysis
    is_open = state.stage == "Soaking" and state.pause is not None and state.pause.reason in CALM
    is_clear = turn.judge.overall(state.verdicts) == "Pass" and state.requests >= policy.min_requests
    return is_open and is_clear and not policy.metrics and turn.passed(_patience(turn))


def _interval_s(turn: Turn) -> float:
    """A hold has intervals of its own: what is open when it begins or ends is closed then, if it says anything."""
    state = turn.state
    begins = state.stage == "Verifying" and turn.is_acknowledged
    ends = state.stage == "Soaking" and turn.passed(state.until) and not turn.passed(_patience(turn))
    return SHORT_S if begins or ends else INTERVAL_S


def _patience(turn: Turn) -> str | None:
    """Until when a hold that is over waits for an interval without a word."""
    return stamp(turn.after(PATIENCE_S, turn.state.until)) if turn.state.until else None


def _short(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The gravest verdicts, which come first, as far as status has room for them."""
    left, short = VERDICTS_MAX, list[Verdict]()
    for verdict in verdicts:
        room = left - len(verdict.metric) - _AROUND_WORDS
        if room < 0:
            break
        words = verdict.message[: min(room, WORDS_OF_ONE_MAX)]
        left = room - len(words)
        evidence = float(f"{verdict.evidence:.3g}")
        short.append(verdict.model_copy(update={"message": words, "evidence": evidence}))
    return short


def soaked(turn: Turn) -> Turn:
    """On to the next stop when the hold is over and nothing stands against it, else paused with the reason."""
    if turn.is_held:
        return turn
    if not turn.passed(turn.state.until):
        unreadable = None if turn.state.skip_analysis else _unreadable(turn)
        return turn.wait("MetricsUnavailable", unreadable) if unreadable else turn.resume()
    blocked = obstacle(turn)
    return onward(turn) if blocked is None else _stay(turn, *blocked)


def _stay(turn: Turn, reason: PauseReason, message: str) -> Turn:
    """Where a hold is over and something stands against going on: what the user chose for that, else a pause."""
    policy = turn.policy.analysis
    is_over = turn.now >= turn.after(turn.stop.hold_s + seconds(policy.no_data_after), turn.state.soaking_since)
    if reason == "LowTraffic" and is_over and policy.on_no_data == "Abort":
        return turn.abort(Reason.NO_DATA, f"{message}, and there were none in {policy.no_data_after} (onNoData: Abort)")
    if reason == "LowTraffic" and is_over and policy.on_no_data == "Promote":
        return onward(turn)
    is_early = reason in ("LowTraffic", "Inconclusive") and not turn.passed(_patience(turn))
    return turn if is_early else turn.wait(reason, message)


def onward(turn: Turn) -> Turn:
    """To the next stop, whose pods come first."""
    return turn.go(
        step=turn.state.step + 1,
        stage="Scaling",
        until=None,
        pause=None,
        told=None,
        requests=0,
        best_ready_at=stamp(turn.now),
    )


def ahead(turn: Turn) -> Stop | None:
    """The next stop, when its pods may start during the hold of this one, so that it costs no start-up.

    Only on top of stable's (nobody lends for what is not decided), at most a start-up before the hold ends, and only
    as long as everything speaks for it: what is to go back shall not take more room first.
    """
    state, policy = turn.state, turn.policy
    if policy.capacity != "Surge" or state.stage != "Soaking" or turn.stop.is_gate or state.pause is not None:
        return None
    if turn.now < ahead_at(turn) or not (state.skip_analysis or _goes_well(turn)):
        return None
    return turn.stops[state.step + 1] if state.step + 1 < len(turn.stops) else LAST


def ahead_at(turn: Turn) -> datetime:
    """When that is at the earliest. Of a hold."""
    return turn.after(-(turn.state.lead_seconds + AHEAD_S), turn.state.until)


def _goes_well(turn: Turn) -> bool:
    """Whether nothing is in doubt, and at this pace the requests are there when the hold is over."""
    state, least = turn.state, turn.policy.analysis.min_requests
    is_clear = turn.judge.overall(state.verdicts) == "Pass"
    return is_clear and state.requests * turn.stop.hold_s >= least * turn.since_s(state.soaking_since)


def obstacle(turn: Turn) -> tuple[PauseReason, str] | None:
    """Why the stop is not left though its hold is over."""
    state, stop = turn.state, turn.stop
    if stop.is_gate:
        return "StepGate", f"step {state.step + 1} ({stop}) waits for the command promote"
    if state.skip_analysis:
        return None
    if unreadable := _unreadable(turn):
        return "MetricsUnavailable", unreadable
    return _doubt(turn)


def _doubt(turn: Turn) -> tuple[PauseReason, str] | None:
    """What requests and metrics leave open. A preview needs none: nobody may have looked at it."""
    state, stop, least = turn.state, turn.stop, turn.policy.analysis.min_requests
    if not stop.is_preview and (state.requests < least or not state.verdicts):
        return "LowTraffic", f"step {state.step + 1} ({stop}) waits for {least} requests to the candidate"
    doubts = [verdict for verdict in state.verdicts if verdict.verdict not in ("Pass", "Cancelled")]
    first = next((verdict for verdict in doubts if not stop.is_preview or verdict.verdict != "NoData"), None)
    if first is None:
        return None
    return ("LowTraffic" if first.verdict == "NoData" else "Inconclusive"), first.message


def _unreadable(turn: Turn) -> str:
    """What could not be measured, which is not the same as nothing to measure."""
    if not is_fresh(turn.scene.window):
        return f"a gateway has not told its counts for more than {STALE_S:.0f} s"
    return next((verdict.message for verdict in turn.state.verdicts if verdict.verdict == "Error"), "")
