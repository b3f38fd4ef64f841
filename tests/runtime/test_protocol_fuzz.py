"""Requests that were good once, bent by chance: each is answered or refused, none does anything else.

hypothesis, in the other tests, knows what a request looks like and is slow; this knows nothing and is quick: a million
bodies take about a minute (SLIPWAY_FULL=1).
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from slipway_runtime.errors import RequestError
from slipway_runtime.protocol import generate, protos, rest, v1
from slipway_runtime.protocol.rest_answers import render
from slipway_runtime.protocol.rest_tasks import _Events
from slipway_runtime.protocol.routes import RestOptions, Routes
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, TensorSpec
from slipway_runtime.wire.http1_messages import Request
from tests.runtime.fake_api import FakeApi
from tests.runtime.fuzz import FULL
from tests.runtime.http_stand_in import answer_of

COUNT = 1_000_000 if FULL else 4_000
METADATA = Metadata("p", (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("t", "BYTES", (-1,))), (), max_batch=4)
RAW = Metadata("p", (TensorSpec("x", "INT16", (-1, 2)),), (), max_batch=4)
TOKENS = [
    *(b"null", b"[", b"]", b"{", b"}", b"-1", b"1e999", b"NaN", b"Infinity", b"9999999999999999999999", b"true", b'""'),
    *(
        b'"BYTES"',
        b'"BF16"',
        b'"BOOL"',
        b'"UINT64"',
        b'"shared_memory_region"',
        b'"binary_data_size":',
        b"[0]",
        b"\xff",
    ),
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f", b"0.5", b",", b":", b'"', b"2147483648"),
]


def bodies() -> list[tuple[bytes, bytes]]:
    """JSON and the bytes after it."""
    x = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
    t = {"name": "t", "shape": [2], "datatype": "BYTES"}
    sized = {"parameters": {"binary_data_size": 8}}
    heads = [
        {"inputs": [{**x, "data": [[1, 2.5]]}, {**t, "data": ["a", "b"]}], "id": "1", "outputs": [{"name": "y"}]},
        {"inputs": [{**x, **sized}, {**t, **sized}], "parameters": {"binary_data_output": True, "priority": 1}},
        {"inputs": [{**x, **sized}, {**t, "data": ["a", "b"]}], "outputs": [{"name": "y", **sized}]},
    ]
    tails = [b"", np.array([1, 2], np.float32).tobytes() + bytes(8), bytes(8)]
    return [(json.dumps(head).encode(), tail) for head, tail in zip(heads, tails, strict=True)]


def bent(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] = random.randrange(256)
            case 1:
                changed[at:at] = random.choice(TOKENS)
            case 2:
                del changed[at : at + random.randrange(1, 12)]
            case 3:
                other = random.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + random.randrange(1, 30)]
            case _:
                changed[at : at + random.randrange(1, 6)] = random.choice(TOKENS)
    return bytes(changed)


def check(request: InferRequest) -> None:
    """What was accepted holds together: it can be sent back as it came."""
    for tensor in request.inputs:
        assert tensor.data.size < 10_000
    response = InferResponse("m", "1", request.inputs, request.id)
    try:
        buffers, head_length = render(response, InferRequest([], binary=request.binary))
    except RequestError:
        return
    text = b"".join(buffers)
    assert len(json.loads(text[: head_length or len(text)])["outputs"]) == len(request.inputs)


def run(seed: int, once: Callable[[Random], InferRequest | None]) -> None:
    """Both outcomes must happen, or this would test nothing."""
    random = Random(seed)  # noqa: S311 - chance that comes again, not secrets
    accepted = refused = 0
    for _ in range(COUNT):
        try:
            request = once(random)
        except RequestError:
            refused += 1
            continue
        if request is not None:
            check(request)
            accepted += 1
    assert accepted > COUNT // 100
    assert refused > COUNT // 100


@pytest.mark.timeout(1200)
def test_bent_rest_bodies_are_requests_or_refusals() -> None:
    known = bodies()

    def once(random: Random) -> InferRequest:
        head, tail = random.choice(known)
        head, tail = (bent(head, random), tail) if random.random() < 0.7 else (head, bent(tail, random))
        header = str(len(head)).encode()
        match random.randrange(10):
            case 0:
                header = bent(header, random)
            case 1:
                return rest.parse(tail, b"0", RAW)
        return rest.parse(head + tail, header if tail else None, METADATA)

    run(1, once)


@pytest.mark.timeout(1200)
def test_bent_grpc_messages_are_requests_or_refusals() -> None:
    message = pb.ModelInferRequest(model_name="m", id="1", raw_input_contents=[bytes(8), b"\x01\0\0\0a\0\0\0\0"])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message.inputs.add(name="t", datatype="BYTES", shape=[2])
    message.outputs.add(name="y").parameters["classification"].int64_param = 2
    message.parameters["priority"].uint64_param = 1
    typed = pb.ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -1])
    known = [message.SerializeToString(), typed.SerializeToString()]

    def once(random: Random) -> InferRequest | None:
        try:
            parsed: Any = pb.ModelInferRequest.FromString(bent(random.choice(known), random))
        except DecodeError:
            return None
        request = protos.parse(parsed)
        protos.render(InferResponse("m", "1", request.inputs, request.id))
        return request

    run(2, once)


@pytest.mark.timeout(1200)
def test_bent_v1_and_generate_bodies_are_requests_or_refusals() -> None:
    known_v1 = [b'{"instances":[{"x":[1,2],"t":"a"},{"x":[3,4.5],"t":{"b64":"YQ=="}}]}', b'{"inputs":{"x":[[1,2]]}}']
    known_generate = [b'{"id":"1","x":[1,2],"t":"a","parameters":{"temperature":0.5,"stream":true}}']

    def once(random: Random) -> InferRequest:
        if random.random() < 0.5:
            return v1.parse(bent(random.choice(known_v1), random), METADATA)[0]
        return generate.parse(bent(random.choice(known_generate), random), METADATA)

    run(3, once)


WORDS = ["v2", "v1", "models", "simple", "count", "versions", "1", "9", "infer", "generate", "generate_stream", "ready"]
WORDS += ["config", "stats", "health", "live", "repository", "index", "load", "unload", "trace", "setting", "logging"]
WORDS += ["systemsharedmemory", "cudasharedmemory", "region", "r", "status", "register", "unregister", "simple:predict"]
WORDS += ["%2e%2e", "%00", "%", "", "..", "\u00ff", "a" * 300, "metrics", "say", "classes"]
PATHS = ["/v2/models/simple/infer", "/v2/models/say/generate", "/v1/models/simple:predict", "/v2/repository/index"]
PATHS += [
    "/v2/systemsharedmemory/region/r/register",
    "/v2/models/say/generate_stream",
    "/v2/trace/setting",
    "/v2/logging",
]
PATHS += ["/v2/repository/models/simple/load", "/v2/repository/models/simple/unload"]
NAMES = [b"content-encoding", b"accept-encoding", b"inference-header-content-length", b"x-slipway-timeout-ms"]
NAMES += [b"x-slipway-tenant", b"x-request-id", b"endpoint-load-metrics-format"]
VALUES = [b"gzip", b"deflate", b"0", b"17", b"-1", b"text", b"json", b"\xff", b"", b"*;q=x", b"9" * 40, b"gzip, br;q=0"]


@pytest.mark.timeout(1200)
async def test_any_request_has_an_answer_and_none_is_a_failure_of_ours() -> None:
    random = Random(4)  # noqa: S311 - chance that comes again, not secrets
    routes = Routes(FakeApi(), SharedMemory(), RestOptions(1 << 20))
    seen = set()
    known = [head + tail for head, tail in bodies()] + [
        b'{"text_input":"a"}',
        b'{"instances":[1]}',
        b'{"parameters":{}}',
        b"",
    ]
    for _ in range(COUNT // 4):
        path = "/" + "/".join(random.choices(WORDS, k=random.randrange(1, 8)))
        if random.random() < 0.6:
            path = random.choice(PATHS)
        method = random.choice(("GET", "POST", "POST", "HEAD", "DELETE"))
        headers = {random.choice(NAMES): random.choice(VALUES) for _ in range(random.randrange(3))}
        body = random.choice(known)
        response = await answer_of(routes, Request(method, path, headers, bent(body, random), keep_alive=True))
        seen.add(response.status)
        assert response.status < 500 or response.status in (501, 503)
        text = b"".join(response.body)
        if response.status != 200 and "content-encoding" not in dict(response.headers):
            assert json.loads(text)["error"]
        if isinstance(response.stream, _Events):
            await response.stream.aclose()
    assert {200, 400, 404, 405} <= seen
