"""gRPC messages: the same values as REST, and the same refusals."""

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import protos
from slipway_runtime.tensors import (
    DTYPES,
    InferRequest,
    InferResponse,
    Metadata,
    OutputChoice,
    Region,
    Tensor,
    TensorSpec,
    bytes_of,
    texts_array,
)
from tests.runtime.test_rest import tensors, texts
from tests.runtime.test_rest_forms import OneRegion

Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor


@given(st.lists(tensors(list(DTYPES)) | texts(), min_size=1, max_size=4), st.text(max_size=4))
def test_raw_tensors_go_in_and_out_bit_for_bit(sent: list[Tensor], request_id: str) -> None:
    message = pb.ModelInferRequest(id=request_id, raw_input_contents=[bytes(bytes_of(t)) for t in sent])
    for tensor in sent:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
    request = protos.parse(message)
    assert request.id == (request_id or None)
    answer = protos.render(InferResponse("m", "1", request.inputs, request.id))
    assert list(answer.raw_output_contents) == list(message.raw_input_contents)
    assert [tuple(output.shape) for output in answer.outputs] == [t.data.shape for t in sent]
    assert answer.id == request_id


@pytest.mark.parametrize(
    ("datatype", "contents", "values"),
    [
        pytest.param("BOOL", {"bool_contents": [True, False]}, [True, False], id="bool"),
        pytest.param("INT8", {"int_contents": [-1, 127]}, [-1, 127], id="int8"),
        pytest.param("UINT64", {"uint64_contents": [2**64 - 1, 1]}, [2**64 - 1, 1], id="uint64"),
        pytest.param("INT64", {"int64_contents": [-(2**63), 1]}, [-(2**63), 1], id="int64"),
        pytest.param("FP32", {"fp32_contents": [0.5, -2]}, [0.5, -2], id="fp32"),
        pytest.param("FP64", {"fp64_contents": [1e300, -2]}, [1e300, -2], id="fp64"),
        pytest.param("BYTES", {"bytes_contents": [b"\xff", b""]}, [b"\xff", b""], id="bytes"),
    ],
)
def test_typed_contents_are_read(datatype: str, contents: dict[str, Any], values: list[Any]) -> None:
    item = Input(name="x", datatype=datatype, shape=[2], contents=pb.InferTensorContents(**contents))
    (tensor,) = protos.parse(pb.ModelInferRequest(inputs=[item])).inputs
    assert tensor.data.dtype == DTYPES.get(datatype, np.dtype(object))
    assert tensor.data.tolist() == values


def test_named_outputs_are_asked_for() -> None:
    item = Input(name="x", datatype="INT8", shape=[0])
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name="y")
    assert protos.parse(pb.ModelInferRequest(inputs=[item], outputs=[output])).outputs == [OutputChoice("y", True)]


FP32 = {"name": "x", "datatype": "FP32", "shape": [1]}
FP32_CONTENTS = pb.InferTensorContents(fp32_contents=[1])


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        pytest.param(pb.ModelInferRequest(), "at least one tensor", id="no inputs"),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(**FP32)], raw_input_contents=[b"0000", b"1111"]),
            "expected 1 raw_input_contents, one per input not in shared memory, got 2",
            id="more raw than inputs",
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(**FP32, contents=FP32_CONTENTS)], raw_input_contents=[b"0000"]),
            "has contents although the request has raw_input_contents",
            id="both raw and typed",
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(name="x", datatype="INT32", shape=[1], contents=FP32_CONTENTS)]),
            "is INT32 but has its values in fp32_contents, not int_contents",
            id="wrong field",
        ),
        pytest.param(
            pb.ModelInferRequest(
                inputs=[
                    Input(name="x", datatype="INT8", shape=[1], contents=pb.InferTensorContents(int_contents=[300]))
                ]
            ),
            "not an even array of INT8",
            id="beyond INT8",
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(name="x", datatype="BF16", shape=[1])]),
            "must come in raw_input_contents",
            id="BF16 typed",
        ),
        pytest.param(
            pb.ModelInferRequest(
                inputs=[
                    Input(name="x", datatype="BYTES", shape=[2], contents=pb.InferTensorContents(bytes_contents=[b"a"]))
                ]
            ),
            "has 1 values, its shape [2] needs 2",
            id="too few bytes",
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(**FP32)], raw_input_contents=[b"000"]), "has 3 bytes", id="short"
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(name="x", datatype="FP32", shape=[-1])]), ">= 0", id="negative"
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(**FP32), Input(**FP32)], raw_input_contents=[b"0000"]),
            "expected 2 raw_input_contents, one per input not in shared memory, got 1",
            id="fewer raw than inputs",
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(**FP32)], raw_input_contents=[b""] * 3),
            "has 0 bytes, its shape",
            id="empty raw",
        ),
        pytest.param(
            pb.ModelInferRequest(
                inputs=[Input(**FP32)], raw_input_contents=[b"0000"], parameters={"x": pb.InferParameter()}
            ),
            "parameter 'x' has no value",
            id="no value",
        ),
        pytest.param(
            pb.ModelInferRequest(
                inputs=[Input(**FP32)],
                raw_input_contents=[b"0000"],
                outputs=[Output(name="y"), Output(name="y")],
            ),
            "asked for twice",
            id="output twice",
        ),
        pytest.param(
            pb.ModelInferRequest(
                inputs=[Input(**FP32, parameters={"shared_memory_region": pb.InferParameter(string_param="r")})]
            ),
            "needs 'shared_memory_byte_size'",
            id="region without size",
        ),
    ],
)
def test_a_wrong_message_is_refused_with_a_sentence(message: Any, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        protos.parse(message)
    assert caught.value.kind is Kind.INVALID
    assert sentence in caught.value.message


def test_noise_never_does_more_than_be_refused() -> None:
    rng = np.random.default_rng(7)
    good = pb.ModelInferRequest(inputs=[Input(**FP32)], raw_input_contents=[b"0000"]).SerializeToString()
    for _ in range(2000):
        data = bytearray(good)
        data[rng.integers(len(data))] = rng.integers(256)
        try:
            message = pb.ModelInferRequest.FromString(bytes(data))
        except Exception:  # noqa: S112 - protobuf's own refusal
            continue
        with contextlib.suppress(RequestError):
            protos.parse(message)


def test_parameters_of_every_kind_arrive() -> None:
    parameters = {
        "priority": pb.InferParameter(uint64_param=2),
        "timeout": pb.InferParameter(int64_param=500_000),
        "sequence_id": pb.InferParameter(uint64_param=2**64 - 1),
        "ratio": pb.InferParameter(double_param=0.5),
        "word": pb.InferParameter(string_param="w"),
        "flag": pb.InferParameter(bool_param=False),
        "triton_enable_empty_final_response": pb.InferParameter(bool_param=True),
    }
    message = pb.ModelInferRequest(inputs=[Input(**FP32)], raw_input_contents=[b"0000"], parameters=parameters)
    request = protos.parse(message)
    assert (request.priority, request.timeout_s) == (2, 0.5)
    assert request.parameters == {"sequence_id": 2**64 - 1, "ratio": 0.5, "word": "w", "flag": False}


def test_parameters_of_an_answer_keep_their_kind() -> None:
    given: dict[str, Any] = {"flag": True, "count": -3, "large": 2**64 - 1, "ratio": 0.5, "word": "w"}
    answer = protos.render(InferResponse("m", "1", [], parameters=given))
    assert protos.values_of(answer.parameters) == given


def test_classes_come_as_bytes() -> None:
    request = InferRequest([], outputs=[OutputChoice("y", True, classes=2)])
    scores = Tensor("y", "FP32", np.array([1, 3, 2], np.float32))
    answer = protos.render(InferResponse("m", "1", [scores]), request)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2])
    expected = Tensor("y", "BYTES", texts_array([b"3.000000:1", b"2.000000:2"], (2,)))
    assert answer.raw_output_contents[0] == bytes_of(expected)


def test_inputs_in_shared_memory_have_no_raw_contents() -> None:
    memory = OneRegion(12)
    memory.memory[:4] = np.array([7], np.float32).tobytes()
    where = {
        "shared_memory_region": pb.InferParameter(string_param="r"),
        "shared_memory_byte_size": pb.InferParameter(int64_param=4),
    }
    shared, sent = Input(**FP32, parameters=where), Input(name="b", datatype="INT8", shape=[1])
    request = protos.parse(pb.ModelInferRequest(inputs=[shared, sent], raw_input_contents=[b"\x05"]), memory)
    assert [tensor.data.tolist() for tensor in request.inputs] == [[7], [5]]
    only = protos.parse(pb.ModelInferRequest(inputs=[shared]), memory)
    assert only.inputs[0].data.tolist() == [7]


def test_an_output_in_shared_memory_leaves_its_place_empty() -> None:
    memory = OneRegion(12)
    choices = [OutputChoice("a", True, region=Region("r", 4, 8)), OutputChoice("b", True)]
    outputs = [Tensor("a", "FP32", np.array([1, 2], np.float32)), Tensor("b", "INT8", np.array([5], np.int8))]
    answer = protos.render(InferResponse("m", "1", outputs), InferRequest([], outputs=choices), None, memory)
    assert list(answer.raw_output_contents) == [b"", b"\x05"]
    assert protos.values_of(answer.outputs[0].parameters)["shared_memory_byte_size"] == 8
    assert np.frombuffer(memory.memory[4:], np.float32).tolist() == [1, 2]


MODEL = Metadata("p", (TensorSpec("x", "INT32", (-1, 4)), TensorSpec("t", "BYTES", (-1, 1))), (), max_batch=8)


@pytest.mark.parametrize(
    ("item", "raws", "said"),
    [
        pytest.param(
            Input(name="t", datatype="BYTES", shape=[20_000, 1]),
            [b"\xff" * 80_000],
            "batch-size must be <= 8",
            id="raw",
        ),
        pytest.param(
            Input(name="x", datatype="INT32", shape=[1, 99_999], contents={"int_contents": [2**31 - 1]}),
            [],
            "unexpected shape for input 'x'",
            id="typed",
        ),
        pytest.param(Input(name="x", datatype="FP32", shape=[1, 4]), [bytes(80_000)], "is 'FP32'", id="datatype"),
    ],
)
def test_a_large_tensor_that_the_model_does_not_take_is_refused_before_its_values_are_read(
    item: Any, raws: list[bytes], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        protos.parse(pb.ModelInferRequest(inputs=[item], raw_input_contents=raws), None, MODEL)


def test_more_typed_values_than_may_become_objects_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protos, "MAX_TYPED_VALUES", 2)
    item = Input(name="x", datatype="INT32", shape=[3], contents={"int_contents": [1, 2, 3]})
    with pytest.raises(RequestError, match="use raw_input_contents"):
        protos.parse(pb.ModelInferRequest(inputs=[item]))
