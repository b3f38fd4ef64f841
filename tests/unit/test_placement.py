"""Where pods that ask for a device run, by the administrator's rules."""

from typing import Any

import pytest

from slipway.api.conditions import Reason
from slipway.api.model import Resources
from slipway.api.v1alpha1 import Predictor
from slipway.decide import placement
from slipway.decide.types import Refusal

RULES = placement.parse(
    """[
    {"resource": "nvidia.com/mig-1g.10gb", "nodeSelector": {"pool": "mig"}},
    {"resource": "nvidia.com/*", "nodeSelector": {"pool": "gpu"},
     "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]},
    {"resource": "rdma/*", "nodeSelector": {"net": "fast"}},
    {"resource": "cpu", "nodeSelector": {"pool": "plain"}}
    ]"""
)
NOTHING = Resources()


def predictor(limits: dict[str, Any] | None = None, **more: Any) -> Predictor:
    model = {"modelFormat": {"name": "onnx"}, "storageUri": "sample://x", "resources": {"limits": limits or {}}}
    return Predictor.model_validate({"model": model, **more})


def placed(limits: dict[str, Any] | None = None, default: Resources = NOTHING, **more: Any) -> Predictor:
    found = placement.place(predictor(limits, **more), default, RULES)
    assert isinstance(found, Predictor)
    return found


@pytest.mark.parametrize(
    ("limits", "selector"),
    [
        pytest.param({"nvidia.com/gpu": 1}, {"pool": "gpu"}, id="a whole GPU"),
        pytest.param({"nvidia.com/gpu.shared": 2}, {"pool": "gpu"}, id="shares of one, by their own name"),
        pytest.param({"nvidia.com/mig-1g.10gb": 1}, {"pool": "mig"}, id="a part of one: the first rule that fits"),
        pytest.param({"nvidia.com/mig-2g.20gb": 1}, {"pool": "gpu"}, id="another part"),
        pytest.param({"nvidia.com/gpu": 8, "rdma/hca": 1}, {"pool": "gpu", "net": "fast"}, id="two devices"),
        pytest.param({"amd.com/gpu": 1}, {}, id="a device without a rule"),
        pytest.param({"memory": "1Gi"}, {"pool": "plain"}, id="no device"),
        pytest.param({"nvidia.com/gpu": 0}, {"pool": "plain"}, id="none of a device"),
    ],
)
def test_the_first_rule_for_each_device_counts(limits: dict[str, Any], selector: dict[str, str]) -> None:
    assert placed(limits).node_selector == selector


def test_a_service_adds_to_the_rule() -> None:
    own = [{"key": "team", "value": "a"}, {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    found = placed({"nvidia.com/gpu": 1}, nodeSelector={"zone": "z", "pool": "gpu"}, tolerations=own)
    assert found.node_selector == {"zone": "z", "pool": "gpu"}
    assert [one.key for one in found.tolerations] == ["team", "nvidia.com/gpu"]


def test_a_service_cannot_leave_the_nodes_of_the_rule() -> None:
    found = placement.place(predictor({"nvidia.com/gpu": 1}, nodeSelector={"pool": "plain"}), NOTHING, RULES)
    assert found == Refusal(
        Reason.PLACEMENT_REFUSED,
        "spec.predictor.nodeSelector: pods that ask for nvidia.com/gpu run on nodes with pool=gpu, as the "
        "administrator says, not plain; leave pool out",
    )


def test_devices_on_nodes_that_exclude_each_other_are_refused() -> None:
    found = placement.place(predictor({"nvidia.com/gpu": 1, "nvidia.com/mig-1g.10gb": 1}), NOTHING, RULES)
    assert isinstance(found, Refusal)
    assert "nvidia.com/mig-1g.10gb run on nodes with pool=mig" in found.message


def test_a_service_that_names_no_resources_has_those_of_its_runtime() -> None:
    assert placed(None, Resources(limits={"nvidia.com/gpu": 1})).node_selector == {"pool": "gpu"}
    assert placed({"cpu": 1}, Resources(limits={"nvidia.com/gpu": 1})).node_selector == {"pool": "plain"}


def test_without_rules_nothing_changes() -> None:
    asked = predictor({"nvidia.com/gpu": 1}, nodeSelector={"a": "b"})
    assert placement.place(asked, NOTHING, placement.parse("")) == asked
