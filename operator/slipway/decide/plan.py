"""What is to be done about one service, now. The one function to open when asking why the operator did something.

    observed ── assess ──> situation ──┬─ children ──> create, repair, scale, flip, remove
                                       └─ status ────> conditions, history, events

The order of actions is what keeps traffic safe: record before pods, pods before address, address before removal.
"""

from collections.abc import Iterator
from datetime import datetime

from slipway.api.manifest import Manifest
from slipway.api.names import MANAGER, SCALING_MANAGER
from slipway.decide import pods, resources, status
from slipway.decide.drift import has_drifted, metadata_drifted, spec_drifted
from slipway.decide.revision import Record
from slipway.decide.situation import Situation, assess
from slipway.decide.types import Action, Apply, Config, Create, Delete, Event, Observed, Plan, Replace, Scale

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
    if seen.target is None:
        children: list[Action] = []
    else:
        children = [*_records(seen), *_deployments(seen), *_services(seen), *_budget(seen), *_removals(seen, config)]
    update = status.update(seen, config, children)
    return Plan(
        actions=(*children, *update.actions),
        events=(*update.events, *_repairs(children)),
        requeue_after_s=_requeue(seen, update.requeue_after_s),
    )


def _records(seen: Situation) -> Iterator[Action]:
    """Every revision is recorded before it has pods, and again from its pods should its record be gone."""
    stored = {manifest["metadata"]["name"] for manifest in seen.observed.records}
    for name in sorted(seen.kept - stored):
        record = seen.records.get(name) or _from_pods(seen, name)
        if record is not None:
            yield Create(resources.record(seen.observed.service, record), MANAGER)


def _from_pods(seen: Situation, name: str) -> Record | None:
    live = seen.deployments.get(name)
    if live is None:
        return None
    template = {"spec": live["spec"]["template"]["spec"]}
    storage_uri = next((known.storage_uri for known in seen.status.revisions if known.name == name), "")
    number = max((record.number for record in seen.records.values()), default=0)
    return Record(name, number, name.rpartition("-")[2], seen.status.runtime or "", storage_uri, template)


def _deployments(seen: Situation) -> Iterator[Action]:
    for name in sorted(seen.kept & seen.records.keys()):
        wanted = resources.deployment(seen.observed.service, seen.records[name], seen.replicas(name))
        live = seen.deployments.get(name)
        if live is None:
            if name not in seen.observed.refused and ("Deployment", name) not in seen.observed.foreign:
                yield Create(wanted, SCALING_MANAGER)
        elif not live["metadata"].get("deletionTimestamp"):
            yield from _repair_deployment(seen, wanted, live)


def _repair_deployment(seen: Situation, wanted: Manifest, live: Manifest) -> Iterator[Action]:
    replicas = wanted["spec"].pop("replicas")
    untouched = seen.observed.settled.get(live["metadata"]["uid"]) == live["metadata"]["generation"]
    if metadata_drifted(wanted, live) or (not untouched and spec_drifted(wanted, live)):
        yield Replace(_replacement(wanted, live))
    if live["spec"].get("replicas", 1) != replicas:
        yield Scale(live, replicas)


def _replacement(wanted: Manifest, live: Manifest) -> Manifest:
    """The live object with everything that is ours put right; its replicas and others' annotations stay."""
    meta = live["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion")}
    kept["annotations"] = meta.get("annotations") or {}
    kept["labels"] = (meta.get("labels") or {}) | wanted["metadata"]["labels"]
    others = [owner for owner in meta.get("ownerReferences") or [] if not owner.get("controller")]
    kept["ownerReferences"] = [*others, *wanted["metadata"]["ownerReferences"]]
    spec = wanted["spec"] | {"replicas": live["spec"].get("replicas", 1)}
    return {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": kept, "spec": spec}


def _services(seen: Situation) -> Iterator[Action]:
    owner = seen.observed.service
    live = {child["metadata"]["name"]: child for child in seen.observed.services}
    for name in sorted(seen.kept):
        yield from _ensure(seen, resources.revision_service(owner, name), live.get(name))
    if seen.serving is not None:
        yield from _ensure(seen, resources.address(owner, seen.serving), live.get(seen.name))


def _budget(seen: Situation) -> Iterator[Action]:
    live = {child["metadata"]["name"]: child for child in seen.observed.budgets}
    yield from _ensure(seen, resources.budget(seen.observed.service), live.get(seen.name))


def _ensure(seen: Situation, wanted: Manifest, live: Manifest | None) -> Iterator[Action]:
    """Create what is missing, put right what was edited, leave alone what is somebody else's."""
    name = wanted["metadata"]["name"]
    if live is None:
        if (wanted["kind"], name) not in seen.observed.foreign and name not in seen.observed.refused:
            yield Create(wanted, MANAGER)
    elif not live["metadata"].get("deletionTimestamp") and has_drifted(wanted, live):
        yield Apply(wanted | {"metadata": wanted["metadata"] | {"uid": live["metadata"]["uid"]}})


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


def _repairs(children: list[Action]) -> Iterator[Event]:
    for action in children:
        if isinstance(action, Replace):
            yield status.drift_event(action.body)


def _requeue(seen: Situation, status_due_s: float | None) -> float | None:
    """Seconds until the next look that no watch event would bring."""
    due = [status_due_s]
    if seen.drain_until is not None:
        due.append(max(0.1, (seen.drain_until - seen.now).total_seconds()))
    if seen.refusal is not None or seen.observed.foreign:
        due.append(UNANSWERED_S)
    if seen.kept and any(seen.ready(name) < seen.replicas(name) for name in seen.kept):
        due.append(UNANSWERED_S)
    if any(pods.is_unscheduled(pod) for pod in seen.observed.pods):
        due.append(pods.UNSCHEDULABLE_AFTER_S)
    return min((moment for moment in due if moment is not None), default=None)
