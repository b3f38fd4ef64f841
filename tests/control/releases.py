"""A small cluster in which time passes: requests come, pods start, gateways follow, the operator is woken as it asked.

Beside it a witness looks at every version of every object that is ever written, as a watcher does, and holds it against
the rules that always hold (DESIGN.md, section 5).
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slipway.api.manifest import Manifest
from slipway.api.names import ABORT, COMMAND
from slipway.api.traffic import WHOLE
from slipway.control.worker import Done
from slipway.decide.release import EDGES_MS, Sample
from slipway.kube.errors import KubeError
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, INFERENCE_SERVICE, Kind
from tests.control.world import KEY, World, service
from tests.fake import controllers, faults
from tests.fake.controllers import Failure

STEPS = [{"weight": "5%", "hold": "20s"}, {"weight": "25%", "hold": "20s"}, {"weight": "50%", "hold": "20s"}]
GOOD, NEW, BAD, NEWER = (f"sample://hello{end}" for end in ("", "-v2", "-bad", "-v3"))


def released(uri: str = GOOD, *, replicas: int = 2, **rollout: Any) -> Manifest:
    """A service whose revisions come by steps of 20 s."""
    wanted = service(uri, replicas=replicas)
    way = {"steps": STEPS} if rollout.get("strategy", "Canary") == "Canary" else {}
    wanted["spec"]["rollout"] = way | {"scaleDownDelay": "10s"} | rollout
    return wanted


@dataclass
class Behaviour:
    """How the pods of one model do."""

    starts_in_s: float = 3
    failure: Failure | None = None
    errors: float = 0.0
    """Share of the requests that fail."""
    rejected: float = 0.0
    """Share of the requests that it will not have."""
    bucket: int = 6
    """Index of the latency bucket of every answer."""


@dataclass
class Witness:
    """Told of every write; `faults` are the rules that one of them broke."""

    world: "Releases"
    faults: list[str] = field(default_factory=list)
    tables: list[dict[str, int]] = field(default_factory=list)
    """Revision -> weight, of every routing that was written, without repetitions."""
    phases: list[str] = field(default_factory=list)
    aborted_at: list[dict[str, int]] = field(default_factory=list)
    """Weights in the versions that were the first to tell of an abort."""
    _abort: str = ""

    def see(self, type_: str, kind: Kind, manifest: Manifest) -> None:
        if kind == DEPLOYMENT and type_ == "DELETED":
            self._leaves(manifest["metadata"]["name"])
        if kind == DEPLOYMENT and type_ == "MODIFIED":
            self._keeps_capacity(manifest)
        if kind == INFERENCE_SERVICE and type_ == "MODIFIED" and "routing" in manifest.get("status", {}):
            self._led(manifest["status"])

    def _led(self, status: Manifest) -> None:
        weights = {target["revision"]: target["weight"] for target in status["routing"]["targets"]}
        if not self.tables or self.tables[-1] != weights:
            self.tables.append(weights)
        phase = status["rollout"]["phase"]
        if not self.phases or self.phases[-1] != phase:
            self.phases.append(phase)
        if (abort := str(status["rollout"].get("abort", ""))) != self._abort:
            self.aborted_at += [weights] if abort else []
            self._abort = abort
        if sum(weights.values()) != WHOLE:
            self.faults.append(f"rule 1: weights {weights} do not sum to the whole")
        for name, weight in weights.items():
            if weight and name != status.get("stable", name) and not self.world.ready(name):
                self.faults.append(f"rule 1: {name} gets {weight} and has no ready pod")

    def _leaves(self, name: str) -> None:
        """Rule 2: no gateway leads to pods that go, unless none of them answers."""
        for table in self.world.gateways.serving(KEY):
            weight = {target["revision"]: target["weight"] for target in table["targets"]}.get(name)
            if weight and self.world.ready(name):
                self.faults.append(f"rule 2: {name} goes while a gateway leads {weight} there")

    def _keeps_capacity(self, manifest: Manifest) -> None:
        """Rule 3: who has a share that gateways serve keeps the replicas for it."""
        name, replicas = manifest["metadata"]["name"], manifest["spec"]["replicas"]
        needed = self.world.replicas - (1 if self.world.lends else 0)
        for table in self.world.gateways.serving(KEY):
            weight = {target["revision"]: target["weight"] for target in table["targets"]}.get(name, 0)
            if replicas < math.ceil((weight - 1) * needed / WHOLE):
                self.faults.append(f"rule 3: {name} has {replicas} replicas for {weight / 100:g}% of {needed}")


class Releases(World):
    def __init__(self) -> None:
        self.replicas, self.lends = 2, False
        self.rate = 200.0
        self.fault: faults.Faults = faults.none
        self.unbroken = 0
        """Writes before `break_at`."""
        self.models: dict[str, Behaviour] = defaultdict(Behaviour)
        self.asked: dict[str, int] = {}
        """Deployment's uid -> its replicas."""
        self.starting: dict[str, tuple[float, str]] = {}
        """Deployment's uid -> when its pods were asked for, and their model."""
        self.uris: dict[str, str] = {}
        self.heard: list[str] = []
        self.has_gone = self.is_news = False
        self.owed: dict[str, float] = defaultdict(float)
        """Parts of requests and of errors that have not come yet."""
        self.is_due, self.due_at, self.reconciles = True, math.inf, 0
        self.every_second: list[Callable[[], None]] = []
        self.served: dict[str, int] = defaultdict(int)
        super().__init__()
        self.witness = Witness(self)
        self.store.watch(self.witness.see)
        self.store.watch(self._watch_pods)

    def break_at(self, fault: faults.Faults) -> None:
        """Have a write fail, counted from now on over all lives of the operator."""
        count = 0

        def counted(_: int, call: faults.Call) -> faults.Fault | None:
            nonlocal count
            count += 1
            return fault(count - 1, call)

        self.fault = self.kube.fault = counted
        self.unbroken = len(self.kube.writes)

    def restart(self) -> None:
        super().restart()
        self.kube.fault = self.fault
        self.is_due, self.due_at = True, math.inf
        self.gateways.windows.drop(KEY)

    def _deliver(self, type_: str, kind: Kind, manifest: Manifest) -> None:
        keys = (self.cache.remove if type_ == "DELETED" else self.cache.put)(kind, manifest)
        self.is_due = self.is_due or KEY in keys
        self.is_news = self.is_news or kind == INFERENCE_SERVICE

    def ready(self, name: str) -> int:
        live = self.store.get(DEPLOYMENT, "team", name)
        return int((live or {}).get("status", {}).get("readyReplicas", 0))

    async def live(self, seconds: float, *, until: Callable[[], bool] | None = None) -> float:
        """Let time pass, until something is so; how long that took."""
        for passed in range(int(seconds)):
            if until is not None and until():
                return passed
            self.wait(1)
            for happens in self.every_second:
                happens()
            self._start_pods()
            self._send_requests()
            if self._follow():
                self.is_due = True
            await self.wake()
        assert until is None or until(), f"not within {seconds:g} s: {self.told()}"
        return seconds

    async def wake(self) -> None:
        """Reconcile as long as there is news, or a time has come."""
        for _ in range(60):
            if not self.is_due and self._elapsed_s() < self.due_at:
                return
            self.is_due, self.due_at = False, math.inf
            self.reconciles += 1
            try:
                outcome = await self.reconciler(KEY)
            except KubeError:
                self.is_due = True
                continue
            except faults.Crash:
                self.restart()
                continue
            if isinstance(outcome, Done) and outcome.requeue_after_s is not None:
                self.due_at = self._elapsed_s() + max(0.001, outcome.requeue_after_s)
            self.is_due = self._follow() or self.is_due
        raise AssertionError(f"the operator does not come to rest: {self.kube.writes[-5:]}")

    def _start_pods(self) -> None:
        """Pods of a Deployment are ready some time after they were asked for; calm costs nothing."""
        if self.has_gone:
            self.has_gone = False
            controllers.gc(self.store)
        for uid, (asked, uri) in list(self.starting.items()):
            does = self.models[uri]
            if self._elapsed_s() - asked >= does.starts_in_s:
                controllers.settle(self.store, failure=does.failure, only=_is(uid))
                self.starting.pop(uid)

    def _watch_pods(self, type_: str, kind: Kind, manifest: Manifest) -> None:
        if kind != DEPLOYMENT:
            return
        uid, wanted = manifest["metadata"]["uid"], manifest["spec"]["replicas"]
        self.has_gone = self.has_gone or type_ == "DELETED"
        if type_ == "DELETED" or self.asked.get(uid) == wanted:
            return
        self.asked[uid] = wanted
        self.starting[uid] = (self._elapsed_s(), self.uri(manifest["metadata"]["name"]))

    def _follow(self) -> bool:
        """Gateways that hear take what is new; whether there was anything."""
        heard = [name for name, pod in self.gateways.pods.items() if not pod.is_silent]
        if self.is_news or heard != self.heard:
            self.is_news, self.heard = False, heard
            return self.gateways.take()
        for name in heard:
            self.gateways.pods[name].said_at = self.store.now
        return False

    def _send_requests(self) -> None:
        """A second of traffic, shared out as the gateways do it."""
        tables = self.gateways.serving(KEY)
        for table in tables:
            for target in table["targets"]:
                self._count(target["revision"], self.rate / len(tables) * target["weight"] / WHOLE)
            if mirror := table.get("mirror"):
                copies = self.rate / len(tables) * mirror["share"] / WHOLE
                self._count(mirror["revision"], copies, is_copy=True)

    def _count(self, revision: str, requests: float, *, is_copy: bool = False) -> None:
        does = self.models[self.uri(revision)]
        place = f"{revision} {is_copy}"
        whole = self._part(place, requests)
        errors = self._part(f"{place} errors", whole * does.errors)
        rejected = self._part(f"{place} rejected", whole * does.rejected)
        latency = tuple(whole if index == does.bucket else 0 for index in range(len(EDGES_MS) + 1))
        sample = Sample(whole, errors, latency if whole else (), rejected)
        if is_copy:
            self.gateways.count(KEY, revision, Sample(), sample)
        else:
            self.served[revision] += whole
            self.gateways.count(KEY, revision, sample)

    def _part(self, place: str, more: float) -> int:
        """Whole ones of what has come; the rest is owed."""
        self.owed[place] += more
        whole = int(self.owed[place])
        self.owed[place] -= whole
        return whole

    def uri(self, revision: str) -> str:
        """The model of a revision."""
        if revision not in self.uris:
            self.uris[revision] = str(self.get(CONTROLLER_REVISION, revision)["data"]["storageUri"])
        return self.uris[revision]

    def revision(self, uri: str) -> str:
        """The revision of a model."""
        return next(str(known["name"]) for known in self.status["revisions"] if known.get("storageUri") == uri)

    def command(self, text: str) -> None:
        """`VERB ID`, as `kubectl annotate` writes it."""
        verb, _, id_ = text.partition(" ")
        name, value = (ABORT, id_) if verb == "abort" else (COMMAND, text)

        def annotate(live: Manifest) -> None:
            live["metadata"].setdefault("annotations", {})[name] = value

        self.store.edit(INFERENCE_SERVICE, *KEY, annotate, manager="kubectl-annotate")

    @property
    def release(self) -> Manifest:
        found: Manifest = self.status.get("rollout", {})
        return found

    @property
    def phase(self) -> str:
        return str(self.release.get("phase", ""))

    def share(self, revision: str) -> int:
        return self.weights.get(revision, 0)

    def told(self, reason: str = "") -> list[str]:
        """History, oldest first."""
        entries = [f"{each['reason']}: {each.get('message', '')}" for each in reversed(self.status.get("history", []))]
        return [entry for entry in entries if entry.startswith(reason)]


def _is(uid: str) -> Callable[[Manifest], bool]:
    return lambda deployment: bool(deployment["metadata"]["uid"] == uid)
