"""The REST surface as docs/openapi.yaml describes it, by schemathesis: whatever comes is answered as it says there."""

import json
import shutil
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from slipway_runtime.protocol.rest_pages import NAME
from slipway_runtime.protocol.routes import RestOptions, Routes
from slipway_runtime.protocol.shared_memory import SharedMemory
from tests.runtime.conftest import EXAMPLES
from tests.runtime.fake_api import FakeApi
from tests.runtime.fuzz import FULL
from tests.runtime.process import REPOSITORY, ServerProcess, start

pytestmark = pytest.mark.timeout(3600 if FULL else 300)

SCHEMA = schemathesis.openapi.from_path(REPOSITORY / "docs" / "openapi.yaml")
SCHEMA.config.phases.update(phases=["examples", "fuzzing"])
EACH = 2250 if FULL else 20
AT_LEAST = 50_000 if FULL else 200  # a page without parameters is asked once, not EACH times
# Answers that tell of a state of the server or of the request, and of no fault of ours.
SAID = {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
asked: list[int] = []


@pytest.fixture(scope="module")
def server(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("schema")
    for name in EXAMPLES:
        shutil.copytree(samples / name, folder / name)
    options = ["--allow-code", "true", "--model-control", "explicit", "--timeout", "0.5"]
    server = start(samples, "--repository", str(folder), *options)
    yield server.wait_ready()
    server.kill()


def aimed(case: "schemathesis.Case[Any]") -> None:
    """Most names that chance makes are of no model, and few shapes are the model's: three of four are put right."""
    number = zlib.crc32(repr((case.body, case.path_parameters)).encode())
    names = case.path_parameters
    if names and number % 4:
        names |= {key: value for key, value in {"model": EXAMPLES[number % 5], "version": "1"}.items() if key in names}
    tensors = case.body.get("inputs") if isinstance(case.body, dict) else None
    if isinstance(tensors, list) and number % 8 > 1:
        for index, tensor in enumerate(tensors):
            if isinstance(tensor, dict):
                tensor["name"] = f"INPUT{index}"
                tensor.update({"shape": [1, 16], "data": list(range(16))} if number % 3 else {})
                tensor.update({"datatype": "INT32"} if number % 5 else {})


@SCHEMA.parametrize()
@settings(max_examples=EACH, deadline=None, suppress_health_check=list(HealthCheck), derandomize=not FULL)
def test_what_is_asked_is_answered_as_described(case: "schemathesis.Case[Any]", server: ServerProcess) -> None:
    aimed(case)
    response = case.call(base_url=f"http://{server.http}", timeout=30)
    asked.append(response.status_code)
    assert response.status_code < 500 or response.status_code in SAID, response.content
    checks = [response_schema_conformance]
    if response.status_code not in (404, 405):  # a name with a slash or none at all is another route
        checks.append(status_code_conformance)
    case.validate_response(response, checks=checks)


def test_the_server_lives_and_has_seen_no_fault_of_its_own(server: ServerProcess) -> None:
    print(json.dumps({"cases": len(asked), "by_status": {code: asked.count(code) for code in set(asked)}}))  # noqa: T201
    assert len(asked) >= AT_LEAST, "schemathesis has tried too little"
    assert 200 in asked
    assert not [line for line in server.lines if "Traceback" in line or "failed in the server itself" in line]
    assert server.stop() == 0


async def test_every_route_is_described() -> None:
    routes = Routes(FakeApi(), SharedMemory(), RestOptions(1 << 20))
    # With versions is as without, and what is of CUDA is refused in the same words.
    served = {
        (method.lower(), "/" + "/".join(pattern))
        for patterns in routes._pages._table.values()
        for pattern, methods in patterns
        for method in methods
        if "versions" not in pattern and "cudasharedmemory" not in pattern
    }
    described = {
        (method, "/".join(NAME if "{" in part and ":" not in part else part for part in path.split("/")))
        for path, item in SCHEMA.raw_schema["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert served - described == {("post", "/v1/models/*")}, "which is described with its verb"
