"""An `Observation`, put together from what the parts of the operator have seen of one arm of a service. Pure.

Absent stays absent: what nobody has said is None, and `trust` knows what that means.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from slipway.api.conditions import UNDER_WAY, Phase, Reason
from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_REVISION, LABEL_VARIANT
from slipway.decide import pods as states
from slipway.decide.ground import lacks
from slipway.decide.scaling.trust import FRESH_S
from slipway.decide.scaling.types import Gateway, Launch, Pods, Replicas

PROMPT_S = 5.0
"""So young must be what pods say of their queues to be set beside what gateways have now."""
_MOVING = frozenset({*UNDER_WAY, Phase.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateways have of one arm together. Counters grow within an epoch."""

    age_s: float
    """Since the one that has been silent longest was heard; infinite: one of them never was."""
    heard_s: float
    """Since any of them was."""
    epoch: str
    arrived: float
    active: float
    """Requests that a replica has now."""
    held: float
    """Requests that wait in gateways for a first replica."""
    judged: float
    late: float
    grown: Mapping[str, float] = field(default_factory=dict)
    """Revision -> requests counted since this process began."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Who answers for the service itself, or for one of its variants, and what becomes of that."""

    variant: str
    serving: str
    """The revision that answers; before the first does, the one that shall."""
    revisions: tuple[str, ...]
    """All that may have requests of this arm."""
    is_shifting: bool
    """A release moves its traffic. The first revision of all has none to be moved."""


def arm(status: Manifest, deployments: Iterable[Manifest], variant: str) -> Arm | None:
    """As status says, which was written before anything was done; None: nothing of it has pods yet."""
    own = [one for one in deployments if one["metadata"]["labels"].get(LABEL_VARIANT, "") == variant]
    if not own:
        return None
    known = {one["name"]: one["role"] for one in status.get("revisions") or () if one.get("variant", "") == variant}
    names = {one["metadata"]["labels"].get(LABEL_REVISION, one["metadata"]["name"]) for one in own}
    answering: str | None = status.get("stable") if not variant else _of_role(known, "Variant")
    newest = max(own, key=lambda one: (one["metadata"].get("creationTimestamp", ""), one["metadata"]["name"]))
    shall: str = _of_role(known, "Candidate", names) or newest["metadata"]["name"]
    serving = answering if answering is not None and answering in names else shall
    phase = (status.get("rollout") or {}).get("phase")
    is_replaced = variant != "" and answering is not None and _of_role(known, "Candidate", names - {serving}) != ""
    return Arm(
        variant=variant,
        serving=serving,
        revisions=tuple(sorted(names | known.keys())),
        is_shifting=(not variant and answering is not None and phase in _MOVING) or is_replaced,
    )


def _of_role(known: Mapping[str, str], role: str, among: Collection[str] | None = None) -> str:
    found = (name for name, has in sorted(known.items()) if has == role and (among is None or name in among))
    return next(found, "")


def is_mirrored(status: Manifest, found: Arm) -> bool:
    """Whether copies go there, which no gateway holds: asleep it would get none."""
    mirror: Manifest = (status.get("routing") or {}).get("mirror") or {}
    return mirror.get("revision") in found.revisions


def awaited(status: Manifest, variant: str) -> int:
    """Replicas that an arm is to have for a weight that it is about to get, or has just got; 0: for none."""
    shifted: list[Manifest] = (status.get("shift") or {}).get("arms") or []
    own = (one for one in shifted if one["variant"] == variant and one["stand"] != "Stopped")
    return max((int(one["replicas"]) for one in own), default=0)


def share(status: Manifest, found: Arm) -> float:
    """Of the service's requests that no rule takes, how many the arm gets by the routing in force."""
    targets: list[Manifest] = (status.get("routing") or {}).get("targets") or []
    return sum(int(one.get("weight", 0)) for one in targets if one["revision"] in found.revisions) / 10_000


def replicas(
    asked: int,
    deployment: Manifest,
    pods: Iterable[Manifest],
    ages: Mapping[str, float],
    *,
    launched: Mapping[str, Launch | None],
    since: float,
    now: datetime,
) -> Replicas:
    """`ages`: uid -> seconds since it was made. `launched`: pods that have been ready, and how that went.

    Their falls are no failed launches, and a launch that succeeded ends a row of failed ones. What was launched after
    `since` is news.
    """
    ready, loading, failed, waiting = 0, list[float](), list[Manifest](), list[Manifest]()
    for pod in pods:
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            continue
        if states.is_ready(pod):
            ready += 1
            continue
        waiting.append(pod)
        fault = states.fault(pod, now)
        if fault is None:
            loading.append(ages.get(meta["uid"], 0.0))
        elif fault.reason is not Reason.UNSCHEDULABLE and meta["uid"] not in launched:
            failed.append(pod)
    known = [one for one in launched.values() if one is not None]
    success = max((one.ready_at for one in known), default=0.0)
    is_row = failed and success < min(created(pod, math.inf) for pod in failed)
    return Replicas(
        asked=asked,
        ready=ready,
        loading=tuple(loading),
        failed=len(failed) if is_row else 0,
        missing=lacks(deployment, waiting, now),
        launches=tuple(one for one in known if one.ready_at > since),
    )


def gateway(load: Load | None, pods: Pods | None, ready: int, slots: int) -> Gateway | None:
    """The gateways' numbers, with how many of the requests no replica works on yet."""
    if load is None:
        return None
    return Gateway(
        # What is heard now is at least so much, whatever those who are silent would say.
        age_s=load.heard_s,
        is_whole=load.age_s <= FRESH_S["gateway"],
        arrived=load.arrived,
        in_flight=load.active + load.held,
        epoch=load.epoch,
        queued=load.held + _waiting(load.active, pods, ready, slots),
        judged=load.judged,
        late=load.late,
    )


def _waiting(active: float, pods: Pods | None, ready: int, slots: int) -> float:
    """What replicas have and do not work on: as they say themselves, else what is beyond their slots."""
    if pods is not None and ready and pods.age_s <= PROMPT_S and pods.coverage >= 1.0:
        if pods.queued is not None:
            return min(active, pods.queued)
        if pods.running is not None:
            return max(0.0, active - pods.running)
    return max(0.0, active - ready * slots) if slots else 0.0


def launch(pod: Manifest) -> Launch | None:
    """How long the parts of a good start took, of a pod as the API server has it; None while it is not ready.

    The kubelet tells times in whole seconds. A pod that was started again says nothing of how long a launch takes.
    """
    status = pod.get("status") or {}
    when = {one["type"]: _epoch(one.get("lastTransitionTime")) for one in status.get("conditions") or ()}
    created, scheduled, ready = (
        _epoch(pod["metadata"].get("creationTimestamp")),
        when.get("PodScheduled"),
        when.get("Ready"),
    )
    began = [_epoch((one.get("state", {}).get("running") or {}).get("startedAt")) for one in _containers(status, "")]
    if not states.is_ready(pod) or states.restarts(pod) or None in (created, scheduled, ready, *began) or not began:
        return None
    begin, node, end, server = (created or 0.0, scheduled or 0.0, ready or 0.0, max(filter(None, began)))
    fetch_s = sum(map(_lasted, _containers(status, "init")))
    pull_s = server - node - fetch_s
    return Launch(
        ready_at=end,
        schedule_s=max(0.0, node - begin),
        pull_s=max(0.0, pull_s),
        fetch_s=fetch_s,
        load_s=max(0.0, end - server),
    )


def is_ready(pod: Manifest) -> bool:
    return states.is_ready(pod)


def created(pod: Manifest, now: float) -> float:
    """When it was made, as wall time in seconds."""
    found = _epoch(pod["metadata"].get("creationTimestamp"))
    return now if found is None else found


def _containers(status: Manifest, kind: str) -> list[Manifest]:
    return list(status.get(f"{kind}ContainerStatuses" if kind else "containerStatuses") or ())


def _lasted(container: Manifest) -> float:
    ended = container.get("state", {}).get("terminated") or {}
    began, end = _epoch(ended.get("startedAt")), _epoch(ended.get("finishedAt"))
    return max(0.0, end - began) if began is not None and end is not None else 0.0


def _epoch(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
