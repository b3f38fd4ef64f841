from typing import Any

import pytest

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.model import Model
from slipway.api.v1alpha1 import RuntimeContainer
from slipway.decide.runtimes import Runtime, choose, forbidden, image, parse
from slipway.decide.types import Refusal


def runtime(name: str, kind: str = "ClusterServingRuntime", spec: Manifest | None = None, **form: Any) -> Manifest:
    formats = [{"name": "torchscript"} | form]
    return {
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"supportedModelFormats": formats, "container": {"image": "i"}, **(spec or {})},
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
        pytest.param([runtime("a", priority=9), runtime("b", "ServingRuntime")], "b", id="the namespace's own first"),
        pytest.param([runtime("a", spec={"disabled": True}), runtime("b")], "b", id="those that are not disabled"),
        pytest.param([runtime("a", version="1"), runtime("b", version="2")], "b", id="the version"),
    ],
)
def test_the_choice_is_by(manifests: list[Manifest], chosen: str, order: int) -> None:
    found = choose(model(version="2"), manifests[::order])
    assert isinstance(found, Runtime)
    assert found.name == chosen


GPU = {"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1, "memory": "1Gi"}}}


@pytest.mark.parametrize(
    ("asked", "spec", "words"),
    [
        pytest.param({}, {"disabled": True}, "is disabled", id="disabled"),
        pytest.param({"protocolVersion": "v1"}, {}, "does not speak protocol v1 (but v2)", id="another protocol"),
        pytest.param({"protocolVersion": "v1"}, {"protocolVersions": ["v1", "v2"]}, "", id="the protocol"),
        pytest.param({"protocolVersion": "v2"}, {}, "", id="the protocol that every runtime speaks"),
        pytest.param(GPU, {}, "", id="any device"),
        pytest.param(GPU, {"accelerators": ["amd.com/gpu", "nvidia.com/*"]}, "", id="a device of a family"),
        pytest.param(
            GPU, {"accelerators": ["nvidia.com/gpu"]}, "cannot use nvidia.com/mig-1g.10gb (but nvidia.com/gpu)", id="no"
        ),
        pytest.param({}, {"accelerators": ["nvidia.com/gpu"]}, "", id="no device where one can be used"),
        pytest.param(GPU, {"acceleratorRequired": True}, "", id="a device where one is needed"),
        pytest.param(
            {},
            {"acceleratorRequired": True, "accelerators": ["amd.com/gpu"]},
            "needs a device such as amd.com/gpu in resources.limits",
            id="none where one is needed",
        ),
        pytest.param(
            {},
            {
                "acceleratorRequired": True,
                "container": {"image": "i", "resources": {"limits": {"nvidia.com/gpu": 1}}},
            },
            "",
            id="the device that the runtime asks for by itself",
        ),
    ],
)
def test_a_runtime_is_suitable_or_says_why_not(asked: dict[str, Any], spec: Manifest, words: str) -> None:
    others = [runtime("z", spec=spec), runtime("y", spec={"supportedModelFormats": [{"name": "onnx"}]})]
    free, named = choose(model(**asked), others), choose(model(runtime="z", **asked), others)
    if words:
        sentence = f"no runtime is suitable for model format 'torchscript': ClusterServingRuntime/z {words}"
        assert free == Refusal(Reason.NO_SUPPORTING_RUNTIME, sentence)
        sentence = f"spec.predictor.model.runtime: ClusterServingRuntime/z {words}"
        assert named == Refusal(Reason.RUNTIME_NOT_SUITABLE, sentence)
    else:
        assert isinstance(free, Runtime)
        assert isinstance(named, Runtime)


@pytest.mark.parametrize(
    ("manifests", "why"),
    [
        ([runtime("a")], "the only one that is suitable for model format 'torchscript'"),
        (
            [runtime("a"), runtime("b", priority=5)],
            "suitable for model format 'torchscript', and before ClusterServingRuntime/a: its priority is 5, not 0",
        ),
        (
            [runtime("b"), runtime("a")],
            "suitable for model format 'torchscript', and before ClusterServingRuntime/b: its name comes first",
        ),
        (
            [runtime("a", priority=5), runtime("b", "ServingRuntime")],
            "suitable for model format 'torchscript', and before ClusterServingRuntime/a: it is the namespace's own",
        ),
    ],
)
def test_why_a_runtime_was_chosen_is_told(manifests: list[Manifest], why: str) -> None:
    found = choose(model(), manifests)
    assert isinstance(found, Runtime)
    assert found.why == why


def test_an_explicit_name_wins() -> None:
    found = choose(model(runtime="a"), [runtime("a"), runtime("b", priority=9)])
    assert isinstance(found, Runtime)
    assert (found.name, found.why) == ("a", "named in spec.predictor.model.runtime")


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


def limited(*allowed: str, **container: Any) -> Runtime:
    found = parse(
        runtime("a") | {"spec": SPEC | {"container": {"image": "i", "allowedArgs": list(allowed), **container}}}
    )
    assert found is not None
    return found


SPEC = {"supportedModelFormats": [{"name": "torchscript"}]}


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([], id="none"),
        pytest.param(["--max-queue", "5", "--max-queue=6"], id="those"),
        pytest.param(["--delay", "-1", "--delay", "-0.5e-3", "plain"], id="values, also below zero"),
        pytest.param(["--delay=$(DELAY)", "$$(DELAY)"], id="a variable as a value, and what is none"),
    ],
)
def test_a_service_gives_the_arguments_that_its_runtime_allows(args: list[str]) -> None:
    assert forbidden(model(args=args), limited("--max-queue", "--delay")) is None


@pytest.mark.parametrize(
    "word",
    ["--allow-code", "--allow-code=true", "--max", "-c", "--", "-", "$(WORD)", "--max-queue ", "--MAX-QUEUE", "-1x"],
)
def test_a_service_gives_no_other_argument(word: str) -> None:
    refused = forbidden(model(args=["--max-queue", "5", word]), limited("--max-queue"))
    flag = word.partition("=")[0]
    words = f"{flag} is not among those that ClusterServingRuntime/a allows: --max-queue"
    assert refused == Refusal(Reason.RUNTIME_FORBIDS, f"spec.predictor.model.args: {words}")


def test_a_runtime_that_says_nothing_takes_any_argument() -> None:
    found = parse(runtime("a"))
    assert found is not None
    assert forbidden(model(args=["--trust-remote-code", "$(X)"]), found) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "PYTHONHOME",
            "GCONV_PATH",
            "BASH_ENV",
            "ENV",
        ),
        *("NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "CXX"),
        *("TORCHINDUCTOR_CACHE_DIR", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "OMP_TOOL_LIBRARIES", "NCCL_NET_PLUGIN"),
    ],
)
def test_a_service_does_not_say_what_is_loaded(name: str) -> None:
    found = parse(runtime("a"))
    assert found is not None
    refused = forbidden(model(env=[{"name": "OK", "value": "1"}, {"name": name, "value": "/mnt/models/x"}]), found)
    words = f"spec.predictor.model.env: {name} says what is loaded and run, which is the runtime's"
    assert refused == Refusal(Reason.RUNTIME_FORBIDS, words)
    assert limited(env=[{"name": name, "value": "1"}]).spec.container.env[0].name == name


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "HF_TOKEN", "NODE_RANK", "CUDA_VISIBLE_DEVICES", "ENVIRONMENT", "PATH_TO"]
)
def test_a_service_gives_any_other_variable(name: str) -> None:
    assert forbidden(model(env=[{"name": name, "value": "1"}]), limited()) is None
