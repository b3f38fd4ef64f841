"""What a release is decided from, gathered from what is there: pods, gateways, counts, commands. Decides nothing."""

from collections.abc import Iterator

from slipway.api.conditions import UNDER_WAY, Phase
from slipway.api.manifest import Manifest
from slipway.api.names import ABORT, COMMAND
from slipway.api.progress import RolloutStatus
from slipway.api.rollout import Rollout
from slipway.api.routing import Routing
from slipway.api.traffic import WHOLE
from slipway.decide import acks, pods
from slipway.decide.arms import Arm
from slipway.decide.ground import Ground
from slipway.decide.loading import model_state
from slipway.decide.release import Command, Scene, Side
from slipway.decide.traffic import part

_ID_MAX = 128
"""Longer ids are cut: they are only told apart and repeated to people."""


def scene(ground: Ground, policy: Rollout, main: Arm, stable: str | None, *, share: int, sticky: bool = False) -> Scene:
    """`main` is the service itself, `stable` who answers, `share` what the variants leave to both revisions of it."""
    target = main.target.name
    needed = ground.replicas_now(stable or target) if main.needed is None else main.needed
    last = next((one.desired for one in ground.status.scaling if not one.variant), needed)
    observed, routing = ground.observed, ground.status.routing
    seen = acks.count(observed, routing.version if routing else "", written=routing is not None)
    known = {name for name, record in ground.records.items() if not record.variant} | {target}
    sides = {name: side(ground, name) for name in sorted(known | ({stable} if stable else set()))}
    state = ground.status.rollout
    taken_back = state is not None and state.phase is Phase.ROLLING_BACK and state.candidate in sides
    candidate = state.candidate if state is not None and taken_back else target
    return Scene(
        policy=policy,
        target=target,
        stable=sides.get(stable or ""),
        candidate=sides[candidate],
        sides=sides,
        replicas=max(1, needed),
        is_asleep=needed == 0 and is_left_alone(state, target, sides.get(stable or "")),
        is_fixed=main.is_fixed,
        more=max(0, needed - last),
        served=routing.version if routing is not None and seen.is_complete else "",
        waiting_for=seen.missing,
        served_weight=served_weight(routing, state, state.candidate if state is not None else target),
        is_observed=is_observed(ground),
        window=observed.window,
        readings=observed.readings,
        commands=tuple(commands(observed.service)),
        previous=ground.status.previous or "",
        is_sticky=sticky,
        share_max=share,
    )


def is_left_alone(state: RolloutStatus | None, target: str, stable: Side | None) -> bool:
    """Whether stable may be without pods: it is so already, or no release needs it to compare with."""
    if stable is None or not stable.replicas:
        return True
    phase, released = (state.phase, state.candidate) if state is not None else (Phase.HEALTHY, "")
    is_over = target == stable.name or (phase is Phase.ROLLED_BACK and released == target)
    return is_over and phase not in (*UNDER_WAY, Phase.ROLLING_BACK)


def side(ground: Ground, name: str) -> Side:
    state = model_state(ground, name, whole=True)
    return Side(
        name=name,
        replicas=ground.replicas_now(name) if name in ground.deployments else 0,
        ready=min(ground.ready(name), ground.reachable(name)),
        is_settled=ground.is_settled(name),
        fault=(state.reason, state.message) if state.faulty else None,
        is_terminal=state.terminal,
        restarts=sum(map(pods.restarts, ground.pods_of(name))),
        lacks=ground.lacks(name),
    )


def is_observed(ground: Ground) -> bool:
    """Whether every gateway that takes traffic has said something to this very process."""
    gateways = ground.observed.gateways
    return gateways is not None and all(one.age_s < float("inf") for one in gateways if one.takes_traffic)


def served_weight(routing: Routing | None, state: RolloutStatus | None, candidate: str) -> int:
    """The candidate's weight in a routing, out of 10 000 of the service's own share.

    What the state asked for, where that is what the table's rounding made of it.
    """
    own = {target.revision: target.weight for target in (routing.targets if routing else ()) if not target.variant}
    whole, given = sum(own.values()), own.get(candidate, 0)
    if state is not None and candidate in own and state.candidate == candidate and part(whole, state.weight) == given:
        return state.weight
    return round(given * WHOLE / whole) if whole else 0


def commands(service: Manifest) -> Iterator[Command]:
    """The annotations that are commands, whether they have been obeyed or not."""
    meta = service["metadata"]
    annotations = meta.get("annotations") or {}
    if text := annotations.get(ABORT, "").strip():
        yield Command("abort", text[:_ID_MAX], _author(meta, ABORT))
    words = annotations.get(COMMAND, "").split(maxsplit=1)
    if words:
        yield Command(words[0][:64], (words[1] if len(words) > 1 else "")[:_ID_MAX], _author(meta, COMMAND))


def _author(meta: Manifest, annotation: str) -> str:
    """The field manager that owns an annotation: Kubernetes does not tell the person."""
    for entry in meta.get("managedFields") or ():
        owned = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if f"f:{annotation}" in owned:
            return str(entry.get("manager", ""))
    return ""
