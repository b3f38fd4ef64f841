"""REST bodies: what goes in comes out, whatever cannot be a request is refused with a sentence, nothing crashes."""

import contextlib
import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import rest
from slipway_runtime.protocol.rest_answers import render
from slipway_runtime.tensors import (
    BINARY_ONLY,
    DTYPES,
    MAX_TEXTS,
    InferRequest,
    InferResponse,
    Metadata,
    OutputChoice,
    Tensor,
    TensorSpec,
    bytes_of,
    texts_array,
)
from tests.runtime.fuzz import examples

JSON_TYPES = sorted(set(DTYPES) - BINARY_ONLY)


def arrays(datatype: str) -> st.SearchStrategy[Any]:
    return hnp.arrays(DTYPES[datatype], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def tensors(datatypes: list[str]) -> st.SearchStrategy[Tensor]:
    return st.sampled_from(datatypes).flatmap(
        lambda datatype: arrays(datatype).map(lambda data: Tensor("t", datatype, data))
    )


def texts() -> st.SearchStrategy[Tensor]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return shapes.flatmap(
        lambda shape: st.lists(st.binary(max_size=6), min_size=math.prod(shape), max_size=math.prod(shape)).map(
            lambda values: Tensor("t", "BYTES", texts_array(values, shape))
        )
    )


def body_of(*inputs: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"inputs": list(inputs), **more}, option=orjson.OPT_SERIALIZE_NUMPY)


def parse(body: bytes, header: int | str | None = None) -> InferRequest:
    return rest.parse(body, None if header is None else str(header).encode())


def refusal_of(body: bytes, header: int | str | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        parse(body, header)
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


X = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2.5]}


@examples(20_000)
@given(st.lists(tensors(list(DTYPES)) | texts(), min_size=1, max_size=4))
def test_binary_tensors_arrive_bit_for_bit(sent: list[Tensor]) -> None:
    head = body_of(
        *(
            {
                "name": f"t{i}",
                "datatype": t.datatype,
                "shape": t.data.shape,
                "parameters": {"binary_data_size": len(bytes_of(t))},
            }
            for i, t in enumerate(sent)
        )
    )
    request = parse(head + b"".join(bytes_of(t) for t in sent), len(head))
    for index, (got, tensor) in enumerate(zip(request.inputs, sent, strict=True)):
        assert (got.name, got.datatype, got.data.shape) == (f"t{index}", tensor.datatype, tensor.data.shape)
        assert bytes_of(got) == bytes_of(tensor)


def test_binary_tensors_are_views_not_copies() -> None:
    head = body_of({"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": 16}})
    body = head + np.arange(4, dtype=np.float32).tobytes()
    assert np.shares_memory(parse(body, len(head)).inputs[0].data, np.frombuffer(body, np.uint8))


@given(st.booleans(), tensors(JSON_TYPES))
def test_json_tensors_arrive_bit_for_bit_nested_or_flat(nested: bool, sent: Tensor) -> None:
    data = np.nan_to_num(sent.data, nan=0, posinf=1, neginf=2)  # JSON has no such numbers
    values = json.dumps((data if nested and data.ndim else data.reshape(-1)).tolist())
    head = json.dumps({"name": "t", "datatype": sent.datatype, "shape": data.shape})
    body = f'{{"inputs":[{head[:-1]},"data":{values}}}]}}'.encode()
    got = parse(body).inputs[0].data
    assert got.dtype == data.dtype
    assert got.shape == data.shape
    assert got.tobytes() == data.tobytes()


def test_json_and_binary_inputs_mix() -> None:
    binary = {"name": "b", "datatype": "INT8", "shape": [3], "parameters": {"binary_data_size": 3}}
    head = body_of(binary, X, {**binary, "name": "c"})
    b, x, c = parse(head + b"\x01\x02\x03\xff\xfe\xfd", len(head)).inputs
    assert (b.data.tolist(), x.data.tolist(), c.data.tolist()) == ([1, 2, 3], [1, 2.5], [-1, -2, -3])


@given(tensors(JSON_TYPES), st.one_of(st.none(), st.text(max_size=5)))
def test_a_json_answer_says_what_the_tensor_holds(tensor: Tensor, request_id: str | None) -> None:
    response = InferResponse("m", "1", [tensor], request_id)
    buffers, head_length = render(response, InferRequest([]))
    assert head_length is None
    answer = json.loads(b"".join(buffers))
    assert ("id" in answer) == (request_id is not None)
    output = answer["outputs"][0]
    assert (output["name"], output["datatype"], tuple(output["shape"])) == ("t", tensor.datatype, tensor.data.shape)
    back = np.array(output["data"], tensor.data.dtype).reshape(tensor.data.shape)
    np.testing.assert_array_equal(back, tensor.data)


def test_nan_and_infinity_are_written_not_lost() -> None:
    tensor = Tensor("t", "FP32", np.array([math.nan, math.inf, -math.inf, 1], np.float32))
    (body,), _ = render(InferResponse("m", "1", [tensor]), InferRequest([]))
    assert b"[NaN, Infinity, -Infinity, 1.0]" in bytes(body)


@given(st.lists(st.tuples(tensors(JSON_TYPES), st.booleans()), min_size=1, max_size=4))
def test_each_output_comes_as_it_was_asked_for(outputs: list[tuple[Tensor, bool]]) -> None:
    request = InferRequest([], outputs=[OutputChoice("t", binary) for _, binary in outputs])
    buffers, head_length = render(InferResponse("m", "1", [t for t, _ in outputs]), request)
    body = b"".join(buffers)
    answer = json.loads(body[:head_length])
    offset = head_length or len(body)
    for (tensor, binary), output in zip(outputs, answer["outputs"], strict=True):
        if binary:
            size = output["parameters"]["binary_data_size"]
            assert body[offset : offset + size] == tensor.data.tobytes()
            offset += size
        assert ("data" in output) != binary
    assert offset == len(body)


def test_the_request_says_which_outputs_in_which_form() -> None:
    asked = [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}]
    request = parse(body_of(X, id="7", outputs=asked, parameters={"binary_data_output": True}))
    assert (request.id, request.binary) == ("7", True)
    assert request.outputs == [OutputChoice("a", binary=False), OutputChoice("b", binary=True)]


def test_no_id_is_not_an_empty_id() -> None:
    assert parse(body_of(X)).id is None
    assert parse(body_of(X, id="")).id == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"datatype": "BYTES"}, "not an even array of BYTES", id="numbers for bytes"),
        pytest.param({"datatype": "FP33"}, "datatype 'FP33', must be one of BOOL", id="unknown datatype"),
        pytest.param({"datatype": 3}, "must have 'datatype' as a string", id="datatype not text"),
        pytest.param({"name": None}, "must have 'name' as a string", id="no name"),
        pytest.param({"shape": [-1]}, "must be a list of integers >= 0", id="negative size"),
        pytest.param({"shape": [True]}, "must be a list of integers >= 0", id="boolean size"),
        pytest.param({"shape": "2"}, "must be a list of integers >= 0", id="text shape"),
        pytest.param({"shape": [2**40, 2**40]}, "more than 2147483647 values", id="shape of 2**80"),
        pytest.param({"shape": [2**31]}, "more than 2147483647 values", id="shape of 2**31"),
        pytest.param({"shape": [2**62, 0, 2**62], "data": []}, "more than 2147483647 values", id="a size hidden by 0"),
        pytest.param({"data": json.loads("[" * 33 + "1" + "]" * 33)}, "not an even array", id="33 levels of lists"),
        pytest.param({"shape": [1] * 40}, "at most 32", id="40 dimensions"),
        pytest.param({"shape": [3]}, "has 2 values, its shape [3] needs 3", id="too few values"),
        pytest.param({"data": ["1", "2"]}, "not an even array of FP32", id="text for numbers"),
        pytest.param({"data": [1, None]}, "not an even array of FP32", id="null"),
        pytest.param({"data": [True, False]}, "not an even array of FP32", id="booleans for numbers"),
        pytest.param({"data": [[1], [2, 3]], "shape": [3]}, "not an even array", id="ragged"),
        pytest.param({"data": [[1], 2]}, "not an even array", id="numbers beside lists"),
        pytest.param({"data": [1e300, 0]}, "not an even array of FP32", id="beyond FP32"),
        pytest.param({"data": 5}, "must have 'data' as an array", id="scalar data"),
        pytest.param({"datatype": "INT8", "data": [1, 128]}, "not an even array of INT8", id="beyond INT8"),
        pytest.param({"datatype": "UINT8", "data": [1, -1]}, "not an even array of UINT8", id="below zero"),
        pytest.param({"datatype": "INT64", "data": [1, 2.0]}, "not an even array of INT64", id="float for integer"),
        pytest.param({"datatype": "FP16"}, "receiving FP16 data via JSON is not supported", id="FP16 in JSON"),
        pytest.param({"datatype": "BF16"}, "receiving BF16 data via JSON is not supported", id="BF16 in JSON"),
        pytest.param({"parameters": []}, "inputs[0].parameters must be a JSON object", id="parameters a list"),
        pytest.param(
            {"parameters": {"shared_memory_region": "r"}}, "needs 'shared_memory_byte_size'", id="region without size"
        ),
        pytest.param(
            {"parameters": {"shared_memory_region": 3, "shared_memory_byte_size": 8}}, "must be a string", id="region 3"
        ),
        pytest.param({"parameters": {"shared_memory_offset": 8}}, "no 'shared_memory_region'", id="offset alone"),
        pytest.param({"parameters": {"binary_data_size": 8}}, "data in another place", id="both data and size"),
    ],
)
def test_a_wrong_input_is_refused_with_a_sentence(change: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal_of(body_of({**X, **change}))


@pytest.mark.parametrize(
    ("body", "header", "sentence"),
    [
        pytest.param(b"", None, "failed to parse the request JSON", id="empty"),
        pytest.param(b"[1]", None, "request must be a JSON object", id="a list"),
        pytest.param(b"[" * 5000, None, "failed to parse the request JSON", id="deep"),
        pytest.param(b"{}", None, "'inputs' must be a list with at least one tensor", id="no inputs"),
        pytest.param(b'{"inputs":[7]}', None, "inputs[0] must be a JSON object", id="an input is a number"),
        pytest.param(body_of(X, id=3), None, "'id' must be a string", id="id is a number"),
        pytest.param(body_of(X, outputs=[{}]), None, "must have 'name' as a string", id="output without name"),
        pytest.param(body_of(X, outputs={}), None, "'outputs' must be a list", id="outputs an object"),
        pytest.param(
            body_of(X, outputs=[{"name": "y", "parameters": {"classification": "3"}}]),
            None,
            "'classification' must be how many classes",
            id="classes not a number",
        ),
        pytest.param(
            body_of(X, parameters={"binary_data_output": 1}), None, "must be true or false", id="flag is a number"
        ),
        pytest.param(body_of(X), "-1", "must be a number up to", id="negative header"),
        pytest.param(body_of(X), "9" * 30, "must be a number up to", id="huge header"),
        pytest.param(body_of(X), "1e1", "must be a number up to", id="header not a number"),
        pytest.param(body_of(X), "10000", "must be a number up to", id="header beyond the body"),
        pytest.param(body_of(X), "0", "exactly one input, this one has 0", id="raw binary without a model"),
        pytest.param(
            body_of(X, outputs=[{"name": "y"}, {"name": "y"}]),
            None,
            "asked for twice, got ['y', 'y']",
            id="output twice",
        ),
        pytest.param(
            body_of(X, parameters={"priority": -1}), None, "'priority' must be an integer >= 0", id="priority"
        ),
        pytest.param(
            body_of(X, parameters={"priority": "1"}), None, "'priority' must be an integer", id="priority text"
        ),
        pytest.param(body_of(X, parameters={"timeout": True}), None, "'timeout' must be an integer", id="timeout"),
        pytest.param(body_of(X, parameters={"sequence_end": 1}), None, "'sequence_end' must be true", id="sequence"),
        pytest.param(body_of(X, parameters={"triton_x": 1}), None, "'triton_x' is reserved", id="reserved"),
        pytest.param(
            body_of(X, parameters={"x": [1]}), None, "'x' must be a string, a number", id="a list as parameter"
        ),
        pytest.param(body_of(X, parameters=[1]), None, "request.parameters must be a JSON object", id="parameters"),
        pytest.param(b'{"inputs":[NaN' + b"[" * 100_000, None, "failed to parse", id="deep with NaN"),
        pytest.param(body_of(X) + b"abc", str(len(body_of(X))), "3 bytes belong to no input", id="bytes too many"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(body: bytes, header: str | None, sentence: str) -> None:
    assert sentence in refusal_of(body, header)


@pytest.mark.parametrize("size", [3, 5, 400, -1, True, "4", 2**70])
def test_a_binary_size_that_does_not_fit_is_refused(size: object) -> None:
    item = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [item]}).encode()
    message = refusal_of(head + b"\0" * 5, str(len(head)))
    assert "binary_data_size" in message or "bytes, its shape" in message


KEYS = st.sampled_from(
    ["inputs", "outputs", "id", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "binary_data"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@examples(20_000)
@given(JSON, st.binary(max_size=20), st.none() | st.text(max_size=4) | st.integers(-3, 80).map(str))
def test_nothing_but_a_refusal_comes_of_nonsense(value: object, tail: bytes, header: str | None) -> None:
    body = json.dumps(value).encode() + tail
    with contextlib.suppress(RequestError):
        assert parse(body, header).inputs


@examples(20_000)
@given(st.binary(max_size=60), st.none() | st.integers(0, 70).map(str))
def test_nothing_but_a_refusal_comes_of_noise(body: bytes, header: str | None) -> None:
    with pytest.raises(RequestError):
        parse(body, header)


def test_one_long_text_does_not_blow_up_memory() -> None:
    """numpy pads text to the longest: 1 MB times 100,000 values would be 400 GB."""
    values = ["a" * 1_000_000] + ["b"] * 100_000
    assert "not an even array" in refusal_of(body_of({**X, "shape": [100_001], "data": values}))


def test_bool_bytes_other_than_one_are_true_and_harmless() -> None:
    head = body_of({"name": "x", "datatype": "BOOL", "shape": [3], "parameters": {"binary_data_size": 3}})
    data = parse(head + b"\x00\x01\xff", len(head)).inputs[0].data
    assert data.view(np.uint8).tolist() == [0, 1, 1]


SMALL_MODEL = Metadata("p", (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("t", "BYTES", (-1, 1))), (), max_batch=8)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        pytest.param({"name": "x", "datatype": "FP64", "shape": [1, 4]}, "data-type is 'FP64'", id="datatype"),
        pytest.param({"name": "x", "datatype": "FP32", "shape": [1, 99]}, "unexpected shape for input 'x'", id="shape"),
        pytest.param({"name": "t", "datatype": "BYTES", "shape": [999, 1]}, "batch-size must be <= 8", id="batch"),
        pytest.param({"name": "y", "datatype": "FP32", "shape": [1]}, "unexpected inference input 'y'", id="name"),
    ],
)
def test_a_large_tensor_that_the_model_does_not_take_is_refused_before_its_values_are_read(
    tensor: dict[str, Any], said: str
) -> None:
    # Were they read, the sentence would be about them.
    body = body_of({**tensor, "data": ["no value of any tensor", [1]] * 10_000})
    with pytest.raises(RequestError, match=said):
        rest.parse(body, None, SMALL_MODEL, None, "m")


def test_json_above_its_own_limit_is_refused_unread() -> None:
    with pytest.raises(RequestError, match="more than 8388608 are not read") as caught:
        rest.loads(b"?" * (rest.MAX_JSON_BYTES + 1))
    assert caught.value.kind is Kind.TOO_LARGE


def test_more_texts_than_may_be_made_are_refused() -> None:
    count = MAX_TEXTS + 1
    head = body_of({"name": "t", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": 4 * count}})
    with pytest.raises(RequestError, match="more than 1048576 are not served"):
        parse(head + bytes(4 * count), len(head))


def test_text_that_no_answer_could_hold_is_refused_beside_nan_too() -> None:
    with pytest.raises(RequestError, match="surrogates"):
        rest.loads(b'{"id":"\\ud800","x":NaN}')
    assert rest.loads(b'{"id":"\\ud83d\\ude00","x":[1,-Infinity]}') == {"id": "\U0001f600", "x": [1, -math.inf]}
