"""What scaling cannot have, must not touch or cannot make sense of: it says so, and serves on."""

import pytest

from e2e.support.api import Manifest
from e2e.support.installation import Installation
from e2e.support.load import load
from e2e.support.manifests import GPU, GPUS
from e2e.support.releases import SIZE, end
from e2e.support.scaled import asked, scaled, told, wait_asked, wait_ready, wait_reason, watched
from e2e.support.site import documents
from e2e.support.team import Team

ONE_EACH = SIZE | {"limits": SIZE["limits"] | {GPU: 1}}


def test_where_no_gpu_is_left_it_says_so_and_asks_no_faster_than_it_may_hope(shop: Team, gpus: str) -> None:
    """The load wants four, the cluster has two, which carry it all the same: nobody waits long for what cannot come."""
    shop.apply(scaled("dear", resources=ONE_EACH, objective={"requestsPerSecond": 5}))
    shop.wait_settled("dear")
    with shop.traffic("dear", rate=11) as flow, watched(shop) as record:
        wait_ready(shop, "dear", GPUS, within_s=90)
        flow.go(16)
        found = wait_reason(shop, "dear", "CapacityLimited", within_s=60)
        assert gpus in found["message"], found
        flow.wait_answered(200, within_s=60)
        assert shop.condition("dear", "Ready")["status"] == "True"
        flow.go(3)
    flow.assert_unharmed()
    record.assert_writes("dear", 6)
    end(shop, "dear")


def test_another_autoscaler_of_the_same_deployment_is_named_and_left_alone(shop: Team) -> None:
    """Hands off while it is there; back to work when it is gone."""
    shop.apply(scaled("shared", objective={"requestsPerSecond": 8}))
    shop.wait_settled("shared")
    [deployment] = [name for name in shop.names("deployments") if name.startswith("shared")]
    shop.apply(autoscaler("foreign", deployment))
    # Autoscalers are listed twice a minute, and a service that nobody asks is looked at as seldom.
    found = wait_reason(shop, "shared", "AutoscalerConflict", within_s=90)
    assert found["status"] == "False", found
    assert "foreign" in found["message"], found
    with shop.traffic("shared", rate=9) as flow:
        shop.kubectl("scale", "deployment", deployment, "--replicas=3")
        flow.wait_answered(120)
        assert asked(shop, "shared") == 3, told(shop, "shared")
        shop.kubectl("delete", "hpa", "foreign")
        wait_reason(shop, "shared", "Scaled", within_s=90)
    flow.assert_unharmed()
    end(shop, "shared")


def autoscaler(name: str, deployment: str) -> Manifest:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": 1,
            "maxReplicas": 5,
        },
    }


def test_what_contradicts_itself_is_refused_and_the_last_good_one_serves_on(shop: Team, slipway: Installation) -> None:
    assert slipway
    shop.apply(scaled("sound", least=1, most=2))
    shop.wait_settled("sound")
    with pytest.raises(AssertionError, match="minReplicas is more than maxReplicas"):
        shop.apply(scaled("sound", least=3, most=2))
    with pytest.raises(AssertionError, match="activationReplicas is more than maxReplicas"):
        shop.apply(scaled("sound", most=2, activationReplicas=3))
    nowhere = [{"name": "office", "start": "0 8 * * 1-5", "timeZone": "Europe/Atlantis", "minReplicas": 2}]
    refused(shop, scaled("sound", most=2, schedules=nowhere), "Europe/Atlantis")
    unclear = {"promql": {"query": "sum(rate(requests_total[1m])", "target": 5}}
    refused(shop, scaled("sound", most=2, objective=unclear), "promql")
    load(shop, "sound", 5).assert_answered(5, "200")
    shop.apply(scaled("sound", least=2, most=2))
    assert shop.wait("sound", "Accepted", within_s=20)
    wait_asked(shop, "sound", lambda count: count == 2, "two")
    end(shop, "sound")


def refused(team: Team, manifest: Manifest, word: str) -> None:
    """By the API server at once, or by the operator in a condition."""
    done = team.site.try_kubectl("--namespace", team.name, "apply", "--filename", "-", stdin=documents(manifest))
    if done.returncode != 0:
        assert word in done.stderr, done.stderr
        return
    found = team.wait(manifest["metadata"]["name"], "Accepted", "False", reason="InvalidScaling", within_s=20)
    assert word in found["message"], found
