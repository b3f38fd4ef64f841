"""What is to be done about one service, now. The one function to open when asking why the operator did something.

    observed ── assess ──> situation ──┬─ children ──> create, repair, scale, flip, remove
                                       └─ status ────> conditions, history, events

The order of actions is what keeps traffic safe: record before pods, pods before address, address before removal.
What nobody needs before a pod answers, its revision's own Service and the disruption budget, comes last of all: made
together with the pods it would be written again for each of their steps, by the controllers that fill it in.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime

from slipway.api.manifest import Manifest
from slipway.api.names import MANAGER, SCALING_MANAGER
from slipway.decide import drift, pods, resources, status
from slipway.decide.situation import Situation, assess
from slipway.decide.types import Action, Config, Create, Delete, Event, Observed, Plan, Replace, Scale

UNANSWERED_S = 60.0
"""What nobody tells us about (a foreign object goes, a quota is raised) is looked at again after this."""


def plan(observed: Observed, config: Config, now: datetime) -> Plan:
    """Actions that bring the world nearer to the spec; none when it is there already.

    Example:
        Applied to the world that its own actions made, the plan is empty.
    """
    if observed.service["metadata"].get("deletionTimestamp"):
        return Plan()
    seen = assess(observed, config, now)
    children: list[Action] = []
    extras: list[Action] = []
    if seen.target is not None:
        children = [*_records(seen), *_deployments(seen), *_address(seen), *_removals(seen, config)]
        extras = [*_revision_services(seen), *_budget(seen)]
    update = status.update(seen, config, children)
    return Plan(
        actions=(*children, *update.actions, *extras),
        events=(*update.events, *_repairs(seen, children + extras)),
        requeue_after_s=_requeue(seen, update.requeue_after_s),
    )


def _records(seen: Situation) -> Iterator[Action]:
    """Every revision is recorded before it has pods, and again should its record be gone."""
    stored = {manifest["metadata"]["name"] for manifest in seen.observed.records}
    for name in sorted(seen.kept & seen.records.keys() - stored):
        if not seen.observed.is_blocked("ControllerRevision", name):
            yield Create(resources.record(seen.observed.service, seen.records[name]), MANAGER)


def _deployments(seen: Situation) -> Iterator[Action]:
    for name in sorted(seen.kept & seen.records.keys()):
        replicas, live = seen.replicas(name), seen.deployments.get(name)
        if live is None and seen.observed.is_blocked("ControllerRevision", name):
            continue  # no pods without a record
        wanted = resources.deployment(seen.observed.service, seen.records[name], replicas)
        yield from _ensure(seen, wanted, live, SCALING_MANAGER)
        if live is not None and live["spec"].get("replicas", 1) != replicas:
            yield Scale(live, replicas)


def _address(seen: Situation) -> Iterator[Action]:
    """It comes after the pods: it leads to some that are asked for already."""
    live = _by_name(seen.observed.services)
    if seen.serving is not None:
        yield from _ensure(seen, resources.address(seen.observed.service, seen.serving), live.get(seen.name))


def _revision_services(seen: Situation) -> Iterator[Action]:
    live = _by_name(seen.observed.services)
    for name in sorted(seen.kept):
        if name in live or seen.ready(name):
            yield from _ensure(seen, resources.revision_service(seen.observed.service, name), live.get(name))


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

    What our own last write left is as right as it gets, whatever an API server or an admission policy made of it; only
    the address is written to differ from what it was, when it changes over to another revision.
    """
    flip = wanted["spec"].get("selector") != live["spec"].get("selector")
    settled = seen.observed.settled.get(live["metadata"]["uid"]) == drift.version(live) and not flip
    return drift.metadata_drifted(wanted, live) or (not settled and drift.spec_drifted(wanted, live))


def _removals(seen: Situation, config: Config) -> Iterator[Action]:
    """Pods and addresses of revisions that nobody needs, then the oldest records."""
    for child in (*seen.observed.deployments, *seen.observed.services):
        name = child["metadata"]["name"]
        if name not in seen.kept and name != seen.name and not child["metadata"].get("deletionTimestamp"):
            yield Delete(child)
    unused = [manifest for manifest in seen.observed.records if manifest["metadata"]["name"] not in seen.kept]
    newest_first = sorted(unused, key=lambda manifest: -manifest["revision"])
    for manifest in newest_first[config.revision_history_limit :]:
        yield Delete(manifest)


def _repairs(seen: Situation, children: list[Action]) -> Iterator[Event]:
    for action in children:
        if isinstance(action, Replace) and not (action.body["kind"] == "Service" and seen.pointer != seen.serving):
            yield status.drift_event(action.body)


def _requeue(seen: Situation, status_due_s: float | None) -> float | None:
    """Seconds until the next look that no watch event would bring."""
    due: list[float | None] = [status_due_s]
    if seen.drain_until is not None:
        due.append(max(0.1, (seen.drain_until - seen.now).total_seconds()))
    if seen.refusal is not None or seen.observed.foreign or seen.observed.refused:
        due.append(UNANSWERED_S)
    if seen.kept and any(seen.ready(name) < seen.replicas(name) for name in seen.kept):
        due.append(UNANSWERED_S)
    due += [pods.unscheduled_in_s(pod, seen.now) for pod in seen.observed.pods]
    return min((moment for moment in due if moment is not None), default=None)
