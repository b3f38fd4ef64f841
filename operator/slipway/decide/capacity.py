"""Pods and weights: how many replicas a share needs, what share ready replicas carry, and who lends room to whom.

Capacity before traffic, both ways: a share grows only when the pods for it are ready, and pods leave only when every
gateway has acknowledged that their share is gone. `Borrow` lends one replica at a time: the service has one less than
it needs meanwhile, never two less.
"""

from slipway.api.conditions import Phase
from slipway.api.progress import RolloutStatus
from slipway.api.traffic import WHOLE
from slipway.decide.release import Scene, Side
from slipway.decide.stops import Stop


def need(share: int, replicas: int) -> int:
    """Replicas that a share needs, of those that the whole traffic does; one ten-thousandth needs none.

    Example:
        need(500, 4) -> 1, need(5000, 3) -> 2, need(6667, 3) -> 2.
    """
    return max(1, -(-(share - 1) * replicas // WHOLE)) if share and replicas else 0


def carried(share: int, ready: int, replicas: int) -> int:
    """As much of a share as ready replicas carry."""
    return share if need(share, replicas) <= ready else ready * WHOLE // replicas


def wanted(stop: Stop, replicas: int) -> int:
    """Replicas of the candidate that a step is entered with."""
    return replicas if stop.is_preview else need(stop.weight or stop.mirror, replicas)


def may_borrow(scene: Scene) -> bool:
    """Whether the candidate's pods may take the place of stable's; one replica alone has nothing to lend."""
    return scene.policy.capacity == "Borrow" and scene.replicas > 1


def has_lent(scene: Scene) -> bool:
    """Whether stable was left with fewer replicas than it needs."""
    stable = scene.stable
    return may_borrow(scene) and stable is not None and 0 < stable.replicas < scene.replicas


def enough(scene: Scene) -> int:
    """Ready replicas with which a candidate takes over at once: all, or as many as answer now where all is a mark that
    moves with the load.
    """
    if scene.is_fixed or scene.stable is None:
        return scene.replicas
    return max(1, min(scene.replicas, scene.stable.ready))


def base(scene: Scene, candidate: Side) -> int:
    """Replicas that shares are measured against: those needed, or as many as there are."""
    ready = candidate.ready + (scene.stable.ready if scene.stable else 0)
    return max(1, min(scene.replicas - may_borrow(scene), ready))


def limit(share: int, scene: Scene, candidate: Side) -> int:
    """What of a share the candidate's ready replicas carry at present."""
    return carried(share, candidate.ready, base(scene, candidate))


def is_enough(stop: Stop, scene: Scene, candidate: Side) -> bool:
    """Whether a step can be entered."""
    replicas = wanted(stop, scene.replicas)
    if may_borrow(scene) and candidate.lacks:
        return candidate.ready >= wanted(stop, scene.replicas - 1)
    return candidate.ready >= replicas and (candidate.is_settled or replicas < scene.replicas)


def blocked(scene: Scene, candidate: Side, stop: Stop) -> str:
    """Why a step waits for room, in a sentence."""
    missing = wanted(stop, scene.replicas) - candidate.ready
    text = f"no {candidate.lacks} is left for {missing} more of its replicas"
    if scene.policy.capacity == "Surge":
        return f"{text}; make room, or let it borrow from stable by spec.rollout.capacity: Borrow"
    return text if may_borrow(scene) else f"{text}, and stable has but one replica, which it cannot lend"


def floor(scene: Scene, candidate: Side, *, paced: bool) -> int:
    """The least share that the candidate must go on carrying because stable cannot; 0 if it cannot either.

    With `paced` stable takes back only what its ready replicas carry, else all of it as soon as one is ready.
    """
    stable = scene.stable
    if not candidate.ready or stable is None:
        return 0
    if not stable.ready:
        return WHOLE
    return WHOLE - carried(WHOLE, stable.ready, base(scene, candidate)) if paced else 0


def of_candidate(scene: Scene, state: RolloutStatus, stop: Stop, candidate: Side, ahead: Stop | None = None) -> int:
    """Replicas that the candidate shall have while a release is under way: never fewer than it serves with.

    `ahead` is the stop that comes next, where its pods are to start already.
    """
    if state.phase is Phase.ROLLING_BACK:
        if may_borrow(scene) and state.weight and is_served(scene, state):
            return min(candidate.replicas, need(state.weight, base(scene, candidate)))
        return candidate.replicas
    if state.phase is Phase.ROLLED_BACK:
        return candidate.replicas
    soon = wanted(ahead, scene.replicas) if ahead is not None else 0
    least = max(wanted(stop, scene.replicas), need(state.weight, scene.replicas), soon)
    return min(scene.replicas, max(least, candidate.replicas))


def of_stable(scene: Scene, state: RolloutStatus, stop: Stop, candidate: Side) -> int:
    """Replicas that stable shall have while a release is under way.

    It lends one more when the last one lent has become a ready replica of the candidate, and when what is left of its
    share, as every gateway serves it, does not need it.
    """
    stable, replicas = scene.stable, scene.replicas
    if scene.is_asleep:
        return 0
    if stable is None or not may_borrow(scene) or state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return replicas
    # What the load asks for beyond what was needed is stable's: it is there already, and answers most.
    have = min(replicas, max((stable.replicas or replicas) + scene.more, replicas - candidate.replicas))
    is_waiting = candidate.lacks and candidate.ready < wanted(stop, replicas)
    is_held = state.pause is not None and state.pause.reason == "Manual"
    if not is_waiting or is_held or not (scene.is_observed and is_served(scene, state)):
        return have
    is_settled = stable.ready == have and replicas - have <= candidate.ready
    return have - 1 if is_settled and have - 1 >= max(1, need(WHOLE - state.weight, replicas - 1)) else have


def is_served(scene: Scene, state: RolloutStatus) -> bool:
    """Whether no gateway that takes traffic serves anything but the weights of this state, which is the stored one."""
    return bool(scene.served) and scene.served_weight == state.weight
