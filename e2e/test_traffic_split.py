"""Traffic is shared out as the weights say, and groups of users go where their rule says."""

import os

import pytest

from e2e.support.installation import Installation
from e2e.support.load import NEVER, Load, interval, load, one_each
from e2e.support.manifests import service, variant, with_spec
from e2e.support.team import Team
from e2e.support.wait import until

COUNT = 100_000 if os.environ.get("SLIPWAY_FULL") else 10_000
OK = {"rest": "200", "grpc": "grpc 0"}
PROTOCOLS = tuple(OK)


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    """Stable answers with 1, the variant with 101."""
    assert shared_slipway
    shared_team.apply(with_spec(service(), traffic={"variants": [variant("b")]}))
    shared_team.start_client()
    shared_team.wait_settled("hello")
    return shared_team


def share(team: Team, percent: str) -> dict[str, str]:
    """Give the variant that share; the revisions, by variant, once it is served."""
    team.apply(with_spec(service(), traffic={"variants": [variant("b", weight=percent)]}))
    weight = round(float(percent.removesuffix("%")) * 100)
    return team.wait_shares("hello", {"": 10_000 - weight, "b": weight})


def hits(found: Load, revision: str) -> int:
    """Answers of the variant, which the gateway and the model tell alike."""
    assert found.offsets.get("101", 0) == found.revisions.get(revision, 0)
    return found.offsets.get("101", 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("percent", ["1%", "5%", "33.33%", "50%"])
def test_a_variant_gets_its_share(hello: Team, percent: str, protocol: str) -> None:
    """Inside the 99.9 % binomial interval. What is right is outside once in a thousand times, so that such a count is
    taken once more: twice outside is no chance any more.
    """
    revision = share(hello, percent)["b"]
    low, high = interval(float(percent.removesuffix("%")) / 100, COUNT)
    counts = []
    for _ in range(2):
        found = load(hello, "hello", COUNT, protocol=protocol)
        found.assert_answered(COUNT, OK[protocol])
        counts.append(hits(found, revision))
        print(f"{percent} over {protocol}: {counts[-1]} of {COUNT} in [{low}, {high}], {COUNT / found.seconds:.0f}/s")
        if low <= counts[-1] <= high:
            return
    raise AssertionError(f"{counts} of {COUNT}, both outside of [{low}, {high}]")


def test_the_status_tells_the_share_that_was_measured(hello: Team) -> None:
    revision = share(hello, "20%")["b"]
    found = load(hello, "hello", 3000)
    truth = hits(found, revision) * 10_000 / 3000

    def measured() -> dict[str, int] | None:
        known = next(each for each in hello.status("hello")["revisions"] if each["name"] == revision)
        about: dict[str, int] = known.get("measured", {})
        return about if about and about["low"] <= truth <= about["high"] else None

    until(f"the interval holds {truth:.0f} of 10,000", measured, within_s=60, seen=lambda: hello.digest("hello"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_variant_without_weight_gets_nothing(hello: Team, protocol: str) -> None:
    share(hello, "0%")
    found = load(hello, "hello", 2000, protocol=protocol)
    found.assert_answered(2000, OK[protocol])
    assert found.offsets == {"1": 2000}


GROUPS = [
    ({"header": "x-user-group", "exact": "beta"}, {"x-user-group": "beta"}, {"x-user-group": "betas"}),
    ({"header": "x-user-group", "prefix": "be"}, {"x-user-group": "beta"}, {"x-user-group": "abe"}),
    ({"cookie": "group", "exact": "beta"}, {"cookie": "a=1; group=beta; b=2"}, {"cookie": "group=beta2; a=group=beta"}),
    ({"header": "x-tenant", "regex": "(acme|initech)-[0-9]+"}, {"x-tenant": "acme-12"}, {"x-tenant": "xacme-12"}),
]


@pytest.mark.parametrize(("match", "inside", "outside"), GROUPS, ids=["exact", "prefix", "cookie", "regex"])
def test_a_group_of_users_goes_where_its_rule_says(
    hello: Team, match: dict[str, str], inside: dict[str, str], outside: dict[str, str]
) -> None:
    """Whatever the weights say: the variant has none."""
    hello.apply(with_spec(service(), traffic={"variants": [variant("b", match=[match])]}))
    until(
        "the rule is served",
        lambda: (
            hello.status("hello")["routing"].get("rules") == [{"revision": its_revision(hello), "match": [match]}]
            and hello.condition("hello", "RoutesReady").get("status") == "True"
        ),
        within_s=30,
        seen=lambda: hello.digest("hello"),
    )
    for protocol in PROTOCOLS:
        answers = one_each(hello, "hello", [inside, outside] * 50, protocol=protocol)
        assert {answer.offset for answer in answers[::2]} == {"101"}
        assert {answer.offset for answer in answers[1::2]} == {"1"}


def its_revision(team: Team) -> str:
    """Of the variant."""
    targets = team.status("hello").get("routing", {}).get("targets", [])
    return next((target["revision"] for target in targets if target.get("variant")), "")


def test_a_share_is_mirrored_and_nobody_notices(hello: Team) -> None:
    """Half of the requests are copied to a variant that answers nobody."""
    traffic = {"variants": [variant("b")], "mirror": {"variant": "b", "percent": "50%"}}
    hello.apply(with_spec(service(), traffic=traffic))
    until(
        "the mirror is served",
        lambda: (
            hello.status("hello")["routing"].get("mirror", {}).get("share") == 5000
            and hello.condition("hello", "RoutesReady").get("status") == "True"
        ),
        within_s=30,
        seen=lambda: hello.digest("hello"),
    )
    revision = its_revision(hello)
    before = served(hello, revision)
    found = load(hello, "hello", 2000)
    found.assert_answered(2000, "200")
    assert found.offsets == {"1": 2000}
    low, high = interval(0.5, 2000, NEVER)
    until(
        "the copies are counted",
        lambda: low <= served(hello, revision) - before <= high,
        within_s=60,
        seen=lambda: served(hello, revision) - before,
    )


def served(team: Team, revision: str) -> int:
    """Requests that the pods of a revision have answered, by their own count."""
    total = 0.0
    for pod in team.pods("hello", revision):
        where = f"/api/v1/namespaces/{team.name}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
        lines = team.site.api.text(where).splitlines()
        total += sum(float(line.split()[-1]) for line in lines if line.startswith("nv_inference_request_success"))
    return int(total)
