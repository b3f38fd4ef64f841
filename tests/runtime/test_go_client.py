"""Go's gRPC client, which is the one of Kubernetes, against a real process; it learns the schema by reflection."""

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.cluster.build import built
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # it may have to be compiled first, beside what else runs

Answers = list[dict[str, Any]]
Ask = Callable[..., Answers]
INFER, STREAM = "inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/ModelStreamInfer"
HEALTH = "grpc.health.v1.Health/Check"


@pytest.fixture(scope="session")
def program() -> Path:
    folder = Path(__file__).parent / "clients" / "grpc_client"
    return built(folder, (".",), "building a gRPC client from its Go module (20 s the first time)") / "grpc_client"


def run(program: Path, *arguments: str, requests: Answers) -> list[Any]:
    lines = "\n".join(map(json.dumps, requests))
    done = subprocess.run([program, *arguments], input=lines, capture_output=True, text=True, timeout=200, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def ask(program: Path, examples: ServerProcess) -> Ask:
    def asked(method: str, *requests: dict[str, Any], flags: tuple[str, ...] = ()) -> Answers:
        return run(program, *flags, examples.grpc, method, requests=list(requests))

    return asked


def tensor(name: str, datatype: str, data: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [str(size) for size in data.shape]}


def raw(data: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(data.tobytes()).decode()


def inputs_of(number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """As many rows as the last digit says, so that answers are of different sizes too."""
    rows = 1 + number % 10
    first = np.arange(number, number + rows * 16, dtype=np.int32).reshape(rows, 16)
    return first, np.full_like(first, 3 * number)


def simple(number: int) -> dict[str, Any]:
    first, second = inputs_of(number)
    return {
        "model_name": "simple",
        "id": f"request {number}",
        "inputs": [tensor("INPUT0", "INT32", first), tensor("INPUT1", "INT32", second)],
        "raw_input_contents": [raw(first), raw(second)],
    }


def answer_to(number: int) -> dict[str, Any]:
    first, second = inputs_of(number)
    return {
        "modelName": "simple",
        "modelVersion": "1",
        "id": f"request {number}",
        "outputs": [tensor("OUTPUT0", "INT32", first), tensor("OUTPUT1", "INT32", second)],
        "rawOutputContents": [raw(first + second), raw(first - second)],
    }


def ok(*answers: dict[str, Any]) -> Answers:
    return [{"code": "OK", "answer": each} for each in answers]


def echo(texts: list[bytes]) -> dict[str, Any]:
    contents = {"bytes_contents": [base64.b64encode(text).decode() for text in texts]}
    shape = ["1", str(len(texts))]
    return {
        "model_name": "simple_identity",
        "inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": shape, "contents": contents}],
    }


def echoed(answer: dict[str, Any]) -> bytes:
    """The one text of the answer, which comes raw, with its length before it."""
    (output,) = answer["answer"]["rawOutputContents"]
    whole = base64.b64decode(output)
    assert int.from_bytes(whole[:4], "little") == len(whole) - 4
    return whole[4:]


def test_go_lists_the_services_and_learns_their_schema(program: Path, examples: ServerProcess) -> None:
    (services,) = run(program, examples.grpc, requests=[])
    assert set(services) == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_go_asks_for_the_servers_and_a_models_health(ask: Ask) -> None:
    serving, unknown = ok({"status": "SERVING"})[0], {"code": "NotFound", "text": "there is no service 'nope' here"}
    known = {"service": "inference.GRPCInferenceService"}
    assert ask(HEALTH, {}, known, {"service": "nope"}) == [serving, serving, unknown]
    assert ask("inference.GRPCInferenceService/ServerReady", {}) == ok({"ready": True})
    assert ask("inference.GRPCInferenceService/ModelReady", {"name": "simple"}) == ok({"ready": True})


def test_go_gets_the_answer_to_its_request(ask: Ask) -> None:
    assert ask(INFER, simple(7)) == ok(answer_to(7))


def test_a_thousand_calls_at_once_get_their_own_answers(ask: Ask) -> None:
    assert ask(INFER, *map(simple, range(1000))) == ok(*map(answer_to, range(1000)))


def test_compressed_messages_are_understood(ask: Ask) -> None:
    assert ask(INFER, *map(simple, range(20)), flags=("-gzip",)) == ok(*map(answer_to, range(20)))


@pytest.mark.parametrize("flags", [(), ("-gzip",)], ids=["plain", "gzip"])
def test_a_message_of_24_mib_comes_back(ask: Ask, flags: tuple[str, ...]) -> None:
    text = np.random.default_rng(1).bytes(24 << 20)
    (answer,) = ask(INFER, echo([text]), flags=flags)
    assert answer["code"] == "OK"
    assert echoed(answer) == text


def test_an_error_arrives_with_its_code_and_its_sentence(ask: Ask) -> None:
    wrong, right, unknown = simple(1), simple(2), simple(3) | {"model_name": "nope"}
    wrong["inputs"][0]["datatype"] = "FP32"
    first, second, third = ask(INFER, wrong, right, unknown)
    assert (first["code"], second, third["code"]) == ("InvalidArgument", ok(answer_to(2))[0], "NotFound")
    assert "INPUT0" in first["text"]
    assert "nope" in third["text"]


def repeat(numbers: list[int], delay_ms: int) -> dict[str, Any]:
    count = [str(len(numbers))]
    return {
        "model_name": "repeat_int32",
        "id": f"{len(numbers)} numbers",
        "inputs": [
            {"name": "IN", "datatype": "INT32", "shape": count, "contents": {"int_contents": numbers}},
            {
                "name": "DELAY",
                "datatype": "UINT32",
                "shape": count,
                "contents": {"uint_contents": [delay_ms] * len(numbers)},
            },
            {"name": "WAIT", "datatype": "UINT32", "shape": ["1"], "contents": {"uint_contents": [0]}},
        ],
    }


def streamed(answers: Answers) -> list[tuple[str, int, int]]:
    found = []
    for each in answers:
        response = each["answer"]["inferResponse"]
        number, index = [int.from_bytes(base64.b64decode(text), "little") for text in response["rawOutputContents"]]
        found.append((response["id"], number, index))
    return found


def test_a_stream_of_requests_is_a_stream_of_answers(ask: Ask) -> None:
    *answers, end = ask(STREAM, repeat([5, 3, 9], 1), repeat(list(range(100)), 0))
    assert end == {"code": "OK"}
    found = streamed(answers)
    assert [each for each in found if each[0] == "3 numbers"] == [
        ("3 numbers", 5, 0),
        ("3 numbers", 3, 1),
        ("3 numbers", 9, 2),
    ]
    assert [each for each in found if each[0] != "3 numbers"] == [("100 numbers", n, n) for n in range(100)]


def test_a_stream_past_its_deadline_has_what_came_before(ask: Ask) -> None:
    *answers, end = ask(STREAM, repeat(list(range(200)), 100), flags=("-timeout", "1s"))
    assert end["code"] == "DeadlineExceeded"
    assert streamed(answers) == [("200 numbers", n, n) for n in range(len(answers))]
    assert len(answers) <= 10
    assert ask(INFER, simple(1)) == ok(answer_to(1))


def test_a_call_past_its_deadline_ends_and_its_neighbours_do_not(
    program: Path, servers: dict[str, ServerProcess]
) -> None:
    server = servers["slow"].grpc  # about 200 ms of work
    x = np.ones((1, 4), np.float32)
    request = {"model_name": "slow", "inputs": [tensor("x", "FP32", x)], "raw_input_contents": [raw(x)]}
    (late,) = run(program, "-timeout", "20ms", server, INFER, requests=[request])
    assert late["code"] == "DeadlineExceeded"
    (answer,) = run(program, server, INFER, requests=[request])
    assert answer["answer"]["rawOutputContents"] == [raw(x)]
