"""Batches through real torch programs: whose rows are whose, and that no answer changes after it was given."""

import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.models.torch_runner import ZERO_COPY_BYTES, TorchRunner
from slipway_runtime.samples import mlp
from slipway_runtime.tensors import Array, Rows

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things


def config_of(inputs: dict[str, Any], outputs: dict[str, Any], max_batch: int = 8, **more: Any) -> dict[str, Any]:
    def tensors(named: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": name, "data_type": f"TYPE_{kind}", "dims": dims} for name, (kind, dims) in named.items()]

    return {"max_batch_size": max_batch, "input": tensors(inputs), "output": tensors(outputs), **more}


XY = config_of({"x": ("FP32", [4])}, {"y": ("FP32", [-1])})


def saved(module: torch.nn.Module, folder: Path, config: dict[str, Any], **options: str) -> LoadedModel:
    config = {**config, "parameters": {key: {"string_value": value} for key, value in options.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(module.eval()), folder / "model.pt")
    return load(find(str(folder)), LoadOptions(device="cpu"))


def given(*rows: int, width: int = 4, seed: int = 0) -> list[OwnCall]:
    rng = np.random.default_rng(seed)
    return [OwnCall([rng.normal(size=(count, width)).astype(np.float32)], count) for count in rows]


def answers(model: LoadedModel, batch: Sequence[OwnCall]) -> list[Rows]:
    result = model.runners[0].run(batch)
    assert len(result) == len(batch)
    for answer in result:
        if isinstance(answer, RequestError):
            raise answer
    return [answer for answer in result if not isinstance(answer, RequestError)]


def stacked(batch: Sequence[OwnCall], index: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([call.inputs[index] for call in batch]))


def test_a_batch_is_answered_as_torch_answers_it_bit_for_bit(tmp_path: Path) -> None:
    model, plain, dice = saved(mlp(), tmp_path, XY), mlp(), random.Random(1)  # noqa: S311 - repeatable
    for turn in range(300):
        left = 8
        sizes: list[int] = []
        while left and (not sizes or dice.random() < 0.7):
            sizes.append(dice.randint(1, left))
            left -= sizes[-1]
        batch = given(*sizes, seed=turn)
        with torch.inference_mode():
            expected = plain(stacked(batch)).numpy()
        got = answers(model, batch)
        assert [len(rows[0]) for rows in got] == sizes
        assert np.concatenate([rows[0] for rows in got]).tobytes() == expected.tobytes()


class Identity(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Window(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 1:3]


class Relu(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(x)


class Counter(torch.nn.Module):
    """Gives a buffer of its own that the next request changes."""

    def __init__(self) -> None:
        super().__init__()
        self.total: torch.Tensor
        self.register_buffer("total", torch.zeros(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.sum(0, keepdim=True)
        return self.total.expand(x.shape[0], 4)


class Hidden(torch.nn.Module):
    """The same with a tensor that is no buffer, only an attribute."""

    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.sum(0, keepdim=True)
        return self.total


class Weight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(4.0)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight += x.sum(0, keepdim=True)  # type: ignore[misc]
        return self.weight


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 2, 2).permute(0, 2, 1).reshape(x.shape)


STATEFUL = (Counter, Hidden, Weight)  # makes sense for one row at a time
ALIASES = [(module, (1,)) for module in STATEFUL] + [
    (module, sizes) for module in (Identity, Window, Relu, Halves) for sizes in ((1,), (1, 1, 1), (2, 3), (8,))
]


@pytest.mark.parametrize(("module", "sizes"), ALIASES)
def test_no_answer_changes_when_the_next_batch_runs(
    tmp_path: Path, module: type[torch.nn.Module], sizes: tuple[int, ...]
) -> None:
    model = saved(module(), tmp_path, {**XY, "max_batch_size": 1 if module in STATEFUL else 8})
    model.warm_up()
    runner = model.runners[0]
    seen: list[tuple[Array, bytes]] = []
    for turn in range(20):
        batch = given(*sizes, seed=turn)
        for call in batch:  # as they come from a socket, or as JSON makes them
            call.inputs[0].flags.writeable = bool(turn % 2)
        before = [call.inputs[0].tobytes() for call in batch]
        for answer in runner.run(batch):
            assert not isinstance(answer, RequestError)
            seen.append((answer[0], answer[0].tobytes()))
        assert [call.inputs[0].tobytes() for call in batch] == before, "a request was written to"
        for array, was in seen:
            assert array.tobytes() == was, "an answer changed"


@pytest.mark.parametrize("module", [Identity, Window, Relu], ids=lambda module: module.__name__)
def test_no_answer_changes_when_large_inputs_are_not_copied(tmp_path: Path, module: type[torch.nn.Module]) -> None:
    width = ZERO_COPY_BYTES
    model = saved(module(), tmp_path, config_of({"x": ("FP32", [width])}, {"y": ("FP32", [-1])}))
    model.warm_up()
    seen = []
    for turn in range(6):
        data = np.random.default_rng(turn).normal(size=(1, width)).astype(np.float32)
        was = data.copy()
        ((y,),) = answers(model, [OwnCall([data], 1)])
        assert not np.shares_memory(y, data)
        assert data.tobytes() == was.tobytes()
        seen.append((y, y.copy()))
        data[:] = 7
        assert all(np.array_equal(y, then) for y, then in seen)


class Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1, keepdim=True)


def test_one_large_request_is_read_where_it_lies_once_the_model_is_known_not_to_write(tmp_path: Path) -> None:
    width = ZERO_COPY_BYTES
    model = saved(Sum(), tmp_path, config_of({"x": ("FP32", [width])}, {"y": ("FP32", [1])}))
    runner = model.runners[0]
    assert isinstance(runner, TorchRunner)
    data = np.zeros(width + 64, np.float32)
    start = (-data.ctypes.data % 64) // 4
    call = OwnCall([data[start : start + width].reshape(1, width)], 1)
    answers(model, [call])
    assert runner._gather.size_bytes > 0
    model.warm_up()
    runner._gather.clear()
    answers(model, [call])
    assert runner._gather.size_bytes == 0
    shifted = OwnCall([data[start + 1 : start + 1 + width].reshape(1, width)], 1)
    answers(model, [shifted])  # four bytes off: copied, so that it lies well
    assert runner._gather.size_bytes > 0


def test_a_fresh_output_is_given_away_without_a_copy(tmp_path: Path) -> None:
    (a,), (b,) = answers(saved(mlp(), tmp_path, XY), given(1, 2))
    assert a.base is not None
    assert a.base is b.base


def test_shapes_take_turns_and_buffers_stay_bounded(tmp_path: Path) -> None:
    model = saved(Sum(), tmp_path, config_of({"x": ("FP32", [-1])}, {"y": ("FP32", [1])}))
    runner = model.runners[0]
    assert isinstance(runner, TorchRunner)
    dice = random.Random(2)  # noqa: S311 - repeatable
    for turn in range(400):
        batch = given(*[dice.randint(1, 4) for _ in range(2)], width=dice.randint(1, 200), seed=turn)
        got = np.concatenate([rows[0] for rows in answers(model, batch)])
        assert got.tobytes() == stacked(batch).sum(1, keepdim=True).numpy().tobytes()
    assert len(runner._gather._kept) == 64
    runner.close()
    assert runner._gather.size_bytes == 0


class Mean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


class Pick(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.arange(4.0)[x.to(torch.int64)]


def test_an_output_that_does_not_follow_the_batch_is_refused(tmp_path: Path) -> None:
    model = saved(Mean(), tmp_path, XY)
    with pytest.raises(
        RequestError, match=r"output 'y' with shape \[4\] for a batch of 2; its first dimension must be"
    ):
        answers(model, given(2))
    with pytest.raises(BadModel, match="its first dimension must be the batch, or max_batch_size must be 0"):
        model.warm_up()


def test_a_request_that_spoils_its_batch_is_the_only_one_that_fails(tmp_path: Path) -> None:
    model = saved(Pick(), tmp_path, XY)
    good, bad = OwnCall([np.full((1, 4), 3, np.float32)], 1), OwnCall([np.full((1, 4), 9, np.float32)], 1)
    first, second, third = model.runners[0].run([good, bad, good])
    assert not isinstance(first, RequestError)
    assert not isinstance(third, RequestError)
    assert first[0].tolist() == third[0].tolist() == [[3, 3, 3, 3]]
    assert isinstance(second, RequestError)
    assert second.kind is Kind.INTERNAL
    assert "index 9 is out of bounds" in second.message


def test_a_model_that_does_not_batch_gets_each_request_alone_in_its_own_shape(tmp_path: Path) -> None:
    model = saved(Mean(), tmp_path, config_of({"x": ("FP32", [-1, -1])}, {"y": ("FP32", [-1])}, 0))
    batch = [OwnCall([np.full((rows, 3), rows, np.float32)]) for rows in (1, 5, 2)]
    assert [rows[0].tolist() for rows in answers(model, batch)] == [[1] * 3, [5] * 3, [2] * 3]
    assert next(iter(model.runners[0].stream(batch[1])))[0].tolist() == [5] * 3


class Two(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": a + b, "rest": (a - b)[:, :1]}


def test_several_inputs_and_outputs_keep_their_rows_and_their_names(tmp_path: Path) -> None:
    sides = {"b": ("INT32", [2]), "a": ("INT32", [2])}
    model = saved(Two(), tmp_path, config_of(sides, {"rest": ("INT32", [1]), "sum": ("INT32", [2])}))
    batch = [OwnCall([np.full((n, 2), n, np.int32), np.full((n, 2), 10 * n, np.int32)], n) for n in (1, 2, 3)]
    for n, (rest, total) in zip((1, 2, 3), answers(model, batch), strict=True):
        assert (rest.tolist(), total.tolist()) == ([[9 * n]] * n, [[11 * n] * 2] * n)


class Narrow(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


def test_an_output_of_another_type_than_the_config_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="gave output 'y' as FP64, which is FP32 by its config"):
        saved(Narrow(), tmp_path, XY).warm_up()


def test_a_model_without_a_config_learns_its_outputs_from_its_first_answer(tmp_path: Path) -> None:
    model = saved(Two(), tmp_path, {})
    assert list(model.metadata.outputs) == []
    answers(model, [OwnCall([np.zeros((2, 2), np.int32)] * 2)])
    assert [(spec.name, spec.datatype) for spec in model.metadata.outputs] == [("sum", "INT32"), ("rest", "INT32")]


class Batchnorm(torch.nn.Module):
    """Mixes rows, on purpose: what stands in the padding shows in every answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.sum(0)


def exported(module: torch.nn.Module, folder: Path, config: dict[str, Any], **options: str) -> LoadedModel:
    config = {**config, "parameters": {key: {"string_value": value} for key, value in options.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module.eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    return load(find(str(folder)), LoadOptions(device="cpu"))


@pytest.mark.parametrize("module", [Identity, Window, Relu, Halves], ids=lambda module: module.__name__)
def test_exported_programs_do_not_give_away_what_changes(tmp_path: Path, module: type[torch.nn.Module]) -> None:
    model = exported(module(), tmp_path, XY)
    model.warm_up()
    seen = []
    for turn in range(10):
        batch = given(*(1, 2)[: 1 + turn % 2], seed=turn)
        expected = module()(stacked(batch)).numpy()
        got = answers(model, batch)
        assert np.concatenate([rows[0] for rows in got]).tobytes() == expected.tobytes()
        seen += [(rows[0], rows[0].tobytes()) for rows in got]
        assert all(array.tobytes() == was for array, was in seen)


def test_an_exported_program_still_guards_its_inputs_in_the_quick_way(tmp_path: Path) -> None:
    wide = config_of({"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}, 100)
    model = exported(mlp(), tmp_path, wide)
    for width, rows in ((4, 65), (3, 2)):
        (answer,) = model.runners[0].run(given(rows, width=width))
        assert isinstance(answer, RequestError)
        assert answer.kind is Kind.INVALID, answer.message


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        pytest.param(
            {"x": ("INT32", [4])}, r"says 'x' is INT32 \[-1, 4\], but the model has FP32 \[-1, 4\]", id="type"
        ),
        pytest.param({"x": ("FP32", [5])}, r"says 'x' is FP32 \[-1, 5\], but the model has", id="dims"),
        pytest.param({"x": ("STRING", [4])}, "a tensor of strings, which PyTorch does not have", id="strings"),
    ],
)
def test_a_config_that_contradicts_the_program_is_refused(
    tmp_path: Path, inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadModel, match=sentence):
        exported(mlp(), tmp_path, config_of(inputs, {"y": ("FP32", [3])}))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_changes_the_arithmetic_and_not_the_signature(tmp_path: Path, dtype: str) -> None:
    model = saved(mlp(), tmp_path, XY, dtype=dtype)
    model.warm_up()
    batch = given(2, 3)
    kind = getattr(torch, dtype)
    with torch.inference_mode():
        expected = mlp().to(kind)(stacked(batch).to(kind)).float().numpy()
    assert np.concatenate([rows[0] for rows in answers(model, batch)]).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({"compile": "on"}, "parameter 'compile' has no meaning for .* which is torchscript", id="compile"),
        pytest.param({"quantization": "dynamic-int8"}, "parameter 'quantization' has no meaning", id="int8"),
        pytest.param({"class": "a:B"}, "parameter 'class' has no meaning", id="class"),
    ],
)
def test_options_that_a_kind_of_model_cannot_honour_are_refused(
    tmp_path: Path, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadModel, match=sentence):
        saved(mlp(), tmp_path, XY, **options)


def test_parameters_of_others_are_named_as_ignored(tmp_path: Path) -> None:
    assert saved(mlp(), tmp_path, XY, INFERENCE_MODE="true").metadata.ignored == ("parameters.INFERENCE_MODE",)


def test_instances_share_weights_and_answer_alike(tmp_path: Path) -> None:
    groups = {"instance_group": [{"count": 3, "kind": "KIND_CPU"}]}
    model = saved(mlp(), tmp_path, XY | groups, instances="threads")
    assert len(model.runners) == 3
    model.warm_up()
    batch = given(1, 2)
    results = [[rows[0].tobytes() for rows in runner.run(batch)] for runner in model.runners]  # type: ignore[index]
    assert results[0] == results[1] == results[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="the config asks for device cuda:1, but the server was started with --device"):
        saved(mlp(), tmp_path, {**XY, "instance_group": [{"kind": "KIND_GPU", "gpus": [1]}]})
    with pytest.raises(BadConfig, match="this container has no usable GPU"):
        load(find(str(tmp_path)), LoadOptions())


def test_compiled_buckets_are_filled_up_with_zeros_and_answer_like_torch(tmp_path: Path) -> None:
    """One bucket only: a compiler takes ten seconds for each on a machine that does other things."""
    model = exported(Batchnorm(), tmp_path, {**XY, "max_batch_size": 4}, compile="on", buckets="4")
    assert model.options.buckets == (4,)
    model.warm_up()
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for turn, sizes in enumerate([(1,), (1, 2), (4,), (1, 1, 1, 1), (2,)]):
        batch = given(*sizes, seed=turn)
        rows = stacked(batch)
        expected = (rows - rows.sum(0)).numpy()
        got = np.concatenate([answer[0] for answer in answers(model, batch)])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled, "a request waited for the compiler"


def test_compiling_needs_shapes(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="has inputs of no fixed shape, so compile=on would compile while requests wait"):
        exported(mlp(), tmp_path, config_of({"x": ("FP32", [-1])}, {"y": ("FP32", [3])}), compile="on")
