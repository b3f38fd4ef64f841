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
from slipway_runtime.tensors import DTYPES, InferResponse, OutputChoice, Tensor
from tests.runtime.test_rest import tensors

Input = pb.ModelInferRequest.InferInputTensor


@given(st.lists(tensors(list(DTYPES)), min_size=1, max_size=4), st.text(max_size=4))
def test_raw_tensors_go_in_and_out_bit_for_bit(sent: list[Tensor], request_id: str) -> None:
    message = pb.ModelInferRequest(id=request_id, raw_input_contents=[t.data.tobytes() for t in sent])
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
    ],
)
def test_typed_contents_are_read(datatype: str, contents: dict[str, Any], values: list[Any]) -> None:
    item = Input(name="x", datatype=datatype, shape=[2], contents=pb.InferTensorContents(**contents))
    (tensor,) = protos.parse(pb.ModelInferRequest(inputs=[item])).inputs
    assert tensor.data.dtype == DTYPES[datatype]
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
            "expected 1 raw_input_contents, one per input, got 2",
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
                    Input(name="x", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[b"a"]))
                ]
            ),
            "a PyTorch model cannot take",
            id="bytes",
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(**FP32)], raw_input_contents=[b"000"]), "has 3 bytes", id="short"
        ),
        pytest.param(
            pb.ModelInferRequest(inputs=[Input(name="x", datatype="FP32", shape=[-1])]), ">= 0", id="negative"
        ),
        pytest.param(
            pb.ModelInferRequest(
                inputs=[Input(**FP32, parameters={"shared_memory_region": pb.InferParameter(string_param="r")})]
            ),
            "'shared_memory_region' is not served",
            id="shared memory",
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
