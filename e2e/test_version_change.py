"""A new version of a model under load: nobody notices but by the answers."""

from dataclasses import dataclass

from e2e.support.history import History, recorded
from e2e.support.installation import Installation
from e2e.support.manifests import LABEL_REVISION, service
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

REPLICAS = 2


def test_a_new_version_takes_over_under_50_requests_a_second(slipway: Installation, team: Team) -> None:
    assert slipway
    team.start_client()
    team.apply(service(replicas=REPLICAS))
    old = team.wait_settled("hello")["stable"]
    api = team.site.api
    with (
        recorded(api, "pods", team.name) as pods,
        recorded(api, "endpointslices", team.name) as slices,
        recorded(api, "inferenceservices", team.name) as services,
        team.traffic("hello") as flow,
    ):
        flow.wait_answered(100)
        team.apply(service(uri="sample://hello-v2", replicas=REPLICAS))
        new = team.wait_settled("hello")["stable"]
        assert new != old
        until(
            "the old pods are gone",
            lambda: not team.pods("hello", old),
            within_s=60,
            seen=lambda: team.pods("hello", old),
        )
        flow.wait_only(101)
        # Fewer replicas are no new version, and pods that leave for it are missed by nobody either.
        team.apply(service(uri="sample://hello-v2"))
        until("one pod is left", lambda: len(team.pods("hello")) == 1, within_s=60)
        flow.wait_answered(100)
    flow.assert_unharmed()
    assert flow.sums["offsets"]["1"] >= 100
    assert flow.sums["offsets"]["101"] >= 150
    assert team.status("hello")["stable"] == new
    assert_capacity_came_first(pods, old, new)
    assert_always_an_endpoint(services, slices)
    assert_traffic_left_first(services, pods, old)


@dataclass(frozen=True, slots=True)
class Life:
    """Places in the history at which a pod was first Ready, and first on its way out."""

    ready: int | None
    ending: int | None


def lives(pods: History, revision: str) -> dict[str, Life]:
    found: dict[str, Life] = {}
    for place, change in enumerate(pods.changes):
        if change.object["metadata"].get("labels", {}).get(LABEL_REVISION) != revision:
            continue
        known = found.get(change.name, Life(None, None))
        is_ending = change.type == "DELETED" or "deletionTimestamp" in change.object["metadata"]
        found[change.name] = Life(
            ready=place if known.ready is None and is_ready(change.object) else known.ready,
            ending=place if known.ending is None and is_ending else known.ending,
        )
    return found


def assert_capacity_came_first(pods: History, old: str, new: str) -> None:
    """No old pod began to end before every new pod was Ready; and every old pod is gone."""
    before, after = lives(pods, old), lives(pods, new)
    assert len(before) == len(after) == REPLICAS
    ready = [life.ready for life in after.values()]
    ending = [life.ending for life in before.values()]
    assert None not in ready
    assert None not in ending
    assert max(filter(None, ready)) < min(filter(None, ending)), f"new {after}, old {before}"


def assert_always_an_endpoint(services: History, slices: History) -> None:
    """At every moment each revision with a weight had a pod that was ready or still serving its last requests."""
    usable: dict[str, dict[str, int]] = {}
    weighted: list[str] = []
    routed = 0
    # Slices before services: of what is there at the beginning, too.
    for change in sorted([*slices.changes, *services.changes], key=lambda change: change.version):
        live = change.object
        if "addressType" in live:  # an EndpointSlice; items of a list have no kind
            of_revision = usable.setdefault(live["metadata"]["labels"]["kubernetes.io/service-name"], {})
            endpoints = [] if change.type == "DELETED" else live.get("endpoints") or []
            of_revision[change.name] = sum(bool(each["conditions"].get("serving")) for each in endpoints)
        elif routing := live.get("status", {}).get("routing"):
            weighted = [target["revision"] for target in routing["targets"] if target["weight"]]
            routed += 1
        for revision in weighted:
            assert sum(usable.get(revision, {}).values()), f"{revision} has a weight, no endpoint at {change.version}"
    assert routed >= 2


def assert_traffic_left_first(services: History, pods: History, old: str) -> None:
    """The old revision had no weight any more when the first of its pods was told to end."""
    without = next(
        change.version
        for change in services.changes
        if (routing := change.object.get("status", {}).get("routing"))
        and not any(target["weight"] for target in routing["targets"] if target["revision"] == old)
    )
    ending = min(
        change.version
        for change in pods.changes
        if change.object["metadata"].get("labels", {}).get(LABEL_REVISION) == old
        and "deletionTimestamp" in change.object["metadata"]
    )
    assert without < ending
