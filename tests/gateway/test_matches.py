"""Expressions of users in a real Envoy: what the operator takes Envoy takes too, and none costs others anything."""

import asyncio
import random
from pathlib import Path

import pytest

from slipway.api.routing import RoutedMatch
from slipway.api.traffic import Match
from slipway.decide.matches import EXPRESSIONS_MAX, SIZE_MAX, flaw
from tests.gateway import clients, envoy, pods
from tests.gateway.services import service

pytestmark = pytest.mark.timeout(180)
ATOMS = [
    *("a", "k", "S", "é", "Ω", "日", ".", r"\d", r"\w", r"\W", r"\S", r"\D", r"\.", r"\xe9", "[a-z]", "[^x]", "[k-s]"),
    *("[a-zA-Z0-9_.-]", r"[^\w]", "[à-ÿ]", r"[\W_]", "[^é]", r"[\x80-\xff]", "[^a-z]", "^", "$", r"\b", "()", "ſ"),
    *("(?:", "(", "(?i)", "(?i:", ")", ")", ")", "|", "|", "(?s)"),
]
COUNTS = ["*", "+", "?", "{3}", "{2,}", "{0,4}", "{1,5}", "*?", "{0}", "{32}", "{0,32}", "{3}+", "", "", "", ""]
HEAVY = "(?:[ab]*a[ab]{{30}}[xy]|q{})"
"""On a text of a and b RE2 gives up its table of states, of which there are 2^30, and follows each place by itself."""


def expressions(number: int) -> list[str]:
    chance = random.Random(17)  # noqa: S311
    found: set[str] = set()
    while len(found) < number:
        text = "".join(chance.choice(ATOMS) + chance.choice(COUNTS) for _ in range(chance.randint(1, 7)))
        if text and not flaw(text):
            found.add(text)
    return sorted(found)


def test_what_the_operator_takes_is_no_larger_in_envoy_than_it_thinks(tmp_path: Path) -> None:
    matches = [{"name": "x-g", "string_match": {"safe_regex": {"regex": one}}} for one in expressions(3000)]
    config = envoy.static(envoy.settings_in(tmp_path), [service({"a": 10_000})])
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    scopes = manager["scoped_routes"]["scoped_route_configurations_list"]["scoped_route_configurations"]
    routes = [{"match": {"prefix": "/", "headers": [one]}, "direct_response": {"status": 200}} for one in matches]
    host = {"name": "a", "domains": ["*"], "routes": routes}
    del scopes[1:]
    scopes[0]["route_configuration"] = {"name": "a", "virtual_hosts": [host]}
    limit = {"re2": {"max_program_size": {"error_level": SIZE_MAX, "warn_level": SIZE_MAX}}}
    config["layered_runtime"] = {"layers": [{"name": "static", "static_layer": limit}]}
    # Envoy's own expressions need more; they are not asked about.
    del config["stats_config"]
    assert envoy.validate(config, tmp_path) == ""


@pytest.mark.parametrize("where", ["header", "cookie", "query"])
async def test_the_worst_expressions_on_the_worst_values_keep_nobody_waiting(tmp_path: Path, where: str) -> None:
    texts = [HEAVY.format(number) for number in range(EXPRESSIONS_MAX)]
    assert [flaw(text) for text in texts] == [""] * EXPRESSIONS_MAX
    rules = [RoutedMatch(revision="old", match=[Match.model_validate({where: "g", "regex": text}) for text in texts])]
    chance = random.Random(1)  # noqa: S311
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, rules=rules)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            for length in (256, 8000, 28_000):
                value = "".join(chance.choice("ab") for _ in range(length))
                headers = {"header": {"g": value}, "cookie": {"cookie": f"g={value}"}, "query": {}}[where]
                query = f"?g={value}" if where == "query" else ""
                before = gateway.cpu_s()
                hostile = [asyncio.create_task(ask("GET", f"/v2/models/resnet{query}", headers)) for _ in range(5)]
                assert (await ask.infer()).status == 200
                await asyncio.gather(*hostile)
                # With the expressions tried on the longest value it is a second: others would wait for that.
                assert gateway.cpu_s() - before < 0.3


@pytest.mark.parametrize("where", ["header", "cookie", "query"])
async def test_an_expression_is_tried_on_values_of_256_bytes_and_on_none_that_are_longer(
    tmp_path: Path, where: str
) -> None:
    rules = [RoutedMatch(revision="b", match=[Match.model_validate({where: "g", "regex": "v+"})])]
    async with pods.pod("a") as one:
        view = service({"old": 10_000, "b": 0}, {"old": [one], "b": [one]}, rules=rules)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            found = []
            for value in ("v" * 256, "v" * 257):
                headers = {"header": {"g": value}, "cookie": {"cookie": f"a=1; g={value}; z=2"}, "query": {}}[where]
                path = "/v2/models/resnet/infer" + (f"?g={value}" if where == "query" else "")
                found.append((await ask("POST", path, headers)).headers["x-slipway-revision"])
    assert found == ["b", "old"]
