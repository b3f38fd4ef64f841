"""Whole releases: a small cluster in which time passes, and a witness that sees every version that is ever written."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, INFERENCE_SERVICE, SERVICE
from tests.control.releases import BAD, GOOD, NEW, NEWER, STEPS, Behaviour, Releases, released
from tests.control.world import KEY
from tests.fake.controllers import Failure


@pytest.fixture
def world() -> Iterator[Releases]:
    world = Releases()
    yield world
    assert world.witness.faults == []


@pytest.fixture
async def ready(world: Releases) -> Releases:
    """Serving a first model, whose record is a minute old."""
    world.models[BAD] = Behaviour(errors=0.5)
    world.user_applies(released())
    await world.live(60)
    assert world.phase == "Healthy"
    return world


def has_phase(world: Releases, *phases: str) -> Callable[[], bool]:
    return lambda: world.phase in phases


def at_share(world: Releases, weight: int) -> Callable[[], bool]:
    return lambda: world.release.get("weight") == weight and world.release.get("stage") == "Soaking"


def has_any(*ends: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: any(end() for end in ends)


async def test_the_first_revision_of_a_service_answers_at_once_and_nobody_judges_it(world: Releases) -> None:
    """Scenario 1."""
    world.user_applies(released())
    await world.live(15)
    assert world.witness.phases == ["Provisioning", "Healthy"]
    assert [entry.partition(":")[0] for entry in world.told()] == ["RevisionCreated", "RevisionPromoted"]
    assert world.status["release"] == "Healthy"


async def test_a_good_revision_is_promoted_step_by_step_by_a_flip_of_the_pointer(ready: Releases) -> None:
    """Scenario 2, without the gate; rules 1 to 4 on every version written."""
    old = ready.status["stable"]
    ready.user_applies(released(NEW))
    took = await ready.live(120, until=lambda: ready.status["stable"] != old)
    new = ready.status["stable"]
    shares = [table.get(new, 0) for table in ready.witness.tables]
    assert shares == [0, 500, 2500, 5000, 10_000, 10_000], "at last stable is out of the table"
    assert 60 <= took <= 60 + 9, "one start of a pod of 3 s, and a second here and there for the gateways"
    made = ready.get(DEPLOYMENT, new)["metadata"]["uid"]
    assert ready.status["previous"] == old
    await ready.live(60, until=has_phase(ready, "Healthy"))
    assert ready.names(DEPLOYMENT) == [new]
    assert ready.get(DEPLOYMENT, new)["metadata"]["uid"] == made, "the pods that were judged are the pods that serve"
    assert len(ready.told("RevisionPromoted")) == 2
    assert len([reason for reason in ready.recorder.reasons if reason == "RevisionPromoted"]) == 2


async def test_status_tells_how_a_release_stands(ready: Releases) -> None:
    ready.user_applies(released(NEW))
    await ready.live(60, until=at_share(ready, 2500))
    new, old = ready.status["candidate"], ready.status["stable"]
    assert ready.status["release"] == "25% Soaking"
    weights = {known["role"]: known["weight"] for known in ready.status["revisions"]}
    assert weights == {"Candidate": 2500, "Stable": 7500}
    assert [(t["revision"], t["weight"], t["judged"]) for t in ready.status["routing"]["targets"]] == [
        (new, 2500, True),
        (old, 7500, True),
    ]
    healthy, reconciling = ready.condition("RolloutHealthy"), ready.condition("Reconciling")
    assert (healthy["status"], healthy["reason"]) == ("Unknown", "Progressing"), "kubectl wait goes on"
    assert healthy["message"].startswith(f"revision {new} at 25%, Soaking: 50% at ")
    assert (reconciling["status"], reconciling["reason"]) == ("True", "Progressing")
    assert ready.condition("Ready")["status"] == "True"
    assert ready.condition("Stalled") == {}
    metrics = {verdict["metric"] for verdict in ready.release["verdicts"]}
    assert {"errorRate", "p95"} <= metrics


async def test_a_bad_revision_goes_back_by_itself_and_the_pipeline_sees_it(ready: Releases) -> None:
    """Scenario 11: Ready stays True, RolloutHealthy is False, Stalled says that nothing moves by itself."""
    old = ready.status["stable"]
    ready.user_applies(released(BAD))
    await ready.live(90, until=has_phase(ready, "RollingBack", "RolledBack"))
    bad = ready.release["candidate"]
    assert [{name: weight for name, weight in table.items() if weight} for table in ready.witness.aborted_at] == [
        {old: 10_000}
    ], "in the very write in which that is decided"
    assert ready.release["abort"]["reason"] == "AnalysisFailed"
    assert "errorRate" in ready.release["abort"]["message"]
    await ready.live(60, until=has_phase(ready, "RolledBack"))
    await ready.live(45)
    assert (ready.condition("Ready")["status"], ready.status["stable"]) == ("True", old)
    healthy, stalled = ready.condition("RolloutHealthy"), ready.condition("Stalled")
    assert (healthy["status"], healthy["reason"]) == ("False", "RolledBack")
    assert (stalled["status"], stalled["reason"]) == ("True", "RolledBack")
    assert f"revision {bad} was taken back (AnalysisFailed): " in stalled["message"]
    assert (ready.condition("ModelLoaded")["status"], ready.condition("Reconciling")) == ("False", {})
    assert "candidate" not in ready.status
    assert ready.names(DEPLOYMENT) == [old]
    assert len(ready.told("RolloutAborted")) == len(ready.told("RolledBack")) == 1


@pytest.mark.parametrize(("of_stable", "phase"), [(0.0, "RolledBack"), (1.0, "Draining")])
async def test_a_revision_that_rejects_every_request_goes_back_unless_stable_does_too(
    ready: Releases, of_stable: float, phase: str
) -> None:
    """4xx are the caller's doing; of requests that stable takes they are not."""
    ready.models[GOOD], ready.models[NEW] = Behaviour(rejected=of_stable), Behaviour(rejected=1)
    ready.user_applies(released(NEW))
    took = await ready.live(240, until=has_phase(ready, "RolledBack", "Draining"))
    assert ready.phase == phase
    if phase == "RolledBack":
        assert took < 30
        assert "rejected: " in ready.release["abort"]["message"]
        assert max(table.get(ready.release["candidate"], 0) for table in ready.witness.tables) == 500


@pytest.mark.parametrize(("stickiness", "phase"), [({"header": "x-user"}, "Draining"), (None, "RolledBack")])
async def test_a_user_who_always_fails_takes_a_release_back_only_where_nobody_is_kept(
    world: Releases, stickiness: dict[str, str] | None, phase: str
) -> None:
    """One in fifty, who is with the candidate from its first request on."""

    def wanted(uri: str) -> Manifest:
        service = released(uri)
        service["spec"]["traffic"] = {"stickiness": stickiness} if stickiness else {}
        return service

    world.models[GOOD] = Behaviour(errors=0.02)
    world.user_applies(wanted(GOOD))
    await world.live(240)
    world.user_applies(wanted(NEW))
    for weight in (500, 2500, 5000):
        world.models[NEW] = Behaviour(errors=0.02 * 10_000 / weight)
        await world.live(120, until=has_any(has_phase(world, "RolledBack"), at_share(world, weight)))
        world.models[GOOD] = Behaviour()
    await world.live(120, until=has_phase(world, "RolledBack", "Draining"))
    assert world.phase == phase


async def test_a_revision_that_went_back_is_not_tried_again_by_itself(ready: Releases) -> None:
    """Scenario 21."""
    ready.user_applies(released(BAD))
    await ready.live(180, until=has_phase(ready, "RolledBack"))
    await ready.live(60)
    writes = len(ready.kube.writes)
    ready.user_applies(released(BAD))
    ready.restart()
    await ready.live(120)
    assert (ready.phase, len(ready.kube.writes)) == ("RolledBack", 0), f"after {writes}"
    ready.models[BAD] = Behaviour()
    ready.command("retry 1")
    await ready.live(150, until=has_phase(ready, "Draining"))
    assert ready.told("CommandObeyed") == ["CommandObeyed: retry 1 by kubectl-annotate"]
    assert ready.revision(BAD) == ready.status["stable"]


async def test_another_spec_takes_the_candidate_s_place_and_the_pipeline_is_green_again(ready: Releases) -> None:
    """Scenario 4: the first has no share when its pods go, and before the second one has any."""
    ready.user_applies(released(NEW))
    await ready.live(60, until=at_share(ready, 2500))
    first = ready.status["candidate"]
    ready.user_applies(released(NEWER))
    await ready.live(60, until=at_share(ready, 500))
    second = ready.status["candidate"]
    assert second != first
    assert not any({first, second} <= table.keys() for table in ready.witness.tables)
    assert ready.condition("RolloutHealthy")["status"] == "Unknown", "neither failed nor done"
    assert len(ready.told("RolloutSuperseded")) == 1
    await ready.live(120, until=lambda: ready.status["stable"] == second)
    await ready.live(30)
    assert ready.names(DEPLOYMENT) == [second]


async def test_back_to_stable_s_spec_needs_no_steps(ready: Releases) -> None:
    """Scenario 5."""
    old = ready.status["stable"]
    ready.user_applies(released(NEW))
    await ready.live(60, until=at_share(ready, 2500))
    ready.user_applies(released())
    await ready.live(20, until=has_phase(ready, "Healthy"))
    assert ready.weights == {old: 10_000}
    assert ready.condition("RolloutHealthy")["reason"] == "Healthy"


async def test_a_gate_waits_for_promote_which_passes_one_step(ready: Releases) -> None:
    """Scenario 2: three times its progress deadline, and still healthy."""
    steps: list[Manifest] = [{"weight": "5%", "gate": True}, {"weight": "25%", "gate": True}]
    ready.user_applies(released(NEW, steps=steps, progressDeadline="1m"))
    await ready.live(30, until=lambda: ready.release.get("pause", {}).get("reason") == "StepGate")
    await ready.live(180)
    healthy = ready.condition("RolloutHealthy")
    assert (healthy["status"], healthy["reason"]) == ("Unknown", "Paused")
    assert ready.status["release"] == "5% Paused: StepGate"
    assert ready.condition("Stalled") == {}
    ready.command("promote 1")
    await ready.live(30)
    assert (ready.release["weight"], ready.release["pause"]["reason"]) == (2500, "StepGate")
    assert ready.told("CommandObeyed") == ["CommandObeyed: promote 1 by kubectl-annotate"]


async def test_an_abort_by_command_takes_all_traffic_back_at_once(ready: Releases) -> None:
    """Scenario 6; a second abort, or one when nothing is released, changes nothing."""
    old = ready.status["stable"]
    ready.user_applies(released(NEW))
    await ready.live(60, until=at_share(ready, 2500))
    ready.command("abort 1")
    await ready.live(1)
    assert ready.weights == {old: 10_000}
    ready.command("abort 2")
    await ready.live(60, until=has_phase(ready, "RolledBack"))
    assert len(ready.told("RolloutAborted")) == 1
    ready.user_applies(released())
    await ready.live(10, until=has_phase(ready, "Healthy"))
    ready.command("abort 3")
    await ready.live(5)
    assert ready.phase == "Healthy"
    assert "no release is under way" in ready.told("CommandRefused")[-1]
    assert ready.names(DEPLOYMENT) == [old]


async def test_a_rollback_leads_back_to_pods_that_are_still_there(ready: Releases) -> None:
    """Scenario 20: within seconds, and no pod is started for it."""
    old = ready.status["stable"]
    ready.user_applies(released(NEW, scaleDownDelay="5m"))
    await ready.live(120, until=has_phase(ready, "Draining"))
    pods, new = ready.get(DEPLOYMENT, old)["metadata"]["uid"], ready.status["stable"]
    await ready.live(60)
    assert ready.condition("Reconciling") == {}, "a revision that only keeps its pods is nothing to wait for"
    ready.command("rollback 7")
    took = await ready.live(5, until=lambda: ready.weights == {old: 10_000})
    assert took <= 2
    await ready.live(60, until=has_phase(ready, "RolledBack"))
    assert (ready.status["stable"], ready.get(DEPLOYMENT, old)["metadata"]["uid"]) == (old, pods)
    assert new not in ready.weights


async def test_blue_and_green_shows_the_candidate_at_an_address_of_its_own_first(ready: Releases) -> None:
    old = ready.status["stable"]
    ready.user_applies(released(NEW, strategy="BlueGreen", preview={"gate": True}))
    await ready.live(30, until=lambda: ready.status["routing"].get("preview", "") != "")
    new = ready.status["routing"]["preview"]
    assert ready.weights == {new: 0, old: 10_000}
    assert ready.names(SERVICE) == sorted(["hello", "hello-preview", new, old])
    await ready.live(60)
    assert ready.weights[old] == 10_000, "it is looked at as long as anybody likes"
    ready.command("promote 1")
    await ready.live(20, until=lambda: ready.status["stable"] == new)
    await ready.live(30)
    assert ready.names(SERVICE) == sorted(["hello", new])
    assert [table.get(new, 0) for table in ready.witness.tables] == [0, 0, 10_000, 10_000]


async def test_the_preview_s_name_is_another_service_s_if_there_is_one(ready: Releases) -> None:
    namesake = released()
    namesake["metadata"] = {"name": "hello-preview", "namespace": "team"}
    ready.user_applies(released(NEW, strategy="BlueGreen", preview={"gate": True}))
    await ready.live(30, until=lambda: "hello-preview" in ready.names(SERVICE))
    ready.store.create(INFERENCE_SERVICE, namesake, manager="kubectl")
    await ready.live(10)
    assert "hello-preview" not in ready.names(SERVICE)
    assert (
        "there is no preview, for hello-preview is another InferenceService"
        in ready.condition("RoutesReady")["message"]
    )


async def test_a_candidate_can_first_get_copies_whose_answers_nobody_sees(ready: Releases) -> None:
    """Scenario 22: judged by the copies alone."""
    old = ready.status["stable"]
    ready.user_applies(released(NEW, steps=[{"mirror": "20%", "hold": "20s"}, *STEPS]))
    await ready.live(30, until=has_phase(ready, "Shadowing"))
    new = ready.status["candidate"]
    assert ready.status["routing"]["mirror"] == {"revision": new, "share": 2000}
    await ready.live(15)
    assert (ready.served[new], ready.weights[old]) == (0, 10_000)
    await ready.live(30, until=at_share(ready, 500))
    assert "mirror" not in ready.status["routing"]
    assert ready.release["verdicts"][0]["verdict"] != "Fail"


async def test_a_candidate_that_fails_on_copies_never_gets_a_request(ready: Releases) -> None:
    ready.user_applies(released(BAD, steps=[{"mirror": "20%", "hold": "60s"}, *STEPS]))
    await ready.live(120, until=has_phase(ready, "RollingBack", "RolledBack"))
    assert ready.served[ready.release["candidate"]] == 0
    assert ready.release["abort"]["reason"] == "AnalysisFailed"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(Behaviour(failure=Failure(exit_code=66, message="no such model")), "ModelNotFound", id="missing"),
        pytest.param(Behaviour(failure=Failure(reason="OOMKilled", exit_code=137)), "OutOfMemory", id="memory"),
        pytest.param(Behaviour(failure=Failure(restarts=4, message="boom")), "Crashed", id="crash loop"),
        pytest.param(Behaviour(starts_in_s=1e9), "ProgressDeadlineExceeded", id="never ready"),
        pytest.param(Behaviour(bucket=16), "AnalysisFailed", id="slow"),
    ],
)
async def test_whatever_is_wrong_with_a_candidate_it_goes_back_for_that_reason(
    ready: Releases, behaviour: Behaviour, reason: str
) -> None:
    """Scenario 7 and its like: stable's pods are not touched."""
    old = ready.status["stable"]
    pods = ready.get(DEPLOYMENT, old)["metadata"]["uid"]
    ready.models[NEW] = behaviour
    ready.user_applies(released(NEW, progressDeadline="40s"))
    await ready.live(200, until=has_phase(ready, "RolledBack"))
    assert ready.release["abort"]["reason"] == reason, ready.release["abort"]["message"]
    await ready.live(60)
    assert ready.names(DEPLOYMENT) == [old]
    assert (ready.get(DEPLOYMENT, old)["metadata"]["uid"], ready.condition("Ready")["status"]) == (pods, "True")


async def test_a_spec_that_cannot_be_honoured_gives_a_preview_no_requests(ready: Releases) -> None:
    shown: dict[str, Any] = {"strategy": "BlueGreen", "preview": {"gate": True}}
    ready.user_applies(released(NEW, **shown))
    await ready.live(60, until=lambda: ready.release.get("pause", {}).get("reason") == "StepGate")
    ready.user_applies(released(NEW, steps=[]))
    await ready.live(30)
    assert ready.condition("Accepted")["status"] == "False"
    assert ready.share(ready.revision(NEW)) == ready.release["weight"] == 0
    ready.user_applies(released(NEW, **shown))
    await ready.live(30)
    assert (ready.release["pause"]["reason"], ready.release["weight"]) == ("StepGate", 0)


async def test_without_requests_a_release_waits_and_is_neither_failed_nor_promoted(ready: Releases) -> None:
    """Scenario 10."""
    ready.rate = 0
    ready.user_applies(released(NEW))
    await ready.live(900)
    assert ready.release["pause"]["reason"] == "LowTraffic"
    assert (ready.release["weight"], ready.condition("RolloutHealthy")["status"]) == (500, "Unknown")


async def test_a_release_without_news_writes_nothing(ready: Releases) -> None:
    """Rule 7: no requests, no write, though it is judged every 5 s."""
    ready.rate = 0
    ready.user_applies(released(NEW))
    await ready.live(900)
    writes = len(ready.kube.writes)
    await ready.live(300)
    assert len(ready.kube.writes) == writes


async def test_a_release_writes_at_most_once_in_five_seconds_while_nothing_happens(ready: Releases) -> None:
    """Rule 7, and what a restart reads is small."""
    ready.user_applies(released(NEW, steps=[{"weight": "5%", "gate": True}]))
    await ready.live(60, until=at_share(ready, 500))
    writes, sizes = len(ready.kube.writes), []
    for _ in range(120):
        await ready.live(1)
        sizes.append(len(json.dumps(ready.release)))
    assert len(ready.kube.writes) - writes <= 120 / 5 + 2
    assert max(sizes) <= 4096


async def test_a_calm_service_is_not_even_looked_at(ready: Releases) -> None:
    before = ready.reconciles
    await ready.live(300)
    assert ready.reconciles == before


async def test_the_same_spec_applied_every_five_seconds_changes_nothing(ready: Releases) -> None:
    """GitOps: another field manager applies by force through a whole canary."""
    ready.user_applies(released(NEW))
    applied = released(NEW)

    def again() -> None:
        if ready.store.now.second % 5 == 0:
            ready.store.apply(INFERENCE_SERVICE, applied, manager="argocd")

    ready.every_second.append(again)
    await ready.live(5)
    await ready.live(150, until=has_phase(ready, "Healthy"))
    shares = [table.get(ready.status["stable"], 0) for table in ready.witness.tables]
    assert shares == [0, 500, 2500, 5000, 10_000, 10_000]
    assert len(ready.told("RolloutStarted")) == 1
    writes = len(ready.kube.writes)
    await ready.live(60)
    assert len(ready.kube.writes) == writes


@pytest.mark.parametrize("every_s", [1, 7, 13])
async def test_an_operator_that_restarts_over_and_over_comes_to_the_same_end(ready: Releases, every_s: int) -> None:
    """Scenario 3: holds are as long, what was known is known."""
    ready.every_second.append(lambda: ready.restart() if ready.store.now.second % every_s == 0 else None)
    old = ready.status["stable"]
    ready.user_applies(released(NEW))
    if every_s == 1:
        await ready.live(100)
        assert ready.release["pause"]["reason"] in ("LowTraffic", "MetricsUnavailable"), "nothing is ever measured"
        ready.every_second.clear()
        await ready.live(120, until=lambda: ready.status["stable"] != old)
    else:
        took = await ready.live(160, until=lambda: ready.status["stable"] != old)
        assert took >= 60
    assert len(ready.told("RevisionPromoted")) == 2
    assert ready.told("RolloutPaused") == [] or every_s != 13


async def test_a_refused_spec_leaves_the_release_under_way_and_its_judgement(ready: Releases) -> None:
    ready.user_applies(released(BAD, steps=[{"weight": "5%", "hold": "1h"}]))
    await ready.live(30, until=at_share(ready, 500))
    ready.user_applies(released(NEW, steps=[]))
    await ready.live(60, until=has_phase(ready, "RollingBack", "RolledBack"))
    accepted = ready.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidRollout")
    assert ready.release["abort"]["reason"] == "AnalysisFailed"
    await ready.live(60, until=has_phase(ready, "RolledBack"))
    ready.user_applies(released(BAD))
    await ready.live(30)
    assert ready.phase == "RolledBack", "still not tried again by itself"


async def test_replicas_may_change_in_the_middle_of_a_release(ready: Releases) -> None:
    """Scenario 15: no other revision, no other step."""
    ready.user_applies(released(NEW))
    await ready.live(60, until=at_share(ready, 2500))
    new = ready.status["candidate"]
    ready.replicas = 4
    ready.user_applies(released(NEW, replicas=4))
    await ready.live(150, until=has_phase(ready, "Healthy"))
    assert ready.get(DEPLOYMENT, new)["spec"]["replicas"] == 4
    assert len(ready.told("RolloutStarted")) == 1
    assert len(ready.names(CONTROLLER_REVISION)) == 2


async def test_a_gateway_that_does_not_follow_holds_the_release_and_is_named(ready: Releases) -> None:
    """Scenario 25."""
    ready.gateways.pods["gw-b"].is_silent = True
    ready.user_applies(released(NEW))
    await ready.live(120)
    assert ready.release["pause"]["reason"] in ("GatewayNotVerified", "MetricsUnavailable")
    assert "gw-b" in json.dumps(ready.release) + ready.condition("RoutesReady")["message"]
    ready.gateways.pods["gw-b"].is_silent = False
    await ready.live(150, until=has_phase(ready, "Healthy"))
    assert ready.uri(ready.status["stable"]) == NEW


async def test_a_variant_keeps_its_share_while_stable_s_is_handed_over(ready: Releases) -> None:
    """Scenario 19: three arms."""
    variant = {
        "name": "b",
        "weight": "20%",
        "model": {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://b"},
    }

    def wanted(uri: str) -> Manifest:
        spec = released(uri)
        spec["spec"]["traffic"] = {"variants": [variant]}
        return spec

    ready.user_applies(wanted(GOOD))
    await ready.live(20)
    ready.user_applies(wanted(NEW))
    await ready.live(60, until=at_share(ready, 2500))
    assert [target["weight"] for target in ready.status["routing"]["targets"]] == [2000, 6000, 2000]
    shares: dict[str, Any] = {known["role"]: known["weight"] for known in ready.status["revisions"]}
    assert shares == {"Candidate": 2000, "Stable": 6000, "Variant": 2000}
    await ready.live(120, until=has_phase(ready, "Healthy"))
    assert sorted(ready.weights.values()) == [2000, 8000]
    assert KEY == ("team", "hello")


async def test_a_metric_of_prometheus_that_is_unknown_holds_a_release_and_one_that_is_bad_takes_it_back(
    ready: Releases,
) -> None:
    """Scenario 9."""
    from slipway.decide.release import Reading  # noqa: PLC0415

    metrics = [{"name": "drift", "promql": 'drift{revision="$candidate"}', "max": 0.2, "for": "10s"}]
    ready.metrics.readings["drift"] = Reading(None, "connection refused", failed=True)
    ready.user_applies(released(NEW, analysis={"metrics": metrics}))
    await ready.live(90)
    assert (ready.release["pause"]["reason"], ready.release["weight"]) == ("MetricsUnavailable", 500)
    assert ready.metrics.asked[-1] == (ready.status["stable"], ready.status["candidate"])
    ready.metrics.readings["drift"] = Reading(0.1, age_s=1)
    await ready.live(40, until=at_share(ready, 2500))
    ready.metrics.readings["drift"] = Reading(0.9, age_s=1)
    await ready.live(60, until=has_phase(ready, "RollingBack", "RolledBack"))
    assert "drift" in ready.release["abort"]["message"]


async def test_what_a_restart_reads_is_small_however_much_is_judged(ready: Releases) -> None:
    """Every limit there is, eight metrics with long names, millions of requests."""
    from slipway.decide.release import Reading  # noqa: PLC0415

    names = [f"{'a-metric-with-quite-a-long-name-' * 2}{number}"[-63:] for number in range(8)]
    names = [name.strip("-") for name in names]
    metrics = [{"name": name, "promql": "drift", "max": 0.123456789, "for": "10s"} for name in names]
    both = {"maxRatioToStable": 1.3, "max": "123ms"}
    analysis = {
        "errorRate": {"maxRatioToStable": 2, "max": "5%"},
        "rejected": {"maxRatioToStable": 2, "max": "5%"},
        "latency": dict.fromkeys(("p50", "p90", "p95", "p99"), both),
        "metrics": metrics,
    }
    ready.rate = 1_000_000
    ready.metrics.readings = {name: Reading(0.1, age_s=1) for name in names}
    ready.models[NEW], ready.models[GOOD] = Behaviour(errors=0.0001, bucket=7), Behaviour(errors=0.0001)
    ready.user_applies(released(NEW, analysis=analysis, steps=[{"weight": "50%", "hold": "5m"}]))
    sizes = []
    for _ in range(90):
        await ready.live(1)
        sizes.append(len(json.dumps(ready.release)))
    assert max(sizes) <= 4096
    assert ready.release["weight"] == 5000
