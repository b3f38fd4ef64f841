"""What the renderer makes: golden files, properties of whatever a routing may be, and Envoy's own word on both."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.api.access import Jwt, RateLimit
from slipway.api.routing import RoutedAccess, RoutedMatch, RoutedMirror, Sticky
from slipway.api.traffic import Match, StickyCookie
from slipway.decide import hosts
from slipway.gateway import render
from slipway.gateway.render.clusters import cluster_name
from slipway.gateway.views import Endpoint, GatewaySettings, ServiceView, Tls
from tests.gateway import envoy
from tests.gateway.services import service

GOLDEN = Path(__file__).parents[1] / "golden" / "gateway"
PODS = [Endpoint("10.1.0.2", 8080, 8001), Endpoint("10.1.0.1", 8080, 8001)]
EXAMPLES: dict[str, Callable[[], ServiceView]] = {
    "plain": lambda: service({"resnet-1": 10_000}, {"resnet-1": PODS}),
    "empty": lambda: service({}),
    "canary": lambda: service(
        {"resnet-2": 500, "resnet-1": 9500},
        {"resnet-1": PODS, "resnet-2": PODS[:1]},
        targets={"resnet-2": {"judged": True, "slots": 20}, "resnet-1": {"judged": True, "slots": 20}},
        preview="resnet-2",
        sticky=Sticky(by="header", header="x-session-id"),
    ),
    "variants": lambda: service(
        {"resnet-1": 9000, "resnet-b": 1000},
        {"resnet-1": PODS, "resnet-b": PODS},
        targets={"resnet-b": {"variant": "b"}},
        sticky=Sticky(by="cookie", cookie=StickyCookie(max_age="1h30m")),
        rules=[
            RoutedMatch(
                revision="resnet-b",
                match=[
                    Match(header="x-user-group", exact="beta"),
                    Match(cookie="group", regex="b(eta)?"),
                    Match(query="group", prefix="be"),
                ],
            )
        ],
        mirror=RoutedMirror(revision="resnet-b", share=500),
    ),
    "keys": lambda: service(
        {"resnet-1": 10_000},
        {"resnet-1": PODS},
        keys={"web": ("key-of-web", "next-key-of-web"), "batch": ("key-of-batch",), "other": ("key-of-other",)},
        access=RoutedAccess(
            clients=["web", "batch"],
            rate_limit=RateLimit(requests_per_second=100, burst=200),
            max_concurrency=30,
            max_body_bytes=8 << 20,
        ),
    ),
    "token": lambda: service(
        {"resnet-1": 10_000},
        {"resnet-1": PODS},
        jwks='{"keys":[{"kty":"oct","alg":"HS256","kid":"1","k":"YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcywgb2s"}]}',
        access=RoutedAccess(
            jwt=Jwt(issuer="https://id.example", audiences=["models"], jwks_uri="https://id.example/keys"),
            rate_limit=RateLimit(requests_per_second=5, per="service"),
        ),
    ),
}


def rendered(view: ServiceView) -> dict[str, Any]:
    where = view.namespace, view.name, hosts.Domains(outside="models.example")
    names = [*hosts.inside(*where), hosts.outside(*where), *hosts.preview(*where)]
    return {
        "clusters": render.clusters(view, GatewaySettings(), gateways=2),
        "assignments": render.assignments(view),
        "routes": render.routes(view, GatewaySettings()),
        "scopes": render.scopes(view, names, GatewaySettings()),
    }


def _golden(name: str, made: Any) -> None:
    """With SLIPWAY_GOLDEN=write the file is written anew, to be read in the diff."""
    file, text = GOLDEN / f"{name}.json", json.dumps(made, indent=1) + "\n"
    if os.environ.get("SLIPWAY_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text, f"{file.name} differs; SLIPWAY_GOLDEN=write pytest {Path(__file__).name} writes it"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_service_is_rendered_as_in_its_golden_file(name: str) -> None:
    _golden(name, rendered(EXAMPLES[name]()))


def test_the_bootstrap_is_rendered_as_in_its_golden_file() -> None:
    settings = GatewaySettings(tls=Tls())
    _golden("bootstrap", {"bootstrap": render.bootstrap(settings), "tls": render.tls_secret(Tls())})


def test_envoy_takes_every_golden_example(tmp_path: Path) -> None:
    views = [
        dataclasses.replace(example(), name=name, namespace=f"ns-{number}")
        for number, (name, example) in enumerate(EXAMPLES.items())
    ]
    assert envoy.validate(envoy.static(envoy.settings_in(tmp_path), views), tmp_path) == ""


def test_envoy_takes_the_bootstrap(tmp_path: Path) -> None:
    tls = Tls(secret_file=str(tmp_path / "tls.json"))
    (tmp_path / "tls.json").write_text(json.dumps(render.tls_secret(tls)))
    assert envoy.validate(render.bootstrap(envoy.settings_in(tmp_path, tls=tls)), tmp_path) == ""


def test_envoy_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """So the tests above can fail."""
    view = service({"a": 10_000}, rules=[RoutedMatch(revision="a", match=[Match(header="x", regex="(?<=a)b")])])
    assert "invalid perl operator" in envoy.validate(envoy.static(envoy.settings_in(tmp_path), [view]), tmp_path)


names = st.from_regex(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
regexes = st.sampled_from(["a|b", "b.*", "[a-z]+[0-9]{1,3}", "(x|y)+z?", r"\d+\.\w*", "v[12]$", "a{2,5}"])
matches = st.one_of(
    st.builds(
        lambda where, name, how, value: Match(**{where: name, how: value}),
        st.sampled_from(["header", "cookie", "query"]),
        st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
        st.sampled_from(["exact", "prefix"]),
        texts,
    ),
    st.builds(
        lambda where, name, value: Match(**{where: name, "regex": value}),
        st.sampled_from(["header", "cookie", "query"]),
        st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
        regexes,
    ),
)
stickies = st.one_of(
    st.none(),
    st.just(Sticky(by="clientAddress")),
    st.builds(lambda name: Sticky(by="header", header=name), st.from_regex(r"x-[a-z]{1,20}", fullmatch=True)),
    st.builds(
        lambda name: Sticky(by="cookie", cookie=StickyCookie(name=name)),
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    ),
)
keys = st.dictionaries(names, st.lists(texts.map(lambda text: f"KEY{text}"), max_size=3).map(tuple), max_size=4)


@st.composite
def accesses(draw: st.DrawFn, clients: list[str]) -> RoutedAccess:
    limit = draw(st.none() | st.builds(RateLimit, requests_per_second=st.integers(1, 1_000_000)))
    concurrency, body_bytes = draw(st.integers(0, 1000)), draw(st.integers(0, 1 << 40))
    who: dict[str, Any] = {}
    if draw(st.booleans()):
        who = {"clients": draw(st.lists(st.sampled_from(clients), unique=True)) if clients else []}
    elif draw(st.booleans()):
        who = {"jwt": Jwt(issuer=draw(texts), audiences=draw(st.lists(texts, max_size=2)), jwks_uri="https://id/k")}
    return RoutedAccess(rate_limit=limit, max_concurrency=concurrency, max_body_bytes=body_bytes, **who)


@st.composite
def views(draw: st.DrawFn) -> ServiceView:
    revisions = draw(st.lists(names, max_size=5, unique=True))
    cuts = sorted(
        draw(st.lists(st.integers(0, 10_000), min_size=len(revisions) - 1, max_size=len(revisions) - 1))
        if revisions
        else []
    )
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 10_000], strict=True)] if revisions else []
    secrets = draw(keys)
    more: dict[str, Any] = {"sticky": draw(stickies), "timeout_ms": draw(st.integers(1, 3_600_000))}
    if revisions:
        one = st.sampled_from(revisions)
        some = st.lists(matches, min_size=1, max_size=3)
        more["rules"] = draw(st.lists(st.builds(RoutedMatch, revision=one, match=some), max_size=3))
        more["mirror"] = draw(st.none() | st.builds(RoutedMirror, revision=one, share=st.integers(0, 10_000)))
        more["preview"] = draw(st.just("") | one)
    return service(
        dict(zip(revisions, shares, strict=True)),
        {revision: PODS[: draw(st.integers(0, 2))] for revision in revisions},
        name=draw(names),
        namespace=draw(names),
        keys=secrets,
        access=draw(accesses(list(secrets))),
        targets={
            revision: {"slots": draw(st.integers(0, 1000)), "judged": draw(st.booleans())} for revision in revisions
        },
        **more,
    )


def _actions(view: ServiceView) -> Iterator[dict[str, Any]]:
    table = render.routes(view, GatewaySettings())[f"{view.namespace}/{view.name}"]
    for route in table["virtual_hosts"][0]["routes"]:
        if "route" in route:
            yield route["route"]


@given(views())
def test_weights_always_sum_to_ten_thousand_in_the_routings_order(view: ServiceView) -> None:
    for action in _actions(view):
        if split := action.get("weighted_clusters"):
            arms = split["clusters"]
            assert [arm["weight"] for arm in arms] == [target.weight for target in view.routing.targets]
            assert sum(arm["weight"] for arm in arms) == 10_000
            assert ("use_hash_policy" in split) == (view.routing.sticky is not None) == ("hash_policy" in action)


@given(views())
def test_nothing_refers_to_what_is_not_rendered(view: ServiceView) -> None:
    made = rendered(view)
    for action in _actions(view):
        arms = [arm["name"] for arm in action.get("weighted_clusters", {"clusters": []})["clusters"]]
        copies = [policy["cluster"] for policy in action.get("request_mirror_policies", [])]
        assert {*arms, *copies, *([action["cluster"]] if "cluster" in action else [])} <= set(made["clusters"])
    for name, cluster in made["clusters"].items():
        assert cluster["name"] == name
        assert cluster["eds_cluster_config"]["service_name"] in made["assignments"]
    for scope in made["scopes"].values():
        assert scope["route_configuration_name"] in made["routes"]
    assert {scope["route_configuration_name"] for scope in made["scopes"].values()} == set(made["routes"])


@given(views())
def test_keys_are_nowhere_but_in_the_routes_credentials(view: ServiceView) -> None:
    made = rendered(view)
    for table in made["routes"].values():
        table["virtual_hosts"][0]["typed_per_filter_config"] = None
    text = json.dumps(made, ensure_ascii=False)
    for key in (key for some in view.keys.values() for key in some):
        assert json.dumps(key, ensure_ascii=False)[1:-1] not in text
    assert "KEY" not in repr(view)


@given(views())
def test_access_is_asked_for_on_every_route_of_a_service_that_has_it(view: ServiceView) -> None:
    access = view.routing.access
    has = access.clients is not None or access.jwt is not None or access.rate_limit is not None
    tables = render.routes(view, GatewaySettings())
    assert len(tables) == (2 if view.routing.preview else 1)
    for table in tables.values():
        host = table["virtual_hosts"][0]
        assert ("slipway.access" in host["typed_per_filter_config"]) == has
        for route in host["routes"]:
            assert "slipway.access" not in route.get("typed_per_filter_config", {}), "would replace that of the service"


@given(views(), st.randoms())
def test_the_order_of_pods_and_keys_changes_nothing(view: ServiceView, chance: Any) -> None:
    def mixed(items: Any) -> Any:
        items = list(items)
        chance.shuffle(items)
        return items

    other = dataclasses.replace(
        view,
        endpoints={revision: tuple(mixed(pods)) for revision, pods in mixed(view.endpoints.items())},
        keys={client: tuple(mixed(some)) for client, some in mixed(view.keys.items())},
    )
    assert json.dumps(rendered(view)) == json.dumps(rendered(other))


@given(st.lists(views(), min_size=8, max_size=8))
@settings(max_examples=3)
def test_envoy_takes_whatever_a_routing_may_be(
    tmp_path_factory: pytest.TempPathFactory, many: list[ServiceView]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    apart = [dataclasses.replace(view, namespace=f"n{number}-{view.namespace}") for number, view in enumerate(many)]
    assert envoy.validate(envoy.static(envoy.settings_in(folder), apart), folder) == ""


def test_a_replica_more_changes_a_cluster_only_at_powers_of_two() -> None:
    def limits(ready: int) -> Any:
        pods = [Endpoint(f"10.0.0.{number}", 80) for number in range(ready)]
        view = service({"a": 10_000}, {"a": pods}, targets={"a": {"slots": 10}})
        made = render.clusters(view, GatewaySettings())[cluster_name("vision", "a")]
        return made["circuit_breakers"]["thresholds"][0]["max_requests"]

    assert [limits(ready) for ready in (0, 1, 2, 3, 4, 5, 8, 9)] == [10, 10, 20, 40, 40, 80, 80, 160]


def test_concurrency_is_divided_among_gateways() -> None:
    view = service({"a": 10_000}, access=RoutedAccess(max_concurrency=10))
    found = [
        render.clusters(view, GatewaySettings(), gateways=count)["vision/a"]["circuit_breakers"]["thresholds"][0]
        for count in (1, 2, 3, 20)
    ]
    assert [breaker["max_requests"] for breaker in found] == [10, 5, 4, 1]
