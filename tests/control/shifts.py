"""A service with variants under load: requests go where gateways lead, and who gets more than it carries is noted."""

import itertools
from collections import defaultdict
from typing import Any

from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_REVISION, LABEL_VARIANT
from slipway.api.traffic import WHOLE
from slipway.kube.kinds import DEPLOYMENT, POD
from tests.control.scaled import METRICS, STEP_S, ScalingWorld, scaled
from tests.control.world import KEY
from tests.fake import controllers, faults

SLOTS = 4
"""Requests that a pod works on at once."""
DEADLINE_S = 60


def wanted(*, least: int = 2, most: int = 8, rollout: Manifest | None = None, **weights: Any) -> Manifest:
    """Variants by name, each with a weight, or with more fields of its own."""
    found = scaled(least=least, most=most, idleAfter="20s")
    variants = []
    for name, own in weights.items():
        fields = own if isinstance(own, dict) else {"weight": own}
        model = {"modelFormat": {"name": "torchscript"}, "storageUri": f"sample://hello-{name}"}
        variants.append({"name": name, "model": model, **fields})
    found["spec"]["traffic"] = {"variants": variants}
    found["spec"]["rollout"] = {"steps": [{"weight": "50%"}], "progressDeadline": f"{DEADLINE_S}s"} | (rollout or {})
    return found


class Shifts(ScalingWorld):
    def __init__(self, manifest: Manifest, *, load_s: float = 4.0) -> None:
        self.lost = 0.0
        """Requests that nobody was there for."""
        self.overloads: list[str] = []
        self.stuck: set[str] = set()
        """Variants whose pods never become ready."""
        self.roomless: set[str] = set()
        """Variants whose pods find no node."""
        self.running: dict[str, float] = {}
        self.owed: dict[str, float] = defaultdict(float)
        self.crashes = 0
        super().__init__(manifest, load_s=load_s)

    async def _ask(self, address: str, port: int) -> bytes:
        answered = self.answered.get(address, 0.0)
        figures = {"answered": answered, "busy_us": answered * self.service_s * 1e6}
        return METRICS.format(**figures, running=self.running.get(address, 0.0)).encode()

    def break_at(self, fault: faults.Faults) -> None:
        """The first process that writes from now on meets it."""
        count = itertools.count()
        self.kube.fault = lambda _, call: fault(next(count), call)

    async def operate(self, key: Key = KEY, *, tries: int = 30) -> None:
        while True:
            try:
                return await super().operate(key, tries=tries)
            except faults.Crash:
                self.crashes += 1
                self.restart()

    async def step(self) -> None:
        """And once more, as the operator asked for by itself."""
        await super().step()
        await self.operate()

    def _is_settled(self) -> bool:
        return super()._is_settled() and not (self.stuck or self.roomless)

    def _settle(self) -> None:
        odd = self.stuck | self.roomless
        controllers.settle(self.store, load_s=self.load_s, only=lambda one: _variant(one) not in odd)
        controllers.settle(self.store, ready=False, only=lambda one: _variant(one) in self.stuck)
        if self.roomless:
            controllers.no_node(self.store, only=lambda one: _variant(one) in self.roomless)
            for pod in self.store.list(POD):
                if _variant(pod) in self.roomless:
                    self.store.edit(
                        POD, "team", pod["metadata"]["name"], _no_gpu, manager="kube-scheduler", subresource="status"
                    )

    def _arrive(self, rate: float, held: int) -> None:
        """Shared out by the tables that gateways have."""
        tables = self.gateways.serving(self.key)
        parts, holds = defaultdict[str, float](float), set[str]()
        for target in (target for table in tables for target in table["targets"]):
            parts[target["revision"]] += rate * target["weight"] / WHOLE / len(tables)
            holds |= {target["revision"]} if target.get("holdMs") else set()
        for name, part in parts.items():
            self._lead(name, part, is_held=name in holds)

    def _lead(self, name: str, rate: float, *, is_held: bool) -> None:
        pods, number = self.ready_of(name), self._whole(name, rate * STEP_S)
        active = round(rate * self.service_s)
        if not pods:
            self.lost += 0 if is_held else number
            self.traffic.count(self.key, name, held=number if is_held else 0, active=0)
            return
        each = rate * self.service_s / len(pods)
        if each > SLOTS:
            self.overloads.append(f"{name}: {each:.1f} at once in each of {len(pods)}")
        for pod in pods:
            address = pod["status"]["podIP"]
            self.answered[address] = self.answered.get(address, 0.0) + number / len(pods)
            self.running[address] = each
        self.traffic.count(self.key, name, requests=number, finished=number, active=active, held=0)

    def _whole(self, name: str, more: float) -> int:
        self.owed[name] += more
        whole = int(self.owed[name])
        self.owed[name] -= whole
        return whole

    def ready_of(self, name: str) -> list[Manifest]:
        own = [pod for pod in self.store.list(POD) if pod["metadata"]["labels"][LABEL_REVISION] == name]
        return [pod for pod in own if pod.get("status") and controllers.is_ready(pod)]

    def of(self, variant: str) -> str:
        """The newest revision of an arm."""
        return str([one for one in self.deployments if _variant(one) == variant][-1]["metadata"]["name"])

    def share(self, variant: str) -> int:
        """In force, out of 10 000."""
        targets = self.status["routing"]["targets"]
        return sum(target["weight"] for target in targets if target["variant"] == variant)

    def asked(self, variant: str) -> int:
        return int(self.get(DEPLOYMENT, self.of(variant))["spec"]["replicas"])

    def waiting(self, variant: str) -> Manifest:
        """What status says of an arm that is to get more; {} where nothing is."""
        arms: list[Manifest] = (self.status.get("shift") or {}).get("arms", [])
        return next((arm for arm in arms if arm["variant"] == variant), {})

    @property
    def message(self) -> str:
        return str((self.status.get("shift") or {}).get("message", ""))

    def told(self, reason: str) -> list[str]:
        return [note for _, kind, note in self.recorder.events if kind == reason]

    async def apply(self, manifest: Manifest) -> None:
        self.user_applies(manifest)
        await self.operate()

    def assert_unharmed(self) -> None:
        assert (self.lost, self.overloads) == (0, [])


def _variant(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"].get(LABEL_VARIANT, ""))


def _no_gpu(live: Manifest) -> None:
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    live["status"]["conditions"][0] |= {"message": message, "lastTransitionTime": "2020-01-01T00:00:00Z"}


async def under_load(rate: float = 20.0, seconds: float = 40, *, load_s: float = 4.0, **spec: Any) -> Shifts:
    """A service that has carried `rate` for a while: of 0.5 s each, 4 at once in a pod."""
    world = Shifts(wanted(**spec), load_s=load_s)
    await world.begin()
    await world.pass_time(10)  # that nobody asks is known by now, so that weights of the first spec count at once
    await world.pass_time(seconds, rate=rate)
    world.lost, world.overloads = 0.0, []
    return world
