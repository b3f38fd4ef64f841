"""The plan of an ensemble: order, places, and what does not fit together."""

from typing import Any

import pytest

from slipway_runtime.errors import BadModel
from slipway_runtime.models.config import EnsembleStep, ModelConfig
from slipway_runtime.models.ensemble import Plan, Stage, plan
from slipway_runtime.tensors import Metadata, TensorSpec


def spec(name: str, datatype: str = "FP32", *dims: int) -> TensorSpec:
    return TensorSpec(name, datatype, (-1, *(dims or (4,))))


MODELS = {
    "scale": Metadata("python", (spec("x"),), (spec("y"), spec("z")), 8),
    "add": Metadata("python", (spec("a"), spec("b")), (spec("sum"),), 8),
    "words": Metadata("python", (spec("s", "BYTES"),), (spec("x"),), 8),
    "unknown": Metadata("pytorch_torchscript", (TensorSpec("x"),), (), 8),
}
SCALE = EnsembleStep("scale", -1, {"x": "IN"}, {"y": "scaled"})
ADD = EnsembleStep("add", 3, {"a": "scaled", "b": "IN"}, {"sum": "OUT"})


def ensemble(*steps: EnsembleStep, **more: Any) -> ModelConfig:
    given: dict[str, Any] = {"inputs": (spec("IN"),), "outputs": (spec("OUT"),), "max_batch": 8, **more}
    return ModelConfig(name="e", platform="ensemble", ensemble=steps, **given)


def planned(*steps: EnsembleStep, **more: Any) -> Plan:
    return plan(ensemble(*steps, **more), lambda name, version: MODELS[name])


def test_stages_run_when_they_have_their_inputs_however_they_are_listed() -> None:
    scale, add = Stage("scale", -1, (0,), ((0, 1),)), Stage("add", 3, (1, 0), ((0, 2),))
    for steps in ((SCALE, ADD), (ADD, SCALE)):
        assert planned(*steps) == Plan(
            Metadata("ensemble", (spec("IN"),), (spec("OUT"),), 8), (scale, add), outputs=(2,), size=3
        )


def test_a_request_goes_from_place_to_place() -> None:
    work: dict[str, Any] = {"scale": lambda x: (x * 10, x * 100), "add": lambda a, b: (a + b,)}
    made = planned(ADD, SCALE)
    pool: list[Any] = [7] + [None] * (made.size - 1)
    for stage in made.stages:
        rows = work[stage.model](*[pool[place] for place in stage.inputs])
        for number, place in stage.outputs:
            pool[place] = rows[number]
    assert [pool[place] for place in made.outputs] == [77]


def test_an_output_may_be_an_input_and_one_model_may_run_twice() -> None:
    again = EnsembleStep("scale", -1, {"x": "scaled"}, {"z": "OUT"})
    made = planned(SCALE, again, outputs=(spec("OUT"), spec("IN")))
    assert [stage.inputs for stage in made.stages] == [(0,), (1,)]
    assert (made.stages[1].outputs, made.outputs) == (((1, 2),), (2, 0))


@pytest.mark.parametrize(
    ("steps", "more", "sentence"),
    [
        pytest.param((ADD,), {}, "nothing gives tensor 'scaled', or its steps wait for each other", id="missing"),
        pytest.param(
            (EnsembleStep("scale", -1, {"x": "p"}, {"y": "q"}), EnsembleStep("scale", -1, {"x": "q"}, {"y": "p"})),
            {},
            "nothing gives tensor 'p', or its steps wait for each other",
            id="a circle",
        ),
        pytest.param((SCALE,), {}, "no step gives output 'OUT'", id="no output"),
        pytest.param((SCALE, SCALE), {}, "tensor 'scaled' is given twice", id="twice"),
        pytest.param(
            (EnsembleStep("add", -1, {"a": "IN"}, {}),), {}, r"has \['a'\], must have \['a', 'b'\]", id="an input less"
        ),
        pytest.param(
            (EnsembleStep("scale", -1, {"x": "IN"}, {"no": "OUT"}),), {}, "gives no output 'no'", id="unknown output"
        ),
        pytest.param(
            (EnsembleStep("words", -1, {"s": "IN"}, {"x": "OUT"}),),
            {},
            r"input 's' of model 'words' is BYTES \[-1, 4\], but it is given FP32 \[-1, 4\]",
            id="type",
        ),
        pytest.param(
            (SCALE, ADD), {"outputs": (spec("OUT", "FP32", 5),)}, r"output 'OUT' is FP32 \[-1, 5\], but", id="shape"
        ),
        pytest.param((SCALE, ADD), {"max_batch": 9}, "max_batch_size 9 is more than model 'scale' takes", id="batch"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    steps: tuple[EnsembleStep, ...], more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadModel, match=sentence):
        planned(*steps, **more)


def test_what_a_model_does_not_tell_is_not_checked() -> None:
    step = EnsembleStep("unknown", -1, {"x": "IN"}, {})
    assert planned(step, outputs=()).stages == (Stage("unknown", -1, (0,), ()),)
