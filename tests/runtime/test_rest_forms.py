"""REST bodies in their less common forms: BYTES, raw binary, parameters, NaN, shared memory."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import rest
from slipway_runtime.protocol.rest_answers import render
from slipway_runtime.tensors import (
    DTYPES,
    InferRequest,
    InferResponse,
    Metadata,
    Region,
    Tensor,
    TensorSpec,
    bytes_of,
    from_bytes,
    texts_array,
)
from tests.runtime.fuzz import examples
from tests.runtime.test_rest import X, body_of, parse

# --- BYTES


@pytest.mark.parametrize("nested", [True, False])
def test_texts_in_json_are_bytes_and_come_back_as_texts(nested: bool) -> None:
    values = [["a", "ümlaut"], ["", "\U0001f600"]]
    data = values if nested else [text for row in values for text in row]
    (tensor,) = parse(body_of({"name": "t", "datatype": "BYTES", "shape": [2, 2], "data": data})).inputs
    assert tensor.data.tolist() == [[text.encode() for text in row] for row in values]
    (body,), _ = render(InferResponse("m", "1", [tensor]), InferRequest([]))
    assert json.loads(bytes(body))["outputs"][0]["data"] == [text for row in values for text in row]


def test_bytes_that_are_no_text_need_binary_output() -> None:
    response = InferResponse("m", "1", [Tensor("t", "BYTES", texts_array([b"\xff"], (1,)))])
    with pytest.raises(RequestError, match="not UTF-8, which JSON cannot hold; ask for binary data"):
        render(response, InferRequest([]))
    assert render(response, InferRequest([], binary=True))[0][1] == b"\x01\0\0\0\xff"


@pytest.mark.parametrize(
    ("raw", "shape", "sentence"),
    [
        pytest.param(b"\x01\0\0\0", (1,), "ends beyond its 4 bytes", id="no text"),
        pytest.param(b"\xff\xff\xff\xffab", (1,), "ends beyond its 6 bytes", id="length of 4 GiB"),
        pytest.param(b"\0\0\0\0" * 2, (1,), "4 bytes more than its 1 BYTES elements", id="too many"),
        pytest.param(b"\0\0\0\0", (2**31 - 1,), "too few for the 2147483647 BYTES elements", id="2**31 elements"),
        pytest.param(b"\x01\0\0\0ab\0\0", (2,), "ends beyond", id="half a length"),
        pytest.param(b"\x03\0\0\0a\0\0\0", (2,), "ends beyond", id="nothing left for a length"),
    ],
)
def test_damaged_bytes_are_refused(raw: bytes, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        from_bytes("t", "BYTES", shape, raw)


@examples(20_000)
@given(st.binary(max_size=24), st.lists(st.integers(0, 4), max_size=3), st.sampled_from([*DTYPES, "BYTES"]))
def test_any_bytes_are_a_tensor_or_a_refusal(raw: bytes, shape: list[int], datatype: str) -> None:
    try:
        tensor = from_bytes("t", datatype, tuple(shape), raw)
    except RequestError:
        return
    assert tensor.data.shape == tuple(shape)
    assert datatype == "BOOL" or bytes_of(tensor) == raw


# --- raw binary requests


def model_with(datatype: str, *shape: int, batch: int = 0) -> Metadata:
    return Metadata("p", (TensorSpec("x", datatype, shape),), (), max_batch=batch)


@pytest.mark.parametrize(
    ("metadata", "raw", "shape"),
    [
        pytest.param(model_with("FP32", 2, 2), bytes(16), (2, 2), id="fixed shape"),
        pytest.param(model_with("FP32", -1), bytes(16), (4,), id="one free size"),
        pytest.param(model_with("FP32", -1, 4, batch=8), bytes(16), (1, 4), id="batch of one"),
        pytest.param(model_with("INT8", -1, 2, -1, batch=8), bytes(6), (1, 2, 3), id="batch and a free size"),
        pytest.param(model_with("BYTES", -1), b"hello", (1,), id="one text without its length"),
        pytest.param(model_with("FP32", -1), b"", (0,), id="nothing"),
    ],
)
def test_a_raw_body_is_the_one_input(metadata: Metadata, raw: bytes, shape: tuple[int, ...]) -> None:
    request = rest.parse(raw, b"0", metadata)
    (tensor,) = request.inputs
    assert (tensor.name, tensor.data.shape, request.binary) == ("x", shape, True)
    assert tensor.data.tolist() == [raw] if tensor.datatype == "BYTES" else bytes_of(tensor) == raw


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        pytest.param(model_with("FP32", 3), "has 5 bytes, its shape", id="wrong size"),
        pytest.param(model_with("FP32", -1), "has 5 bytes, its shape", id="no whole number of values"),
        pytest.param(model_with("FP32", -1, -1), "does not follow from 5 raw bytes", id="two free sizes"),
        pytest.param(model_with("FP32", 0, -1), "has 5 bytes", id="a size of 0"),
        pytest.param(model_with("", -1), "a model that says its shape", id="unknown datatype"),
        pytest.param(Metadata("p", (TensorSpec("a"), TensorSpec("b")), ()), "this one has 2", id="two inputs"),
    ],
)
def test_a_raw_body_that_does_not_fit_is_refused(metadata: Metadata, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        rest.parse(b"12345", b"0", metadata)


# --- parameters, NaN, shared memory


def test_parameters_go_where_they_belong() -> None:
    request = parse(
        body_of(
            X,
            parameters={
                "priority": 2,
                "timeout": 1500,
                "sequence_id": "a",
                "sequence_start": True,
                "temperature": 0.5,
                "binary_data_output": True,
            },
        )
    )
    assert (request.priority, request.timeout_s, request.binary) == (2, 0.0015, True)
    assert request.parameters == {"sequence_id": "a", "sequence_start": True, "temperature": 0.5}


def test_a_timeout_of_zero_is_none() -> None:
    assert parse(body_of(X, parameters={"timeout": 0})).timeout_s is None


def test_hints_of_other_clients_on_tensors_are_ignored() -> None:
    assert parse(body_of({**X, "parameters": {"content_type": "np"}})).inputs[0].data.tolist() == [1, 2.5]


def test_nan_and_infinity_are_read() -> None:
    body = b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN, Infinity, -Infinity]}]}'
    data = parse(body).inputs[0].data
    assert math.isnan(data[0])
    assert data[1:].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("count", [2, 63, 64, 65, 5000])
def test_nan_is_written_however_many_values_there_are(count: int) -> None:
    data = np.ones(count, np.float64)
    data[-1] = math.nan
    other = Tensor("n", "FP32", np.ones(4000, np.float32))
    response = InferResponse("null", "1", [other, Tensor("t", "FP64", data)], "null")
    (body,), _ = render(response, InferRequest([]))
    answer = json.loads(bytes(body))
    assert math.isnan(answer["outputs"][1]["data"][-1])
    assert answer["id"] == "null"


def test_what_is_called_null_is_not_taken_for_a_lost_number() -> None:
    (body,), _ = render(InferResponse("null", "1", [Tensor("t", "FP32", np.ones(1, np.float32))]), InferRequest([]))
    assert json.loads(bytes(body))["outputs"][0]["data"] == [1.0]


def test_without_a_place_for_it_shared_memory_is_refused() -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    for body in (body_of({**X, "parameters": region}), body_of(X, outputs=[{"name": "y", "parameters": region}])):
        with pytest.raises(RequestError) as caught:
            parse(body)
        assert caught.value.kind is Kind.UNSUPPORTED


class OneRegion:
    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)

    def check(self, part: Region) -> None:
        assert part.offset + part.size <= len(self.memory)

    def read(self, part: Region) -> memoryview:
        return memoryview(self.memory)[part.offset : part.offset + part.size]

    def write(self, part: Region, data: bytes | bytearray | memoryview, output: str) -> None:
        self.memory[part.offset : part.offset + len(data)] = data


def test_inputs_and_outputs_in_shared_memory() -> None:
    memory = OneRegion(16)
    memory.memory[:8] = np.array([1, 2], np.float32).tobytes()
    where = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    body = body_of(
        {"name": "x", "shape": [2], "datatype": "FP32", "parameters": where},
        outputs=[{"name": "y", "parameters": {**where, "shared_memory_offset": 8, "binary_data": False}}],
    )
    request = rest.parse(body, None, regions=memory)
    assert request.inputs[0].data.tolist() == [1, 2]
    answered = InferResponse("m", "1", [Tensor("y", "FP32", request.inputs[0].data * 2)])
    (head,), _ = render(answered, request, regions=memory)
    assert json.loads(bytes(head))["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2]}]
    assert np.frombuffer(memory.memory[8:], np.float32).tolist() == [2, 4]
