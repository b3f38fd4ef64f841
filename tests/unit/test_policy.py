"""What of `spec.rollout` is refused, with which sentence."""

from typing import Any

import pytest

from slipway.api.rollout import Rollout
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide import policy, traffic
from tests.control.world import service


def rollout(**fields: Any) -> Rollout:
    return Rollout.model_validate(fields)


def metric(name: str = "drift", **fields: Any) -> dict[str, Any]:
    return {"metrics": [{"name": name, "promql": "drift", **fields}]}


GOOD = {
    "defaults": {},
    "none": {"strategy": "None", "steps": [], "scaleDownDelay": "5m"},
    "no steps of a BlueGreen": {"strategy": "BlueGreen", "steps": []},
    "blue and green": {"strategy": "BlueGreen", "preview": {"hold": "1m", "gate": True}},
    "copies first": {"steps": [{"mirror": "10%", "hold": "2m"}, {"weight": "5%"}, {"weight": "100%"}]},
    "a gate and then a hold at the same weight": {"steps": [{"weight": 5, "gate": True}, {"weight": 5, "hold": "1m"}]},
    "a metric with one number": {"analysis": metric(min=1, max=1)},
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": []}, "a Canary needs a step at least; strategy: None replaces a revision at once"),
    "nothing to judge": ({"steps": [{"weight": "0%"}]}, "steps[0].weight is 0%, so there would be nothing to judge"),
    "nothing copied": ({"steps": [{"mirror": 0}]}, "steps[0].mirror is 0%, so there would be nothing to judge"),
    "down": (
        {"steps": [{"weight": "25%"}, {"weight": "5%"}]},
        "steps[1].weight is 5%, less than the 25% of the step before",
    ),
    "copies too late": (
        {"steps": [{"weight": "5%"}, {"mirror": "5%"}]},
        "steps[1].mirror: copies come before the first weight; put this step first",
    ),
    "no share": ({"steps": [{"weight": "lots"}]}, "must be a share such as 5% or 33.33%, not 'lots'"),
    "no duration": ({"steps": [{"weight": 5, "hold": "soon"}]}, "must be a duration such as 500ms, 10s or 1m30s"),
    "no time at all": ({"progressDeadline": "0s"}, "progressDeadline must be longer than 0s"),
    "no latency": (
        {"analysis": {"latency": {"p99": {"max": "0s"}}}},
        "analysis.latency.p99.max must be longer than 0s",
    ),
    "a taken name": ({"analysis": metric("p95", max=1)}, "analysis.metrics: p95 is the name of something that is"),
    "no number fits": (
        {"analysis": metric(min=2, max=1)},
        "analysis.metrics: drift can never pass: its min is 2 and its max 1",
    ),
    "no PromQL": ({"analysis": metric(max=1, promql="sum(")}, "analysis.metrics: promql of drift: "),
    "somebody else's numbers": (
        {"analysis": metric(max=1, promql='errors{namespace="other"}')},
        "analysis.metrics: promql of drift: ",
    ),
    "steps of a Canary for a BlueGreen": (
        {"strategy": "BlueGreen", "steps": [{"weight": "5%"}]},
        "steps has no effect with strategy: BlueGreen; take them out, or choose strategy: Canary",
    ),
    "requests that a preview does not wait for": (
        {"strategy": "BlueGreen", "analysis": {"onNoData": "Abort"}},
        "analysis.onNoData has no effect with strategy: BlueGreen; a preview waits for no requests",
    ),
    "a preview of a Canary": (
        {"preview": {"gate": True}},
        "preview has no effect with strategy: Canary; take it out, or choose strategy: BlueGreen",
    ),
    "judging what goes at once": (
        {"strategy": "None", "analysis": {"errorRate": {"max": "1%"}}},
        "analysis has no effect with strategy: None; nothing is judged then",
    ),
    "a deadline that nobody keeps": (
        {"strategy": "None", "progressDeadline": "5m"},
        "progressDeadline has no effect with strategy: None",
    ),
    "borrowing without steps": (
        {"strategy": "None", "capacity": "Borrow"},
        "capacity has no effect with strategy: None",
    ),
    "fractions of stable's rejections": (
        {"analysis": {"rejected": {"maxRatioToStable": 0.5}}},
        "analysis.rejected.maxRatioToStable must be 0, which compares nothing, or at least 1",
    ),
    "a taken name of requests": ({"analysis": metric("rejected", max=1)}, "analysis.metrics: rejected is the name of"),
    "a name twice": ({"analysis": {"metrics": metric(max=1)["metrics"] * 2}}, "analysis.metrics: drift is there twice"),
}


@pytest.mark.parametrize("fields", GOOD.values(), ids=GOOD)
def test_what_can_be_honoured_is_not_refused(fields: dict[str, Any]) -> None:
    assert policy.flaw(rollout(**fields), "team", copies=False) == ""


@pytest.mark.parametrize(("fields", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_honoured_is_refused_in_a_sentence(fields: dict[str, Any], words: str) -> None:
    assert policy.flaw(rollout(**fields), "team", copies=False).startswith(words)


@pytest.mark.parametrize("strategy", ["Canary", "BlueGreen", "None"])
def test_defaults_of_another_strategy_which_the_api_server_writes_are_not_refused(strategy: str) -> None:
    """They are in every stored object, whoever wrote it."""
    stored = rollout().model_dump(by_alias=True, exclude_none=True) | {"strategy": strategy}
    assert policy.flaw(rollout(**stored), "team", copies=False) == ""
    assert policy.flaw(rollout(strategy=strategy), "team", copies=False) == ""


def test_one_thing_at_a_time_copies_requests() -> None:
    words = policy.flaw(rollout(steps=[{"mirror": 5}, {"weight": 5}]), "team", copies=True)
    assert words.startswith("steps[0].mirror: spec.traffic.mirror copies requests already")


def test_the_refusal_names_the_field() -> None:
    spec = service()["spec"] | {"rollout": {"steps": []}}
    refusal = traffic.check(InferenceServiceSpec.model_validate(spec), "team")
    assert refusal is not None
    assert (refusal.reason, refusal.message[:26]) == ("InvalidRollout", "spec.rollout: a Canary nee")
