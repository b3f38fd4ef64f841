"""Whose turn it is, and when time is up. The model sleeps, so that what is measured is the queue, not the machine."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as grpc_aio
from tritonclient.utils import InferenceServerException

from tests.runtime.fuzz import FULL
from tests.runtime.process import ServerProcess, start

pytestmark = pytest.mark.timeout(600 if FULL else 200)

BATCH_S = 0.04
ROWS = 4
MODEL = f'''
import time


class Model:
    """How many batches there were before this one."""

    def load(self, context):
        self.count = -1  # the warm-up's

    def infer(self, batch):
        time.sleep({BATCH_S})
        self.count += 1
        return {{"count": batch["x"] * 0 + self.count}}
'''
CONFIG = {
    "name": "sleeper",
    "max_batch_size": ROWS,
    "input": [{"name": "x", "data_type": "TYPE_INT32", "dims": [1]}],
    "output": [{"name": "count", "data_type": "TYPE_INT32", "dims": [1]}],
    "dynamic_batching": {"priority_levels": 2, "default_priority_level": 2},
}
ASKS = 100 if FULL else 40
ROUNDS = 8
"""At most: a machine that is busy with other things can only make one of them worse, so the best one is the queue's."""


@pytest.fixture(scope="module")
def sleeper(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("sleeper")
    (folder / "model.py").write_text(MODEL)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    server = start(samples, "--model", str(folder), "--allow-code", "true", "--access-log", "true")
    yield server.wait_ready()
    server.kill()


async def ask(client: Any, tenant: str = "", **options: Any) -> int:
    tensor = grpc_aio.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.int32))
    result = await client.infer("sleeper", [tensor], headers={"x-slipway-tenant": tenant}, **options)
    return int(result.as_numpy("count")[0, 0])


async def p99_s(server: ServerProcess, others: int) -> float:
    """Of two clients of one tenant, while another tenant has so many."""
    took: list[float] = []
    async with grpc_aio.InferenceServerClient(server.grpc) as client:

        async def greedy() -> None:
            while True:
                await ask(client, "greedy")

        async def modest() -> None:
            for _ in range(ASKS):
                began_s = time.perf_counter()
                await ask(client, "modest")
                took.append(time.perf_counter() - began_s)

        crowd = [asyncio.create_task(greedy()) for _ in range(others)]
        await asyncio.gather(modest(), modest())
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    return statistics.quantiles(took, n=100)[98]


async def test_a_tenant_that_sends_ten_times_its_share_does_not_slow_another(sleeper: ServerProcess) -> None:
    ratios = []
    for _ in range(ROUNDS):
        alone_s = await p99_s(sleeper, others=2)
        crowded_s = await p99_s(sleeper, others=20)
        ratios.append(crowded_s / alone_s)
        print(json.dumps({"p99_ms": [round(1e3 * alone_s, 1), round(1e3 * crowded_s, 1)]}))  # noqa: T201
        if ratios[-1] <= 1.5:
            break
    assert min(ratios) <= 1.5, ratios


async def test_a_high_priority_waits_for_one_batch_at_most(sleeper: ServerProcess) -> None:
    async with grpc_aio.InferenceServerClient(sleeper.grpc) as client:
        seen = 0

        async def low() -> None:
            nonlocal seen
            while True:
                seen = max(seen, await ask(client, "low", priority=2))

        crowd = [asyncio.create_task(low()) for _ in range(40)]
        await asyncio.sleep(4 * BATCH_S)
        rounds: list[list[int]] = []
        while len(rounds) < ROUNDS and not (rounds and waits_for_one(rounds[-1])):
            rounds.append([])
            for _ in range(10):
                before = seen
                own = await ask(client, "high", priority=1)
                rounds[-1].append(own - before)
                seen = max(seen, own)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    print(json.dumps({"batches": rounds}))  # noqa: T201
    assert waits_for_one(rounds[-1]), rounds


def waits_for_one(waited: list[int]) -> bool:
    """In batches: the one that ran when it came is 1, its own is 2. Before that, 40 waited: 10 batches of 4.

    The client may see a batch's end only after the next has begun.
    """
    return statistics.median(waited) <= 2 and max(waited) <= 3


async def test_a_deadline_missed_is_answered_within_5_ms(sleeper: ServerProcess) -> None:
    """By gRPC as the client sees it, by REST as the server's own log has it; and none is given up before its time."""
    rounds: list[tuple[float, float]] = []
    async with grpc_aio.InferenceServerClient(sleeper.grpc) as client:

        async def crowd_of_one() -> None:
            while True:
                await ask(client, "crowd", priority=1)

        crowd = [asyncio.create_task(crowd_of_one()) for _ in range(40)]
        await asyncio.sleep(2 * BATCH_S)
        while len(rounds) < ROUNDS and not (rounds and is_in_time(*rounds[-1])):
            late_ms = [await lateness_ms(client) for _ in range(ASKS // 2)]
            by_server_ms = await lateness_by_the_log_ms(sleeper, len(rounds))
            medians = statistics.median(late_ms), statistics.median(by_server_ms)
            rounds.append((min(*late_ms, *by_server_ms), max(medians)))
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    print(json.dumps({"least_and_median_late_ms": rounds}))  # noqa: T201
    assert is_in_time(*rounds[-1]), rounds


def is_in_time(least_ms: float, median_ms: float) -> bool:
    """The clock by which a server gives up stands still within a turn of its loop, so it may be early by a turn."""
    return least_ms > -2 and median_ms <= 5


LIMIT_US = 150_000
BY_REST = 8


async def lateness_ms(client: Any) -> float:
    began_s = time.perf_counter()
    with pytest.raises(InferenceServerException, match=r"timeout expired after 0\.1[45]"):
        await ask(client, "late", timeout=LIMIT_US)
    return 1e3 * (time.perf_counter() - began_s) - LIMIT_US / 1e3


async def lateness_by_the_log_ms(server: ServerProcess, rounds_before: int) -> list[float]:
    async def staggered(number: int) -> int:
        await asyncio.sleep(0.007 * number)  # else one moment of a busy machine makes all of them late
        return await by_rest(server, LIMIT_US)

    assert set(await asyncio.gather(*map(staggered, range(BY_REST)))) == {504}
    wanted = BY_REST * (rounds_before + 1)
    async with asyncio.timeout(20):  # the log comes by a pipe and a thread of its own
        while len(lines := [line for line in list(server.lines) if '"status": 504' in line]) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return [json.loads(line)["ms"] - LIMIT_US / 1e3 for line in lines[-BY_REST:]]


async def by_rest(server: ServerProcess, timeout_us: int) -> int:
    """The status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    body = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [1]}],
            "parameters": {"timeout": timeout_us},
        }
    ).encode()
    writer.write(b"POST /v2/models/sleeper/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    status = int((await reader.readuntil(b"\r\n")).split()[1])
    writer.close()
    await writer.wait_closed()
    return status
