"""Instances in processes of their own: the same answers, and what happens to batches when one dies."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway_runtime.errors import BadModel, Kind, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.models.processes import ProcessRunner, core_shares
from slipway_runtime.tensors import Rows

pytestmark = pytest.mark.timeout(200)  # each test starts processes, and a machine may do other things

SOURCE = """
import os, signal
import numpy as np
class Model:
    def load(self, context):
        self.instance = context.instance
    def infer(self, batch):
        for request in batch.requests:
            if request.parameters.get("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if request.parameters.get("fail"):
                request.fail("as asked")
        text = [[b"%d" % len(s) for s in row] for row in batch["s"]]
        return {"y": batch["x"] * 2, "t": text, "who": np.full((batch.rows, 1), self.instance)}
"""
# It fails where a module can be had from the folder that the process runs in.
STRAY = SOURCE.replace(
    "        for request in",
    """        import importlib.util
        assert importlib.util.find_spec("slipway_stray") is None
        for request in""",
)
X = {"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}
CONFIG: dict[str, Any] = {
    "max_batch_size": 8,
    "input": [X, {"name": "s", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [
        {"name": "y", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "t", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "who", "data_type": "TYPE_INT32", "dims": [1]},
    ],
    "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
}
OPTIONS = LoadOptions(device="cpu", threads=2, allow_code=True)


def folder_of(folder: Path, source: str, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(source)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    model = load(find(str(folder_of(tmp_path_factory.mktemp("m"), SOURCE, CONFIG))), OPTIONS)
    try:
        model.warm_up()
        yield model
    finally:
        pids = [runner.pids[0] for runner in model.runners if isinstance(runner, ProcessRunner)]
        model.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def call(rows: int, width: int = 3, **parameters: bool) -> OwnCall:
    x = np.random.default_rng(rows * width).normal(size=(rows, width)).astype(np.float32)
    return OwnCall([x, np.full((rows, 1), b"a" * min(width, 9), object)], rows, parameters)


def good(answer: Rows | RequestError) -> Rows:
    assert not isinstance(answer, RequestError), answer
    return answer


def test_each_instance_is_another_process_and_answers_for_itself(model: LoadedModel) -> None:
    assert [spec.name for spec in model.metadata.outputs] == ["y", "t", "who"]
    pids = set()
    for index, runner in enumerate(model.runners):
        assert isinstance(runner, ProcessRunner)
        pids.add(runner.pids[0])
        batch = [call(1), call(3), call(2)]
        for given, answer in zip(batch, runner.run(batch), strict=True):
            y, text, who = good(answer)
            assert y.tobytes() == (given.inputs[0] * 2).tobytes()
            assert text.tolist() == [[b"3"]] * given.rows
            assert who.tolist() == [[index]] * given.rows
    assert len(pids | {os.getpid()}) == 3


def test_answers_stay_as_they_are_when_batches_grow_and_shrink(model: LoadedModel) -> None:
    seen = []
    for width in (1, 100_000, 7, 300_000, 0, 2):
        given = call(2, width)
        y, _, _ = good(model.runners[0].run([given])[0])
        assert y.tobytes() == (given.inputs[0] * 2).tobytes()
        seen.append((y, y.tobytes()))
    assert all(array.tobytes() == was for array, was in seen)


def test_what_both_sides_spend_on_copies_is_not_the_models(model: LoadedModel) -> None:
    (runner, _) = model.runners
    assert isinstance(runner, ProcessRunner)
    runner.spent.taken()
    began_ns = time.perf_counter_ns()
    runner.run([call(2, 100_000), call(1, 100_000)])
    took_ns = time.perf_counter_ns() - began_ns
    input_ns, output_ns = runner.spent.taken()
    assert input_ns > 0
    assert output_ns > 0
    assert input_ns + output_ns < took_ns


def test_one_request_fails_alone(model: LoadedModel) -> None:
    first, second = model.runners[0].run([call(1), call(1, fail=True)])
    good(first)
    assert isinstance(second, RequestError)
    assert (second.kind, second.message) == (Kind.INTERNAL, "as asked")


def test_a_process_that_dies_fails_its_own_batch_and_comes_back(model: LoadedModel) -> None:
    runner, other = model.runners
    for _ in range(2):
        with pytest.raises(RequestError, match=r"died with this batch .by signal 9.; it is started again") as caught:
            runner.run([call(1), call(1, die=True)])
        assert caught.value.kind is Kind.UNAVAILABLE
        good(other.run([call(1)])[0])
        good(runner.run([call(1)])[0])


def test_a_batch_that_a_dead_process_was_not_given_is_not_lost(model: LoadedModel) -> None:
    runner = model.runners[0]
    assert isinstance(runner, ProcessRunner)
    pid = runner.pids[0]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    good(runner.run([call(1)])[0])
    assert runner.pids[0] != pid


def test_signals_to_the_group_do_not_end_a_process(model: LoadedModel) -> None:
    runner = model.runners[0]
    assert isinstance(runner, ProcessRunner)
    pid = runner.pids[0]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    good(runner.run([call(1)])[0])
    assert runner.pids[0] == pid


STREAM = """
class Model:
    def infer(self, batch):
        for number in range(int(batch["x"][0, 0])):
            yield {"y": batch["x"] * 0 + number}
        if batch["x"][0, 0] == 3:
            raise ValueError("three")
"""


def test_streams_pass_and_may_be_left(tmp_path: Path) -> None:
    config = {**CONFIG, "input": [X], "output": CONFIG["output"][:1], "instance_group": [{"count": 2}]}
    model = load(find(str(folder_of(tmp_path, STREAM, config))), OPTIONS)
    try:
        assert model.decoupled
        runner = model.runners[1]

        def stream(count: int) -> Iterator[Rows]:
            return runner.stream(OwnCall([np.full((1, 1), count, np.float32)], 1))

        assert [rows[0].tolist() for rows in stream(4)] == [[[0]], [[1]], [[2]], [[3]]]
        assert list(stream(0)) == []
        left = stream(1000)
        assert next(left)[0].tolist() == [[0]]
        left.close()  # type: ignore[attr-defined]
        failing = stream(3)
        assert [next(failing)[0][0, 0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RequestError, match="the model failed: three"):
            next(failing)
        assert len(list(stream(2))) == 2
    finally:
        model.close()


def test_a_model_that_cannot_be_loaded_says_so_through_its_process(tmp_path: Path) -> None:
    broken = "class Model:\n  def load(self, c): raise OSError('no weights')\n  def infer(self, b): ..."
    with pytest.raises(BadModel, match="failed to load: OSError: no weights"):
        load(find(str(folder_of(tmp_path, broken, CONFIG))), OPTIONS)
    hungry = "class Model:\n  def load(self, c): import os; os.kill(os.getpid(), 9)\n  def infer(self, b): ..."
    with pytest.raises(BadModel, match=r"process died while it loaded .by signal 9.; give it more memory"):
        load(find(str(folder_of(tmp_path, hungry, CONFIG))), OPTIONS)


@pytest.mark.parametrize(
    ("count", "share", "cores", "limit", "shares"),
    [
        pytest.param(2, 2, {0, 1, 2, 3}, 4, [(0, 1), (2, 3)], id="cores of their own"),
        pytest.param(2, 2, {0, 1, 2, 3}, 2, [(), ()], id="a quota is no set of cores"),
        pytest.param(3, 1, {5, 7}, 2, [(), (), ()], id="more instances than cores"),
    ],
)
def test_cores_are_shared_out_where_they_are_ours(  # noqa: PLR0917 - the cases
    monkeypatch: pytest.MonkeyPatch, count: int, share: int, cores: set[int], limit: int, shares: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cores)
    monkeypatch.setattr("slipway_runtime.models.processes.cpu_limit", lambda: limit)
    assert core_shares(count, share) == shares


def test_a_process_takes_no_code_from_the_folder_the_server_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("json", "slipway_stray")  # one that the worker imports by itself, one that nobody else has
    for name in names:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the one that was meant')")
    monkeypatch.chdir(tmp_path)
    model = load(find(str(folder_of(tmp_path / "m", STRAY, CONFIG))), OPTIONS)
    try:
        (answer,) = model.runners[0].run([call(1)])
        assert not isinstance(answer, RequestError), answer
    finally:
        model.close()
