"""`generate`: plain values to tensors of the model's shape, and back."""

import json
from typing import Any

import numpy as np
import pytest

from slipway_runtime.errors import RequestError
from slipway_runtime.protocol import generate
from slipway_runtime.tensors import InferResponse, Metadata, Tensor, TensorSpec, texts_array


def model(datatype: str, shape: tuple[int, ...] | None, batch: int = 0) -> Metadata:
    return Metadata("p", (TensorSpec("x", datatype, shape),), (), max_batch=batch)


@pytest.mark.parametrize(
    ("metadata", "value", "shape"),
    [
        pytest.param(model("BYTES", (-1,)), "a", (1,), id="one text"),
        pytest.param(model("BYTES", (-1, 1), batch=4), "a", (1, 1), id="one text in a batch"),
        pytest.param(model("FP32", (-1, -1), batch=4), [1, 2, 3], (1, 3), id="a list in a batch"),
        pytest.param(model("FP32", (-1, 3)), [1, 2, 3], (1, 3), id="a fixed size at the end"),
        pytest.param(model("INT32", (1,)), 5, (1,), id="one number"),
        pytest.param(model("INT32", ()), 5, (), id="a scalar"),
        pytest.param(model("", None), [1.5, 2], (2,), id="unknown shape and type"),
        pytest.param(model("", None, batch=4), [True], (1, 1), id="unknown shape in a batch"),
    ],
)
def test_a_value_takes_the_shape_of_its_input(metadata: Metadata, value: Any, shape: tuple[int, ...]) -> None:
    (tensor,) = generate.parse(json.dumps({"x": value}).encode(), metadata).inputs
    assert tensor.data.shape == shape
    values = value if isinstance(value, list) else [value]
    assert tensor.data.reshape(-1).tolist() == [each.encode() if isinstance(each, str) else each for each in values]


def test_other_keys_are_parameters_wherever_they_stand() -> None:
    body = b'{"x":1,"id":"7","stream":true,"priority":2,"parameters":{"top":3,"timeout":1000}}'
    request = generate.parse(body, model("INT32", (1,)))
    assert (request.id, request.priority, request.timeout_s) == ("7", 2, 0.001)
    assert request.parameters == {"stream": True, "top": 3}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b"[]", "request must be a JSON object", id="a list"),
        pytest.param(b"{", "failed to parse", id="cut short"),
        pytest.param(b'{"x":"a"}', "not an even array of INT32", id="text for a number"),
        pytest.param(b'{"x":[1,2]}', "has 2 values", id="too many"),
        pytest.param(b'{"x":1,"id":7}', "'id' must be a string", id="id"),
        pytest.param(b'{"x":1,"parameters":[1]}', "'parameters' must be a JSON object", id="parameters"),
        pytest.param(b'{"x":1,"top":{"a":1}}', "'top' must be a string, a number", id="an object as parameter"),
        pytest.param(b'{"x":1,"priority":"high"}', "'priority' must be an integer", id="priority"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        generate.parse(body, model("INT32", (1,)))


def test_one_value_is_written_as_it_is_and_several_as_a_flat_list() -> None:
    outputs = [
        Tensor("text", "BYTES", texts_array(["ümlaut".encode()], (1, 1))),
        Tensor("scores", "FP32", np.array([[1, 2]], np.float32)),
    ]
    answer = json.loads(generate.render(InferResponse("m", "2", outputs, "7", {"done": True})))
    assert answer == {
        "id": "7",
        "model_name": "m",
        "model_version": "2",
        "done": True,
        "text": "ümlaut",
        "scores": [1.0, 2.0],
    }
