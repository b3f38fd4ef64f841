"""What is to be done about one service, now. The one function to open when asking why the operator did something.

    observed ── assess ──> situation ──┬─ children ──> create, repair, scale, flip, remove
                                       └─ status ────> conditions, history, events

The order of actions is what keeps traffic safe: record before pods, pods before routing (which is status), routing
acknowledged by every gateway before removal.
What nobody needs before a pod answers, the disruption budget, comes last of all: made together with the pods it would
be written again for each of their steps, by the controller that fills it in.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime

from slipway.api.manifest import Manifest
from slipway.api.names import MANAGER, SCALING_MANAGER
from slipway.decide import departure, drift, pods, resources, scaled, status
from slipway.decide.situation import Situation, assess
from slipway.decide.types import Action, Config, Create, Delete, Event, Observed, Plan, Replace, Scale

UNANSWERED_S = 60.0
"""What nobody tells us about (a foreign object goes, a quota is raised) is looked at again after this."""

_ACK_LOOK_S, _ACK_HURRY_S = 1.5, 15.0
"""Time between looks at who serves a routing, and how old that may be. A gateway's news asks for a look by itself; but
a report that was asked for before the write, and tells of it already, is no acknowledgement, and the next is no news.
"""


def plan(observed: Observed, config: Config, now: datetime) -> Plan:
    """Actions that bring the world nearer to the spec; none when it is there already.

    Example:
        Applied to the world that its own actions made, the plan is empty.
    """
    if observed.service["metadata"].get("deletionTimestamp"):
        return Plan()
    seen = assess(observed, config, now)
    children: list[Action] = []
    drained: list[Action] = []
    removals: list[Action] = []
    extras: list[Action] = []
    if seen.target is not None:
        policies = [*_policies(seen, config)]
        children = [each for each in policies if isinstance(each, Create)]
        children += [*_records(seen), *_deployments(seen, config), *_revision_services(seen), *_address(seen, config)]
        drained = [Delete(child) for child in _unneeded(seen) if seen.is_drained(child["metadata"]["name"])]
        removals = [each for each in _removals(seen, config) if each not in drained]
        # A rule that the API server refuses must not keep what runs from being looked after.
        extras = [*_budget(seen), *(each for each in policies if each not in children)]
    update = status.update(seen, config, children)
    return Plan(
        # What is drained goes first: a status that no longer tells of it would let the next life drain it once more.
        actions=(*children, *drained, *update.actions, *removals, *extras),
        events=(*update.events, *_repairs(seen, children + extras)),
        requeue_after_s=_requeue(seen, update.requeue_after_s),
        used_up=update.used_up,
    )


def _records(seen: Situation) -> Iterator[Action]:
    """Every revision is recorded before it has pods, and again should its record be gone."""
    stored = {manifest["metadata"]["name"] for manifest in seen.observed.records}
    for name in sorted(seen.kept & seen.records.keys() - stored):
        if not seen.observed.is_blocked("ControllerRevision", name):
            yield Create(resources.record(seen.observed.service, seen.records[name]), MANAGER)


def _policies(seen: Situation, config: Config) -> Iterator[Action]:
    """One is made before the pods that it is about, put right or removed after all else."""
    live = _by_name(seen.observed.policies)
    if config.network is None:
        yield from (Delete(one) for _, one in sorted(live.items()) if not one["metadata"].get("deletionTimestamp"))
    else:
        wanted = resources.network_policy(seen.observed.service, config.network)
        yield from _ensure(seen, wanted, live.get(seen.name))


def _deployments(seen: Situation, config: Config) -> Iterator[Action]:
    is_open = config.network is not None and seen.observed.is_blocked("NetworkPolicy", seen.name)
    for name in sorted(seen.kept & seen.records.keys()):
        live = seen.deployments.get(name)
        replicas = _allowed(seen, name, live)
        if live is None and (is_open or seen.observed.is_blocked("ControllerRevision", name)):
            continue  # no pods without a record, nor without the policy that they are to have
        wanted = resources.deployment(seen.observed.service, seen.records[name], replicas)
        yield from _ensure(seen, wanted, live, SCALING_MANAGER)
        if live is not None and live["spec"].get("replicas", 1) != replicas:
            yield from departure.costs(seen, name, replicas)
            yield Scale(live, replicas)


def _allowed(seen: Situation, name: str, live: Manifest | None) -> int:
    """Replicas that a revision may be given at this moment: none only when every gateway holds its requests, and no
    fewer while weights move.
    """
    replicas = seen.replicas(name)
    if live is None:
        return replicas
    may_go = seen.may_be_emptied(name) if not replicas else not seen.keeps_replicas(name)
    return replicas if may_go else max(replicas, seen.replicas_now(name))


def _address(seen: Situation, config: Config) -> Iterator[Action]:
    live = _by_name(seen.observed.services)
    yield from _ensure(seen, resources.address(seen.observed.service, config.entrance.address), live.get(seen.name))
    if name := seen.preview_address:
        wanted = resources.preview_address(seen.observed.service, config.entrance.address)
        yield from _ensure(seen, wanted, live.get(name))


def _revision_services(seen: Situation) -> Iterator[Action]:
    live = _by_name(seen.observed.services)
    for name in sorted(seen.kept & seen.records.keys()):
        if name in live or name in seen.deployments or not _has_no_pods(seen, name):
            yield from _ensure(seen, resources.revision_service(seen.observed.service, name), live.get(name))


def _has_no_pods(seen: Situation, name: str) -> bool:
    """Whether there is no use in leading to a revision, for its pods cannot be made."""
    return any(seen.observed.is_blocked(kind, name) for kind in ("ControllerRevision", "Deployment"))


def _budget(seen: Situation) -> Iterator[Action]:
    live = _by_name(seen.observed.budgets)
    if seen.name in live or any(map(seen.ready, seen.kept)):
        yield from _ensure(seen, resources.budget(seen.observed.service), live.get(seen.name))


def _by_name(children: Iterable[Manifest]) -> dict[str, Manifest]:
    return {child["metadata"]["name"]: child for child in children}


def _ensure(seen: Situation, wanted: Manifest, live: Manifest | None, manager: str = MANAGER) -> Iterator[Action]:
    """Create what is missing, put right what was edited, leave alone what is somebody else's or on its way out."""
    name = wanted["metadata"]["name"]
    if live is None:
        if not seen.observed.is_blocked(wanted["kind"], name):
            yield Create(wanted, manager)
    elif not live["metadata"].get("deletionTimestamp") and _has_drifted(seen, wanted, live):
        yield Replace(drift.replacement(wanted, live))


def _has_drifted(seen: Situation, wanted: Manifest, live: Manifest) -> bool:
    """Whether to put a child right.

    What our own last write left is as right as it gets, whatever an API server or an admission policy made of it.
    """
    settled = seen.observed.settled.get(live["metadata"]["uid"]) == drift.version(live)
    return drift.metadata_drifted(wanted, live) or (not settled and drift.spec_drifted(wanted, live))


def _removals(seen: Situation, config: Config) -> Iterator[Action]:
    """Pods and addresses of revisions that nobody needs, then the oldest records."""
    yield from map(Delete, _unneeded(seen))
    unused = [manifest for manifest in seen.observed.records if manifest["metadata"]["name"] not in seen.kept]
    newest_first = sorted(unused, key=lambda manifest: -manifest["revision"])
    for manifest in newest_first[config.revision_history_limit :]:
        yield Delete(manifest)


def _unneeded(seen: Situation) -> Iterator[Manifest]:
    children = (_by_name(seen.observed.deployments), _by_name(seen.observed.services))
    for name, child in (each for kind in children for each in sorted(kind.items())):
        if (
            name not in seen.kept
            and name not in (seen.name, seen.preview_address)
            and not child["metadata"].get("deletionTimestamp")
        ):
            yield child


def _repairs(seen: Situation, children: list[Action]) -> Iterator[Event]:
    for action in children:
        if isinstance(action, Replace):
            yield status.drift_event(action.body)


def _requeue(seen: Situation, status_due_s: float | None) -> float | None:
    """Seconds until the next look that no watch event would bring."""
    due: list[float | None] = [status_due_s, seen.decision.requeue_after_s if seen.decision else None]
    due += [scaled.due_in_s(seen, seen.scaling), seen.shift.requeue_after_s]
    due += [max(0.1, (left.until - seen.now).total_seconds()) for left in seen.leaving if left.until is not None]
    if seen.routing is not None and not seen.acks.is_complete:
        due.append(_ACK_LOOK_S if seen.observed.routing_age_s < _ACK_HURRY_S else UNANSWERED_S)
    if seen.refusal is not None or seen.observed.foreign or seen.observed.refused:
        due.append(UNANSWERED_S)
    if seen.kept and any(seen.ready(name) < seen.replicas(name) for name in seen.kept):
        due.append(UNANSWERED_S)
    due += [pods.unscheduled_in_s(pod, seen.now) for pod in seen.observed.pods]
    return min((moment for moment in due if moment is not None), default=None)
