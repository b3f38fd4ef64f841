"""How a service is found, and what of it is open: hosts, paths, the header, and the list of protocol routes."""

import asyncio
import json
from itertools import product
from pathlib import Path

import grpc
import pytest

from tests.gateway import clients, envoy, pods
from tests.gateway.services import service

pytestmark = pytest.mark.timeout(180)
V2 = "/v2/models/resnet"


async def test_every_form_of_its_host_leads_to_a_service(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            names = ("resnet.vision", "resnet.vision.svc", "resnet.vision.svc.cluster.local")
            for name, port, dot in product(names, ("", ":80", ":8080"), ("", ".")):
                host = f"{name}{dot}{port}"
                assert (await ask("GET", V2, host=host)).status == 200, host
                async with clients.channel(gateway, host) as channel:
                    assert (await clients.call(channel))[:2] == (grpc.StatusCode.OK, "a"), host


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("resnet", "this host names no namespace: use NAME.NAMESPACE"),
        ("resnet:80", "this host names no namespace: use NAME.NAMESPACE"),
        ("RESNET.vision", "write the host in lower case"),
        ("resnet.other", "no service has this host"),
        ("10.1.2.3", "no service has this host"),
        ("[::1]:80", "no service has this host"),
    ],
)
async def test_a_host_of_no_service_is_told_what_to_write(tmp_path: Path, host: str, sentence: str) -> None:
    async with envoy.serving(tmp_path, service({"old": 10_000})) as gateway, clients.rest(gateway) as ask:
        answer = await ask("GET", V2, host=host)
        async with clients.channel(gateway, host) as channel:
            code, message, _ = await clients.call(channel)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert sentence in json.loads(answer.text)["error"]
    assert (code, sentence in message) == (grpc.StatusCode.UNIMPLEMENTED, True)


async def test_names_of_the_gateway_itself_lead_by_path_and_by_header(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one, pods.pod("b") as other:
        views = service({"old": 10_000}, {"old": [one]}), service({"x": 10_000}, {"x": [other]}, name="bert")
        async with envoy.serving(tmp_path, *views) as gateway, clients.rest(gateway) as ask:
            for path in (
                "/vision/resnet/v2/models/resnet",
                "/vision/resnet/v2/health/ready",
                "/vision/resnet/v2?a=b",
                "/vision/resnet/v2",
            ):
                assert (await ask("GET", path, host="10.0.0.1")).status == 200, path
            got = await ask("POST", "/vision/resnet/v2/models/resnet/infer?a=/b", host="10.0.0.1", data=b"{}")
            assert got.status == 200
            assert one.seen[-1].path == "/v2/models/resnet/infer?a=/b"
            assert (await ask("POST", "/vision/resnet/v1/models/resnet:predict", host="gateway")).status == 200
            assert one.seen[-1].path == "/v1/models/resnet:predict"
            # The path of another service leads to that one, also under this service's host.
            assert (await ask("GET", "/vision/bert/v2/models/bert")).headers["x-slipway-revision"] == "x"
            assert (await ask("GET", "/vision/bert/v2/models/resnet")).status == 404
            async with clients.channel(gateway, "gateway.example") as channel:
                assert (await clients.call(channel, x_slipway_service="vision/resnet"))[1] == "a"
                code, _, _ = await clients.call(channel, x_slipway_service="vision/nobody")
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert "x-slipway-service" not in one.calls[-1][1]


async def test_a_service_called_v2_is_found_by_host_and_by_path(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, name="v2")
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            assert (await ask("GET", "/v1/models/v2", host="v2.vision")).status == 200
            assert (await ask("GET", "/v2/models/v2", host="v2.vision")).status == 200
            assert (await ask("GET", "/vision/v2/v1/models/v2", host="gateway")).status == 200
        assert [seen.path for seen in one.seen] == ["/v1/models/v2", "/v2/models/v2", "/v1/models/v2"]


OPEN = [
    ("GET", "/v2"),
    ("HEAD", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", V2),
    ("GET", f"{V2}/ready"),
    ("GET", f"{V2}/versions/3"),
    ("GET", f"{V2}/versions/3/ready"),
    ("POST", f"{V2}/infer"),
    ("POST", f"{V2}/versions/3/infer"),
    ("POST", f"{V2}/generate"),
    ("POST", f"{V2}/generate_stream"),
    ("POST", f"{V2}/versions/3/generate_stream"),
    ("GET", "/v1/models/resnet"),
    ("POST", "/v1/models/resnet:predict"),
]
CLOSED = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/v2/"),
    ("POST", "/v2/repository/index"),
    ("GET", "/v2/repository/index"),
    ("POST", "/v2/repository/models/resnet/load"),
    ("POST", "/v2/repository/models/resnet/unload"),
    ("GET", f"{V2}/config"),
    ("GET", f"{V2}/stats"),
    ("GET", "/v2/models/stats"),
    ("GET", f"{V2}/trace/setting"),
    ("POST", f"{V2}/trace/setting"),
    ("GET", "/v2/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
    ("POST", "/v2/cudasharedmemory/region/x/register"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/models/other/infer"),
    ("POST", f"{V2}s/infer"),
    ("POST", "/v2/models/RESNET/infer"),
    ("POST", f"{V2}/versions//infer"),
    ("POST", f"{V2}/versions/1/2/infer"),
    ("GET", f"{V2}/infer"),
    ("DELETE", V2),
    ("PUT", f"{V2}/infer"),
    ("OPTIONS", f"{V2}/infer"),
    ("TRACE", V2),
    ("GET", "/v1/models"),
    ("POST", "/v1/models/resnet:explain"),
    ("GET", "/debug/pprof"),
    ("POST", "/inference.GRPCInferenceService/ModelInfer"),
]
METHODS = {
    "open": ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"],
    "closed": [
        *("ModelConfig", "ModelStatistics", "TraceSetting", "LogSettings"),
        *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
        *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
        *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    ],
}


async def test_only_inference_metadata_and_health_get_to_a_pod(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            for method, path in OPEN:
                assert (await ask(method, path)).status == 200, (method, path)
            assert [(seen.method, seen.path) for seen in one.seen] == OPEN
            for method, path in CLOSED:
                answer = await ask(method, path)
                assert (answer.status, "nothing here" in answer.text) == (404, True), (method, path)
            assert len(one.seen) == len(OPEN)
            async with clients.channel(gateway) as channel:
                for method in METHODS["open"]:
                    found = await clients.call(channel, f"/inference.GRPCInferenceService/{method}")
                    assert found[0] is grpc.StatusCode.OK, method
                assert (await clients.call(channel, "/grpc.health.v1.Health/Check"))[0] is grpc.StatusCode.OK
                before = len(one.calls)
                reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
                closed = [f"/inference.GRPCInferenceService/{method}" for method in METHODS["closed"]]
                for path in [*closed, reflection, "/inference.grpcinferenceservice/ModelInfer", "/x/ModelInfer"]:
                    assert (await clients.call(channel, path))[0] is grpc.StatusCode.UNIMPLEMENTED, path
                assert len(one.calls) == before == 7


SECRET_PATHS = [
    "/v2//repository/index",
    "//v2/repository/index",
    "/v2/./repository/index",
    "/v2/x/../repository/index",
    f"{V2}/../../repository/index",
    f"{V2}/infer/../config",
    f"{V2}/%2e%2e/%2e%2e/repository/index",
    f"{V2}/%2E%2E/%2E./repository/index",
    f"{V2}/.%2e/.%2e/logging",
    "/v2/%72epository/index",
    "/%76%32/repository/index",
    "/v2%2frepository%2findex",
    "/v2%2Frepository/index",
    "/v2%5crepository/index",
    "/v2\\repository\\index",
    f"{V2}/infer%2f..%2fconfig",
    f"{V2}%2fconfig",
    f"{V2}/infer;/../config",
    f"{V2};/config",
    f"{V2}/config;",
    f"{V2}/config;a=b",
    f"{V2}/config?infer",
    f"{V2}/config#/infer",
    f"{V2}/config%00/infer",
    f"{V2}/config%0a/infer",
    f"{V2}/config%20",
    f"{V2}/config/",
    f"{V2}/config//",
    f"{V2}/Config",
    f"{V2}/infer/config",
    f"{V2}/%252e%252e/config",
    f"{V2}/%c0%ae%c0%ae/config",
    f"{V2}/%u002e/config",
    f"{V2}/..;/config",
    f"{V2}/.../config",
    f"{V2}/versions/../config",
    f"{V2}/versions/%2e%2e/config",
    f"{V2}/versions/1/../../config",
    f"{V2}/versions/..%2fconfig/infer",
    f"{V2}/versions/1%2f..%2f..%2fconfig/ready",
    "http://resnet.vision/v2/repository/index",
    "http://resnet.vision:80/v2//repository/index",
    "http://other/v2/repository/index",
    "http://resnet.vision@x/v2/logging",
    "https://resnet.vision/v2/logging",
    "HTTP://resnet.vision/v2/logging",
    "/http://resnet.vision/v2/logging",
    "/vision/resnet/v2/repository/index",
    "/vision/resnet/v2//repository/index",
    "/vision/resnet/../../v2/repository/index",
    "/vision/resnet/vision/resnet/v2/logging",
    "/vision//resnet/v2/logging",
    "/vision%2fresnet/v2/logging",
    "/vision/resnet%2fv2/logging",
    "/vision/resnet/v2/models/resnet/infer/../config",
    "/vision/resnet/v1/../v2/logging",
    "/vision/resnet/v2/models/resnet/../../logging",
    "/./vision/resnet/v2/logging",
    "/VISION/RESNET/v2/logging",
    "*",
    "v2/repository/index",
    "?/v2/logging",
    "/v2/health/ready/../../logging",
    "/v2/health/live%3f/../../logging",
    "/v2/metrics",
    "/\tv2/logging",
]


def _is_open(path: str) -> bool:
    return ("GET", path.split("?", maxsplit=1)[0]) in OPEN or ("POST", path.split("?", maxsplit=1)[0]) in OPEN


async def test_no_spelling_of_a_closed_path_gets_to_a_pod(tmp_path: Path) -> None:
    """Raw bytes, with GET and POST, plain and asking for an upgrade to HTTP/2 or to a WebSocket."""
    assert len(SECRET_PATHS) >= 60
    upgrades = (
        "connection: close\r\n",
        "upgrade: h2c\r\nconnection: close, upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n",
        "upgrade: websocket\r\nconnection: close, upgrade\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n",
    )
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway:
            forms = [
                f"{method} {path} HTTP/1.1\r\nhost: resnet.vision\r\n{upgrade}content-length: 0\r\n\r\n"
                for path, method, upgrade in product(SECRET_PATHS, ("GET", "POST"), upgrades)
            ]
            answers = await clients.raws(gateway.port, [form.encode("latin-1") for form in forms])
            for form, answer in zip(forms, answers, strict=True):
                assert clients.statuses(answer) in ([400], [403], [404], [426]), (form, answer[:200])
            assert one.seen == []
            # The same by a good path gets there: nothing above was refused for its form alone.
            good = f"GET {V2} HTTP/1.1\r\nhost: resnet.vision\r\nconnection: close\r\n\r\n"
            assert clients.statuses(await clients.raw(gateway.port, good.encode())) == [200]
        assert all(_is_open(seen.path) for seen in one.seen)


async def test_an_upgrade_is_answered_as_if_nobody_had_asked(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        async with envoy.serving(tmp_path, service({"old": 10_000}, {"old": [one]})) as gateway:
            for to in ("websocket", "h2c"):
                head = (
                    f"GET {V2} HTTP/1.1\r\nhost: resnet.vision\r\nupgrade: {to}\r\nconnection: close, upgrade\r\n\r\n"
                )
                answer = await clients.raw(gateway.port, head.encode())
                assert clients.statuses(answer) == [403 if to == "websocket" else 200], answer
        assert not any("upgrade" in seen.headers for seen in one.seen)


async def test_http1_h2c_and_grpc_share_a_port(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            curl = await asyncio.create_subprocess_exec(
                *("curl", "--silent", "--http2-prior-knowledge", "--write-out", "%{http_version} %{http_code}"),
                *("--header", "host: resnet.vision", f"{gateway.base}{V2}"),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await curl.communicate()
            async with clients.channel(gateway) as channel:
                assert (await clients.call(channel))[1] == "a"
                assert (await ask("GET", V2)).status == 200
    assert out.decode().endswith("2 200")
