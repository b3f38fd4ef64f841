"""Where a service stands: which revision answers, which is wanted, which must stay for a while.

The pointer is the selector of the service's address, an object in the cluster; status only confirms that the revision
it names has ever answered, and when the one before may go. So a lost or edited status changes no outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import ValidationError

from slipway.api.conditions import Phase, Reason
from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_REVISION
from slipway.api.status import Condition, InferenceServiceStatus
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide import pods, resources, revision, runtimes
from slipway.decide.revision import Record
from slipway.decide.types import Config, Observed, Refusal


@dataclass(frozen=True, slots=True)
class Situation:
    observed: Observed
    now: datetime
    spec: InferenceServiceSpec | None
    """None when the stored object does not fit the schema."""
    refusal: Refusal | None
    status: InferenceServiceStatus
    """As last written."""
    conditions: Mapping[str, Condition]
    """Of that status, by type."""
    records: Mapping[str, Record]
    deployments: Mapping[str, Manifest]
    target: Record | None
    """The revision that the spec asks for; with a refusal, the newest that has pods."""
    fresh: Record | None
    """How the target would be rendered today; None when that is not known."""
    pointer: str | None
    """Revision that the address selects."""
    stable: str | None
    """Revision that answers users, or has and may again."""
    serving: str | None
    """Revision that the address shall select."""
    previous: str | None
    """Revision that keeps its pods until `drain_until`."""
    drain_until: datetime | None

    @property
    def name(self) -> str:
        return str(self.observed.service["metadata"]["name"])

    @property
    def generation(self) -> int:
        return int(self.observed.service["metadata"]["generation"])

    @property
    def kept(self) -> frozenset[str]:
        """Revisions that have pods."""
        target = self.target.name if self.target else None
        return frozenset(filter(None, (self.serving, target, self.previous)))

    def replicas(self, name: str) -> int:
        """Replicas that a revision shall have. A refused spec changes nothing."""
        if self.spec is not None and self.refusal is None:
            return self.spec.scaling.min_replicas
        if name in self.deployments:
            return int(self.deployments[name]["spec"].get("replicas", 1))
        return next((known.replicas for known in self.status.revisions if known.name == name), 1)

    def ready(self, name: str | None) -> int:
        return ready_replicas(self.deployments.get(name or ""))

    def pods_of(self, name: str) -> list[Manifest]:
        return [pod for pod in self.observed.pods if pod["metadata"]["labels"].get(LABEL_REVISION) == name]

    def fault(self, name: str) -> pods.Fault | None:
        """Why a revision's pods do not serve."""
        if refused := _replica_failure(self.deployments.get(name)):
            return pods.Fault(Reason.PODS_REFUSED, refused, terminal=False)
        return pods.worst(self.pods_of(name), self.now, _memory_limit(self.records.get(name)))

    def failed(self, name: str) -> int:
        """Pods of a revision whose last start failed."""
        return sum(pods.fault(pod, self.now) is not None for pod in self.pods_of(name))


def assess(observed: Observed, config: Config, now: datetime) -> Situation:
    """Everything that the plan is made from, derived once."""
    spec, refusal = _parse(observed.service)
    deployments = {child["metadata"]["name"]: child for child in observed.deployments}
    records = {record.name: record for record in map(revision.read, observed.records)}
    for name in deployments.keys() - records.keys():
        records[name] = _from_pods(observed, spec, deployments[name], records)
    fresh: Record | Refusal | None = _render(observed, spec, list(records.values()), config) if spec else None
    target = _target(spec, fresh, records)
    if target is None and isinstance(fresh, Refusal):
        refusal = fresh
    if target is not None and (words := refused_pods(observed, target.name)):
        refusal = Refusal(Reason.INVALID_SPEC, f"the API server refuses the pods of this spec: {words}")
    status, pointer = _status(observed.service), _pointer(observed)
    if target is None:
        running = deployments.keys() | {pointer, status.stable}
        target = max((r for r in records.values() if r.name in running), key=lambda r: r.number, default=None)
    base = Situation(
        observed=observed,
        now=now,
        spec=spec,
        refusal=refusal,
        status=status,
        conditions={condition.type: condition for condition in status.conditions},
        records=records | ({target.name: target} if target else {}),
        deployments=deployments,
        target=target,
        fresh=fresh if isinstance(fresh, Record) else None,
        pointer=pointer,
        stable=None,
        serving=None,
        previous=None,
        drain_until=None,
    )
    return _decide_pointer(base, config)


def _decide_pointer(seen: Situation, config: Config) -> Situation:
    stable = _stable(seen)
    seen = replace(seen, stable=stable)
    serving = _serving(seen)
    previous, until = _draining(seen, serving, config)
    return replace(seen, serving=serving, previous=previous, drain_until=until)


def _stable(seen: Situation) -> str | None:
    """The revision that the address names, once it has answered.

    It stays that whatever befalls its pods: they may come back, and nothing better is there before the target is. But
    pods that are beyond help do not hold the place (the one GPU) that the target's pods wait for.
    """
    pointer = seen.pointer or seen.status.stable
    if pointer is None or pointer not in seen.deployments.keys() | seen.records.keys():
        return None
    if seen.ready(pointer):
        return pointer
    fault = seen.fault(pointer)
    in_the_way = fault is not None and fault.terminal and _is_unscheduled(seen)
    return pointer if seen.status.stable == pointer and not in_the_way else None


def _is_unscheduled(seen: Situation) -> bool:
    fault = seen.fault(seen.target.name) if seen.target else None
    return fault is not None and fault.reason is Reason.UNSCHEDULABLE


def _serving(seen: Situation) -> str | None:
    """Promotion flips the pointer when the target has all its replicas ready; earlier only if nobody else answers."""
    if seen.target is None:
        return seen.stable or seen.pointer
    target = seen.target.name
    if seen.stable is None or is_complete(seen.deployments.get(target), seen.replicas(target)):
        return target
    return target if seen.ready(target) and not seen.ready(seen.stable) else seen.stable


def _draining(seen: Situation, serving: str | None, config: Config) -> tuple[str | None, datetime | None]:
    """The revision that answered until a moment ago, and until when its pods stay.

    A restart between the flip and the status write finds the flip done and the old revision still named stable.
    """
    left = seen.status.stable if seen.pointer == serving else seen.stable
    if left is not None and left != serving and left in seen.deployments:
        return left, seen.now + timedelta(seconds=config.drain_s)
    rollout, previous = seen.status.rollout, seen.status.previous
    if rollout and rollout.phase is Phase.DRAINING and rollout.until and previous and previous != serving:
        until = datetime.fromisoformat(rollout.until)
        if seen.now < until and previous in seen.deployments:
            return previous, until
    return None, None


def _parse(service: Manifest) -> tuple[InferenceServiceSpec | None, Refusal | None]:
    try:
        return InferenceServiceSpec.model_validate(service.get("spec") or {}), None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("spec", *first["loc"])))
        return None, Refusal(Reason.INVALID_SPEC, f"{where}: {first['msg']}")


def _status(service: Manifest) -> InferenceServiceStatus:
    """The last status; an unreadable one counts as none, for nothing depends on it alone."""
    try:
        return InferenceServiceStatus.model_validate(service.get("status") or {})
    except ValidationError:
        return InferenceServiceStatus()


def _pointer(observed: Observed) -> str | None:
    name = observed.service["metadata"]["name"]
    address = next((child for child in observed.services if child["metadata"]["name"] == name), None)
    return address["spec"].get("selector", {}).get(LABEL_REVISION) if address else None


def refused_pods(observed: Observed, name: str) -> str | None:
    """The API server's words about a revision that it does not let be made."""
    return observed.refused.get(("ControllerRevision", name)) or observed.refused.get(("Deployment", name))


def _from_pods(
    observed: Observed, spec: InferenceServiceSpec | None, live: Manifest, records: Mapping[str, Record]
) -> Record:
    """A revision whose record is gone, as its pods still have it: it must not become what it would be today."""
    name, status = live["metadata"]["name"], _status(observed.service)
    template = {"spec": live["spec"]["template"]["spec"]}
    choice = name.rpartition("-")[2]
    if spec is not None:
        service, wanted = observed.service["metadata"]["name"], revision.digest(revision.choice(spec.predictor))
        if name == revision.name(service, wanted, revision.digest(template), follow=True):
            choice = wanted
    storage_uri = next((known.storage_uri for known in status.revisions if known.name == name), "")
    return Record(name, revision.next_number(records.values()), choice, status.runtime or "", storage_uri, template)


def _render(observed: Observed, spec: InferenceServiceSpec, records: list[Record], config: Config) -> Record | Refusal:
    """The revision that this spec would make today."""
    predictor, service = spec.predictor, observed.service["metadata"]["name"]
    runtime = runtimes.choose(predictor.model, observed.runtimes)
    if isinstance(runtime, Refusal):
        return runtime
    image = runtimes.image(runtime.spec.container, predictor.model.runtime_version)
    if isinstance(image, Refusal):
        return image
    template = resources.pod_template(service, predictor, runtime.spec.container, image, config.fetcher_image)
    wanted = revision.digest(revision.choice(predictor))
    rendering, follow = revision.digest(template), predictor.runtime_updates == "Follow"
    return Record(
        name=revision.name(service, wanted, rendering, follow=follow),
        number=revision.next_number(records),
        choice=wanted,
        runtime=runtime.title,
        storage_uri=predictor.model.storage_uri,
        template=template,
    )


def _target(
    spec: InferenceServiceSpec | None, fresh: Record | Refusal | None, records: Mapping[str, Record]
) -> Record | None:
    """The recorded revision of this choice, or a new one."""
    if spec is None:
        return None
    known = revision.recorded(records.values(), revision.digest(revision.choice(spec.predictor)))
    if not isinstance(fresh, Record):
        return known
    if known and (spec.predictor.runtime_updates == "Pinned" or known.rendering == fresh.rendering):
        return known
    return records.get(fresh.name, fresh)


def ready_replicas(deployment: Manifest | None) -> int:
    """Ready pods of the template as it is now."""
    status = (deployment or {}).get("status") or {}
    return int(min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0)))


def is_complete(deployment: Manifest | None, replicas: int) -> bool:
    if deployment is None:
        return False
    seen = (deployment.get("status") or {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return bool(seen and ready_replicas(deployment) >= replicas)


def _replica_failure(deployment: Manifest | None) -> str | None:
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or []
    failure = next((c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
    return str(failure.get("message", "the cluster refuses to create pods")) if failure else None


def _memory_limit(record: Record | None) -> str | None:
    if record is None:
        return None
    resources = record.template["spec"]["containers"][0].get("resources", {})
    limit: str | None = resources.get("limits", {}).get("memory")
    return limit
