"""Models of every other kind: ONNX, weights with a class, native code; loading and unloading."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.samples import Mlp, mlp
from tests.runtime.loading import THREADS, TRUSTED, XY, close_loaded, code, sample
from tests.runtime.process import REPOSITORY
from tests.runtime.test_torch_runner import answers, config_of, given, saved, stacked

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

FULL = bool(os.environ.get("SLIPWAY_FULL"))


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """What a test loads through `trusted` is closed after it."""
    yield
    close_loaded()


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


def test_what_is_spent_on_batches_and_answers_is_told_by_every_kind_of_runner(tmp_path: Path) -> None:
    wide = config_of({"x": ("FP32", [1 << 16])}, {"y": ("FP32", [-1])})
    for name in ("torch", "code", "onnx"):
        (tmp_path / name).mkdir()
    models = [
        saved(torch.nn.Identity(), tmp_path / "torch", wide),
        code(tmp_path / "code", "class Model:\n    def infer(self, batch):\n        return {'y': batch['x']}", wide),
    ]
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    onnx_file(tmp_path / "onnx" / "model.onnx", identity, {"x": (F, ["n", 1 << 16])}, {"y": (F, ["n", 1 << 16])})
    (tmp_path / "onnx" / "config.json").write_text(json.dumps(wide))
    models.append(load(find(str(tmp_path / "onnx")), LoadOptions(device="cpu")))
    for model in models:
        (runner,) = model.runners
        began_ns = time.perf_counter_ns()
        answers(model, given(2, 3, width=1 << 16))
        took_ns = time.perf_counter_ns() - began_ns
        input_ns, output_ns = runner.spent.taken()  # type: ignore[attr-defined]
        assert input_ns > 0, model.artifact
        assert output_ns > 0, model.artifact
        assert input_ns + output_ns < took_ns
        assert runner.spent.taken() == (0, 0)  # type: ignore[attr-defined]
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
