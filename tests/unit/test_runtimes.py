from typing import Any

import pytest

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.model import Model
from slipway.api.v1alpha1 import RuntimeContainer
from slipway.decide.runtimes import Runtime, choose, image
from slipway.decide.types import Refusal


def runtime(name: str, kind: str = "ClusterServingRuntime", **form: Any) -> Manifest:
    formats = [{"name": "torchscript"} | form]
    return {
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"supportedModelFormats": formats, "container": {"image": "i"}},
    }


def model(name: str = "torchscript", version: str | None = None, **more: Any) -> Model:
    form = {"name": name} | ({"version": version} if version else {})
    return Model.model_validate({"modelFormat": form, "storageUri": "sample://x", **more})


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("manifests", "chosen"),
    [
        pytest.param([runtime("a"), runtime("b", priority=5)], "b", id="the highest priority"),
        pytest.param([runtime("b"), runtime("a")], "a", id="the name at equal priority"),
        pytest.param([runtime("a"), runtime("b", "ServingRuntime")], "b", id="the namespace's own"),
        pytest.param([runtime("a", version="1"), runtime("b", version="2")], "b", id="the version"),
    ],
)
def test_the_choice_is_by(manifests: list[Manifest], chosen: str, order: int) -> None:
    found = choose(model(version="2"), manifests[::order])
    assert isinstance(found, Runtime)
    assert found.name == chosen


def test_an_explicit_name_wins() -> None:
    found = choose(model(runtime="a"), [runtime("a"), runtime("b", priority=9)])
    assert isinstance(found, Runtime)
    assert found.name == "a"


def test_a_runtime_that_does_not_parse_is_left_out() -> None:
    assert isinstance(choose(model(), [{"kind": "ServingRuntime", "metadata": {"name": "x"}, "spec": {}}]), Refusal)


def test_what_cannot_be_served_says_what_can() -> None:
    assert choose(model("onnx"), [runtime("a")]) == Refusal(
        Reason.NO_SUPPORTING_RUNTIME, "no runtime supports model format 'onnx'; formats that have one: torchscript"
    )
    refused = choose(model("onnx", runtime="a"), [runtime("a")])
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.FORMAT_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("slipway/runtime:1", None, "slipway/runtime:1"),
        ("slipway/runtime:1", "2", "slipway/runtime:2"),
        ("reg.example:5000/a/b", "2", "reg.example:5000/a/b:2"),
    ],
)
def test_runtime_version_is_the_tag_of_the_image(name: str, version: str | None, expected: str) -> None:
    assert image(RuntimeContainer.model_validate({"image": name}), version) == expected


def test_an_image_named_by_digest_takes_no_other_version() -> None:
    refused = image(RuntimeContainer.model_validate({"image": "a@sha256:0"}), "2")
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.RUNTIME_VERSION_PINNED
