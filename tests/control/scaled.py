"""A small cluster under load: gateways that count, pods that answer, an operator that looks each 2 s."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_REVISION
from slipway.control.scaling import Scaler, Sources
from slipway.decide.demand import Demand
from slipway.decide.scaling import seen
from slipway.kube.kinds import DEPLOYMENT, POD
from slipway.signals.load import Side, Tally, add_up
from slipway.signals.pods import PodLoads, Silent
from slipway.signals.report import Counters
from tests.control.world import KEY, World, service
from tests.fake import controllers

if TYPE_CHECKING:
    from slipway.control.workqueue import Lane

STEP_S = 2.0
COUNTED = ("requests", "finished", "held_lost")
METRICS = """\
nv_inference_request_success{{model="hello",version="1"}} {answered:.6f}
nv_inference_request_duration_us{{model="hello",version="1"}} {busy_us:.6f}
nv_inference_queue_duration_us{{model="hello",version="1"}} 0
nv_inference_pending_request_count{{model="hello",version="1"}} 0
slipway_runtime_running_requests{{model="hello",version="1"}} {running:.6f}
"""


def scaled(*, least: int = 1, most: int = 8, name: str = "hello", **scaling: Any) -> Manifest:
    found = service(name=name, containerConcurrency=4)
    found["spec"]["scaling"] = {"minReplicas": least, "maxReplicas": most, **scaling}
    return found


class Traffic:
    """Gateways as `Scaler` sees them: one, whose Envoy counts since `epoch`."""

    def __init__(self) -> None:
        self.counters: dict[str, Counters] = {}
        self.epoch: str | None = "gw-a-1"
        self.age_s = self.heard_s = 0.5
        self.are_known = True
        self.tally = Tally()
        self.clock: Callable[[], float] = float

    def load(self, key: Key, revisions: Collection[str], *, copies: bool = False) -> seen.Load | None:
        if not self.are_known:
            return None
        side = Side(self.epoch, self.counters, is_live=True)
        names = [f"{key[0]}/{revision}" for revision in revisions]
        return add_up(
            [side], names, (self.age_s, self.heard_s), self.tally.of(key, revisions, copies=copies), copies=copies
        )

    def count(self, key: Key, revision: str, **changes: Any) -> None:
        """What the gateway says next: counters grow by what is told, the rest is as told."""
        name = f"{key[0]}/{revision}"
        before = self.counters.get(name, Counters())
        grown = {
            field: getattr(before, field) + changes.pop(field, 0) for field in ("requests", "finished", "held_lost")
        }
        if "latency_ms" not in changes and grown["finished"] > before.finished:
            in_time = before.latency_ms.get("640", 0) + grown["finished"] - before.finished
            changes["latency_ms"] = before.latency_ms | {"640": in_time}
        now = self.counters[name] = before.model_copy(update=grown | changes)
        if now != before:
            self.tally.add(key, ("gw-a", revision), now, before, self.clock())


class Decisions:
    def __init__(self) -> None:
        self.codes: list[str] = []

    def decided(self, code: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.codes.append(code)


class ScalingWorld(World):
    """`pass_time` lets load come and everything react; replicas are ready `load_s` after they were made."""

    def __init__(self, wanted: Manifest | None = None, *, load_s: float = 6.0, service_s: float = 0.5) -> None:
        self.traffic, self.decisions = Traffic(), Decisions()
        self.load_s, self.service_s = load_s, service_s
        self.rivals: dict[tuple[str, str], str] = {}
        self.added: list[tuple[Key, Lane]] = []
        self.answered: dict[str, float] = {}
        """Of each pod that has an address."""
        self.each_running = 0.0
        self.mute: set[str] = set()
        """Addresses of pods that do not answer."""
        self.history: list[int] = []
        self.key = KEY
        super().__init__()
        self.scaling = self
        self.restart()
        if wanted is not None:
            self.user_applies(wanted)
            self.key = (wanted["metadata"]["namespace"], wanted["metadata"]["name"])

    def restart(self) -> None:
        super().restart()
        self.traffic.clock = self._elapsed_s
        self.pods = PodLoads(self._ask, clock=self._elapsed_s)
        self.scaler = Scaler(
            cache=self.cache,
            sources=Sources(self.traffic, self.pods, self.metrics, lambda *name: self.rivals.get(name, "")),
            add=lambda key, lane: self.added.append((key, lane)),
            observer=self.decisions,
            wall=self._wall_s,
            monotonic=self._elapsed_s,
        )

    def _wall_s(self) -> float:
        return (self.store.now + self.skew).timestamp()

    def demand(self, key: Key) -> Mapping[str, Demand]:
        return self.scaler.demand(key)

    def loads(self, key: Key) -> Mapping[str, float]:
        return self.scaler.loads(key)

    def autoscalers(self, key: Key) -> Mapping[str, str]:
        return self.scaler.autoscalers(key)

    async def _ask(self, address: str, port: int) -> bytes:
        assert port == 8080
        if address in self.mute:
            raise Silent(address)
        answered = self.answered.get(address, 0.0)
        figures = {"answered": answered, "busy_us": answered * self.service_s * 1e6, "running": self.each_running}
        return METRICS.format(**figures).encode()

    @property
    def deployments(self) -> list[Manifest]:
        return self.store.list(DEPLOYMENT, self.key[0])

    @property
    def revision(self) -> str:
        return str(self.status.get("stable") or self.deployments[-1]["metadata"]["name"])

    @property
    def replicas(self) -> int:
        return int(self.get(DEPLOYMENT, self.revision)["spec"]["replicas"])

    @property
    def ready(self) -> int:
        return len(self.ready_pods)

    @property
    def ready_pods(self) -> list[Manifest]:
        own = [p for p in self.store.list(POD) if p["metadata"]["labels"][LABEL_REVISION] == self.revision]
        return [p for p in own if p.get("status") and controllers.is_ready(p)]

    async def begin(self) -> None:
        """The service as it is once its first replica is ready and gateways know it."""
        await self.operate()
        await self.pass_time(self.load_s + 8, rate=0.0)

    async def pass_time(self, seconds: float, *, rate: float = 0.0, held: int = 0) -> None:
        """Requests come evenly and take `service_s` each; `held` wait for a first replica."""
        for _ in range(round(seconds / STEP_S)):
            self.wait(STEP_S)
            self._arrive(rate, held)
            await self.step()

    def _arrive(self, rate: float, held: int) -> None:
        pods = self.ready_pods
        if not pods:
            if self.deployments:
                self.traffic.count(self.key, self.revision, held=held, active=0)
            return
        number = rate * STEP_S
        for pod in pods:
            address = pod["status"]["podIP"]
            self.answered[address] = self.answered.get(address, 0.0) + number / len(pods)
        self.each_running = rate * self.service_s / len(pods)
        active = round(rate * self.service_s)
        self.traffic.count(
            self.key, self.revision, requests=round(number), finished=round(number), active=active, held=0
        )

    async def step(self) -> None:
        """The operator looks once, and what it decides is carried out."""
        for pod in self.pods.due():
            await self.pods.ask(pod)
        await self.scaler.tick()
        await self.catch_up()

    async def catch_up(self) -> None:
        for key in dict.fromkeys(key for key, _ in self.added):
            await self.operate(key)
        self.added.clear()
        if self._is_settled():
            return
        controllers.gc(self.store)
        self._settle()
        await self.operate(self.key)

    def _settle(self) -> None:
        controllers.settle(self.store, load_s=self.load_s)

    def _is_settled(self) -> bool:
        """Whether the rest of the cluster has nothing to do."""
        pods = self.store.list(POD)
        self.history += [self.replicas] if self.deployments else []
        wanted = sum(int(one["spec"]["replicas"]) for one in self.deployments)
        return wanted == len(pods) == sum(bool(pod.get("status")) and controllers.is_ready(pod) for pod in pods)
