"""What becomes of a key after its reconcile, and that no object's trouble reaches another."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

import pytest

from slipway.api.manifest import Key
from slipway.control.cache import Cache
from slipway.control.metrics import Metrics
from slipway.control.worker import Done, Failed, Outcome, Workers
from slipway.control.workqueue import WorkQueue
from slipway.kube.errors import Conflict, Fenced, KubeError, Throttled, Unavailable
from slipway.kube.kinds import INFERENCE_SERVICE
from tests.control.conftest import logged

pytestmark = pytest.mark.looptime

KEY = ("team", "hello")


class Bench:
    """Workers on a reconcile that the test chooses."""

    def __init__(self, reconcile: Callable[[Key], Awaitable[Outcome]]) -> None:
        self.cache, self.metrics = Cache(), Metrics()
        self.queue = WorkQueue(observer=self.metrics, base_s=1.0)
        self.workers = Workers(self.queue, self.cache, reconcile, self.metrics)

    def count(self, sample: str, /, **labels: str) -> float:
        labels = {"controller": "inferenceservice", **labels}
        return self.metrics.registry.get_sample_value(sample, labels) or 0.0

    def results(self) -> dict[str, float]:
        names = ("success", "requeue_after", "error", "terminal_error")
        counts = {name: self.count("controller_runtime_reconcile_total", result=name) for name in names}
        return {name: count for name, count in counts.items() if count}


def answering(*outcomes: Outcome | Exception) -> tuple[Callable[[Key], Awaitable[Outcome]], list[float]]:
    """A reconcile that gives these outcomes in turn, and the moments it was called."""
    left, moments = list(outcomes), list[float]()

    async def reconcile(_: Key) -> Outcome:
        moments.append(asyncio.get_running_loop().time())
        outcome = left.pop(0) if left else Done()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return reconcile, moments


async def run_for(bench: Bench, seconds: float, *, count: int = 2) -> None:
    working = asyncio.create_task(bench.workers.run(count))
    await asyncio.sleep(seconds)
    bench.queue.close()
    await working


async def test_done_is_left_alone_until_something_changes() -> None:
    reconcile, moments = answering(Done())
    bench = Bench(reconcile)
    bench.queue.add(KEY)
    await run_for(bench, 1000)
    assert len(moments) == 1
    assert bench.results() == {"success": 1}


async def test_done_with_a_delay_comes_again_after_it() -> None:
    reconcile, moments = answering(Done(requeue_after_s=30), Done())
    bench = Bench(reconcile)
    bench.queue.add(KEY)
    await run_for(bench, 1000)
    assert moments[1] - moments[0] == pytest.approx(30)
    assert bench.results() == {"requeue_after": 1, "success": 1}


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(Failed("the model is not there yet"), id="an outcome"),
        pytest.param(Conflict("changed"), id="an error of the API server"),
        pytest.param(ZeroDivisionError("a bug"), id="a bug"),
    ],
)
async def test_a_failure_is_tried_again_with_a_growing_delay(failure: Outcome | Exception) -> None:
    reconcile, moments = answering(failure, failure, failure, Done())
    bench = Bench(reconcile)
    bench.queue.add(KEY)
    await run_for(bench, 1000)
    delays = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert delays == [pytest.approx(delay, rel=0.21) for delay in (1, 2, 4)]
    assert bench.results() == {"error": 3, "success": 1}
    assert bench.count("workqueue_retries_total", name="inferenceservice") == 3


async def test_a_terminal_failure_waits_for_the_object_to_change() -> None:
    reconcile, moments = answering(Failed("no runtime serves format x", terminal=True))
    bench = Bench(reconcile)
    bench.queue.add(KEY)
    await run_for(bench, 1000)
    assert len(moments) == 1
    assert bench.results() == {"terminal_error": 1}
    assert bench.count("controller_runtime_terminal_reconcile_errors_total") == 1


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        pytest.param(Throttled("slow down", retry_after_s=60), 60, id="as long as the server asks"),
        pytest.param(Fenced("not the leader"), 1, id="a second, rather than spin until the process ends"),
    ],
)
async def test_a_key_is_not_tried_again_before_that_can_help(error: KubeError, seconds: float) -> None:
    reconcile, moments = answering(error, Done())
    bench = Bench(reconcile)
    bench.queue.add(KEY)
    await run_for(bench, 1000)
    assert moments[1] - moments[0] == pytest.approx(seconds, rel=0.21)


async def test_success_resets_the_backoff() -> None:
    reconcile, moments = answering(*[Unavailable("down")] * 5, Done(requeue_after_s=100), Unavailable("down"), Done())
    bench = Bench(reconcile)
    bench.queue.add(KEY)
    await run_for(bench, 1000)
    assert moments[-1] - moments[-2] == pytest.approx(1, rel=0.21)


async def test_a_hanging_reconcile_does_not_hold_up_other_services() -> None:
    served = list[Key]()

    async def reconcile(key: Key) -> Outcome:
        if key == KEY:
            await asyncio.sleep(500)
        served.append(key)
        return Done()

    bench = Bench(reconcile)
    bench.queue.add(KEY)
    for number in range(50):
        bench.queue.add(("team", str(number)))
    working = asyncio.create_task(bench.workers.run(2))
    await asyncio.sleep(1)
    assert len(served) == 50
    bench.queue.close()
    await working
    assert served[-1] == KEY, "what runs at close is run to its end"


async def test_cancelling_the_workers_ends_them_at_once() -> None:
    async def reconcile(_: Key) -> Outcome:
        await asyncio.Event().wait()
        return Done()

    bench = Bench(reconcile)
    bench.queue.add(KEY)
    working = asyncio.create_task(bench.workers.run(2))
    await asyncio.sleep(1)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_every_line_of_a_reconcile_names_the_object_and_the_run(caplog: pytest.LogCaptureFixture) -> None:
    from slipway.control.log import JsonFormatter  # noqa: PLC0415

    async def reconcile(_: Key) -> Outcome:
        lines.append(JsonFormatter().format(logging.makeLogRecord({"msg": "from a library"})))
        return Done()

    lines: list[str] = []
    bench = Bench(reconcile)
    metadata = {"namespace": "team", "name": "hello", "uid": "u-1", "generation": 4, "resourceVersion": "1"}
    bench.cache.put(INFERENCE_SERVICE, {"metadata": metadata})
    await bench.workers.step(KEY)
    await bench.workers.step(KEY)
    for part in ('"namespace": "team"', '"name": "hello"', '"uid": "u-1"', '"generation": 4', '"reconcile_id": "'):
        assert part in lines[0]
    runs = [line.split('"reconcile_id": "')[1][:8] for line in lines]
    assert runs[0] != runs[1]


@pytest.mark.parametrize(
    ("error", "level"),
    [(Conflict("x"), logging.INFO), (Unavailable("x"), logging.INFO), (KubeError("x"), logging.WARNING)],
    ids=["passing conflict", "passing outage", "anything else"],
)
async def test_passing_troubles_are_not_warnings(
    error: KubeError, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    reconcile, _ = answering(error)
    with caplog.at_level(logging.INFO, "slipway"):
        await Bench(reconcile).workers.step(KEY)
    assert [record.levelno for record in logged(caplog)] == [level]
