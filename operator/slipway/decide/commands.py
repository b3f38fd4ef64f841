"""What people say to a release, by annotation: each obeyed or refused once, and recorded with who asked.

abort always wins: it has an annotation of its own, which no other command can overwrite. Of the others the last one is
all there is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from slipway.api.conditions import Phase, Reason
from slipway.decide import course, soak
from slipway.decide.release import Command, News
from slipway.decide.stops import ALL_COMMANDED
from slipway.decide.turn import ROUTED, UNDER_WAY, Turn

_REMEMBERED = 4


@dataclass(frozen=True, slots=True)
class _Refused:
    why: str


def obey(turn: Turn) -> Turn:
    """The state after every command that was not obeyed or refused before."""
    turned, is_aborted = turn, False
    for command in sorted(turn.scene.commands, key=lambda command: command.verb != "abort"):
        if _key(command) in turn.state.obeyed:
            continue
        outcome = _Refused("an abort came with it") if is_aborted else _obey(turned, command)
        title = f"{command.verb} {command.id}".rstrip() + (f" by {command.by}" if command.by else "")
        if isinstance(outcome, _Refused):
            turned = turned.tell(Reason.COMMAND_REFUSED, f"{title}: {outcome.why}"[:1024], warning=True)
            continue
        # What was said is told before what came of it.
        said, came = News(Reason.COMMAND_OBEYED, title), outcome.news[len(turned.news) :]
        turned = replace(outcome, news=(*turned.news, said, *came))
        is_aborted = command.verb == "abort"
    obeyed = _remembered(turn)
    return turned.go(obeyed=obeyed) if obeyed != turn.state.obeyed else turned


def is_aborted(turn: Turn) -> bool:
    """Whether an abort stands that nobody has heard yet: it takes weight away, and for that nothing need be known."""
    return any(one.verb == "abort" and _key(one) not in turn.state.obeyed for one in turn.scene.commands)


def _key(command: Command) -> str:
    """With the verb: an id that was used for another command must not keep an abort from being seen."""
    return f"{command.verb} {command.id}"[:128]


def _remembered(turn: Turn) -> list[str]:
    """Those that still stand first: what stands and is forgotten would be obeyed again."""
    standing = [_key(command) for command in turn.scene.commands]
    known = turn.state.obeyed
    if all(key in known for key in standing):
        return known
    return [*standing, *(key for key in known if key not in standing)][:_REMEMBERED]


def _obey(turn: Turn, command: Command) -> Turn | _Refused:
    verb = VERBS.get(command.verb)
    if verb is None:
        return _Refused(f"no such command; there are {', '.join(sorted(VERBS))}")
    if not command.id:
        return _Refused(f'it has no id, by which it would be known from the next one; write "{command.verb} ID"')
    return verb(turn, command.by)


def _is_stepping(turn: Turn) -> bool:
    """Whether a release goes by steps just now."""
    return turn.state.phase in UNDER_WAY and turn.scene.stable is not None and turn.policy.strategy != "None"


def _promote(turn: Turn, _: str) -> Turn | _Refused:
    if not _is_stepping(turn):
        return _Refused("no release goes by steps at present")
    if turn.state.phase not in ROUTED:
        return _Refused("its first replica is not ready yet; promote-all passes all steps as soon as enough are")
    if turn.state.step >= len(turn.stops) or turn.state.phase is Phase.PROMOTING:
        return _Refused("it has passed its last step already")
    return soak.onward(turn)


def _promote_all(turn: Turn, _: str) -> Turn | _Refused:
    if turn.state.phase is Phase.ROLLED_BACK:
        if turn.scene.target != turn.state.candidate:
            return _Refused("the spec asks for another revision than the one that went back")
        turn = course.start(turn, turn.state.attempt + 1)
        return turn.go(step=len(turn.stops), steps_hash=ALL_COMMANDED, skip_analysis=True)
    if not _is_stepping(turn):
        return _Refused("no release goes by steps at present")
    if turn.state.steps_hash == ALL_COMMANDED:
        return turn
    return soak.onward(turn).go(step=len(turn.stops), steps_hash=ALL_COMMANDED)


def _pause(turn: Turn, by: str) -> Turn | _Refused:
    if not _is_stepping(turn):
        return _Refused("no release goes by steps at present")
    return turn.wait("Manual", "waits for the command resume" + (f"; paused by {by}" if by else ""))


def _resume(turn: Turn, _: str) -> Turn | _Refused:
    if not turn.is_held:
        return _Refused("it was not paused by command; promote passes a gate")
    return turn.resume("Manual").tell(Reason.ROLLOUT_RESUMED, f"revision {turn.state.candidate} goes on")


def _abort(turn: Turn, by: str) -> Turn | _Refused:
    if _is_to_come(turn):
        turn = course.start(turn)
    if turn.state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return turn
    if turn.state.phase not in UNDER_WAY or turn.scene.stable is None or turn.state.candidate == turn.scene.stable.name:
        return _Refused("no release is under way; rollback leads back to the revision before")
    return turn.abort(Reason.ABORT_COMMANDED, "by command" + (f" of {by}" if by else ""))


def _is_to_come(turn: Turn) -> bool:
    """Whether the spec asks for a revision whose release has not begun: it may be what somebody saw and wants ended."""
    stable, state, target = turn.scene.stable, turn.state, turn.scene.target
    is_calm = state.phase in (Phase.HEALTHY, Phase.DRAINING)
    is_other = state.phase is Phase.ROLLED_BACK and target != state.candidate
    return stable is not None and target != stable.name and (is_calm or is_other)


def _retry(turn: Turn, _: str) -> Turn | _Refused:
    if turn.state.phase is not Phase.ROLLED_BACK or turn.scene.target != turn.state.candidate:
        return _Refused("no release of this spec has gone back")
    return course.start(turn, turn.state.attempt + 1)


def _rollback(turn: Turn, by: str) -> Turn | _Refused:
    if turn.state.phase not in (Phase.HEALTHY, Phase.DRAINING) or turn.scene.stable is None:
        return _Refused("a release is under way or has gone back already; abort ends one that is under way")
    previous = turn.side(turn.scene.previous)
    if not previous.name or not previous.ready:
        return _Refused("the revision before has no pods any more; set spec.predictor.model back to what it was")
    return course.go_back(turn, Reason.ROLLBACK_COMMANDED, "by command" + (f" of {by}" if by else ""))


def _skip_analysis(turn: Turn, _: str) -> Turn | _Refused:
    if not _is_stepping(turn):
        return _Refused("no release goes by steps at present")
    return turn.go(skip_analysis=True, verdicts=[]).resume("Inconclusive", "LowTraffic", "MetricsUnavailable")


VERBS: Mapping[str, Callable[[Turn, str], Turn | _Refused]] = {
    "promote": _promote,
    "promote-all": _promote_all,
    "pause": _pause,
    "resume": _resume,
    "abort": _abort,
    "retry": _retry,
    "rollback": _rollback,
    "skip-analysis": _skip_analysis,
}
