"""Raw bytes at the gateway: what is smuggled, disguised, forged or slow reaches nothing."""
# ruff: noqa: E501 - the tables are one line a case

import json

import pytest

from e2e.support import raw
from e2e.support.api import ApiError
from e2e.support.installation import Installation
from e2e.support.load import load
from e2e.support.manifests import service, variant, with_spec
from e2e.support.team import Team
from tests.runtime.smuggling import forms, two

Address = tuple[str, int]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    """With a variant that is closed: no weight, no rule leads to it."""
    assert shared_slipway
    shared_team.apply(with_spec(service(), traffic={"variants": [variant("closed")]}))
    shared_team.start_client()
    shared_team.wait_settled("hello")
    return shared_team


@pytest.fixture
def address(hello: Team, installation: Installation) -> Address:
    if not hello.site.is_local:
        pytest.skip("the gateway's address can be reached from this machine on `local` only")
    return installation.gateway_address(), 80


def request(line: str, host: str, *headers: str, body: str = "") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([line, f"Host: {host}", *headers, *length, "", body]).encode("latin-1")


def infer(host: str, *headers: str) -> bytes:
    return request("POST /v2/models/hello/infer HTTP/1.1", host, *headers, body=BODY)


def assert_all_well(team: Team) -> None:
    """Answers still belong to their questions: nothing is left over on any connection to the pods."""
    found = load(team, "hello", 500)
    found.assert_answered(500, "200")
    assert found.offsets == {"1": 500}


def test_no_form_of_one_request_is_answered_as_two(hello: Team, address: Address) -> None:
    host = f"hello.{hello.name}"
    corpus = list(forms(host))
    assert len(corpus) >= 200
    answers = raw.send_all(address, [data for _, data in corpus])
    found = {name: raw.statuses(answer) for (name, _), answer in zip(corpus, answers, strict=True)}
    wrong = {name: codes for name, codes in found.items() if len(codes) > 1 or (codes and codes[0] < 400)}
    assert wrong == {}
    [both] = raw.send_all(address, [two(host)])
    assert len(raw.statuses(both)) == 2, "two that are two are answered as two, or this would see nothing"
    assert_all_well(hello)


CLOSED = (
    "/v2/repository/index",
    "/v2/repository/models/hello/unload",
    "/v2/models/hello/stats",
    "/v2/models/hello/config",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/systemsharedmemory/status",
    "/metrics",
)
SPELLINGS = (
    "{0}",
    "/{0}",
    "{0}/",
    "{0}//",
    "{0};x=1",
    "{0}%20",
    "{0}%00",
    "{0}%09",
    "{0}.",
    "{0}?x=/v2/models/hello/infer",
    "{0}#/v2/models/hello/infer",
    "/.{0}",
    "/%2e{0}",
    "/%2f{0}",
    "/;{0}",
    "/v2/..{0}",
    "/v2/%2e%2e{0}",
    "/v2/%2E%2e{0}",
    "/v2/.%2e{0}",
    "/v2/..%2f{0}",
    "/v2/..;{0}",
    "/v2/%252e%252e{0}",
    "/v2/%c0%ae%c0%ae{0}",
    "/v2/models/hello/infer/../../../..{0}",
    "/v2/models/hello/infer/%2e%2e/%2e%2e/%2e%2e/%2e%2e{0}",
    "/v2/models/hello/infer;/../../../..{0}",
    "/v2/models/hello/infer%2f..%2f..%2f..%2f..{0}",
    "/v2/health/live/..\\..\\..{0}",
    "\\{0}",
    "http://{host}{0}",
    "http://{host}/{0}",
    "http://{host}/v2/health/live/../../..{0}",
    "HTTP://{host}{0}",
    "http://{host}:8080{0}",
    "//{host}{0}",
    "/{namespace}/hello{0}",
    "/{namespace}/hello/..{0}",
    "/{namespace}/hello/{0}",
    "/{namespace}/hello/v2/..{0}",
    "/{namespace}%2fhello{0}",
)


def disguises(path: str, host: str, namespace: str) -> list[str]:
    """Spellings of a path that some server somewhere takes for it."""
    plain = [spelling.format(path, host=host, namespace=namespace) for spelling in SPELLINGS]
    letter = f"/%{ord(path[1]):x}{path[2:]}"
    others = [letter, path.upper(), path.replace("/", "//"), path.replace("/", "/./"), path.replace("/", "%2f")]
    return [*plain, *others, path.replace("e", "%65"), path.replace("/", "/x/../")]


def test_what_is_closed_is_closed_however_it_is_spelled(hello: Team, address: Address) -> None:
    host = f"hello.{hello.name}"
    pod = hello.pods("hello")[0]["metadata"]["name"]
    open_inside = f"/api/v1/namespaces/{hello.name}/pods/{pod}:8080/proxy/metrics"
    assert "nv_inference" in hello.site.api.text(open_inside), "the pod itself does have such pages"
    asked = [
        (f"{verb} {spelled}", request(f"{verb} {spelled} HTTP/1.1", host, body="{}" if verb == "POST" else ""))
        for path in CLOSED
        for spelled in disguises(path, host, hello.name)
        for verb in ("GET", "POST")
    ]
    assert len(asked) >= 60
    answers = raw.send_all(address, [data for _, data in asked], silent_s=0.5)
    found = {name: raw.statuses(answer) for (name, _), answer in zip(asked, answers, strict=True)}
    assert {name: codes for name, codes in found.items() if any(not 400 <= code < 500 for code in codes)} == {}
    assert sum(bool(codes) for codes in found.values()) > 0.9 * len(found), "nearly all were answered"
    assert_all_well(hello)


UPGRADES = (
    ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
    ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ("Upgrade: TLS/1.2", "Connection: Upgrade"),
    ("Upgrade: connect-udp", "Connection: Upgrade"),
)  # fmt: skip


@pytest.mark.parametrize("headers", UPGRADES, ids=lambda headers: headers[0].partition(": ")[2])
def test_no_connection_becomes_something_else(hello: Team, address: Address, headers: tuple[str, ...]) -> None:
    host = f"hello.{hello.name}"
    asked = [request("GET /v2/models/hello HTTP/1.1", host, *headers), infer(host, *headers)]
    asked += [request(f"CONNECT {host}:80 HTTP/1.1", host, *headers)]
    for answer in raw.send_all(address, asked):
        assert 101 not in raw.statuses(answer)
        assert b"HTTP/2" not in answer
    with pytest.raises(ApiError, match=r"^4"):
        hello.site.api.text(f"{hello.path_of('hello')}/v2/repository/index")


FORGED = (
    *("X-Slipway-Revision: {closed}", "X-Slipway-Variant: closed", "X-Slipway-Shadow: true", "X-Slipway-Tenant: admin"),
    *("X-Slipway-Scope: {other}", "X-Slipway-Scope: kube-system/hello", "X_Slipway_Scope: {other}"),
    *("X-Slipway-Cluster: {namespace}/{closed}", "X-Slipway-Cluster: {namespace}/{closed}/shadow"),
    *("X-Envoy-Original-Path: /v2/repository/index", "X-Envoy-Original-Host: {other}", "X-Envoy-Internal: true"),
    *("X-Envoy-Decorator-Operation: x", "X-Envoy-Retry-On: 5xx", "X-Envoy-Max-Retries: 100", "X-Envoy-Hedge-On-Per-Try-Timeout: true"),
    *("X-Envoy-Upstream-Alt-Stat-Name: x", "X-Envoy-Upstream-Rq-Timeout-Ms: 1", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms: 1"),
    *("X-Envoy-Upstream-Rq-Timeout-Alt-Response: 1", "X-Envoy-Expected-Rq-Timeout-Ms: 1", "X-Envoy-Attempt-Count: 99"),
    *("X-Envoy-Force-Trace: true", "X-Envoy-Downstream-Service-Cluster: x", "X-Envoy-Ip-Tags: x", "X-Envoy-Orca: x"),
    *("X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: {other}", "X-Forwarded-Proto: https", "X-Forwarded-Port: 8082"),
    *("X-Forwarded-Prefix: /v2/repository", "Forwarded: for=127.0.0.1;host={other}", "X-Real-Ip: 127.0.0.1"),
    *("X-Original-Url: /v2/repository/index", "X-Rewrite-Url: /v2/repository/index", "X-Http-Method-Override: GET"),
    *("X-Http-Method: DELETE", "X-Method-Override: GET", "X-Host: {other}", "X-Client-Ip: 127.0.0.1", "True-Client-Ip: 127.0.0.1"),
    *("X-Request-Id: 0", "Proxy: http://evil.example", "Proxy-Connection: keep-alive", "Via: 1.0 x", "Alt-Used: {other}"),
    *("Connection: x-slipway-revision, authorization", "Te: trailers", "Trailer: x", "Max-Forwards: 0", "Expect: 100-continue"),
)  # fmt: skip


def test_a_forged_header_opens_nothing_and_moves_nobody(hello: Team, address: Address) -> None:
    """Answered by stable as without it, or refused; never by the closed variant, another service, or another page."""
    targets = hello.status("hello")["routing"]["targets"]
    stable, closed = (
        next(t["revision"] for t in targets if bool(t.get("variant")) == which) for which in (False, True)
    )
    host, other = f"hello.{hello.name}", f"other.{hello.name}"
    known = [each.format(closed=closed, namespace=hello.name, other=other) for each in FORGED]
    assert len(known) >= 40
    answers = raw.send_all(address, [infer(host, each) for each in known], silent_s=0.5)
    for forged, answer in zip(known, answers, strict=True):
        final = [code for code in raw.statuses(answer) if code >= 200]
        assert len(final) == 1, (forged, answer)
        if final == [200]:
            assert raw.header(answer, "x-slipway-revision") == stable, (forged, answer)
            assert b"[3.0,5.0,7.0,9.0]" in answer, (forged, answer)
        else:
            assert 400 <= final[0] < 500, (forged, answer)
    assert_all_well(hello)


SLOW_CLIENTS = 2000


def test_slow_clients_hold_up_nobody(hello: Team, address: Address) -> None:
    """2,000 that begin a request and do not go on: a healthy client's p99 stays below twice of what it was."""
    host = f"hello.{hello.name}"
    begun = infer(host)[: -len(BODY) - 20]
    for _ in range(3):  # what else the machine does may come in the one time and not in the other
        before = raw.p99_ms(address, infer(host))
        beside, stayed = raw.stalled_p99_ms(address, begun, SLOW_CLIENTS, infer(host))
        print(f"p99 {before:.1f} ms alone, {beside:.1f} ms beside {stayed} of {SLOW_CLIENTS} slow clients")
        if beside < 2 * before:
            break
    assert beside < 2 * before
    assert_all_well(hello)
