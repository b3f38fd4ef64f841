"""Models of every other kind: the user's own code, ONNX, weights with a class, native code; loading and unloading."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from slipway_runtime.engine.job import Call
from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall, WithControls
from slipway_runtime.models.config import Control
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.samples import Mlp, mlp
from slipway_runtime.tensors import Array, Parameter, Rows
from tests.runtime.process import REPOSITORY
from tests.runtime.test_torch_runner import answers, config_of, given, stacked

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

TRUSTED = LoadOptions(device="cpu", allow_code=True, allowed_classes=("slipway_runtime.samples:*", "tests.*"))
XY = config_of({"x": ("FP32", [4])}, {"y": ("FP32", [-1])})
THREADS = {"parameters": {"instances": {"string_value": "threads"}}}
FULL = bool(os.environ.get("SLIPWAY_FULL"))


loaded: list[LoadedModel] = []


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """What a test loads through `trusted` is closed after it."""
    yield
    while loaded:
        loaded.pop().close()


def trusted(folder: Path) -> LoadedModel:
    loaded.append(load(find(str(folder)), TRUSTED))
    return loaded[-1]


def code(folder: Path, source: str, config: Mapping[str, Any] = XY) -> LoadedModel:
    (folder / "model.py").write_text(source)
    (folder / "config.json").write_text(json.dumps(config))
    return trusted(folder)


def texts(*items: bytes | str, rows: int = 1) -> OwnCall:
    return OwnCall([np.array(items, object).reshape(rows, -1)], rows)


def sample(samples: Path, name: str) -> LoadedModel:
    model = trusted(samples / name)
    assert model.warm_up()
    return model


def streamed(model: LoadedModel, *inputs: Array) -> list[list[Any]]:
    return [[array.tolist() for array in rows] for rows in model.runners[0].stream(OwnCall(list(inputs)))]


def test_strings_of_several_requests_are_added(samples: Path) -> None:
    model = sample(samples, "simple_string")
    batch = [OwnCall([np.full((1, 16), str(n).encode(), object), np.full((1, 16), b"3", object)], 1) for n in (10, 1)]
    (total, rest), (other, _) = answers(model, batch)
    assert (total.tolist(), rest.tolist(), other[0, 0]) == ([[b"13"] * 16], [[b"7"] * 16], b"4")


def test_any_bytes_come_back(samples: Path) -> None:
    model = sample(samples, "simple_identity")
    given_bytes = [b"", b"\x00", b"\xff" * 70_000, "ä".encode()]
    ((y,),) = answers(model, [texts(*given_bytes, rows=4)])
    assert y.reshape(-1).tolist() == given_bytes


def step(number: int, sequence: Parameter, **flags: bool) -> OwnCall:
    parameters: dict[str, Parameter] = {f"sequence_{flag}": value for flag, value in flags.items()}
    return OwnCall([np.full((1, 1), number, np.int32)], 1, {"sequence_id": sequence, **parameters})


def test_sequences_add_up_apart_from_each_other(samples: Path) -> None:
    model = sample(samples, "simple_sequence")

    def sums(*batch: OwnCall) -> list[int]:
        return [rows[0][0, 0] for rows in answers(model, batch)]

    assert sums(step(1, 7, start=True), step(100, "eight", start=True)) == [1, 100]
    assert sums(step(2, 7), step(5, 9, start=True, end=True), step(200, "eight")) == [3, 5, 300]
    assert sums(step(3, 7, end=True)) == [6]
    error, other = model.runners[0].run([step(4, 7), step(1, "eight")])
    assert isinstance(error, RequestError)
    assert error.message == "sequence 7 was not started, or was idle for too long"
    assert not isinstance(other, RequestError)
    assert other[0].tolist() == [[301]]
    model.runners[0].forget("eight")  # type: ignore[attr-defined]
    (gone,) = model.runners[0].run([step(1, "eight")])
    assert isinstance(gone, RequestError)


def test_a_stream_has_an_answer_for_every_number(samples: Path) -> None:
    model = sample(samples, "repeat_int32")
    assert model.decoupled
    numbers, delays, wait = np.array([4, 2], np.int32), np.zeros(2, np.uint32), np.zeros(1, np.uint32)
    assert streamed(model, numbers, delays, wait) == [[[4], [0]], [[2], [1]]]
    assert streamed(model, numbers[:0], delays[:0], wait) == []
    with pytest.raises(RequestError, match="zip"):
        streamed(model, numbers, delays[:1], wait)
    with pytest.raises(RequestError, match="doesn't support models with decoupled transaction policy"):
        model.runners[0].run([OwnCall([numbers, delays, wait])])


class_body = "class Model:\n    def infer(self, batch):\n        "


def test_code_has_steps_before_and_after_and_may_be_async(tmp_path: Path) -> None:
    model = code(
        tmp_path,
        """
import asyncio
class Model:
    async def load(self, context):
        await asyncio.sleep(0)
        self.loop, self.add = asyncio.get_running_loop(), int(context.parameters["add"])
        assert (context.version, context.device, context.max_batch, context.name) == (1, "cpu", 8, "m")
        assert (context.folder / "model.py").exists()
    def preprocess(self, batch):
        return {"x": batch["x"] + self.add, "sizes": [request.rows.stop for request in batch.requests]}
    async def infer(self, ready):
        assert asyncio.get_running_loop() is self.loop
        return {"y": ready["x"] * len(ready["sizes"])}
    async def postprocess(self, outputs):
        return {"y": -outputs["y"]}
""",
        {**XY, "name": "m", "parameters": {"add": {"string_value": "1"}}},
    )
    model.warm_up()
    batch = given(1, 3)
    got = np.concatenate([rows[0] for rows in answers(model, batch)])
    np.testing.assert_array_equal(got, -(stacked(batch).numpy() + 1) * 2)
    model.close()


def test_what_code_is_given_is_its_own_to_change_and_to_keep(tmp_path: Path) -> None:
    model = code(tmp_path, "kept = []\n" + class_body + "x = batch['x']; kept.append(x); x *= 2; return {'y': kept[0]}")
    for turn, sizes in enumerate([(2,), (1, 1), (2,)]):
        batch = given(*sizes, seed=turn)
        for call in batch:
            call.inputs[0].flags.writeable = False
        first = np.concatenate([rows[0] for rows in answers(model, batch)])
        np.testing.assert_array_equal(first, given(2, seed=0)[0].inputs[0] * 2)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param("raise KeyError('lost')", "the model failed: 'lost'", id="raises"),
        pytest.param("return batch['x']", r"gave .*must be a dict with outputs \['y'\]", id="no dict"),
        pytest.param("return {'z': batch['x']}", r"the model gave \['z'\], must be a dict with outputs", id="name"),
        pytest.param("return {'y': batch['x'][:1]}", r"with shape \[1, 4\] for a batch of 3", id="rows"),
        pytest.param("return {'y': 'text'}", "gave output 'y' as <U4, must be an array of float32", id="type"),
        pytest.param("return {'y': batch['x'] > 0 if 0 else [[1], [2, 3]]}", "inhomogeneous", id="ragged"),
        pytest.param("return {'y': batch['x'].astype(complex)}", "as complex128, must be an array of", id="complex"),
    ],
)
def test_what_code_does_wrong_is_said_to_who_asked(tmp_path: Path, body: str, sentence: str) -> None:
    model = code(tmp_path, class_body + body)
    with pytest.raises(RequestError, match=sentence) as caught:
        answers(model, given(1, 2))
    assert caught.value.kind is Kind.INTERNAL
    with pytest.raises(BadModel, match=r"first .warm-up. request failed"):
        model.warm_up()


def test_one_request_may_fail_alone(tmp_path: Path) -> None:
    model = code(tmp_path, class_body + "batch.requests[1].fail('no such user'); return {'y': batch['x']}")
    first, second, _ = model.runners[0].run(given(1, 2, 1))
    assert not isinstance(first, RequestError)
    assert isinstance(second, RequestError)
    assert (second.kind, second.message) == (Kind.INTERNAL, "no such user")


STREAMS = {
    "generator": "def infer(self, batch):\n        yield {'y': batch['x']}\n        yield {'y': batch['x'] * 2}",
    "async generator": (
        "async def infer(self, batch):\n        yield {'y': batch['x']}\n        yield {'y': batch['x'] * 2}"
    ),
}


@pytest.mark.parametrize("infer", STREAMS.values(), ids=STREAMS)
def test_code_that_yields_is_a_stream_without_being_declared_one(tmp_path: Path, infer: str) -> None:
    model = code(tmp_path, f"class Model:\n    {infer}\n")
    assert model.decoupled
    assert model.config.decoupled
    assert streamed(model, np.ones((1, 4), np.float32)) == [[[[1] * 4]], [[[2] * 4]]]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_stream_that_nobody_reads_to_its_end_is_closed(tmp_path: Path, kind: str) -> None:
    model = code(
        tmp_path,
        f"""
class Model:
    {kind} infer(self, batch):
        try:
            while True:
                yield {{"y": batch["x"]}}
        finally:
            open({str(tmp_path / "closed")!r}, "w").close()
""",
    )
    stream = model.runners[0].stream(given(1)[0])
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        pytest.param("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named", id="import"),
        pytest.param("class Model: pass", "has no class Model with a method infer", id="no infer"),
        pytest.param("Model = 3", "has no class Model with a method infer", id="no class"),
        pytest.param(
            "class Model:\n  def infer(self, b): ...\n  def load(self, c): raise OSError('no weights')",
            "failed to load: OSError: no weights",
            id="load",
        ),
    ],
)
def test_code_that_is_no_model_is_refused(tmp_path: Path, source: str, sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        code(tmp_path, source)


def test_code_needs_a_config_and_the_administrators_word(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="needs a config with input and output"):
        code(tmp_path, class_body + "return {}", {})
    with pytest.raises(BadConfig, match=r"model.py' is Python code, which runs with the server's rights; allow it"):
        load(find(str(tmp_path)), LoadOptions())


def test_every_instance_of_code_is_an_object_of_its_own(tmp_path: Path) -> None:
    source = (
        "class Model:\n def load(self, c): self.n = c.instance\n def infer(self, b): return {'y': b['x'] * 0 + self.n}"
    )
    model = code(tmp_path, source, {**XY, "instance_group": [{"count": 3}], **THREADS})
    results: list[Any] = [runner.run(given(1))[0] for runner in model.runners]
    assert [rows[0][0, 0] for rows in results] == [0, 1, 2]


def onnx_file(path: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    def values(named: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in named.items()]

    graph = helper.make_graph(list(nodes), "g", values(inputs), values(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)


F, S = TensorProto.FLOAT, TensorProto.STRING
ADD_SUB = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["rest"])]


def test_onnx_tells_its_signature_and_answers_in_batches(tmp_path: Path) -> None:
    both = {"a": (F, ["n", 2]), "b": (F, ["n", 2])}
    onnx_file(tmp_path / "model.onnx", ADD_SUB, both, {"sum": (F, ["n", 2]), "rest": (F, ["n", 2])})
    (tmp_path / "config.json").write_text(
        json.dumps({"max_batch_size": 8, "instance_group": [{"count": 2}], **THREADS})
    )
    model = load(find(str(tmp_path)), LoadOptions(device="cpu"))
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.metadata.outputs] == [
        ("sum", "FP32", (-1, 2)),
        ("rest", "FP32", (-1, 2)),
    ]
    assert model.warm_up()
    for runner in model.runners:
        seen = []
        for turn in range(6):
            batch = [
                OwnCall([call.inputs[0], call.inputs[0] * 3], call.rows) for call in given(1, 3, width=2, seed=turn)
            ]
            for call, rows in zip(batch, runner.run(batch), strict=True):
                assert not isinstance(rows, RequestError)
                assert rows[0].tobytes() == (call.inputs[0] + call.inputs[1]).tobytes()
                assert rows[1].tobytes() == (call.inputs[0] - call.inputs[1]).tobytes()
                seen.append((rows[0], rows[0].copy()))
            assert all(np.array_equal(array, was) for array, was in seen)
    model.close()


def test_onnx_identity_of_strings_and_of_numbers(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["s"], ["t"]), helper.make_node("Identity", ["x"], ["y"])]
    onnx_file(tmp_path / "model.onnx", nodes, {"s": (S, ["n"]), "x": (F, ["n"])}, {"t": (S, ["n"]), "y": (F, ["n"])})
    (tmp_path / "config.json").write_text('{"max_batch_size": 8}')
    model = load(find(str(tmp_path)), LoadOptions())
    model.warm_up()
    calls = [OwnCall([np.array([text], object), np.ones(1, np.float32)], 1) for text in (b"", "ä".encode())]
    assert [rows[0].tolist() for rows in answers(model, calls)] == [[b""], ["ä".encode()]]
    for batch in (calls, calls[:1]):
        (_, y), *_ = answers(model, batch)
        assert not any(np.shares_memory(y, call.inputs[1]) for call in batch)
    (error,) = model.runners[0].run([OwnCall([np.array([b"\xff"], object), np.ones(1, np.float32)], 1)])
    assert isinstance(error, RequestError)
    assert error.kind is Kind.INVALID


def test_a_bad_onnx_file_or_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a and then nothing")
    with pytest.raises(BadModel, match="cannot be loaded by onnxruntime"):
        load(find(str(tmp_path)), LoadOptions())
    onnx_file(tmp_path / "model.onnx", ADD_SUB, {"a": (F, [2]), "b": (F, [2])}, {"sum": (F, [2])})
    (tmp_path / "config.json").write_text(json.dumps(config_of({"a": ("FP32", [2])}, {}, 0)))
    with pytest.raises(BadModel, match=r"names inputs \['a'\], but the model takes \['a', 'b'\]"):
        load(find(str(tmp_path)), LoadOptions())


def test_weights_go_into_the_class_that_the_administrator_allowed(samples: Path) -> None:
    model = sample(samples, "safetensors-mlp")
    batch = given(3, 2)
    with torch.inference_mode():
        expected = mlp()(stacked(batch)).numpy()
    assert np.concatenate([rows[0] for rows in answers(model, batch)]).tobytes() == expected.tobytes()
    with pytest.raises(BadConfig, match=r"wants class slipway_runtime.samples:Mlp, which is not allowed"):
        load(find(str(samples / "safetensors-mlp")), LoadOptions(allowed_classes=("torch.*",)))


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 4, bias=False)
        self.b = torch.nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.last = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = torch.relu(self.b(self.a(x)))
        return self.last


def weights(folder: Path, tensors: dict[str, torch.Tensor], **options: str) -> LoadedModel:
    parameters = {key.rstrip("_"): {"string_value": value} for key, value in options.items()}
    (folder / "config.json").write_text(json.dumps({**XY, "parameters": parameters}))
    save_file(tensors, folder / "model.safetensors")
    return load(find(str(folder)), TRUSTED)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    model = weights(tmp_path, {"a.weight": matrix}, class_=f"{__name__}:Tied")
    batch = given(2)
    seen = answers(model, batch)[0][0]
    expected = torch.relu(stacked(batch) @ matrix.T @ matrix.T).numpy()
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
    was = seen.copy()
    answers(model, given(2, seed=5))
    np.testing.assert_array_equal(seen, was)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({}, "holds weights only; name the class", id="no class"),
        pytest.param({"class_": "slipway_runtime.samples:Mlp", "class_args": '{"hidden": 8}'}, "cannot be", id="size"),
        pytest.param({"class_": "slipway_runtime.samples:Hello", "class_args": '{"offset": 1}'}, "0.bias", id="class"),
        pytest.param({"class_": "slipway_runtime.samples:No"}, "cannot be made: AttributeError", id="none"),
        pytest.param({"class_": "slipway_runtime.samples:Mlp", "class_args": '{"n": 8}'}, "TypeError", id="argument"),
        pytest.param({"class_": "slipway_runtime.samples:make"}, "cannot be made: TypeError", id="no module"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        weights(tmp_path, mlp().state_dict(), **options)


MLP = {"class_": "slipway_runtime.samples:Mlp"}


@pytest.mark.parametrize("how", ["dynamic-int8", "static-int8"])
def test_int8_answers_nearly_the_same(tmp_path: Path, how: str) -> None:
    samples = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
    save_file({"x": samples}, tmp_path / "calibration.safetensors")
    model = weights(tmp_path, mlp().state_dict(), **MLP, quantization=how)
    model.warm_up()
    module = model.runners[0]._program.module  # type: ignore[attr-defined]
    assert any("quantized" in type(part).__module__ for part in module.modules())
    batch = [OwnCall([samples[:4].numpy()], 4), OwnCall([samples[4:8].numpy()], 4)]
    with torch.inference_mode():
        expected = mlp()(samples[:8]).numpy()
    got = np.concatenate([rows[0] for rows in answers(model, batch)])
    assert 0 < np.abs(got - expected).max() < 0.05


def test_static_int8_needs_samples_that_fit(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"static-int8 needs samples in '.*calibration.safetensors'"):
        weights(tmp_path, mlp().state_dict(), **MLP, quantization="static-int8")
    save_file({"z": torch.zeros(1)}, tmp_path / "calibration.safetensors")
    with pytest.raises(BadModel, match=r"must have the tensors \['x'\], all with the same number of samples"):
        weights(tmp_path, mlp().state_dict(), **MLP, quantization="static-int8")


def test_an_aotinductor_package_answers_like_the_model_it_was_made_of(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Mlp().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    (tmp_path / "config.json").write_text(json.dumps(XY))
    with pytest.raises(BadConfig, match="is an AOTInductor package, which is native code"):
        load(find(str(tmp_path)), LoadOptions())
    model = load(find(str(tmp_path)), TRUSTED)
    assert model.metadata.platform == "pytorch_aotinductor"
    model.warm_up()
    seen = []
    for turn in range(5):
        calls = given(1, 2, seed=turn)
        with torch.inference_mode():
            expected = program.module()(stacked(calls)).numpy()
        got = answers(model, calls)
        np.testing.assert_allclose(np.concatenate([rows[0] for rows in got]), expected, rtol=1e-5, atol=1e-6)
        seen += [(rows[0], rows[0].copy()) for rows in got]
        assert all(np.array_equal(array, was) for array, was in seen)


def warmed(folder: Path, entry: Mapping[str, Any], max_batch: int = 8) -> list[Any]:
    source = (
        "class Model:\n    def load(self, c): self.seen = []\n"
        "    def infer(self, b):\n        self.seen.append(b['x'])\n        return {'y': b['x']}\n"
    )
    model = code(folder, source, {**XY, "max_batch_size": max_batch, "model_warmup": [{"name": "w", **entry}]})
    model.warm_up()
    seen: list[Any] = model.runners[0]._model.seen  # type: ignore[attr-defined]
    return seen


def test_warm_up_sends_what_the_config_wants(tmp_path: Path) -> None:
    x = {"data_type": "TYPE_FP32", "dims": [4]}
    one, two, first, second = warmed(
        tmp_path, {"batch_size": 3, "count": 2, "inputs": {"x": {**x, "random_data": True}}}
    )
    assert (one.shape, two.shape, first.shape) == ((1, 4), (2, 4), (3, 4))
    assert not one.any()
    assert first.any()
    assert np.array_equal(first, second)
    (tmp_path / "warmup").mkdir()
    np.arange(4, dtype=np.float32).tofile(tmp_path / "warmup" / "data")
    *_, last = warmed(tmp_path, {"batch_size": 2, "inputs": {"x": {**x, "input_data_file": "data"}}})
    assert last.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        pytest.param({"inputs": {"z": {"data_type": "TYPE_FP32", "dims": [4]}}}, "has inputs", id="name"),
        pytest.param({"inputs": {"x": {"data_type": "TYPE_FP32", "dims": [5]}}}, "gives 'x' as FP32", id="dims"),
        pytest.param({"inputs": {"x": {"data_type": "TYPE_INT8", "dims": [4]}}}, "gives 'x' as INT8", id="type"),
        pytest.param(
            {"batch_size": 9, "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [4]}}}, "has batch_size 9", id="batch"
        ),
        pytest.param(
            {"inputs": {"x": {"data_type": "TYPE_FP32", "dims": [4], "input_data_file": "no"}}},
            "No such file",
            id="file",
        ),
    ],
)
def test_a_warm_up_that_does_not_fit_is_refused(tmp_path: Path, entry: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        warmed(tmp_path, entry)


CYCLES = """
import sys
from pathlib import Path
import os
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.load import LoadOptions, load
def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def cycle():
    model = load(find(sys.argv[1]), LoadOptions(device="cpu", allow_code=True))
    model.warm_up()
    model.close()
for _ in range(3):
    cycle()
before = rss()
for _ in range(int(sys.argv[2])):
    cycle()
print(before, rss(), "torch" in sys.modules)
"""


def cycles(folder: Path, count: int) -> tuple[int, int, bool]:
    """Memory before and after loading and unloading `count` times in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "runtime"), "PYTHONWARNINGS": "ignore"}
    arguments = [sys.executable, "-c", CYCLES, str(folder), str(count)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    before, after, has_torch = done.stdout.split()
    return int(before), int(after), has_torch == "True"


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("kind", ["torchscript", "torch-export"])
def test_unloading_gives_memory_back(tmp_path: Path, kind: str) -> None:
    """20 MB of weights each time; kept, they would be a gigabyte in the end."""
    module = torch.nn.Linear(2240, 2240, bias=False).eval()
    config = config_of({"x": ("FP32", [2240])}, {"y": ("FP32", [2240])})
    (tmp_path / "config.json").write_text(json.dumps(config))
    example = (torch.zeros(2, 2240),)
    if kind == "torchscript":
        with pytest.warns(FutureWarning):
            torch.jit.save(torch.jit.script(module), tmp_path / "model.pt")
    else:
        dims = ({0: torch.export.Dim("batch", min=1, max=8)},)
        torch.export.save(torch.export.export(module, example, dynamic_shapes=dims), tmp_path / "model.pt2")
    quick = 50 if kind == "torchscript" else 20  # torch takes longer to read the others
    before, after, _ = cycles(tmp_path, 1000 if FULL else quick)
    assert after < before * 1.05


def test_python_and_onnx_models_do_without_torch(tmp_path: Path, samples: Path) -> None:
    """Importing torch takes seconds and 200 MB."""
    assert not cycles(samples / "simple_identity", 1)[2]
    onnx_file(tmp_path / "model.onnx", ADD_SUB, {"a": (F, [2]), "b": (F, [2])}, {"sum": (F, [2]), "rest": (F, [2])})
    assert not cycles(tmp_path, 1)[2]
    assert cycles(samples / "hello", 1)[2]


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "runtime.md").read_text()
    source = text.partition("## Your own code")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "words.txt").write_text("yes no")
    model = code(tmp_path, source, config_of({"word": ("STRING", [1])}, {"known": ("BOOL", [1])}))
    asked = [OwnCall([np.array([[word]], object)], 1, {"tenant": "a"}) for word in (b"yes", b"maybe")]
    assert [rows[0].tolist() for rows in answers(model, asked)] == [[[True]], [[False]]]
    (refused,) = model.runners[0].run([OwnCall(asked[0].inputs, 1)])
    assert isinstance(refused, RequestError)
    assert refused.message == "tenant is missing"


def test_code_is_closed_once_however_often_it_is_told(tmp_path: Path) -> None:
    source = """
class Model:
    def load(self, context):
        self.file = context.folder / "closed"
        self.file.touch()
    def infer(self, batch):
        return {"y": batch["x"]}
    def close(self):
        self.file.write_text(self.file.read_text() + "closed ")
"""
    model = code(tmp_path, source)
    (runner,) = model.runners
    runner.close()
    model.close()
    assert (tmp_path / "closed").read_text() == "closed "


class Echo:
    """As a GPU's runner: with all that a runner may have."""

    may_run_inline = False
    broken = "the GPU is lost"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [list(call.inputs) for call in batch]

    def stream(self, call: Call) -> Iterator[Rows]:
        yield list(call.inputs)

    def attach(self) -> None:
        self.told.append("attach")

    def probe(self, call: OwnCall) -> None:
        self.told.append(call)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("datatype", "wrong"), [("INT32", 1 << 40), ("UINT64", (1 << 64) + 1), ("INT64", 1 << 63), ("BYTES", "\ud800")]
)
def test_a_sequence_id_that_does_not_fit_fails_its_own_request_only(datatype: str, wrong: Parameter) -> None:
    runner = WithControls(Echo(), [Control("c", "CORRID", datatype)], batched=True)
    good, bad, last = runner.run([OwnCall([], 1, {"sequence_id": number}) for number in (7, wrong, 8)])
    assert isinstance(bad, RequestError)
    assert (bad.kind, "sequence_id" in bad.message) == (Kind.INVALID, True)
    values = [answer[0].reshape(-1).tolist() for answer in (good, last) if not isinstance(answer, RequestError)]
    assert values == ([[b"7"], [b"8"]] if datatype == "BYTES" else [[7], [8]])
    (alone,) = runner.run([OwnCall([], 1, {"sequence_id": wrong})])
    assert isinstance(alone, RequestError)


def test_a_runner_with_control_inputs_passes_on_what_its_own_may_do() -> None:
    echo = Echo()
    runner = WithControls(echo, [Control("ready", "READY", "INT32", off=0, on=1)], batched=True)
    runner.attach()
    runner.probe(OwnCall([]))
    attached, probed = echo.told
    assert (attached, probed.inputs, runner.broken) == ("attach", [np.full((1, 1), 1)], "the GPU is lost")
    assert not hasattr(runner, "pid")
