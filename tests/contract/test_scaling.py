"""What the schema of `spec.scaling` takes and refuses on a real API server, and how `status.scaling` is kept there.

Runs only where SLIPWAY_TEST_KUBECONFIG names a server: CEL is evaluated, and found too dear, by servers only.
"""

from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.errors import Invalid
from slipway.kube.kinds import Kind
from tests.contract import backends
from tests.contract.backends import Cluster
from tests.contract.conftest import KUBECONFIG
from tests.contract.test_traffic import apply, place, variant

__all__ = ["place"]
pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="needs SLIPWAY_TEST_KUBECONFIG"),
    pytest.mark.timeout(2 * backends.DEADLINE_S),
]


def scaling(**more: Any) -> Manifest:
    return {"scaling": {"maxReplicas": 8, **more}}


def objective(**more: Any) -> Manifest:
    return scaling(objective=more)


def schedule(**more: Any) -> Manifest:
    return scaling(schedules=[{"name": "day", "start": "0 8 * * 1-5", "minReplicas": 2, **more}])


def up(**pace: Any) -> Manifest:
    return scaling(behavior={"up": pace})


def _everything() -> Manifest:
    percentiles = {"p50": "100ms", "p90": "200ms", "p95": "1s", "p99": "1m30s"}
    return {
        "minReplicas": 0,
        "maxReplicas": 1000,
        "objective": {
            "latency": percentiles,
            "queueTime": percentiles,
            "concurrency": 0.5,
            "requestsPerSecond": 1000,
            "promql": {"query": "sum(rate(x[1m]))" + " " * 2000, "target": 0.001},
        },
        "idleAfter": "5m",
        "activationReplicas": 2,
        "schedules": [
            {"name": f"s{n}", "start": "*/15 0-6,8 1 1-12 1-5", "duration": "24h", "minReplicas": 0} for n in range(16)
        ],
        "behavior": {"up": {"replicas": "50%", "period": "1h", "delay": "0s"}, "down": {"replicas": 1}},
        "paused": "Both",
    }


async def test_everything_of_scaling_at_once_is_taken(place: tuple[Cluster, Kind]) -> None:
    variants = [variant(f"v{n}", minReplicas=0, maxReplicas=1000) for n in range(8)]
    made = await apply(place, scaling=_everything(), traffic={"variants": variants})
    assert made["spec"]["scaling"]["behavior"]["down"] == {"replicas": 1, "period": "60s", "delay": "0s"}
    assert made["spec"]["scaling"]["schedules"][0]["timeZone"] == "UTC"


async def test_an_objective_of_ones_own_is_not_joined_by_the_default_one(place: tuple[Cluster, Kind]) -> None:
    made = await apply(place, **objective(concurrency=4))
    assert made["spec"]["scaling"]["objective"] == {"concurrency": 4}


async def test_without_a_word_replicas_are_fixed_at_one(place: tuple[Cluster, Kind]) -> None:
    made = (await apply(place))["spec"]["scaling"]
    assert (made["minReplicas"], made["objective"]) == (1, {"queueTime": {"p99": "1s"}})
    assert "maxReplicas" not in made


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (scaling(minReplicas=9), "minReplicas is more than maxReplicas"),
        (scaling(minReplicas=-1), "greater than or equal to 0"),
        (scaling(minReplicas=1001), "less than or equal to 1000"),
        ({"scaling": {"maxReplicas": 0}}, "greater than or equal to 1"),
        (scaling(activationReplicas=9), "activationReplicas is more than maxReplicas"),
        (scaling(idleAfter="0s"), 'must be longer than 0s, such as 500ms, 10s or 1m30s, not "0s"'),
        (scaling(idleAfter="5 minutes"), 'must be longer than 0s, such as 500ms, 10s or 1m30s, not "5 minutes"'),
        (scaling(paused="yes"), '"No", "Up", "Down", "Both"'),
        (objective(), "needs one of latency, queueTime, concurrency, requestsPerSecond and promql"),
        (objective(latency={}), "needs one of p50, p90, p95 and p99"),
        (objective(latency={"p99": "fast"}), "p50, p90, p95 and p99 must be longer than 0s, such as 500ms"),
        (objective(queueTime={"p50": "1s", "p99": "0s"}), "p50, p90, p95 and p99 must be longer than 0s, such as"),
        (objective(concurrency=0), "greater than 0"),
        (objective(requestsPerSecond=-5), "greater than 0"),
        (objective(promql={"query": "", "target": 1}), "at least 1 chars long"),
        (objective(promql={"query": "up", "target": 0}), "greater than 0"),
        (schedule(start="8 o'clock"), 'must be five fields of cron: minute, hour, day of month, month, day of week'),
        (schedule(start="0 8 * * mon"), 'such as 0 8 * * 1-5, not "0 8 * * mon"'),
        (schedule(duration="-1h"), "must be longer than 0s"),
        (schedule(timeZone="../etc/passwd"), "should match"),
        (schedule(minReplicas=-2), "greater than or equal to 0"),
        (up(replicas="half"), 'must be a number of replicas or a share of them such as 50%, not "half"'),
        (up(replicas=-1), 'must be a number of replicas or a share of them such as 50%, not "-1"'),
        (up(period="0s"), "must be longer than 0s"),
        (up(delay="soon"), 'must be a duration such as 500ms, 10s or 1m30s, not "soon"'),
        ({"traffic": {"variants": [variant("b", minReplicas=3, maxReplicas=2)]}}, "minReplicas is more than max"),
    ],
)  # fmt: skip
async def test_what_is_wrong_of_scaling_is_refused_with_a_sentence(
    place: tuple[Cluster, Kind], spec: Manifest, words: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await apply(place, **spec)
    assert words in str(refused.value)


async def test_what_was_decided_is_kept_by_variant_and_goes_with_it(place: tuple[Cluster, Kind]) -> None:
    cluster, kind = place
    made = await apply(place)
    state = {"at": 1.5, "counted": {"arrived": 3.25}, "hindsight": {"segments": [[1, 2.5], []]}}
    one = {"variant": "", "revision": "hello-1", "desired": 0, "ready": 0, "loading": 0, "reason": "ScaledToZero"}
    other = one | {"variant": "b", "desired": 2}

    async def write(*entries: Manifest) -> list[Manifest]:
        meta = {key: made["metadata"][key] for key in ("name", "namespace")}
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "status": {"scaling": entries}}
        written = await cluster.kube.apply(kind, body, manager="slipway", subresource="status")
        found: list[Manifest] = written["status"]["scaling"]
        return found

    assert await write(one | {"state": state}, other) == [one | {"state": state}, other]
    less = {"at": 2.5}
    assert await write(one | {"state": less}) == [one | {"state": less}]
