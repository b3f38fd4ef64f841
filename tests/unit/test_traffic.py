"""From what users want of the traffic to the table that gateways serve."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.routing import Routing
from slipway.api.status import InferenceServiceStatus, RevisionStatus
from slipway.api.traffic import WHOLE
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide.traffic import Place, Wish, check, route, version, wish, wish_of_last
from tests import golden

MODEL = {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://hello"}
GROUP = {"header": "x-user-group", "exact": "beta"}
PUBLIC = {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "1"}
NAMES = ["b", "c", "d"]


def variant(name: str, weight: Any = 0, **more: Any) -> Manifest:
    return {"name": name, "model": MODEL, "weight": weight, **more}


def spec(*variants: Manifest, access: Manifest | None = None, **traffic: Any) -> InferenceServiceSpec:
    return InferenceServiceSpec.model_validate(
        {
            "predictor": {"model": MODEL, "timeout": "10s"},
            "traffic": {"variants": list(variants), **traffic},
            "access": access or {},
        }
    )


def place(name: str = "", ready: int = 1) -> Place:
    return Place(f"hello-{name or 'stable'}", name, ready, slots=8)


def weights(table: Routing) -> list[tuple[str, int]]:
    return [(target.variant, target.weight) for target in table.targets]


FULL = spec(
    variant("c", "33.33%", match=[{"cookie": "group", "regex": "c[0-9]+"}]),
    variant("b", 5, match=[GROUP, {"query": "v", "prefix": "b-"}]),
    variant("a", 0),
    mirror={"variant": "a", "percent": "0.5%"},
    stickiness={"cookie": {"name": "user", "maxAge": "1h"}},
    access={
        "apiKeys": {"clients": ["web", "batch"]},
        "rateLimit": {"requestsPerSecond": 100},
        "maxConcurrency": 64,
        "maxBody": "8Mi",
    },
)
TOKENS = {"jwt": {"issuer": "https://issuer", "audiences": ["a"], "jwks": json.dumps({"keys": [PUBLIC]})}}


@pytest.mark.parametrize(
    ("name", "wanted", "places"),
    [
        ("plain", spec(), [place()]),
        ("everything", FULL, [place("c"), place(), place("a"), place("b", 3)]),
        ("not-ready", FULL, [place(), place("a", 0), place("b", 0), place("c", 0)]),
        ("token", spec(access=TOKENS, stickiness={"clientAddress": True}), [place()]),
    ],
)
def test_a_table_is_what_it_was(name: str, wanted: InferenceServiceSpec, places: list[Place]) -> None:
    assert check(wanted, "team") is None
    table = route(wish(wanted), places).model_dump(by_alias=True, exclude_none=True, mode="json")
    golden.check(f"traffic/{name}.json", json.dumps(table, indent=2) + "\n")


def test_a_gateway_of_the_version_before_can_read_every_table_that_holds_nothing() -> None:
    """It refuses fields that it does not know, and would go without the service after an upgrade or a way back."""
    wanted = wish(spec())
    plain, holding = route(wanted, [place()]), route(wanted, [replace(place(), hold_ms=10_000)])
    assert "holdMs" not in plain.model_dump_json(by_alias=True)
    assert "hold_ms" not in plain.model_dump_json()
    (target,) = holding.model_dump(by_alias=True)["targets"]
    assert target["holdMs"] == 10_000
    assert Routing.model_validate_json(holding.model_dump_json(by_alias=True)) == holding
    assert plain.version != holding.version


def test_a_variant_asleep_keeps_its_share_and_its_group() -> None:
    wanted = wish(spec(variant("b", "10%", match=[GROUP])))
    asleep = replace(place("b", ready=0), hold_ms=10_000, is_awaited=True)
    assert weights(route(wanted, [place(), asleep])) == [("", 9000), ("b", 1000)]
    assert [rule.revision for rule in route(wanted, [place(), asleep]).rules] == ["hello-b"]
    failing = replace(asleep, is_awaited=False)
    assert weights(route(wanted, [place(), failing])) == [("", 10_000), ("b", 0)]


def test_who_may_sleep_is_read_back_from_status_with_a_spec_that_is_refused() -> None:
    wanted = spec(variant("b", "10%", minReplicas=0), variant("c", minReplicas=1))
    assert wish(wanted).sleepers == {"b"}
    held = replace(place("b"), hold_ms=10_000)
    status = InferenceServiceStatus(routing=route(wish(wanted), [place(), held, place("c")]))
    last = wish_of_last(status)
    assert last is not None
    assert last.sleepers == {"b"}


def test_stable_has_what_the_variants_leave_and_comes_first() -> None:
    table = route(wish(FULL), [place("c"), place("b"), place("a"), place()])
    assert weights(table) == [("", 6167), ("a", 0), ("b", 500), ("c", 3333)]


def test_the_share_and_the_group_of_a_variant_without_an_endpoint_go_to_stable() -> None:
    table = route(wish(FULL), [place(), place("a"), place("b", 0), place("c")])
    assert weights(table) == [("", 6667), ("a", 0), ("b", 0), ("c", 3333)]
    assert [rule.revision for rule in table.rules] == ["hello-c"]


def test_a_stable_without_endpoints_keeps_its_own_share() -> None:
    assert weights(route(wish(FULL), [place(ready=0), place("b")])) == [("", 9500), ("b", 500)]


def test_nothing_is_copied_to_who_has_no_endpoint() -> None:
    assert route(wish(FULL), [place(), place("a", 0)]).mirror is None


shares = st.lists(st.integers(0, WHOLE // len(NAMES)), min_size=len(NAMES), max_size=len(NAMES))
ready = st.lists(st.integers(0, 2), min_size=len(NAMES) + 1, max_size=len(NAMES) + 1)


@given(shares, ready, st.permutations(range(len(NAMES) + 1)))
def test_weights_always_sum_to_the_whole_and_lead_only_where_somebody_answers(
    wanted: list[int], ready: list[int], order: list[int]
) -> None:
    places = [place(name, count) for name, count in zip(["", *NAMES], ready, strict=True)]
    asked = Wish(timeout_ms=1, weights=dict(zip(NAMES, wanted, strict=True)))
    table = route(asked, [places[n] for n in order])
    assert table == route(asked, places), "the order in which they are seen does not matter"
    assert sum(target.weight for target in table.targets) == WHOLE
    answering = {p.revision for p in places if p.ready}
    assert all(target.revision in answering for target in table.targets if target.variant and target.weight)
    assert Routing.model_validate(table.model_dump(by_alias=True)) == table
    assert table.version == version(table)


@given(st.integers(0, WHOLE), st.integers(0, WHOLE))
def test_a_growing_variant_takes_from_stable_only(first: int, second: int) -> None:
    """What decides which users change places: where each target begins on the line of 10 000."""
    low, high = sorted((first // 2, second // 2))
    before, after = (
        weights(route(Wish(timeout_ms=1, weights={"b": n, "c": 2000}), [place(), place("b"), place("c")]))
        for n in (low, high)
    )
    assert before[2] == after[2]
    assert before[0][1] - after[0][1] == high - low


def test_the_version_changes_with_the_content_and_with_nothing_else() -> None:
    one = route(wish(FULL), [place(), place("b"), place("c"), place("a")])
    assert one.version == route(wish(FULL), [place(), place("b", 2), place("c"), place("a")]).version
    assert one.version != route(wish(FULL), [place(), place("b", 0), place("c"), place("a")]).version


# What cannot be honoured


@pytest.mark.parametrize(
    ("wanted", "reason", "words"),
    [
        (spec(variant("b", "60%"), variant("c", "40.01%")), "InvalidTraffic", "sum to 100.01%, must be at most 100%"),
        (spec(variant("b"), variant("b")), "InvalidTraffic", "variant b is there twice"),
        (spec(variant("b", "many")), "InvalidTraffic", "must be a share such as 5%"),
        (spec(mirror={"variant": "b", "percent": 5}), "InvalidTraffic", "mirror.variant b is none of variants"),
        (
            spec(variant("b", 100), mirror={"variant": "b", "percent": 5}),
            "InvalidTraffic",
            "variant b gets every request already",
        ),
        (
            spec(variant("b", match=[{"header": "x-a", "regex": "a(?=b)"}])),
            "InvalidTraffic",
            "variant b: regex 'a(?=b)' cannot be used: lookaround",
        ),
        (
            spec(
                variant("b", match=[{"header": "x-a", "regex": f"{n}+"} for n in range(8)]),
                variant("c", match=[{"header": "x-a", "regex": "c+"}]),
            ),
            "InvalidTraffic",
            "9 matches have a regex, must be at most 8; use exact or prefix",
        ),
        (
            spec(
                variant("b", match=[{"header": "x-a", "prefix": "be"}]),
                variant("c", match=[{"header": "x-a", "exact": "beta"}]),
            ),
            "InvalidTraffic",
            (
                "variant c: the match header x-a exact beta can never win, for variant b takes all of it by header x-a "
                "prefix be; put variant c first"
            ),
        ),
        (spec(access={"maxBody": "0"}), "InvalidAccess", "maxBody is 0, must be at least 1 byte"),
        (spec(access={"maxBody": "500m"}), "InvalidAccess", "must be at least 1 byte"),
        (spec(access={"apiKeys": {"clients": ["a", "a"]}}), "InvalidAccess", "a client is in apiKeys.clients twice"),
        (spec(access={"jwt": {"issuer": "i", "jwks": "no"}}), "InvalidAccess", "must be a JSON Web Key Set"),
        (spec(access={"jwt": {"issuer": "i", "jwks": "[]"}}), "InvalidAccess", "must be a JSON Web Key Set"),
        (spec(access={"jwt": {"issuer": "i", "jwks": '{"keys": []}'}}), "InvalidAccess", "has no keys"),
        (
            spec(access={"jwt": {"issuer": "i", "jwks": json.dumps({"keys": [PUBLIC | {"d": "AQ"}]})}}),
            "InvalidAccess",
            "has a private or secret key",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_a_sentence(
    wanted: InferenceServiceSpec, reason: str, words: str
) -> None:
    refusal = check(wanted, "team")
    assert refusal is not None
    assert (refusal.reason, words in refusal.message) == (Reason(reason), True), refusal.message


# What was wanted before


def test_what_was_wanted_before_is_read_back_from_status_though_a_variant_was_down() -> None:
    table = route(wish(FULL), [place(), place("a"), place("b", 0), place("c")])
    known = [RevisionStatus(name="hello-b", role="Variant", variant="b", weight=500)]
    known += [RevisionStatus(name="hello-c", role="Variant", variant="c", weight=3333)]
    again = wish_of_last(InferenceServiceStatus(routing=table, revisions=known))
    assert again is not None
    assert again.weights == {"a": 0, "b": 500, "c": 3333}
    assert again.access == wish(FULL).access
    assert weights(route(again, [place(), place("a"), place("b"), place("c")])) == weights(
        route(wish(FULL), [place(), place("a"), place("b"), place("c")])
    )


def test_without_a_last_table_nothing_is_known_and_nothing_is_opened() -> None:
    assert wish_of_last(InferenceServiceStatus()) is None
