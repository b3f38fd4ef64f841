"""What is known, and what follows of it: whose pods, whose keys, whose hosts; and within which bounds."""

import base64
from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.decide.hosts import Domains
from slipway.gateway.facts import Facts
from slipway.gateway.keys import KEYS_MAX, TOTAL_MAX, client_keys
from tests.gateway.views import routing, view

SHARED = "a-b-c.example.org"
OLD, NEW = ("c", "a-b"), ("b-c", "a")


def service(name: str = "a", namespace: str = "ns", *, uid: str = "1", created: str = "2026", raw: Any) -> Manifest:
    """`raw`: status.routing as it is."""
    meta = {"namespace": namespace, "name": name, "uid": uid, "creationTimestamp": created, "generation": 1}
    return {"metadata": meta, "status": {"routing": raw} if raw else {}}


def table(version: str = "v1", weights: dict[str, int] | None = None, **more: Any) -> Any:
    return routing(version, weights, **more).model_dump(mode="json", by_alias=True, exclude_none=True)


def pods(revision: str, *addresses: str) -> Manifest:
    ready = [{"addresses": [each], "targetRef": {"kind": "Pod", "name": each}} for each in addresses]
    meta = {"namespace": "ns", "name": revision, "labels": {"slipway.dev/revision": revision}}
    return {"metadata": meta, "endpoints": ready, "ports": [{"name": "http", "port": 8080}]}


def secret(**clients: str) -> Manifest:
    data = {client: base64.b64encode(text.encode()).decode() for client, text in clients.items()}
    return {"metadata": {"namespace": "ns", "name": "slipway-api-keys"}, "data": data}


def test_a_service_made_anew_has_nothing_of_the_one_before_it() -> None:
    facts = Facts()
    facts.remember(view())
    assert ("ns", "a") in facts.take_service(service(uid="another", raw=None))
    assert facts.view(("ns", "a")) is None


def test_a_service_made_anew_with_a_routing_that_cannot_be_read_has_none() -> None:
    facts = Facts()
    facts.remember(view())
    facts.take_service(service(uid="another", raw={"version": "v2"}))
    assert facts.view(("ns", "a")) is None
    assert ("ns", "a") in facts.unreadable


@pytest.mark.parametrize("raw", [pytest.param(None, id="lost"), pytest.param({"version": "v2"}, id="unreadable")])
def test_a_service_of_an_earlier_life_follows_pods_and_keys_though_its_routing_is(raw: Any) -> None:
    facts = Facts()
    facts.remember(view(table=routing(access={"clients": ["web"]}), keys={"web": ("the-key-of-before",)}))
    facts.take_service(service(uid="uid-a", raw=raw))
    assert facts.take_slice(pods("r1", "10.0.0.9")) == {("ns", "a")}
    assert facts.take_secret(secret(web="the-key-of-now-1")) == {("ns", "a")}
    found = facts.view(("ns", "a"))
    assert found
    assert [each.address for each in found.endpoints["r1"]] == ["10.0.0.9"]
    assert found.keys == {"web": ("the-key-of-now-1",)}


def test_a_revision_that_only_the_table_that_serves_leads_to_is_followed() -> None:
    facts = Facts()
    facts.take_service(service(raw=table("v2", {"r2": 10_000})))
    before = view(table=routing("v1", {"r1": 10_000}))
    facts.serve(("ns", "a"), before)
    assert facts.take_slice(pods("r1", "10.0.0.9")) == {("ns", "a")}
    assert [each.address for each in facts.now(before).endpoints["r1"]] == ["10.0.0.9"]
    facts.serve(("ns", "a"), view(table=routing("v2", {"r2": 10_000})))
    assert facts.take_slice(pods("r1")) == frozenset()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"onlyFrom": "10.0.0.0/8"}, id="of the routing"),
        pytest.param({"access": {"clients": ["web"], "hours": "9-17"}}, id="of its access"),
        pytest.param({"access": {"jwt": {"issuer": "i", "jwks": "{}", "scopes": ["a"]}}}, id="of its tokens"),
        pytest.param({"targets": [{"revision": "r1", "weight": 10_000, "region": "a"}]}, id="of a target"),
        pytest.param(
            {"rules": [{"revision": "r1", "match": [{"header": "x", "exact": "y", "not": True}]}]}, id="of a match"
        ),
    ],
)
def test_a_field_that_this_gateway_does_not_know_is_told_and_not_ignored(more: dict[str, Any]) -> None:
    facts = Facts()
    facts.take_service(service(raw=table("v1")))
    facts.take_service(service(raw=table("v2") | more))
    assert "Extra inputs are not permitted" in facts.unreadable["ns", "a"].words
    found = facts.view(("ns", "a"))
    assert found
    assert found.routing.version == "v1"


@pytest.mark.parametrize(
    ("expressions", "words"),
    [
        pytest.param(["a"] * 9, "9 matches have a regex, must be at most 8", id="too many"),
        pytest.param(["(?i)[a-z]{1,30}[a-z]{1,30}"], "cannot be used", id="too large"),
        pytest.param(["(?=a)b"], "cannot be used", id="not RE2's"),
    ],
)
def test_expressions_that_the_operator_would_refuse_are_not_served_whoever_wrote_them(
    expressions: list[str], words: str
) -> None:
    facts = Facts()
    facts.take_service(service(raw=table("v1")))
    matches = [{"header": "x", "regex": each} for each in expressions]
    rules = [{"revision": "r1", "match": some} for some in (matches[:8], matches[8:]) if some]
    facts.take_service(service(raw=table("v2") | {"rules": rules}))
    assert words in facts.unreadable["ns", "a"].words
    assert facts.unreadable["ns", "a"].version == "v2"
    found = facts.view(("ns", "a"))
    assert found
    assert found.routing.version == "v1"


def shared(facts: Facts) -> list[str]:
    return [name for namespace, name in (OLD, NEW) if SHARED in facts.hosts((namespace, name))]


def claim(facts: Facts, key: tuple[str, str], created: str, *, is_routed: bool = True) -> None:
    facts.take_service(service(key[1], key[0], created=created, raw=table() if is_routed else None))


def test_a_host_that_is_served_moves_when_the_new_owner_is_served_too() -> None:
    facts = Facts(Domains(outside="example.org"))
    claim(facts, NEW, "2026-02")
    assert shared(facts) == ["a"]
    facts.serve(NEW, view("a", "b-c"), facts.hosts(NEW))
    claim(facts, OLD, "2026-01")
    assert shared(facts) == ["a"]
    assert facts.serve(OLD, view("a-b", "c"), facts.hosts(OLD)) == {OLD, NEW}
    assert shared(facts) == ["a-b"]
    assert facts.drop_service(OLD) == {OLD, NEW}
    assert shared(facts) == ["a"]


def test_an_older_service_without_a_routing_has_its_host_already() -> None:
    facts = Facts(Domains(outside="example.org"))
    claim(facts, OLD, "2026-01", is_routed=False)
    claim(facts, NEW, "2026-02")
    assert shared(facts) == ["a-b"]


PREVIEW = {"ns/a-preview": 0, "a-preview.ns": 1, "a-preview.ns.svc": 1, "a-preview.ns.svc.cluster.local": 1}


def previews(facts: Facts) -> bool:
    found = {host for host in facts.hosts(("ns", "a")) if "preview" in host}
    assert found in (set(), {host for host, is_host in PREVIEW.items() if is_host})
    return bool(found)


def test_a_preview_has_hosts_until_a_service_is_really_called_so() -> None:
    facts = Facts(Domains(outside="example.org"))
    facts.take_service(service(raw=table()))
    assert not previews(facts)
    assert facts.take_service(service(raw=table("v2", preview="r1"))) == {("ns", "a")}
    assert previews(facts)
    assert ("ns", "a") in facts.take_service(service("a-preview", uid="2", raw=None)), "before it is routed"
    assert not previews(facts)
    assert ("ns", "a") not in facts.take_service(service("a-preview", uid="2", raw=table()))
    assert ("ns", "a") in facts.drop_service(("ns", "a-preview"))
    assert previews(facts)


def test_a_service_called_preview_of_nobody_touches_nobody() -> None:
    facts = Facts()
    facts.take_service(service(raw=table()))
    assert facts.take_service(service("a-preview", uid="2", raw=table())) == {("ns", "a-preview")}
    assert facts.take_service(service("-preview", uid="3", raw=table())) == {("ns", "-preview")}


def faults(facts: Facts, **clients: str) -> str:
    facts.take_service(service(raw=table(access={"clients": ["web", "app"]})))
    facts.take_secret(secret(**clients))
    return facts.fault_of_keys(("ns", "a"))


def test_keys_within_the_bounds_are_nothing_to_speak_of() -> None:
    assert faults(Facts(), web="a-key-of-16-char\n\nanother-key-of-web", other="x") == ""


@pytest.mark.parametrize(
    ("keys", "count", "words"),
    [
        pytest.param("short\n" + "k" * 16, 1, "1 of its keys left out: a key has 16 to 512 characters", id="short"),
        pytest.param("k" * 513, 0, "1 of its keys left out", id="long"),
        pytest.param("\n".join(f"{n:016}" for n in range(9)), KEYS_MAX, "only its first 8 keys count", id="many"),
        pytest.param("k" * 16 + "\u00e9", 0, "its keys are not ASCII text", id="no ASCII"),
        pytest.param("k" * (TOTAL_MAX + 3), 0, "left out: the Secret has more than 65536 bytes", id="too much"),
    ],
)
def test_keys_beyond_the_bounds_do_not_count_and_it_is_said(keys: str, count: int, words: str) -> None:
    facts = Facts()
    assert f"client web: {words}" in faults(facts, web=keys)
    found = facts.view(("ns", "a"))
    assert found
    assert len(found.keys.get("web", ())) == count


def test_all_keys_of_a_namespace_together_are_bounded() -> None:
    text = base64.b64encode("\n".join("k" * 512 for _ in range(8)).encode()).decode()
    names = {f"client-{number:03}" for number in range(300)}
    found = client_keys(dict.fromkeys(names, text))
    assert sum(len(key) for keys in found.keys.values() for key in keys) <= TOTAL_MAX
    assert found.keys.keys() | found.faults.keys() == names


def test_a_secret_that_may_not_be_read_is_told_until_it_may() -> None:
    facts = Facts()
    facts.take_service(service(raw=table(access={"clients": ["web"]})))
    assert facts.blind(None, "no right") == {("ns", "a")}
    assert "answered 401: no right" in facts.fault_of_keys(("ns", "a"))
    facts.blind(None, "")
    assert facts.fault_of_keys(("ns", "a")) == ""
