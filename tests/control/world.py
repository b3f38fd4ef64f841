"""A small cluster for one operator: the fake API server, its watch wired to the cache, a clock that tests move."""

from collections.abc import Coroutine, Iterable, Iterator, Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any, TypeVar

from slipway.api.manifest import Key, Manifest
from slipway.api.names import API_VERSION
from slipway.control.cache import Cache
from slipway.control.judging import Judging
from slipway.control.reconcile import Clocks, Demands, Reconciler, Sources
from slipway.control.trials import Comparisons, Trials
from slipway.decide.demand import Demand
from slipway.decide.network import Network
from slipway.decide.release import Reading
from slipway.decide.types import Config, Fetched
from slipway.kube.errors import KubeError
from slipway.kube.kinds import (
    CLUSTER_SERVING_RUNTIME,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    INFERENCE_SERVICE,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Kind,
)
from tests.fake import controllers
from tests.fake.client import FakeKube
from tests.fake.gateways import FakeGateways
from tests.fake.store import Store

T = TypeVar("T")
KEY: Key = ("team", "hello")
IMAGE = "slipway/runtime:1"
NETWORK = Network(
    ingress=({"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}], "ports": [{"port": "http"}]},),
    egress=({"ports": [{"port": 443, "protocol": "TCP"}]},),
)
WATCHED = (
    INFERENCE_SERVICE,
    CLUSTER_SERVING_RUNTIME,
    DEPLOYMENT,
    SERVICE,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
    CONTROLLER_REVISION,
    POD,
    ENDPOINT_SLICE,
)


def service(uri: str = "sample://hello", *, name: str = "hello", replicas: int = 1, **predictor: Any) -> Manifest:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri} | predictor.pop("model", {})
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"predictor": {"model": model, **predictor}, "scaling": {"minReplicas": replicas}},
    }


def split(uri: str, weight: str, *, replicas: int = 1, extra: str = "", **more: Any) -> Manifest:
    """A service with a variant `b` of that model and weight; with `extra` a second one, `c`."""
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri}
    variants = [{"name": "b", "model": model, "weight": weight, **more}]
    variants += [{"name": "c", "model": model, "weight": extra}] if extra else []
    wanted = service(replicas=replicas)
    wanted["spec"]["traffic"] = {"variants": variants}
    return wanted


def runtime(image: str = IMAGE, **spec: Any) -> Manifest:
    formats = [{"name": "torchscript"}, {"name": "torch-export"}]
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterServingRuntime",
        "metadata": {"name": "slipway-pytorch"},
        "spec": {"supportedModelFormats": formats, "container": {"image": image}} | spec,
    }


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing but its turn, as everything does here: no event loop is needed."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value


class Recorder:
    """Keeps an event that history has once only, as the API server does with one that has a name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self._named: set[tuple[str, str, str]] = set()

    def record(self, regarding: Manifest, type_: str, reason: str, note: str, action: str, *, at: str = "") -> None:
        if at and (reason, note, at) in self._named:
            return
        self._named.add((reason, note, at))
        self.events.append((type_, reason, note))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events]


class Measured:
    """What Prometheus says, as a test has it."""

    def __init__(self) -> None:
        self.readings: dict[str, Reading] = {}
        self.each: dict[tuple[str, str], Reading] = {}
        self.asked: list[tuple[str, str]] = []

    def of(self, key: Key, metrics: Mapping[str, str], stable: str, candidate: str) -> Mapping[str, Reading]:
        self.asked.append((stable, candidate))
        return {name: self.readings[name] for name in metrics if name in self.readings}

    def of_each(
        self, key: Key, metrics: Mapping[str, str], revisions: Iterable[str]
    ) -> Mapping[tuple[str, str], Reading]:
        wanted = [(name, revision) for name in metrics for revision in revisions]
        return {place: self.each[place] for place in wanted if place in self.each}


class Demanded:
    """What scaling asks of the service, as a test has it: by variant, and requests by pod."""

    def __init__(self) -> None:
        self.of: dict[str, Demand] = {}
        self.pods: dict[str, float] = {}
        self.others: dict[str, str] = {}
        """Deployment -> another autoscaler."""

    def demand(self, _key: Key) -> Mapping[str, Demand]:
        return self.of

    def loads(self, _key: Key) -> Mapping[str, float]:
        return self.pods

    def autoscalers(self, _key: Key) -> Mapping[str, str]:
        return self.others


class Downloading:
    """What pods say of their downloads, as a test has it."""

    def __init__(self) -> None:
        self.pods: dict[str, Fetched] = {}

    def of(self, _key: Key) -> Mapping[str, Fetched]:
        return self.pods


class World:
    """`operate` runs the operator until it has nothing more to do; `settle` lets the rest of the cluster catch up."""

    def __init__(self) -> None:
        self.store, self.recorder = Store(), Recorder()
        self.kube = FakeKube(self.store)
        self.gateways = FakeGateways(self.store)
        self.metrics = Measured()
        self.demanded = Demanded()
        self.scaling: Demands = self.demanded
        self.skew = timedelta()
        self.downloads = Downloading()
        self.config = Config(fetcher_image=IMAGE, network=NETWORK)
        self.store.create(CLUSTER_SERVING_RUNTIME, runtime(), manager="helm")
        self.store.watch(self._deliver)
        self.restart()

    def restart(self) -> None:
        """A new operator process: nothing remembered, everything listed anew."""
        self.kube = FakeKube(self.store)
        self.cache = Cache()
        for kind in WATCHED:
            for manifest in drive(self.kube.list(kind, None)):
                self.cache.put(kind, manifest)
        self.reconciler = Reconciler(
            kube=self.kube,
            cache=self.cache,
            events=self.recorder,
            sources=Sources(self.gateways, self.scaling, self.downloads),
            comparisons=Comparisons(Judging(self.gateways, self.metrics), Trials(self.gateways, self.metrics)),
            config=self.config,
            clocks=Clocks(lambda: self.store.now + self.skew, self._elapsed_s),
        )

    def _deliver(self, type_: str, kind: Kind, manifest: Manifest) -> None:
        (self.cache.remove if type_ == "DELETED" else self.cache.put)(kind, manifest)

    def user_applies(self, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        if self.store.get(INFERENCE_SERVICE, meta["namespace"], meta["name"]) is None:
            self.store.create(INFERENCE_SERVICE, manifest, manager="kubectl")
            return

        def change(live: Manifest) -> None:
            live["spec"] = deepcopy(manifest["spec"])

        self.store.edit(INFERENCE_SERVICE, meta["namespace"], meta["name"], change, manager="kubectl")

    async def operate(self, key: Key = KEY, *, tries: int = 30) -> None:
        for _ in range(tries):
            before = len(self.kube.writes)
            try:
                await self.reconciler(key)
            except KubeError:
                continue
            if not self.gateways.take() and len(self.kube.writes) == before:
                return
        raise AssertionError(f"the operator still writes after {tries} reconciles: {self.kube.writes[-5:]}")

    def _elapsed_s(self) -> float:
        return self.store.now.timestamp()

    def wait(self, seconds: float) -> None:
        self.store.now += timedelta(seconds=seconds)

    async def converge(self, key: Key = KEY) -> None:
        """Operator and cluster in turns until nothing moves, drains included."""
        for _ in range(4):
            await self.operate(key)
            controllers.gc(self.store)
            controllers.settle(self.store)
            self.wait(6)
        await self.operate(key)

    @property
    def status(self) -> Manifest:
        found = self.store.get(INFERENCE_SERVICE, *KEY)
        assert found is not None
        status: Manifest = found.get("status", {})
        return status

    @property
    def weights(self) -> dict[str, int]:
        """Revision -> share out of 10 000, as gateways are to serve it."""
        return {target["revision"]: target["weight"] for target in self.status["routing"]["targets"]}

    def condition(self, kind: str) -> Manifest:
        return next((c for c in self.status["conditions"] if c["type"] == kind), {})

    def names(self, kind: Kind) -> list[str]:
        return [manifest["metadata"]["name"] for manifest in self.store.list(kind, "team")]

    def get(self, kind: Kind, name: str) -> Manifest:
        found = self.store.get(kind, "team", name)
        assert found is not None, f"{kind.kind} {name} does not exist; there are {self.names(kind)}"
        return found

    def picture(self) -> dict[str, Any]:
        """Everything that counts for "the same end state": names, specs, and the status without its times."""
        kinds = (CONTROLLER_REVISION, DEPLOYMENT, SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY)
        children = {
            (kind.kind, m["metadata"]["name"]): (_stable_spec(m), m.get("data"), m["metadata"]["labels"])
            for kind in kinds
            for m in self.store.list(kind, "team")
        }
        return {"children": children, "status": dict(_timeless(self.status))}


def _stable_spec(manifest: Manifest) -> Manifest:
    """Spec without the addresses that the API server hands out."""
    return {field: value for field, value in manifest.get("spec", {}).items() if not field.startswith("clusterIP")}


def _timeless(status: Manifest) -> Iterator[tuple[str, Any]]:
    for field, value in status.items():
        if field == "conditions":
            yield field, [{k: v for k, v in c.items() if k != "lastTransitionTime"} for c in value]
        elif field == "rollout":
            yield field, value["phase"]
        elif field != "history":
            yield field, value


def changed_runtime(world: World) -> Manifest:
    live = world.store.get(CLUSTER_SERVING_RUNTIME, None, "slipway-pytorch")
    assert live is not None
    return runtime("slipway/runtime:2") | {"metadata": live["metadata"]}
