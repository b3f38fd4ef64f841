"""The control plane's speed and size: python -m e2e.bench.control --services 300

On a control plane of its own with pretend nodes (`plane.py`), the operator on one core (`subject.py`):

    warm up      a few services once, whose Deployment and Service become the templates of the baseline
    baseline     N plain Deployments and Services with the same pods, by the same client: until all are Available
    create       N InferenceServices: until all are Ready, then until nothing more is written
    change       a new model for each of them, 20 changes a second: until every old revision is gone
    restart      the operator ends, one spec changes, the operator starts: until that is acted on and nothing waits
    idle         nothing happens but resyncs, which every start spreads over the ten minutes after it

Counts and the time to the first write are taken from the API server's audit log (`audit.py`).
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from e2e.bench import audit, plane, report, workload
from e2e.bench.api import Api, CannotMeasureError, Manifest, until
from e2e.bench.audit import READS, WRITES, AuditLog, Call
from e2e.bench.machine import Usage
from e2e.bench.plane import OPERATOR
from e2e.bench.report import phase, say
from e2e.bench.subject import NAMESPACE, Operator
from e2e.cluster.paths import cache

CHANGES_PER_S = 20
WARM = 10
_QUIET_S = 7.0
"""Without a write for this long nothing more is due: a checkpoint of the status comes after 5 s."""


@dataclass(slots=True)
class Bench:
    api: Api
    operator: Operator
    log: AuditLog
    names: list[str]
    idle_s: float
    figures: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        before = Usage.now()
        await self.operator.start()
        await self.operator.leads()
        with phase("warm up"):
            templates = await self.warm_up()
        with phase("baseline"):
            await self.baseline(*templates)
        with phase("create"):
            await self.create()
        with phase("change"):
            await self.change()
        rss_mib = self.operator.peak_rss_mib()
        self.figures["others_cpu_pct"] = Usage.now().others_pct(before)
        with phase("restart"):
            await self.restart()
        with phase(f"idle for {self.idle_s:.0f} s"):
            await self.idle()
        self.figures["rss_mib"] = max(rss_mib, self.operator.peak_rss_mib())

    async def warm_up(self) -> tuple[Manifest, Manifest]:
        """A Deployment and an address as Slipway makes them."""
        names = [f"warm-{number}" for number in range(WARM)]
        await self._make("warm", workload.SERVICES, workload.is_ready, workload.inference_services("warm", names))
        deployment = await self.api.first(workload.DEPLOYMENTS.format("warm"))
        address = await self.api.get(f"{workload.CORE.format('warm')}/{workload.owner(deployment)}")
        await self._remove("warm")
        return deployment, address

    async def baseline(self, deployment: Manifest, address: Manifest) -> None:
        names = [f"plain-{number:04}" for number in range(len(self.names))]
        bodies = workload.plain("plain", names, deployment, address)
        self.figures["baseline_s"] = await self._make("plain", workload.DEPLOYMENTS, workload.is_available, bodies)
        await self._remove("plain")
        await self._settled()

    async def create(self) -> None:
        cpu_s = self.operator.cpu_s()
        bodies = workload.inference_services("bench", self.names)
        took_s = await self._make("bench", workload.SERVICES, workload.is_ready, bodies)
        self.figures["create_to_ready_s"] = took_s
        self.figures["ratio_vs_plain_deployments"] = took_s / self.figures["baseline_s"]
        calls = await self._settled()
        self.figures["cpu_s_per_100_creates"] = (self.operator.cpu_s() - cpu_s) / len(self.names) * 100
        self._count("create", calls)
        self._first_writes("burst", calls)

    async def change(self) -> None:
        cpu_s = self.operator.cpu_s()
        path = workload.SERVICES.format("bench")
        released = asyncio.create_task(self._reached(path, workload.has_released("second"), len(self.names)))
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(self.names):
                await asyncio.sleep(max(0.0, begin + number / CHANGES_PER_S - time.monotonic()))
                group.create_task(self._set_model(name, "second"))
        self.figures["release_s"] = await released - begin
        calls = await self._settled()
        self.figures["cpu_s_per_100_changes"] = (self.operator.cpu_s() - cpu_s) / len(self.names) * 100
        self._count("version_change", calls)
        self._first_writes("apply", calls)

    async def restart(self) -> None:
        await self.operator.stop()
        self.log.news()
        name = self.names[len(self.names) // 2]
        await self._set_model(name, "third")
        begin = time.monotonic()
        await self.operator.start()

        async def is_acted_on() -> bool:
            return any(call.name.startswith(f"{name}-") for call in audit.revisions(self.log.news()))

        async def is_idle() -> bool:
            return await self.operator.is_idle(after_reconciles=len(self.names))

        await until(is_acted_on, f"what changed while the operator was down ({name})", every_s=0.02)
        await until(is_idle, "the queue to be empty", every_s=0.05)
        self.figures["restart_catch_up_s"] = time.monotonic() - begin
        await self._settled()

    async def idle(self) -> None:
        begin, cpu_s = time.monotonic(), self.operator.cpu_s()
        await asyncio.sleep(self.idle_s)
        took_s, calls = time.monotonic() - begin, self.log.news()
        self.figures["steady_cpu_pct"] = (self.operator.cpu_s() - cpu_s) / took_s * 100
        self.figures["steady_writes_per_min"] = audit.count(calls, WRITES) / took_s * 60
        self.figures["steady_reads_per_min"] = audit.count(calls, READS) / took_s * 60

    def _count(self, what: str, calls: list[Call]) -> None:
        for name, number in (
            (f"writes_per_{what}", audit.count(calls, WRITES)),
            (f"reads_per_{what}", audit.count(calls, READS)),
            (f"events_per_{what}", audit.events(calls)),
        ):
            self.figures[name] = number / len(self.names)

    def _first_writes(self, what: str, calls: list[Call]) -> None:
        waits_ms = audit.first_writes_ms(calls)
        if len(waits_ms) != len(self.names):
            raise CannotMeasureError(f"{len(waits_ms)} first writes for {len(self.names)} changes")
        for percentile in (50, 99):
            self.figures[f"{what}_to_first_write_p{percentile}_ms"] = audit.percentile(waits_ms, percentile)

    async def _make(
        self, namespace: str, path: str, is_there: Callable[[Manifest], bool], bodies: Iterable[tuple[str, bytes]]
    ) -> float:
        """Seconds from the first request until every object made at `path` is there."""
        await self.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        requests = list(bodies)
        place = path.format(namespace)
        number = sum(where == place for where, _ in requests)
        ready = asyncio.create_task(self._reached(place, is_there, number))
        begin = time.monotonic()
        await self.api.create_all(requests)
        sent_s = time.monotonic() - begin
        took_s = await ready - begin
        say(f"{number} made in {sent_s:.1f} s, all ready after {took_s:.1f} s")
        return took_s

    async def _reached(self, path: str, is_there: Callable[[Manifest], bool], number: int) -> float:
        """When so many objects at `path` were as wanted, on the monotonic clock."""
        there: set[str] = set()
        begin = shown = time.monotonic()
        limit_s = 60 + 2 * number
        try:
            async with asyncio.timeout(limit_s):
                async for event in self.api.watch(path):
                    if is_there(event["object"]):
                        there.add(event["object"]["metadata"]["name"])
                    if len(there) == number:
                        return time.monotonic()
                    if time.monotonic() > shown + 5:
                        shown = time.monotonic()
                        say(f"{len(there)} of {number} after {shown - begin:.0f} s")
        except TimeoutError:
            raise CannotMeasureError(f"{len(there)} of {number} after {limit_s} s, see the logs") from None
        raise CannotMeasureError(f"the watch of {path} ended")

    async def _settled(self) -> list[Call]:
        """What was called until the operator had nothing more to write."""
        calls, last = self.log.news(), time.monotonic()
        while time.monotonic() < last + _QUIET_S:
            await asyncio.sleep(0.5)
            news = self.log.news()
            if audit.count(news, WRITES):
                last = time.monotonic()
            calls += news
        return calls

    async def _set_model(self, name: str, model: str) -> None:
        await self.api.merge(f"{workload.SERVICES.format('bench')}/{name}", {"spec": workload.spec(model)})

    async def _remove(self, namespace: str) -> None:
        await self.api.delete(f"/api/v1/namespaces/{namespace}")

        async def is_gone() -> bool:
            return not await self.api.exists(f"/api/v1/namespaces/{namespace}")

        await until(is_gone, f"namespace {namespace} to be gone", within_s=300)


async def measure(services: int, idle_s: float) -> dict[str, float]:
    folder = cache() / "bench"
    async with plane.started(folder) as (api, audit_log):
        await workload.install(api, workload.read_crds(), NAMESPACE)
        with Operator(folder, OPERATOR) as operator:
            names = [f"svc-{number:04}" for number in range(services)]
            bench = Bench(api, operator, AuditLog(audit_log), names, idle_s)
            await bench.run()
            return bench.figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.control", description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, default=300, metavar="N")
    parser.add_argument("--idle-s", type=float, default=300, help="seconds without any change (default: 300)")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    try:
        figures = asyncio.run(measure(options.services, options.idle_s))
    except* CannotMeasureError as errors:
        print(*errors.exceptions, sep="\n", file=sys.stderr)
    if not figures:
        return 1
    print(report.table(figures, options.services))
    print(report.result(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
