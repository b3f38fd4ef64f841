"""Who may call, and how much: keys, tokens, limits. What is secret shows up nowhere."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from e2e.support.api import ApiError, Manifest
from e2e.support.installation import NAMESPACE, Installation, name
from e2e.support.load import Answer, load, one_each
from e2e.support.manifests import secret, service, with_spec
from e2e.support.team import Team
from e2e.support.tokens import Issuer
from e2e.support.wait import until

KEYS = {who: f"sk-{who}-{secrets.token_hex(12)}" for who in ("web", "batch", "other", "next")}
DENIED = {"rest": "401", "grpc": "grpc 16"}
GOOD = {"rest": "200", "grpc": "grpc 0"}
PROTOCOLS = tuple(GOOD)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    assert shared_slipway
    shared_team.apply(secret("slipway-api-keys", **{who: KEYS[who] for who in ("web", "batch", "other")}), service())
    shared_team.start_client()
    shared_team.wait_settled("hello")
    return shared_team


def open_to(team: Team, **access: object) -> None:
    """Change who may call, and wait until the gateways go by it."""
    team.apply(with_spec(service(), access=access))
    generation = team.must_get("inferenceservices", "hello")["metadata"]["generation"]
    until(
        "the gateways go by it",
        lambda: (
            team.status("hello").get("observedGeneration") == generation
            and team.condition("hello", "RoutesReady").get("status") == "True"
        ),
        within_s=30,
        seen=lambda: team.digest("hello"),
    )


def codes(answers: Sequence[Answer]) -> list[str]:
    return [answer.code for answer in answers]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_the_clients_that_are_named_get_in(hello: Team, protocol: str) -> None:
    open_to(hello, apiKeys={"clients": ["web", "batch"]})
    good = [bearer(KEYS["web"]), {"x-api-key": KEYS["web"]}, bearer(KEYS["batch"])]
    bad = [
        {},
        bearer(KEYS["other"]),  # a client of the Secret, and not one of this service
        bearer(KEYS["web"][:-1]),
        bearer(KEYS["web"] + "x"),
        bearer(""),
        {"x-api-key": "web"},
        {"x-slipway-tenant": "web"},  # how the gateway tells a pod who calls
    ]
    answers = one_each(hello, "hello", good + bad, protocol=protocol)
    assert codes(answers) == [GOOD[protocol]] * len(good) + [DENIED[protocol]] * len(bad)
    if protocol == "rest":
        assert answers[len(good)].headers["www-authenticate"].startswith("Bearer")


def test_a_key_is_changed_under_load_and_nobody_is_locked_out(hello: Team, slipway: Installation) -> None:
    """Old and new beside each other, then the new alone: no restart, and every caller with a good key gets in."""
    # Each by itself: by chance all connections may lead to the one that was told first.
    ways = [f"{pod['status']['podIP']}:8080" for pod in slipway.gateways()]

    def everywhere(code: str, *headers: dict[str, str]) -> bool:
        several = [*headers] * 5
        answers = (one_each(hello, "hello", several, connections=4, through=way) for way in ways)
        return all(codes(each) == [code] * len(several) for each in answers)

    open_to(hello, apiKeys={"clients": ["web"]})
    assert everywhere("401", bearer(KEYS["next"]))
    hello.apply(secret("slipway-api-keys", web=f"{KEYS['web']}\n{KEYS['next']}"))
    until("both keys are good", lambda: everywhere("200", bearer(KEYS["web"]), bearer(KEYS["next"])), within_s=30)
    hello.apply(secret("slipway-api-keys", web=KEYS["next"]))
    load(hello, "hello", 3000, headers=[bearer(KEYS["next"])]).assert_answered(3000, "200")
    until("the old key is of no use", lambda: everywhere("401", bearer(KEYS["web"])), within_s=30)
    hello.kubectl("delete", "secret", "slipway-api-keys")
    until("without keys nobody gets in", lambda: everywhere("401", bearer(KEYS["next"]), {}), within_s=30)
    hello.apply(secret("slipway-api-keys", **{who: KEYS[who] for who in ("web", "batch", "other")}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_opens_when_it_is_signed_current_and_meant_for_us(hello: Team, protocol: str) -> None:
    issuer, stranger = Issuer("https://issuer.example"), Issuer("https://issuer.example")
    open_to(hello, jwt={"issuer": issuer.name, "audiences": ["models"], "jwks": issuer.jwks()})
    good = [bearer(issuer.token(aud="models")), bearer(issuer.token(aud=["x", "models"]))]
    head, body, signature = issuer.token(aud="models").split(".")
    forged = json.dumps({"alg": "none"}).encode()
    bad = [
        {},
        bearer(issuer.token()),
        bearer(issuer.token(aud="others")),
        bearer(issuer.token(aud="models", exp=int(time.time()) - 600)),
        bearer(issuer.token(aud="models", iss="https://other.example")),
        bearer(stranger.token(aud="models")),
        bearer(f"{head}.{body}."),
        bearer(f"{forged.hex()}.{body}.{signature}"),
        bearer(KEYS["web"]),
    ]
    found = codes(one_each(hello, "hello", good + bad, protocol=protocol))
    assert found[: len(good)] == [GOOD[protocol]] * len(good)
    denied = {DENIED[protocol], "403" if protocol == "rest" else "grpc 7"}  # the latter: good, but for somebody else
    assert set(found[len(good) :]) <= denied


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_asks_too_often_is_told_so_and_others_are_not(hello: Team, protocol: str) -> None:
    limit = {"requestsPerSecond": 10, "burst": 20, "per": "client"}
    open_to(hello, apiKeys={"clients": ["web", "batch", "other"]}, rateLimit=limit)
    # A client that has not called yet has its whole burst; one that the other protocol's test emptied has not.
    fresh = {"rest": "web", "grpc": "other"}[protocol]
    greedy = one_each(hello, "hello", [bearer(KEYS[fresh])] * 300, protocol=protocol)
    modest = one_each(hello, "hello", [bearer(KEYS["batch"])] * 5, protocol=protocol, connections=1)
    refused = {"rest": "429", "grpc": "grpc 8"}[protocol]
    counted = Counter(codes(greedy))
    assert counted.keys() == {GOOD[protocol], refused}
    # A burst and what the time of the test adds, which is a few seconds on a busy machine.
    assert 10 <= counted[GOOD[protocol]] <= 150
    assert codes(modest) == [GOOD[protocol]] * 5
    for answer in greedy:
        if answer.code == refused:
            assert int(answer.headers["retry-after"]) >= 1
            # Each of the two gateways has half of the rate: a request costs it two, so that one may be left.
            assert int(answer.headers["x-ratelimit-remaining"]) < 2
            assert "x-ratelimit-limit" in answer.headers


LONG = """
import http.client, sys
size, host = int(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPConnection(host, timeout=20)
try:
    connection.request("POST", "/v2/models/hello/infer", b" " * size, {"content-type": "application/json"})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
except ConnectionError:
    print(413, "the gateway closed before it had all of it")
"""


def test_a_body_that_is_too_large_is_refused_and_not_passed_on(hello: Team) -> None:
    open_to(hello, maxBody="64Ki")
    host = f"hello.{hello.name}"
    assert hello.run_inside(LONG, "1000", host).startswith("400"), "the model's own answer to nonsense"
    assert hello.run_inside(LONG, str(65 << 10), host).startswith("413")
    assert hello.run_inside(LONG, str(8 << 20), host).startswith("413")
    load(hello, "hello", 50).assert_answered(50, "200")


ADMIN = ("config_dump", "certs", "clusters", "stats", "server_info", "memory", "logging", "help", "debug", "state")


def test_what_is_secret_shows_up_nowhere(hello: Team, slipway: Installation) -> None:
    """Keys and tokens, right and wrong ones, sent in every place: not in logs, status, events, metrics, reports."""
    issuer = Issuer("https://issuer.example")
    open_to(hello, apiKeys={"clients": ["web", "batch"]})
    planted = [KEYS["web"], f"wrong-{secrets.token_hex(8)}", issuer.token()]
    ways = [way for text in planted for way in (bearer(text), {"x-api-key": text})]
    for protocol in PROTOCOLS:
        one_each(hello, "hello", ways, protocol=protocol)
    asked = hello.run_inside(ASKED, f"http://hello.{hello.name}/v2/models/hello?api_key={planted[1]}")
    assert asked.startswith("401")
    words = told(hello, slipway)
    # What was looked at is what there is: the requests themselves are in it.
    assert f"hello.{hello.name}" in words
    assert len(words) > 10_000
    for text in [*KEYS.values(), *planted]:
        assert text not in words
        assert text.rpartition(".")[2] not in words, "not even a token's signature"


ASKED = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def told(team: Team, slipway: Installation) -> str:
    """All that Slipway says anywhere about anything."""
    api = team.site.api
    texts = [json.dumps(api.items(kind)) for kind in ("inferenceservices", "events", "endpointslices", "services")]
    texts += [json.dumps(children(team)), slipway.log(tail=3000)]
    for pod in slipway.gateways():
        texts += [slipway.gateway_log(name(pod), container) for container in ("bootstrap", "agent", "envoy")]
        texts += [slipway.gateway_text(name(pod), path) for path in ("report", "metrics", "readyz", "healthz")]
    for pod in slipway.pods():
        texts.append(api.text(f"/api/v1/namespaces/{NAMESPACE}/pods/{name(pod)}:8080/proxy/metrics"))
    for pod in team.pods("hello"):
        texts.append(api.text(f"/api/v1/namespaces/{team.name}/pods/{name(pod)}/log"))
    return "\n".join(texts)


def children(team: Team) -> list[Manifest]:
    return [
        item
        for resource in ("deployments", "controllerrevisions", "pods")
        for item in team.site.api.items(resource, team.name)
    ]


@pytest.mark.parametrize("path", ADMIN)
def test_no_port_of_a_gateway_leads_to_envoys_own_pages(slipway: Installation, path: str) -> None:
    for pod in slipway.gateways():
        for port in (8080, 8082):
            where = f"/api/v1/namespaces/{NAMESPACE}/pods/{name(pod)}:{port}/proxy/{path}"
            with pytest.raises(ApiError, match=r"^404"):
                slipway.site.api.text(where)


OPEN_PORTS = """
import socket, sys
found = []
for port in range(1, 65536):
    with socket.socket() as one:
        one.settimeout(0.5)
        if one.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(found)
"""


def test_a_gateway_listens_where_it_says_and_nowhere_else(hello: Team, slipway: Installation) -> None:
    pod = slipway.gateways()[0]
    assert json.loads(hello.run_inside(OPEN_PORTS, pod["status"]["podIP"])) == [8080, 8082]
