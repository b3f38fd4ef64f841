"""Ensembles: tensors by name from step to step, failures and deadlines, what is wrong is said when it is loaded."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from slipway_runtime.engine.ensemble import Ensemble, Step
from slipway_runtime.engine.job import Job, JobState
from slipway_runtime.errors import BadModel, Kind, RequestError
from slipway_runtime.models.config_reader import config_of
from slipway_runtime.repository import steps_of
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, Tensor, TensorSpec

METADATA = Metadata("ensemble", (TensorSpec("IN", "FP32", (-1, 2)),), (TensorSpec("OUT", "FP32", (-1, 2)),), 8)
CHAIN = (Step("double", "", {"x": "IN"}, {"y": "mid"}), Step("add", "", {"x": "mid"}, {"y": "OUT"}))
Done = Callable[[InferResponse | RequestError], None]


class Ask(Job):
    def __init__(self, *values: float) -> None:
        super().__init__([np.array([values], np.float32)], 1)
        self.answered = asyncio.Event()

    def finished(self) -> None:
        assert not self.answered.is_set()
        self.answered.set()


class Models:
    """double: y = 2x; add: y = x + 1; fail: raises; wait: never answers. Each answers in a later turn of the loop."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, InferRequest]] = []
        self.cancelled: list[str] = []

    def submit(self, step: Step, request: InferRequest, done: Done) -> Any:
        if step.model == "absent":
            raise RequestError(Kind.NOT_FOUND, "Request for unknown model: 'absent' is not found")
        self.asked.append((step.model, request))
        models, loop = self, asyncio.get_running_loop()
        if step.model == "fail":
            loop.call_soon(done, RequestError(Kind.INTERNAL, "the model failed: no"))
        elif step.model != "wait":
            x = request.inputs[0].data
            y = 2 * x if step.model == "double" else x + 1
            loop.call_soon(done, InferResponse(step.model, "1", [Tensor("y", "FP32", y), Tensor("z", "FP32", x)]))

        class Ticket:
            def cancel(self) -> None:
                models.cancelled.append(step.model)

        return Ticket()


def ensemble(steps: Sequence[Step], models: Models, timeout_s: float = 20) -> Ensemble:
    return Ensemble(steps, METADATA, models.submit, timeout_s)


async def answer(way: Ensemble, ask: Ask, timeout_s: float | None = None) -> Ask:
    way.submit(ask, timeout_s)
    async with asyncio.timeout(20):
        await ask.answered.wait()
    assert ask.state is JobState.DONE
    return ask


async def test_tensors_go_from_step_to_step_by_name() -> None:
    ask = await answer(ensemble(CHAIN, Models()), Ask(1, 2))
    assert ask.outputs is not None
    assert ask.outputs[0].tolist() == [[3, 5]]


async def test_the_order_of_the_list_does_not_matter_where_the_tensors_say_it() -> None:
    ask = await answer(ensemble(CHAIN[::-1], Models()), Ask(1, 2))
    assert ask.outputs is not None
    assert ask.outputs[0].tolist() == [[3, 5]]


async def test_steps_that_do_not_need_each_other_run_together() -> None:
    models = Models()
    steps = (Step("wait", "", {"x": "IN"}, {"y": "a"}), Step("wait", "", {"x": "IN"}, {"y": "OUT"}))
    way = ensemble(steps, models)
    way.submit(Ask(1, 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [name for name, _ in models.asked] == ["wait", "wait"]
    await way.close()


async def test_a_step_that_fails_is_named_and_the_others_are_given_up() -> None:
    models = Models()
    steps = (Step("wait", "", {"x": "IN"}, {"y": "OUT"}), Step("fail", "", {"x": "IN"}, {"y": "a"}))
    ask = await answer(ensemble(steps, models), Ask(1, 2))
    assert ask.error is not None
    assert (ask.error.kind, ask.error.message) == (Kind.INTERNAL, "in step 'fail': the model failed: no")
    assert models.cancelled == ["wait"]


async def test_a_model_that_is_not_there_is_named() -> None:
    ask = await answer(ensemble((Step("absent", "", {"x": "IN"}, {"y": "OUT"}),), Models()), Ask(1, 2))
    assert ask.error is not None
    assert ask.error.kind is Kind.NOT_FOUND
    assert "in step 'absent'" in ask.error.message


async def test_the_deadline_is_that_of_the_whole_and_each_step_gets_what_is_left() -> None:
    models = Models()
    steps = (CHAIN[0], Step("wait", "", {"x": "mid"}, {"y": "OUT"}))
    ask = await answer(ensemble(steps, models), Ask(1, 2), timeout_s=0.5)
    assert ask.error is not None
    assert ask.error.kind is Kind.DEADLINE
    given = [request.patience_s for _, request in models.asked]
    assert all(left is not None and left <= 0.5 for left in given)
    assert models.cancelled == ["wait"]


async def test_who_leaves_takes_the_steps_with_him() -> None:
    models = Models()
    way, ask = ensemble((Step("wait", "", {"x": "IN"}, {"y": "OUT"}),), models), Ask(1, 2)
    way.submit(ask)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert way.cancel(ask)
    assert not way.cancel(ask)
    assert models.cancelled == ["wait"]
    assert not ask.answered.is_set()


async def test_priority_and_tenant_go_along() -> None:
    models, ask = Models(), Ask(1, 2)
    ask.tenant, ask.level, ask.priority = "a", 2, 3
    await answer(ensemble(CHAIN, models), ask)
    assert {(request.tenant, request.priority) for _, request in models.asked} == {("a", 3)}


def config(*steps: dict[str, Any]) -> Any:
    tensor = {"data_type": "TYPE_FP32", "dims": [2]}
    raw = {
        "platform": "ensemble",
        "max_batch_size": 8,
        "input": [{"name": "IN", **tensor}],
        "output": [{"name": "OUT", **tensor}],
        "ensemble_scheduling": {"step": list(steps)},
    }
    return config_of(raw, "test")


def step(model: str, given: str, gives: str) -> dict[str, Any]:
    return {"model_name": model, "model_version": -1, "input_map": {"x": given}, "output_map": {"y": gives}}


def test_the_config_of_an_ensemble_becomes_steps() -> None:
    steps = steps_of("e", config(step("double", "IN", "mid"), step("add", "mid", "OUT")))
    assert [(each.model, each.version, dict(each.inputs), dict(each.outputs)) for each in steps] == [
        ("double", "", {"x": "IN"}, {"y": "mid"}),
        ("add", "", {"x": "mid"}, {"y": "OUT"}),
    ]


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        pytest.param([step("a", "nowhere", "OUT")], r"nothing gives \['nowhere'\], which step 'a' needs", id="input"),
        pytest.param([step("a", "b", "a"), step("b", "a", "b")], "nothing gives", id="circle"),
        pytest.param([step("a", "IN", "mid")], r"no step gives its output \['OUT'\]", id="output"),
    ],
)
def test_an_ensemble_that_cannot_end_is_refused(steps: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        steps_of("e", config(*steps))


async def test_a_step_that_cannot_be_cancelled_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Models):
        def submit(self, step: Step, request: InferRequest, done: Done) -> Any:
            ticket = super().submit(step, request, done)
            if step.inputs["x"] == "IN" and "a" in step.outputs.values():
                ticket.cancel = partial(dict[str, str]().pop, "gone")
            return ticket

    models = Stubborn()
    way, ask = ensemble([Step("wait", "", {"x": "IN"}, {"y": name}) for name in ("a", "OUT")], models), Ask(1, 2)
    way.submit(ask)
    await asyncio.sleep(0)
    await way.close()
    assert ask.error is not None
    assert models.cancelled == ["wait"]
    assert "could not be cancelled" in caplog.text
