"""Real torch programs, loaded in this process: every sample, signatures, datatypes, hostile archives."""

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError
from slipway_runtime.models import torch_model as model
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.torch_model import TorchModel
from slipway_runtime.samples import SAMPLES, mlp
from slipway_runtime.tensors import DTYPES, Tensor, TensorSpec

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things


def load(path: Path, device: str = "cpu") -> TorchModel:
    return model.load(find(str(path), "auto"), device, threads=1)


def scripted(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(module), path)
    return path


def fp32(name: str, *values: float) -> Tensor:
    return Tensor(name, "FP32", np.array([values], np.float32))


@pytest.mark.parametrize(
    ("name", "answer"), [("hello", [3, 5, 7, 9]), ("hello-v2", [103, 105, 107, 109]), ("slow", [1, 2, 3, 4])]
)
def test_the_samples_answer_what_their_card_says(samples: Path, name: str, answer: list[float]) -> None:
    (y,) = load(samples / name).run([fp32("x", 1, 2, 3, 4)])
    assert (y.name, y.datatype, y.data.tolist()) == ("y", "FP32", [answer])


def test_add_sub_answers_sum_and_difference(samples: Path) -> None:
    inputs = [Tensor(f"INPUT{i}", "INT32", np.full((2, 16), 5 - i, np.int32)) for i in range(2)]
    total, difference = load(samples / "add-sub").run(inputs)
    assert (total.name, total.data.tolist()) == ("OUTPUT0", [[9] * 16] * 2)
    assert (difference.name, difference.data.tolist()) == ("OUTPUT1", [[1] * 16] * 2)


def test_the_exported_mlp_is_the_same_model_as_the_scripted_one(samples: Path) -> None:
    x = Tensor("x", "FP32", np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32))
    (a,), (b,) = load(samples / "mlp").run([x]), load(samples / "export-mlp").run([x])
    assert (a.name, a.data.shape) == (b.name, b.data.shape) == ("scores", (7, 3))
    with torch.inference_mode():
        expected = mlp()(torch.from_numpy(x.data)).numpy()
    np.testing.assert_array_equal(a.data, expected)
    np.testing.assert_array_equal(b.data, expected)


def test_the_samples_are_the_same_each_time(samples: Path, tmp_path: Path) -> None:
    for name in ("mlp", "hello"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            SAMPLES[name][2](tmp_path)
        assert (tmp_path / "model.pt").read_bytes() == (samples / name / "model.pt").read_bytes()


def test_a_broken_sample_breaks_as_its_card_says(samples: Path) -> None:
    with pytest.raises(BadModel, match="damaged or cut short"):
        load(samples / "broken-corrupt")
    with pytest.raises(BadModel, match=r"first \(warm-up\) request failed: the model failed: this sample fails on pur"):
        load(samples / "broken-crash").warm_up()
    load(samples / "broken-oom")  # its warm-up takes 3.5 GiB and is left to a pod with a limit


class Identity(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_passes_through_unchanged(tmp_path: Path, datatype: str) -> None:
    scripted(Identity(), tmp_path / "model.pt")
    tensor = {"data_type": f"TYPE_{datatype}", "dims": [-1, -1, -1]}
    config = {"input": [{"name": "x", **tensor}], "output": [{"name": "OUTPUT__0", **tensor}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path)
    bits = np.random.default_rng(3).integers(0, 2 if datatype == "BOOL" else 256, 2 * 3 * 8, np.uint8)
    data = bits.view(DTYPES[datatype]).reshape(2, 3, -1)
    (out,) = loaded.run([Tensor("x", datatype, data)])
    assert (out.name, out.datatype, out.data.shape) == ("OUTPUT__0", datatype, data.shape)
    assert out.data.tobytes() == data.tobytes()
    assert not np.shares_memory(out.data, data)


def test_bfloat16_needs_a_config_because_its_bits_look_like_uint16(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"tensor 'x' is BF16, which needs a config.json"):
        load(scripted(Identity(), tmp_path / "model.pt")).run([Tensor("x", "BF16", np.zeros((1, 1), np.uint16))])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)], ids=str)
def test_scalars_and_empty_tensors_pass(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (out,) = load(scripted(Identity(), tmp_path / "model.pt")).run([Tensor("x", "INT16", np.zeros(shape, "<i2"))])
    assert out.data.shape == shape


def test_bytes_at_an_odd_address_and_read_only_are_fine(samples: Path) -> None:
    raw = b"x" + np.arange(4, dtype=np.float32).tobytes()
    data = np.frombuffer(raw, np.float32, offset=1).reshape(1, 4)
    (y,) = load(samples / "hello").run([Tensor("x", "FP32", data)])
    assert y.data.tolist() == [[1, 3, 5, 7]]


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


def test_a_model_that_writes_into_its_input_does_not_write_into_the_request(tmp_path: Path) -> None:
    x = fp32("x", 1, 2)
    (y,) = load(scripted(InPlace(), tmp_path / "model.pt")).run([x])
    assert (x.data.tolist(), y.data.tolist()) == ([[1, 2]], [[2, 4]])


class Transposed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.t()


def test_outputs_are_row_major(tmp_path: Path) -> None:
    x = Tensor("x", "INT32", np.arange(6, dtype=np.int32).reshape(2, 3))
    (y,) = load(scripted(Transposed(), tmp_path / "model.pt")).run([x])
    assert y.data.flags.c_contiguous
    assert y.data.tolist() == [[0, 3], [1, 4], [2, 5]]


class Named(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: float = 2.0) -> dict[str, torch.Tensor]:
        return {"low": a - b, "high": (a + b) * scale}


class OfList(torch.nn.Module):
    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        return xs[0]


class Complex(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.complex(x, x)


def test_torchscript_names_its_inputs_and_dict_outputs(tmp_path: Path) -> None:
    loaded = load(scripted(Named(), tmp_path / "model.pt"))
    assert loaded.metadata.inputs == (TensorSpec("a"), TensorSpec("b"))
    assert not loaded.warm_up()  # no shape is known
    low, high = loaded.run([fp32("a", 5), fp32("b", 3)])
    assert (low.name, low.data.tolist(), high.name, high.data.tolist()) == ("low", [[2]], "high", [[16]])


def configured(tmp_path: Path, module: torch.nn.Module, inputs: list[str], outputs: list[str]) -> TorchModel:
    scripted(module, tmp_path / "model.pt")
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {
        "max_batch_size": 4,
        "input": [{"name": name, **tensor} for name in inputs],
        "output": [{"name": name, **tensor} for name in outputs],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return load(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "values"),
    [
        pytest.param(["a", "b"], [5, 3], id="by name"),
        pytest.param(["b", "a"], [3, 5], id="by name, in another order"),
        pytest.param(["INPUT__0", "INPUT__1"], [5, 3], id="by position"),
    ],
)
def test_the_config_names_inputs(tmp_path: Path, inputs: list[str], values: list[float]) -> None:
    loaded = configured(tmp_path, Named(), inputs, ["high", "low"])
    assert loaded.warm_up()
    given = [fp32(name, value) for name, value in zip(inputs, values, strict=True)]
    assert [(out.name, out.data.tolist()) for out in loaded.run(given)] == [("high", [[16]]), ("low", [[2]])]


def test_a_config_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"names inputs \['a'\], but the model takes \['a', 'b'\]"):
        configured(tmp_path, Named(), ["a"], ["y"])
    with pytest.raises(BadModel, match="gave 2 outputs, its config names 1"):
        configured(tmp_path, Named(), ["a", "b"], ["y"]).warm_up()


def test_inputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"takes 'xs' of type List\[Tensor\]; only tensors can be sent"):
        load(scripted(OfList(), tmp_path / "model.pt"))


def test_outputs_the_protocol_cannot_carry_are_an_error(tmp_path: Path) -> None:
    loaded = load(scripted(Complex(), tmp_path / "model.pt"))
    with pytest.raises(RequestError, match=r"torch.complex64, which the protocol cannot carry") as caught:
        loaded.run([fp32("x", 1)])
    assert caught.value.kind is Kind.INTERNAL


def exported(module: torch.nn.Module, path: Path, *args: object, **kwargs: object) -> Path:
    torch.export.save(torch.export.export(module, args, kwargs), path)
    return path


def test_an_exported_program_tells_its_signature(tmp_path: Path) -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    loaded = load(exported(Named(), tmp_path / "model.pt2", a, b=b))
    assert loaded.metadata.inputs == (TensorSpec("a", "FP32", (2, 3)), TensorSpec("b", "FP32", (2, 3)))
    assert loaded.metadata.outputs == (TensorSpec("low", "FP32", (2, 3)), TensorSpec("high", "FP32", (2, 3)))
    assert loaded.warm_up()
    low, high = loaded.run([Tensor(name, "FP32", np.full((2, 3), 4, np.float32)) for name in "ab"])
    assert (low.name, low.data.max(), high.name, high.data.max()) == ("low", 0, "high", 16)


def test_an_input_outside_of_what_was_exported_is_the_clients_fault(samples: Path) -> None:
    with pytest.raises(RequestError, match="outside of what the model was exported for") as caught:
        load(samples / "export-mlp").run([Tensor("x", "FP32", np.zeros((65, 4), np.float32))])
    assert caught.value.kind is Kind.INVALID


def test_a_model_of_no_use_on_this_machine_is_named(samples: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BadConfig, match="no usable GPU; use --device cpu"):
        load(samples / "hello", device="cuda")


class Bomb:
    """Runs code when it is unpickled, as a hostile file would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return target


def test_an_exported_program_cannot_smuggle_code_in_its_sample_inputs(samples: Path, tmp_path: Path) -> None:
    """torch.export.load falls back to full unpickling for these; the first load shows that the bomb is live."""
    torch.save((Bomb(tmp_path / "boom"),), tmp_path / "bomb.pt")
    payload = (tmp_path / "bomb.pt").read_bytes()

    def change(name: str, data: bytes) -> tuple[str, bytes]:
        return name, payload if "sample_inputs" in name else data

    bad = rewritten(samples / "export-mlp" / "model.pt2", tmp_path / "model.pt2", change)
    with pytest.raises(BadModel, match="cannot be loaded by torch"):
        load(bad)
    assert not (tmp_path / "boom").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "boom")))  # noqa: S301 - our own
    assert (tmp_path / "boom").exists()


def test_an_exported_program_cannot_smuggle_code_in_its_constants(samples: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("model_constants_config.json"):
            entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return name, json.dumps({"config": {"c": entry}}).encode()
        if name.endswith("byteorder"):
            root = name.partition("/")[0]
            return f"{root}/data/constants/opaque_obj_0", pickle.dumps(Bomb(tmp_path / "boom"))
        return name, data

    bad = rewritten(samples / "export-mlp" / "model.pt2", tmp_path / "model.pt2", change)
    with pytest.raises(BadModel, match="holds pickled objects"):
        load(bad)
    assert not (tmp_path / "boom").exists()


def test_a_damaged_record_is_bad_data_not_a_crash(samples: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        return name, data[:-20] if name.endswith("model.json") else data

    with pytest.raises(BadModel, match=r"is damaged: its program is no JSON; save it again"):
        load(rewritten(samples / "export-mlp" / "model.pt2", tmp_path / "model.pt2", change))
