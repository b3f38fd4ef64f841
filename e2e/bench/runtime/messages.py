"""One request of each protocol, and how its answer is read: the bytes a load generator sends over and over.

V2, our own server, Triton, KServe, MLServer      JSON, JSON with binary tensors, gRPC's ModelInfer
OWN, servers that leave the format to their user  {"x": [numbers]} and {"y": [numbers]}; bare little-endian float32
"""

import array
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tritonclient.grpc import service_pb2 as pb

Protocol = Literal["json", "bin", "grpc"]
Style = Literal["v2", "own"]
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Message:
    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Callable[[bytes, Mapping[str, str]], "array.array[float]"]
    """The numbers in an answer's body; its headers have names in small letters."""
    is_grpc: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A model's name, its input with a batch of one, and what raw torch answers."""

    model: str
    shape: list[int]
    x: "array.array[float]"
    y: "array.array[float]"

    @classmethod
    def of(cls, models: Path, name: str) -> "Sample":
        config = json.loads((models / name / "config.json").read_text())
        x, y = (floats((models / name / file).read_bytes()) for file in ("x.f32", "y.f32"))
        return cls(name, [1, *config["input"][0]["dims"]], x, y)


class WrongAnswerError(Exception):
    """What a server answered is not what raw torch does."""


def message(sample: Sample, style: Style, protocol: Protocol) -> Message:
    make = {
        ("v2", "json"): _v2_json,
        ("v2", "bin"): _v2_binary,
        ("v2", "grpc"): _v2_grpc,
        ("own", "json"): _own_json,
        ("own", "bin"): _own_bytes,
    }
    return make[style, protocol](sample)


def check(sample: Sample, answer: "array.array[float]") -> None:
    """Within what JSON and another batch size may change: 1e-4 of the value.

    Raises:
        WrongAnswerError: with the first number that differs.
    """
    if len(answer) != len(sample.y):
        raise WrongAnswerError(f"{len(answer)} numbers instead of {len(sample.y)}")
    for place, (got, wanted) in enumerate(zip(answer, sample.y, strict=True)):
        if not abs(got - wanted) <= 1e-4 * max(1.0, abs(wanted)):  # so that NaN is wrong
            raise WrongAnswerError(f"number {place} is {got} instead of {wanted}")


def floats(data: bytes) -> "array.array[float]":
    return array.array("f", data)


def _numbers(sample: Sample) -> list[float]:
    return [round(value, 6) for value in sample.x]


def _v2_json(sample: Sample) -> Message:
    tensor = {"name": "x", "shape": sample.shape, "datatype": "FP32", "data": _numbers(sample)}
    body = json.dumps({"inputs": [tensor]}).encode()
    return Message(f"/v2/models/{sample.model}/infer", body, {"Content-Type": "application/json"}, _read_v2)


def _v2_binary(sample: Sample) -> Message:
    data = sample.x.tobytes()
    size = {"binary_data_size": len(data)}
    tensor = {"name": "x", "shape": sample.shape, "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Message(f"/v2/models/{sample.model}/infer", head + data, headers, _read_v2)


def _v2_grpc(sample: Sample) -> Message:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=sample.shape)
    request = pb.ModelInferRequest(model_name=sample.model, inputs=[tensor])
    request.raw_input_contents.append(sample.x.tobytes())
    data = request.SerializeToString()
    frame = b"\0" + struct.pack(">I", len(data)) + data
    return Message(MODEL_INFER, frame, {"content-type": "application/grpc", "te": "trailers"}, _read_grpc, is_grpc=True)


def _own_json(sample: Sample) -> Message:
    body = json.dumps({"x": _numbers(sample)}).encode()
    return Message("/json", body, {"Content-Type": "application/json"}, lambda body, _: _array(json.loads(body)["y"]))


def _own_bytes(sample: Sample) -> Message:
    headers = {"Content-Type": "application/octet-stream"}
    return Message("/raw", sample.x.tobytes(), headers, lambda body, _: floats(body))


def _read_v2(body: bytes, headers: Mapping[str, str]) -> "array.array[float]":
    length = headers.get("inference-header-content-length")
    return floats(body[int(length) :]) if length else _array(json.loads(body)["outputs"][0]["data"])


def _read_grpc(body: bytes, _: Mapping[str, str]) -> "array.array[float]":
    answer = pb.ModelInferResponse.FromString(body)
    if answer.raw_output_contents:
        return floats(answer.raw_output_contents[0])
    return _array(answer.outputs[0].contents.fp32_contents)


def _array(values: object) -> "array.array[float]":
    """Of numbers, nested or flat."""
    return array.array("f", _flat(values))


def _flat(values: object) -> list[float]:
    if isinstance(values, float | int):
        return [values]
    return [number for value in values for number in _flat(value)]  # type: ignore[attr-defined]
