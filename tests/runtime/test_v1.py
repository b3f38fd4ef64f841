"""V1 bodies: rows and columns become tensors, answers take the form of the question."""

import json
import math
from typing import Any

import numpy as np
import pytest

from slipway_runtime.errors import RequestError
from slipway_runtime.protocol import v1
from slipway_runtime.tensors import InferResponse, Metadata, Tensor, TensorSpec, texts_array

ONE = Metadata("p", (TensorSpec("x", "FP32", (-1, 2)),), (), max_batch=8)
TWO = Metadata("p", (TensorSpec("a", "INT64", (-1,)), TensorSpec("t", "BYTES", (-1,))), (), max_batch=8)
UNTYPED = Metadata("p", (TensorSpec("x"),), ())


def parsed(body: dict[str, Any], metadata: Metadata = ONE) -> list[tuple[str, str, Any]]:
    request, _ = v1.parse(json.dumps(body).encode(), metadata)
    return [(tensor.name, tensor.datatype, tensor.data.tolist()) for tensor in request.inputs]


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_one_input_needs_no_name(form: str) -> None:
    assert parsed({form: [[1, 2], [3, 4]]}) == [("x", "FP32", [[1, 2], [3, 4]])]
    assert v1.parse(json.dumps({form: [[1, 2]]}).encode(), ONE)[1] == form


def test_rows_with_names_become_columns() -> None:
    rows = {"instances": [{"a": 1, "t": "x"}, {"t": {"b64": "/w=="}, "a": 2}]}
    assert parsed(rows, TWO) == [("a", "INT64", [1, 2]), ("t", "BYTES", [b"x", b"\xff"])]


def test_columns_with_names_stay_columns() -> None:
    assert parsed({"inputs": {"a": [1, 2], "t": ["x", "y"]}}, TWO) == [
        ("a", "INT64", [1, 2]),
        ("t", "BYTES", [b"x", b"y"]),
    ]


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        ([[1, 2]], "INT64"),
        ([[1, 2.5]], "FP32"),
        ([[True]], "BOOL"),
        (["a"], "BYTES"),
        ([{"b64": "YQ=="}], "BYTES"),
    ],
)
def test_without_a_datatype_the_values_say_it(values: list[Any], datatype: str) -> None:
    assert parsed({"instances": values}, UNTYPED)[0][1] == datatype


@pytest.mark.parametrize(
    ("body", "metadata", "sentence"),
    [
        pytest.param({}, ONE, "either 'instances' or 'inputs'", id="neither"),
        pytest.param({"instances": [], "inputs": []}, ONE, "either 'instances' or 'inputs'", id="both"),
        pytest.param({"instances": []}, ONE, "at least one row", id="no rows"),
        pytest.param({"instances": 5}, ONE, "at least one row", id="not a list"),
        pytest.param({"instances": [[1, 2], [3]]}, ONE, "not an even array of FP32", id="ragged"),
        pytest.param({"instances": [[1, "2"]]}, ONE, "not an even array of FP32", id="text for a number"),
        pytest.param({"instances": [1]}, TWO, "the model has 2 inputs", id="a row without names"),
        pytest.param({"instances": [{"a": 1}, {"t": "x"}]}, TWO, "must name the same inputs", id="other names"),
        pytest.param({"instances": [{"a": 1}, 5]}, TWO, "must name the same inputs", id="a row that is none"),
        pytest.param({"inputs": {"t": [{"b64": "!"}]}}, TWO, "text in base64", id="bad base64"),
        pytest.param({"inputs": {"t": [{"c": 1}]}}, TWO, "text in base64", id="another object"),
        pytest.param({"inputs": json.loads("[" * 500 + "]" * 500)}, ONE, "nested more than 32 deep", id="deep"),
    ],
)
def test_what_is_no_v1_request_is_refused(body: dict[str, Any], metadata: Metadata, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        v1.parse(json.dumps(body).encode(), metadata)


def answer(form: str, *outputs: Tensor) -> Any:
    return json.loads(v1.render(InferResponse("m", "1", outputs), form))


Y = Tensor("y", "FP32", np.array([[1, 2], [3, 4]], np.float32))
T = Tensor("t", "BYTES", texts_array([b"a", b"\xff"], (2,)))


def test_one_output_needs_no_name() -> None:
    assert answer("instances", Y) == {"predictions": [[1, 2], [3, 4]]}
    assert answer("inputs", Y) == {"outputs": [[1, 2], [3, 4]]}


def test_several_outputs_are_named_by_row_or_by_column() -> None:
    rows = [{"y": [1, 2], "t": "a"}, {"y": [3, 4], "t": {"b64": "/w=="}}]
    assert answer("instances", Y, T) == {"predictions": rows}
    assert answer("inputs", Y, T) == {"outputs": {"y": [[1, 2], [3, 4]], "t": ["a", {"b64": "/w=="}]}}


def test_outputs_without_a_common_batch_stay_columns() -> None:
    assert answer("instances", Y, Tensor("n", "INT8", np.array(7, np.int8))) == {
        "predictions": {"y": [[1, 2], [3, 4]], "n": 7}
    }


def test_numbers_json_lacks_are_written_as_python_does() -> None:
    assert math.isnan(answer("instances", Tensor("y", "FP64", np.array([math.nan])))["predictions"][0])


def test_bf16_is_written_as_numbers() -> None:
    bits = (np.array([1.5, -2], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert answer("instances", Tensor("y", "BF16", bits)) == {"predictions": [1.5, -2.0]}
