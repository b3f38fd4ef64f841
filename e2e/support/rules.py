"""What holds at every instant of a release, checked on every version of every object that a watcher saw.

In the order in which things became true: versions count up over all objects of a cluster.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from e2e.support.api import Manifest
from e2e.support.history import Change
from e2e.support.manifests import LABEL_REVISION
from e2e.support.releases import WHOLE, Record, share_needs
from e2e.support.team import is_ready

SLICE_OF = "kubernetes.io/service-name"


@dataclass(slots=True)
class Picture:
    """The namespace as of one version."""

    name: str
    ready: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Revision -> slice -> endpoints that take requests."""
    replicas: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    is_known: bool = False
    """Whether the service was seen before. What it was when the record began is not judged: other objects of that time
    may have been written after it, and their versions before that nobody saw."""
    version: str = ""
    needed: int = 1
    lent: int = 0
    """Replicas that stable may give up for the candidate's while it still has their share."""
    stable: str = ""
    is_ending: bool = False
    pods: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Revision -> its ready pods, by uid."""
    promoted: dict[str, set[str]] = field(default_factory=dict)
    """Revision -> the pods that it was promoted with."""
    broken: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    """Where there were fewer ready pods than there had to be."""

    def ready_of(self, revision: str) -> int:
        return sum(self.ready[revision].values())

    def needs(self, weight: int) -> int:
        """Replicas that so much of the traffic cannot do without."""
        return max(share_needs(self.needed, weight) - self.lent, 1 if weight else 0)


def assert_rules(record: Record, name: str = "hello", *, pods_die: bool = False, lent: int = 0) -> None:
    """`pods_die`: the scenario itself takes pods away, so that how many are ready is not Slipway's alone."""
    picture = Picture(name, lent=lent)
    kinds = (
        (record.slices, _slice),
        (record.pods, _pod),
        (record.deployments, _deployment),
        (record.services, _service),  # of what is there at the beginning last: it is held against the others
    )
    changes = [(change.version, change, take) for history, take in kinds for change in history.changes.copy()]
    for _, change, take in sorted(changes, key=lambda each: each[0]):
        take(picture, change)
    broken = picture.broken + ([] if pods_die else picture.short)
    assert not broken, f"{len(broken)} times a rule did not hold:\n" + "\n".join(broken[:20])


def _at(change: Change, what: str) -> str:
    return f"at {change.version}: {what}"


def _slice(picture: Picture, change: Change) -> None:
    endpoints = [] if change.type == "DELETED" else change.object.get("endpoints") or []
    revision = change.object["metadata"].get("labels", {}).get(SLICE_OF, "")
    # Absent is true: so the API says of `ready` and `serving`.
    picture.ready[revision][change.name] = sum(bool(each["conditions"].get("serving", True)) for each in endpoints)


def _service(picture: Picture, change: Change) -> None:
    live = change.object
    if change.name != picture.name:
        return
    picture.is_ending = change.type == "DELETED" or "deletionTimestamp" in live["metadata"]
    picture.needed = live["spec"].get("scaling", {}).get("minReplicas", 1)
    status = live.get("status", {})
    routing = status.get("routing") or {}
    if routing.get("version", "") != picture.version:
        _routing(picture, change, routing, is_first=not (picture.is_known and status.get("stable")))
    if (stable := status.get("stable") or "") != picture.stable:
        if picture.stable:
            picture.promoted[stable] = set(picture.pods[stable])
            if not picture.pods[stable]:
                picture.short.append(_at(change, f"{stable} was promoted without a ready pod"))
        picture.stable = stable
    picture.is_known = True


def _routing(picture: Picture, change: Change, routing: Manifest, *, is_first: bool) -> None:
    """Rules 1 and 3: weights are whole, and capacity comes before traffic; but for the first, which has no other."""
    weights: dict[str, int] = defaultdict(int)
    for target in routing.get("targets", []):
        weights[target["revision"]] += target["weight"]
    if weights and sum(weights.values()) != WHOLE:
        picture.broken.append(_at(change, f"the weights are {dict(weights)}"))
    for revision, weight in weights.items():
        needs = picture.needs(weight)
        if not is_first and weight > picture.weights.get(revision, 0) and picture.ready_of(revision) < needs:
            ready = picture.ready_of(revision)
            picture.short.append(_at(change, f"{revision} got {weight} with {ready} of {needs} ready endpoints"))
    picture.weights, picture.version = dict(weights), routing.get("version", "")


def _deployment(picture: Picture, change: Change) -> None:
    """Rules 2 and 3: traffic is gone before capacity."""
    wanted = 0 if change.type == "DELETED" else change.object["spec"].get("replicas", 1)
    before, weight = picture.replicas.get(change.name, 0), picture.weights.get(change.name, 0)
    if wanted < before and wanted < picture.needs(weight) and not picture.is_ending:
        what = f"{change.name} went from {before} to {wanted} replicas with a weight of {weight}"
        picture.broken.append(_at(change, what))
    picture.replicas[change.name] = wanted


def _pod(picture: Picture, change: Change) -> None:
    """Rule 4: the pods that were judged are the pods that serve."""
    about = change.object["metadata"]
    revision, uid = about.get("labels", {}).get(LABEL_REVISION, ""), about["uid"]
    is_going = change.type == "DELETED" or "deletionTimestamp" in about
    picture.pods[revision].discard(uid)
    if is_ready(change.object) and not is_going:
        picture.pods[revision].add(uid)
    its_own = picture.promoted.get(revision, set())
    if is_going and uid in its_own and revision == picture.stable and not picture.is_ending:
        picture.short.append(_at(change, f"pod {change.name}, with which {revision} was promoted, goes"))
        its_own.discard(uid)
