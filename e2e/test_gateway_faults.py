"""Weights change, pods, gateways, operator and API server die: no request fails that was not on the very pod.

Under 300 requests a second, REST and gRPC mixed, none sent a second time by the client.
"""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster.paths import state
from e2e.cluster.processes import running
from e2e.support import raw
from e2e.support import team as teams
from e2e.support.api import Manifest
from e2e.support.installation import NAMESPACE, Installation, age_s, name, processes, send
from e2e.support.load import one_each
from e2e.support.manifests import secret, service, variant, with_spec
from e2e.support.team import Team, is_ready, restarts
from e2e.support.traffic import Traffic
from e2e.support.wait import until

RATE = 300
CHANGES = 100
START_S = 2


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    """Stable answers with 1, the variant with 101, each from two pods."""
    assert shared_slipway
    shared_team.apply(shared(10))
    shared_team.start_client()
    shared_team.wait_settled("hello")
    shared_team.wait_shares("hello", {"": 9000, "b": 1000})
    return shared_team


def shared(percent: int, variant_name: str = "b") -> Manifest:
    return with_spec(service(replicas=2), traffic={"variants": [variant(variant_name, weight=f"{percent}%")]})


def move(team: Team, percent: int) -> None:
    """Change the weight as fast as the API server takes it."""
    spec = {"spec": {"traffic": shared(percent)["spec"]["traffic"]}}
    team.site.api.merge("inferenceservices", team.name, "hello", spec)


@contextmanager
def users(team: Team, through: str = "", rate: float = RATE) -> Iterator[Traffic]:
    with team.traffic("hello", rate=rate, through=through) as flow:
        flow.wait_answered(200)
        yield flow
        flow.wait_answered(200)


def test_a_hundred_changes_of_weight_fail_no_request(hello: Team, slipway: Installation) -> None:
    """Nothing of it is slow either: every change is on the wire before the next one is made."""
    assert slipway
    with users(hello) as flow:
        for number in range(CHANGES):
            percent = (number * 37) % 101
            move(hello, percent)
            hello.wait_shares("hello", {"": 10_000 - percent * 100, "b": percent * 100}, within_s=10)
        move(hello, 10)
        hello.wait_shares("hello", {"": 9000, "b": 1000})
    flow.assert_unharmed()


def test_another_name_for_a_variant_fails_no_request(hello: Team, slipway: Installation) -> None:
    """It is another revision: beside the old one until it is ready, then in its place."""
    assert slipway
    with users(hello) as flow:
        hello.apply(shared(10, "c"))
        hello.wait_shares("hello", {"": 9000, "c": 1000})
        hello.wait_settled("hello")
        hello.apply(shared(10))
        hello.wait_shares("hello", {"": 9000, "b": 1000})
    flow.assert_unharmed()


def test_a_killed_model_pod_fails_its_own_requests_only(hello: Team, slipway: Installation) -> None:
    """By the gateways' own logs: every answer that is none of a good one was on its way to that pod."""
    if not hello.site.is_local:
        pytest.skip("processes can be killed on `local` only")
    stable = hello.status("hello")["stable"]
    victim = hello.pods("hello", stable)[0]
    with users(hello) as flow:
        begin = time.time()
        send(processes(victim), signal.SIGKILL)
        until("it is back", lambda: restarts(current(hello, victim)) and is_ready(current(hello, victim)), within_s=60)
        flow.wait_answered(600)

    def failed() -> list[dict[str, Any]] | None:
        bad = [line for line in access_log(slipway, hello, begin) if not is_good(line)]
        return [*bad, {}] if len(bad) >= flow.sums["failed"] else None

    # Envoy writes it every ten seconds.
    *bad, _ = until("the logs have what failed", failed, within_s=30, seen=lambda: flow.sums["failures"])
    assert {line.get("pod", "").rpartition(":")[0] for line in bad} <= {victim["status"]["podIP"]}, bad[:5]
    # What was under way, slow as that may be, and less than comes to one pod in a second.
    assert flow.sums["failed"] < RATE / 3


def current(team: Team, pod: Manifest) -> Manifest:
    return team.must_get("pods", name(pod))


def access_log(slipway: Installation, team: Team, since: float) -> list[dict[str, Any]]:
    """What every gateway wrote about requests to this namespace."""
    seconds = int(time.time() - since) + 2
    texts = [slipway.gateway_log(name(pod), "envoy", seconds) for pod in slipway.gateways()]
    lines = [json.loads(line) for text in texts for line in text.splitlines() if line.startswith("{")]
    found = [line for line in lines if line.get("host", "").startswith(f"hello.{team.name}")]
    assert found, "the log has the requests"
    return found


def is_good(line: dict[str, Any]) -> bool:
    return int(line["code"]) == 200 and int(line.get("grpc_status") or 0) == 0


def test_a_killed_gateway_fails_no_request_on_the_other(hello: Team, slipway: Installation) -> None:
    """And once the cluster knows, none at all."""
    victim, other = slipway.gateways()
    with users(hello, through=f"{other['status']['podIP']}:8080", rate=100) as safe:
        slipway.kill(name(victim))
        until("another has taken its place", slipway.is_well, within_s=60, seen=slipway.seen)
        with users(hello) as all_of_them:
            safe.wait_answered(200)
        all_of_them.assert_unharmed()
    safe.assert_unharmed()


def test_a_gateway_that_is_told_to_go_fails_no_request(hello: Team, slipway: Installation) -> None:
    """Drained, one after the other, as a node's drain or an upgrade does it."""
    before = {name(pod) for pod in slipway.gateways()}
    with users(hello) as flow:
        slipway.site.kubectl("--namespace", NAMESPACE, "rollout", "restart", "deployment/slipway-gateway")
        until(
            "all gateways are new",
            lambda: slipway.is_well() and not before & {name(pod) for pod in slipway.gateways()},
            within_s=150,
            seen=slipway.seen,
        )
        until("the old ones are gone", lambda: not before & all_pods(slipway), within_s=90)
        flow.wait_answered(600)
    flow.assert_unharmed()


def all_pods(slipway: Installation) -> set[str]:
    items = slipway.site.api.items("pods", NAMESPACE, "app.kubernetes.io/component=gateway")
    return {name(pod) for pod in items}


def test_an_operator_killed_while_weights_change_fails_no_request(hello: Team, slipway: Installation) -> None:
    with users(hello) as flow:
        for percent in (20, 30, 40):
            move(hello, percent)
            slipway.kill(until("somebody leads", lambda: leader(slipway), within_s=30))
            hello.wait_shares("hello", {"": 10_000 - percent * 100, "b": percent * 100}, within_s=60)
        move(hello, 10)
        hello.wait_shares("hello", {"": 9000, "b": 1000})
    flow.assert_unharmed()


def leader(slipway: Installation) -> str:
    """The leading operator, if it is still there."""
    found = slipway.leader()
    return found if found in [name(pod) for pod in slipway.pods()] else ""


@pytest.fixture
def absent(slipway: Installation) -> Iterator[Installation]:
    """No operator at all."""
    slipway.scale(0)
    yield slipway
    slipway.scale(2)


def test_without_an_operator_traffic_comes_back_by_itself(hello: Team, absent: Installation) -> None:
    """Every model pod deleted, then every gateway: a new gateway answers within 2 s of its start."""
    if not hello.site.is_local:
        pytest.skip("when processes began can be seen on `local` only")
    old = set(hello.lives("hello"))
    hello.kubectl("delete", "pods", "--selector", "slipway.dev/inferenceservice=hello", "--wait=false")
    until("there are as many new model pods", lambda: len(ready_since(hello, old)) == len(old), within_s=120)
    until("they answer", lambda: hello.answers("hello", 1), within_s=90)
    took = math.inf
    for _ in range(5):  # what else the machine does only adds
        took = min(took, killed_and_ready_after_s(absent))
        if took <= START_S:
            break
    with users(hello) as flow:
        flow.wait_answered(300)
    flow.assert_unharmed()
    assert set(flow.sums["offsets"]) == {"1", "101"}
    print(f"the first new gateway was ready {took:.1f} s after its start")
    assert took <= START_S


def ready_since(team: Team, old: set[str]) -> list[str]:
    """The service's ready pods that are none of the old ones, which may be ready for as long as they end."""
    return [name(pod) for pod in team.pods("hello") if is_ready(pod) and name(pod) not in old]


def killed_and_ready_after_s(slipway: Installation) -> float:
    old = {name(pod) for pod in slipway.gateways()}
    for pod in sorted(old):
        slipway.kill(pod)
    took = ready_after_s(slipway, old)
    until("new gateways are ready", slipway.has_all_gateways, within_s=60, seen=slipway.seen)
    return took


def ready_after_s(slipway: Installation, old: set[str]) -> float:
    """How long the first of the new gateways has run when it says that it is ready."""
    question = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    def age(pod: Manifest) -> float:
        """When its answer came, not when that was looked into; endless while it is not ready."""
        [answer] = raw.send_all((pod["status"]["podIP"], 8082), [question], silent_s=1)
        answered = time.monotonic()
        if raw.statuses(answer) != [200]:
            return math.inf
        return max(map(age_s, processes(pod))) - (time.monotonic() - answered)

    def ages() -> list[float]:
        new = [pod for pod in slipway.gateways() if name(pod) not in old and pod.get("status", {}).get("podIP")]
        return [found for found in map(age, new) if found < math.inf]

    return min(until("a new gateway is ready", ages, within_s=60, seen=slipway.seen))


def test_envoy_and_agent_restart_while_the_api_server_is_stopped(hello: Team, slipway: Installation) -> None:
    """From what the agent has kept. The gateway that is not restarted loses nothing."""
    if not hello.site.is_local:
        pytest.skip("the API server can be stopped on `local` only")
    victim, other = slipway.gateways()
    own = victim["status"]["podIP"], 8080
    asked = f"GET /v2/models/hello/ready HTTP/1.1\r\nHost: hello.{hello.name}\r\nConnection: close\r\n\r\n".encode()

    def answers() -> bool:
        return raw.statuses(raw.send_all(own, [asked])[0]) == [200]

    assert answers()
    before = processes(victim)
    [server] = running(state())["kube-apiserver"]
    with users(hello, through=f"{other['status']['podIP']}:8080", rate=100) as safe:
        send([server], signal.SIGSTOP)
        try:
            send(before, signal.SIGKILL)
            until("both have ended", lambda: not set(before) & set(processes(victim)), within_s=30)
            begin = time.monotonic()
            until("it answers again", answers, within_s=60)
            print(f"back after {time.monotonic() - begin:.1f} s, without an API server")
        finally:
            send([server], signal.SIGCONT)
        safe.wait_answered(300, within_s=60)
    safe.assert_unharmed()
    until("all is well", slipway.is_well, within_s=60, seen=slipway.seen)
    assert name(victim) in {name(pod) for pod in slipway.gateways()}


# What is wrong with one service stays with it


def refused(slipway: Installation) -> dict[str, str]:
    """Service -> Envoy's words, by the gateways' own reports."""
    reports = [json.loads(slipway.gateway_text(name(pod), "report")) for pod in slipway.gateways()]
    return {key: each["message"] for report in reports for key, each in report["refused"].items()}


def test_a_table_that_envoy_refuses_changes_nothing_and_the_next_good_one_heals(
    hello: Team, absent: Installation, team: Team
) -> None:
    """Made wrong by hand while no operator can put it right; the neighbour's changes go through meanwhile."""
    key = f"{hello.name}/hello"
    routing = hello.status("hello")["routing"]
    rule = {"revision": routing["targets"][0]["revision"], "match": [{"header": "x-user", "regex": "(("}]}
    wrong = {"status": {"routing": routing | {"version": "wrong", "rules": [rule]}}}
    patch = ("--subresource=status", "--type=merge", "--patch", json.dumps(wrong))
    with users(hello) as flow:
        hello.kubectl("patch", "infsvc", "hello", *patch)
        until("the gateways refuse it", lambda: key in refused(absent), within_s=60, seen=lambda: refused(absent))
        assert refused(absent)[key]
        old = set(hello.lives("hello"))
        hello.kubectl("delete", "pod", name(hello.pods("hello", hello.status("hello")["stable"])[0]), "--wait=false")
        until("a new pod is ready", lambda: ready_since(hello, old), within_s=90)
        flow.wait_answered(600)
        absent.scale(2)
        hello.wait_shares("hello", {"": 9000, "b": 1000})
        until("nothing is refused any more", lambda: key not in refused(absent), within_s=60)
    flow.assert_unharmed()
    team.apply(service("after"))
    team.wait_settled("after")


BAD_ACCESS = {
    "keys that are none": {"apiKeys": {"clients": ["web", "empty", "absent", "spaces"]}},
    "token keys that are none": {"jwt": {"issuer": "https://issuer.example", "jwks": '{"keys": [{"kty": "RSA"}]}'}},
    "no token keys to be had": {"jwt": {"issuer": "https://issuer.example", "jwksUri": "https://issuer.invalid/keys"}},
    "token keys inside": {"jwt": {"issuer": "https://issuer.example", "jwksUri": "https://kubernetes.default.svc/"}},
}


@pytest.mark.parametrize("access", BAD_ACCESS.values(), ids=BAD_ACCESS.keys())
def test_what_is_wrong_with_one_service_touches_no_other(
    hello: Team, slipway: Installation, team: Team, access: dict[str, Any]
) -> None:
    """Nobody gets into the one; the other goes on, and its changes too."""
    assert slipway
    team.apply(secret("slipway-api-keys", web="same", empty="", absent="same", spaces=" \n\n \n"))
    team.apply(with_spec(service("closed"), access=access))
    team.start_client()
    team.wait(
        "closed", "PredictorReady", within_s=teams.READY_S
    )  # whether its routes are is what differs from case to case
    with users(hello, rate=50) as flow:
        move(hello, 20)
        hello.wait_shares("hello", {"": 8000, "b": 2000}, within_s=30)
        codes = {answer.code for answer in one_each(team, "closed", [{}, {"x-api-key": " "}, {"x-api-key": "wrong"}])}
        move(hello, 10)
        hello.wait_shares("hello", {"": 9000, "b": 1000}, within_s=30)
    flow.assert_unharmed()
    assert codes <= {"401", "403", "404", "503"}


def test_a_rule_that_can_never_be_understood_is_refused_in_words(hello: Team, team: Team) -> None:
    """By the operator, before any gateway hears of it; the generation before goes on."""
    team.apply(service())
    team.wait_settled("hello")
    for expression in ("(?=beta)x", r"(a)\1", "((((", "[z-a]"):
        match = [{"header": "x-user", "regex": expression}]
        team.apply(with_spec(service(), traffic={"variants": [variant("b", match=match)]}))
        words = team.wait("hello", "Accepted", "False", within_s=20)["message"]
        assert "regex" in words
        assert team.answers("hello", 1)
    assert hello.predict("hello")[0] in (3, 103)


DOMAIN = "models.test"


def test_of_two_services_that_claim_one_host_the_older_has_it(slipway: Installation, team: Team) -> None:
    """`a-b` in `x` and `a` in `b-x` are both a-b-x outside; inside they have hosts of their own."""
    if not team.site.is_local:
        pytest.skip("the gateway's address can be reached from this machine on `local` only")
    slipway.upgrade("--set", f"gateway.domain={DOMAIN}")
    until("the gateways know the domain", slipway.is_well, within_s=90, seen=slipway.seen)
    other = teams.make(team.site, f"b-{team.name}")
    host = f"a-b-{team.name}.{DOMAIN}"
    try:
        team.apply(service("a-b"))
        team.wait_settled("a-b")
        time.sleep(1.1)  # creation times are whole seconds
        other.apply(service("a", "sample://hello-v2"))
        other.wait("a", "ModelLoaded")
        told = other.wait("a", "RoutesReady", "False", reason="Conflict")["message"]
        assert host in told
        assert f"{team.name}/a-b" in told
        assert team.status("a-b")["externalUrl"] == f"http://{host}"
        assert whose(slipway, host, "a-b") == "1"
        # That a host is somebody else's is told before the gateways have the rest.
        until("inside it has what nobody else claims", lambda: other.answers("a", 101), within_s=30)
        team.delete_service("a-b")
        until("the host is the other's now", lambda: whose(slipway, host, "a") == "101", within_s=30)
        other.wait("a", "RoutesReady")
    finally:
        teams.clear(other)


def whose(slipway: Installation, host: str, model: str) -> str:
    """Which sample answers at a host, asked from this machine."""
    question = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    asked = f"{head}Content-Length: {len(question)}\r\n\r\n{question}".encode()
    [answer] = raw.send_all((slipway.gateway_address(), 80), [asked])
    if raw.statuses(answer) != [200]:
        return ""
    output = json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]
    return f"{output['data'][0] - 2:.0f}"
