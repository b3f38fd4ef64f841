"""The user's own code as a model: what it is given, what it may do wrong, streams, warm-up, its end."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadOptions, load
from slipway_runtime.tensors import Parameter
from tests.runtime.loading import THREADS, XY, close_loaded, code, sample, streamed, texts
from tests.runtime.process import REPOSITORY
from tests.runtime.test_torch_runner import answers, config_of, given, stacked

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """What a test loads through `trusted` is closed after it."""
    yield
    close_loaded()


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


def test_instances_that_were_made_before_one_that_fails_are_closed(tmp_path: Path) -> None:
    source = """
class Model:
    def load(self, context):
        if context.instance == 2:
            raise ValueError("two is too many")
        self.file = context.folder / f"closed-{context.instance}"
    def infer(self, batch):
        return {"y": batch["x"]}
    def close(self):
        self.file.touch()
"""
    config = {**XY, "instance_group": [{"count": 3}], "parameters": {"instances": {"string_value": "threads"}}}
    with pytest.raises(BadModel, match="two is too many"):
        code(tmp_path, source, config)
    assert sorted(path.name for path in tmp_path.glob("closed-*")) == ["closed-0", "closed-1"]


def test_metrics_are_made_anew_with_each_load(tmp_path: Path) -> None:
    source = (
        "from prometheus_client import Counter\n"
        "class Model:\n"
        "    def load(self, context): self.seen = Counter('seen', 'Rows', registry=context.metrics)\n"
        "    def infer(self, batch):\n"
        "        self.seen.inc(batch.rows)\n"
        "        return {'y': batch['x']}\n"
    )
    for _ in range(2):
        model = code(tmp_path, source)
        answers(model, given(3))
        registry = model.runners[0].metrics  # type: ignore[attr-defined]
        assert registry.get_sample_value("seen_total") == 3
