"""A model in two processes that hold a part of it each: one answer, and what happens when they are not at one."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.config import InstanceGroup, ModelConfig
from slipway_runtime.models.load import LoadedModel, LoadOptions, Shard, load
from slipway_runtime.models.processes import ProcessRunner
from slipway_runtime.models.ranks import part_of
from slipway_runtime.models.shards import device_of, placement
from slipway_runtime.tensors import Array, Rows
from tests.runtime.sharded import TwoLayers, whole_numbers

pytestmark = pytest.mark.timeout(240)  # each rank imports torch, and a machine may do other things

SOURCE = """
import os, signal
import torch
from torch import distributed

class Model:
    sharded = True
    def load(self, context):
        self.rank, self.group, self.world_size = context.rank, context.group, context.world_size
        if context.parameters.get("break") == str(self.rank):
            raise OSError("no weights")
        if context.parameters.get("die") == str(self.rank):
            os.kill(os.getpid(), signal.SIGKILL)
        self.forgotten = 0
    def forget(self, sequence):
        self.forgotten += sequence
    def infer(self, batch):
        for request in batch.requests:
            if request.parameters.get("die_on") == self.rank:
                os.kill(os.getpid(), signal.SIGKILL)
            if request.parameters.get("fail_on") in (self.rank, "all"):
                raise ValueError("as asked")
            if request.parameters.get("refuse"):
                request.fail("refused")
        x = torch.from_numpy(batch["x"])
        if self.rank == 0 and any(request.parameters.get("leave") for request in batch.requests):
            return {"y": x, "who": [[0]] * batch.rows}
        x = x.clone() if self.rank else x * 0
        batch["x"][:] = self.rank  # it is the model's own
        distributed.all_reduce(x, group=self.group)
        return {"y": x, "who": [[self.rank * 10 + self.world_size + self.forgotten]] * batch.rows}
"""
Y = {"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}
WHO = {"name": "who", "data_type": "TYPE_INT64", "dims": [1]}
OPTIONS = LoadOptions(device="cpu", threads=2, allow_code=True, allowed_classes=("tests.runtime.sharded:*",))


def config(outputs: list[dict[str, Any]], **parameters: str) -> dict[str, Any]:
    own = {"shards": "2", **parameters}
    return {
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4 if "class" in own else -1]}],
        "output": outputs,
        "parameters": {key: {"string_value": value} for key, value in own.items()},
    }


def of_code(folder: Path, source: str, **parameters: str) -> LoadedModel:
    (folder / "model.py").write_text(source)
    (folder / "config.json").write_text(json.dumps(config([Y, WHO], **parameters)))
    return load(find(str(folder)), OPTIONS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    model = of_code(tmp_path_factory.mktemp("m"), SOURCE)
    try:
        yield model
    finally:
        pids = pids_of(model)
        model.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture(scope="module")
def of_class(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    folder = tmp_path_factory.mktemp("c")
    save_file(whole_numbers(TwoLayers(8)).state_dict(), folder / "model.safetensors")
    own = {"class": "tests.runtime.sharded:TwoLayers", "class_args": '{"width": 8}'}
    (folder / "config.json").write_text(json.dumps(config([Y], **own)))
    model = load(find(str(folder)), OPTIONS)
    try:
        model.warm_up()
        yield model
    finally:
        model.close()


def pids_of(model: LoadedModel) -> list[int]:
    (runner,) = model.runners
    assert isinstance(runner, ProcessRunner)
    return runner.pids


def call(rows: int, width: int = 4, **parameters: Any) -> OwnCall:
    x = np.random.default_rng(rows).integers(-4, 5, (rows, width)).astype(np.float32)
    return OwnCall([x], rows, parameters)


def good(answer: Rows | RequestError) -> Rows:
    assert not isinstance(answer, RequestError), answer
    return answer


def run(model: LoadedModel, *batch: OwnCall) -> list[Rows | RequestError]:
    return list(model.runners[0].run(batch))


def test_every_rank_has_the_batch_and_rank_0_answers(model: LoadedModel) -> None:
    assert len({*pids_of(model), os.getpid()}) == 3
    for width in (4, 100_000, 3):
        batch = [call(1, width), call(3, width)]
        for given, answer in zip(batch, run(model, *batch), strict=True):
            y, who = good(answer)
            assert y.tobytes() == given.inputs[0].tobytes()  # rank 0 has only what rank 1 sent it
            assert who.tolist() == [[2]] * given.rows


def test_what_becomes_of_a_sequence_is_told_to_its_process(model: LoadedModel) -> None:
    model.runners[0].forget(100)  # type: ignore[attr-defined]
    assert good(run(model, call(1))[0])[1].tolist() == [[102]]


def test_a_request_that_the_code_refuses_fails_alone(model: LoadedModel) -> None:
    pids = pids_of(model)
    first, second = run(model, call(1), call(1, refuse=True))
    good(first)
    assert isinstance(second, RequestError)
    assert second.message == "refused"
    assert pids_of(model) == pids


def test_where_all_ranks_fail_the_batch_fails_and_they_go_on(model: LoadedModel) -> None:
    pids = pids_of(model)
    for answer in run(model, call(1), call(1, fail_on="all")):
        assert isinstance(answer, RequestError)
        assert (answer.kind, answer.message) == (Kind.INTERNAL, "the model failed: as asked")
    good(run(model, call(1))[0])
    assert pids_of(model) == pids


def test_a_rank_that_dies_takes_the_others_with_it_and_all_come_back(model: LoadedModel) -> None:
    pids = pids_of(model)
    with pytest.raises(
        RequestError, match=r"died with this batch .rank 1, by signal 9.; it is started again"
    ) as caught:
        run(model, call(1), call(1, die_on=1))
    assert caught.value.kind is Kind.UNAVAILABLE
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    good(run(model, call(1))[0])
    assert not {*pids} & {*pids_of(model)}


def test_a_rank_that_waits_for_others_that_are_done_is_not_waited_for(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    good(run(model, call(1))[0])
    pids = pids_of(model)
    with monkeypatch.context() as patch:
        patch.setattr("slipway_runtime.models.shards._LATE_S", 1.0)
        with pytest.raises(RequestError, match="rank 1 of the model was not done 1 s after another") as caught:
            run(model, call(1, leave=True))
    assert caught.value.kind is Kind.UNAVAILABLE
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    good(run(model, call(1))[0])


def test_a_batch_that_dead_ranks_were_not_given_is_not_lost(model: LoadedModel) -> None:
    pids = pids_of(model)
    os.kill(pids[1], signal.SIGKILL)
    os.waitid(os.P_PID, pids[1], os.WEXITED | os.WNOWAIT)
    good(run(model, call(1))[0])
    assert not {*pids} & {*pids_of(model)}


def test_weights_in_shards_answer_as_the_whole(of_class: LoadedModel) -> None:
    whole = whole_numbers(TwoLayers(8))
    batch = [call(1), call(3), call(2)]
    for given, answer in zip(batch, run(of_class, *batch), strict=True):
        (y,) = good(answer)
        with torch.no_grad():
            assert y.tobytes() == whole(torch.from_numpy(given.inputs[0])).numpy().tobytes()


def of(value: float) -> OwnCall:
    x: Array = np.full((1, 4), value, np.float32)
    return OwnCall([x])


def test_of_a_batch_that_fails_on_all_ranks_each_request_is_tried_alone(of_class: LoadedModel) -> None:
    pids = pids_of(of_class)
    first, second, third = run(of_class, of(1), of(9), of(2))
    assert isinstance(second, RequestError)
    assert (second.kind, second.message) == (Kind.INTERNAL, "the model failed: a nine")
    (alone,) = good(run(of_class, of(1))[0])
    assert good(first)[0].tobytes() == alone.tobytes()
    assert good(third)[0].tobytes() == (2 * alone).tobytes()
    assert pids_of(of_class) == pids


def test_ranks_of_which_one_fails_are_started_again(of_class: LoadedModel) -> None:
    pids = pids_of(of_class)
    with pytest.raises(
        RequestError, match="the model failed on rank 1 only: the model failed: out of memory"
    ) as caught:
        run(of_class, of(1), of(-9))
    assert caught.value.kind is Kind.INTERNAL
    good(run(of_class, of(1))[0])
    assert not {*pids} & {*pids_of(of_class)}


STREAM = """
import torch
from torch import distributed

class Model:
    sharded = True
    def load(self, context):
        self.group, self.rank = context.group, context.rank
    def infer(self, batch):
        if batch["x"][0, 0] == 5 and self.rank == 1:
            return
        for number in range(int(batch["x"][0, 0])):
            ranks = torch.ones(1)
            if batch["x"][0, 0] == 5:
                yield {"y": batch["x"], "who": [[0]]}
            distributed.all_reduce(ranks, group=self.group)
            yield {"y": batch["x"] * 0 + number, "who": ranks.long().reshape(1, 1)}
        if batch["x"][0, 0] == 3:
            raise ValueError("three")
"""


def test_ranks_stream_together_and_may_be_left(tmp_path: Path) -> None:
    model = of_code(tmp_path, STREAM)
    try:
        pids = pids_of(model)
        (runner,) = model.runners

        def stream(count: int) -> Iterator[Rows]:
            return runner.stream(of(count))

        assert model.decoupled
        assert [(rows[0][0, 0], rows[1].tolist()) for rows in stream(2)] == [(0, [[2]]), (1, [[2]])]
        left = stream(1000)
        assert next(left)[0][0, 0] == 0
        left.close()  # type: ignore[attr-defined]
        failing = stream(3)
        assert [next(failing)[0][0, 0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RequestError, match="the model failed: three"):
            next(failing)
        assert len(list(stream(4))) == 4
        assert pids_of(model) == pids
        with pytest.raises(RequestError, match="the model's ranks yielded different numbers of answers"):
            list(stream(5))
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        model.close()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        pytest.param(
            {"break": "1"}, "rank 1 of the model's 2 shards: .* failed to load: OSError: no weights", id="one"
        ),
        pytest.param({"die": "1"}, r"died while it loaded \(rank 1, by signal 9\); give it more memory", id="death"),
    ],
)
def test_what_one_rank_cannot_load_no_rank_has(tmp_path: Path, parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        of_code(tmp_path, SOURCE, **parameters)


def test_code_and_classes_have_to_say_that_they_are_sharded(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE.replace("sharded = True", ""))
    (tmp_path / "config.json").write_text(json.dumps(config([Y, WHO])))
    with pytest.raises(
        BadModel, match=r"class Model of .* does not say that it is sharded; have its load take the part"
    ):
        load(find(str(tmp_path)), replace(OPTIONS, shard=Shard(0, ("cpu", "cpu"))))
    weights = tmp_path / "model.safetensors"
    save_file(torch.nn.Linear(4, 8).state_dict(), weights)
    with pytest.raises(BadModel, match=r"class Linear of .* give it a method shard"):
        part_of(torch.nn.Linear(4, 8), weights)


@pytest.mark.parametrize(
    ("groups", "device", "places"),
    [
        pytest.param((), "cpu", [("cpu", "cpu")], id="nothing said, on CPUs"),
        pytest.param((), "auto", [("auto", "auto")], id="nothing said"),
        pytest.param((), "cuda", [("cuda:0", "cuda:1")], id="GPUs"),
        pytest.param((InstanceGroup(kind="KIND_CPU", count=2),), "auto", [("cpu", "cpu")] * 2, id="two on CPUs"),
        pytest.param((InstanceGroup(kind="KIND_GPU"),), "auto", [("cuda:0", "cuda:1")], id="no GPU named"),
        pytest.param(
            (InstanceGroup(gpus=(3, 1, 0, 2)),), "auto", [("cuda:3", "cuda:1"), ("cuda:0", "cuda:2")], id="GPUs by name"
        ),
    ],
)
def test_each_shard_has_a_device(groups: tuple[InstanceGroup, ...], device: str, places: list[tuple[str, ...]]) -> None:
    assert placement(ModelConfig(instances=groups), 2, device) == places


@pytest.mark.parametrize(
    ("gpus", "device", "sentence"),
    [
        pytest.param(
            (), "cuda:1", "'device' is 'cuda:1', but each of the 2 shards needs a GPU of its own", id="one GPU"
        ),
        pytest.param((0, 1, 2), "auto", r"names GPUs \[0, 1, 2\] for a model of 2 shards", id="one is left over"),
        pytest.param((1, 1), "auto", r"names GPUs \[1, 1\] .* name 2 different ones", id="one twice"),
    ],
)
def test_gpus_that_do_not_make_an_instance_are_refused(gpus: tuple[int, ...], device: str, sentence: str) -> None:
    groups = (InstanceGroup(gpus=gpus),) if gpus else ()
    with pytest.raises(BadModel, match=sentence):
        placement(ModelConfig(instances=groups), 2, device)


def test_more_shards_than_gpus_are_refused_on_every_rank() -> None:
    assert device_of(Shard(1, ("auto", "auto")), 0) == "cpu"
    assert device_of(Shard(1, ("auto", "auto")), 2) == "cuda:1"
    for devices, gpus in ((("auto", "auto"), 1), (("cuda:0", "cuda:3"), 3), (("cuda:0", "cuda:1"), 0)):
        for rank in range(2):
            with pytest.raises(BadConfig, match=f"2 shards need a GPU each .* this container has {gpus}; lower param"):
                device_of(Shard(rank, devices), gpus)


def test_a_server_for_cpus_refuses_shards_on_gpus(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="asks for device cuda:0, but the server was started with --device cpu"):
        of_code(tmp_path, SOURCE, device="cuda")
