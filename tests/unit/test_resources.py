"""The objects made for a service: shape, safety, and what the revision hash depends on."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Manifest
from slipway.api.names import HASH_LENGTH, LABEL_METRICS, NAME_MAX
from slipway.api.v1alpha1 import Predictor, RuntimeContainer
from slipway.control import scaling
from slipway.decide import resources, storage
from slipway.decide.revision import Record, choice, digest

IMAGE = "slipway/runtime:1"


def predictor(uri: str = "sample://hello", **more: Any) -> Predictor:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri} | more.pop("model", {})
    return Predictor.model_validate({"model": model, **more})


def template(given: Predictor, image: str = IMAGE, **container: Any) -> Manifest:
    runtime = RuntimeContainer.model_validate({"image": image, **container})
    return resources.pod_template("hello", given, runtime, image, IMAGE)


@pytest.mark.parametrize("uri", ["sample://hello", "pvc://claim/a/b", "file:///opt/model"])
def test_a_local_model_needs_no_init_container(uri: str) -> None:
    assert "initContainers" not in template(predictor(uri))["spec"]


def test_a_sample_for_another_image_is_fetched() -> None:
    spec = template(predictor(), image="nvcr/triton:1")["spec"]
    assert spec["initContainers"][0]["args"] == ["sample://hello", "/mnt/models"]
    assert spec["initContainers"][0]["image"] == IMAGE
    assert {"name": "model", "emptyDir": {}} in spec["volumes"]


@pytest.mark.parametrize(
    ("uri", "path", "claim"),
    [
        ("pvc://claim", "/mnt/models", "claim"),
        ("pvc://claim/a/b/", "/mnt/models/a/b", "claim"),
        ("file:///opt/m", "/opt/m", None),
        ("sample://hello", "sample://hello", None),
    ],
)
def test_where_a_model_is(uri: str, path: str, claim: str | None) -> None:
    assert storage.locate(uri, runtime_image=IMAGE, fetcher_image=IMAGE) == storage.Location(path, claim)


def test_dev_shm_is_as_large_as_the_runtime_says() -> None:
    spec = template(predictor(), sharedMemory="1Gi")["spec"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in spec["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]  # noqa: S108
    assert "shm" not in [volume["name"] for volume in template(predictor())["spec"]["volumes"]]


@pytest.mark.parametrize(("given", "label"), [({}, None), ({"metricsPort": 8002}, "metrics")])
def test_a_port_for_metrics_alone_is_told_by_a_label(given: Manifest, label: str | None) -> None:
    made = template(predictor(), **given)
    owner = {"metadata": {"name": "hello", "namespace": "ns", "uid": "u"}}
    pods = resources.deployment(owner, Record("hello-1", 1, "1", "r", "sample://hello", made), 1)["spec"]["template"]
    assert pods["metadata"]["labels"].get(LABEL_METRICS) == label
    names = [port["name"] for port in pods["spec"]["containers"][0]["ports"]]
    assert names == ["http", "grpc", *([label] if label else [])]


@pytest.mark.parametrize(("given", "port"), [({"httpPort": 9000}, 9000), ({"metricsPort": 8002}, 8002)])
def test_pods_are_asked_for_their_figures_where_their_runtime_tells_them(given: Manifest, port: int) -> None:
    assert scaling.figures_port({"spec": {"template": template(predictor(), **given)}}) == port
    assert scaling.figures_port({"spec": {}}) == 0


def _containers(spec: Manifest) -> list[Manifest]:
    return [*spec["containers"], *spec.get("initContainers", [])]


@pytest.mark.parametrize("image", [IMAGE, "other:1"])
def test_every_pod_is_restricted(image: str) -> None:
    spec = template(predictor(), image)["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["automountServiceAccountToken"] is False
    assert all(set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])
    for container in _containers(spec):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_users_environment_wins_over_the_runtimes_but_not_over_slipways() -> None:
    own = {
        "env": [{"name": "A", "value": "user"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    }
    spec = template(predictor(model=own), env=[{"name": "A", "value": "runtime"}, {"name": "C", "value": "c"}])["spec"]
    env = {variable["name"]: variable for variable in spec["containers"][0]["env"]}
    assert env["A"]["value"] == "user"
    assert env["B"] == {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    assert env["C"]["value"] == "c"
    assert env["SLIPWAY_MODEL_NAME"]["value"] == "hello"
    assert env["SLIPWAY_TIMEOUT_S"]["value"] == "60.0"


def test_resources_of_the_runtime_are_used_when_the_service_names_none() -> None:
    default = {"limits": {"memory": "2Gi"}}
    assert template(predictor(), resources=default)["spec"]["containers"][0]["resources"] == {
        "requests": {"memory": "2Gi"},
        "limits": {"memory": "2Gi"},
    }
    own = predictor(model={"resources": {"requests": {"cpu": 1}}})
    assert template(own, resources=default)["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "1"}}


def test_placement_reaches_the_pod() -> None:
    spec = template(predictor(nodeSelector={"a": "b"}, tolerations=[{"key": "gpu", "operator": "Exists"}]))["spec"]
    assert spec["nodeSelector"] == {"a": "b"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_args_follow_the_runtimes() -> None:
    spec = template(predictor(model={"args": ["--b"]}), args=["--a", "$(SLIPWAY_MODEL_NAME)"])["spec"]
    assert spec["containers"][0]["args"] == ["--a", "$(SLIPWAY_MODEL_NAME)", "--b"]


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "sample://other"},
        {"containerConcurrency": 3},
        {"timeout": "5s"},
        {"nodeSelector": {"a": "b"}},
        {"tolerations": [{"operator": "Exists"}]},
        {"model": {"args": ["x"]}},
        {"model": {"env": [{"name": "A", "value": "1"}]}},
        {"model": {"resources": {"limits": {"cpu": 1}}}},
        {"model": {"runtime": "r"}},
        {"model": {"runtimeVersion": "2"}},
        {"model": {"modelFormat": {"name": "torch-export"}}},
    ],
    ids=str,
)
def test_whatever_changes_pods_changes_the_hash(change: dict[str, Any]) -> None:
    assert digest(choice(predictor(**change))) != digest(choice(predictor()))


def test_what_changes_no_pod_and_written_out_defaults_leave_the_hash() -> None:
    plain = digest(choice(predictor()))
    assert digest(choice(predictor(runtimeUpdates="Follow"))) == plain
    assert digest(choice(predictor(timeout="60s", containerConcurrency=0, tolerations=[], model={"args": []}))) == plain


def test_the_hash_of_a_choice_is_the_same_for_ever() -> None:
    """A changed value here means that every running model restarts on upgrade."""
    assert digest(choice(predictor())) == "c7e113f76f"


@given(st.integers(1, NAME_MAX))
def test_names_of_children_are_labels(length: int) -> None:
    name = "n" * length
    record = Record(f"{name}-{'f' * HASH_LENGTH}", 1, "c", "r", "sample://x", template(predictor()))
    owner = {"metadata": {"name": name, "namespace": "ns", "uid": "u"}}
    children = [
        resources.record(owner, record),
        resources.deployment(owner, record, 1),
        resources.revision_service(owner, record.name),
        resources.address(owner, record.name),
        resources.preview_address(owner, record.name),
        resources.budget(owner),
    ]
    assert all(len(child["metadata"]["name"]) <= 63 for child in children)
    assert all(len(value) <= 63 for child in children for value in child["metadata"]["labels"].values())


def test_the_preview_has_an_address_of_its_own_at_the_same_gateway() -> None:
    owner = {"metadata": {"name": "a", "namespace": "ns", "uid": "u"}}
    own, preview = (make(owner, "gateway.x") for make in (resources.address, resources.preview_address))
    assert preview["metadata"]["name"] == "a-preview"
    assert preview["metadata"]["labels"] == own["metadata"]["labels"]
    assert preview["spec"] == own["spec"]


def test_what_a_pod_holds_is_known_when_its_runtime_says_how_long_its_queue_is() -> None:
    told = template(predictor(containerConcurrency=8), maxQueue=1000)
    env = {var["name"]: var.get("value") for var in told["spec"]["containers"][0]["env"]}
    assert env["SLIPWAY_MAX_QUEUE"] == "1000"
    assert resources.slots(told) == 1008
    assert resources.slots(template(predictor(containerConcurrency=8))) == 0


def test_when_a_pod_closes_quiet_connections_is_known_when_its_runtime_says_so() -> None:
    told = template(predictor(), idleTimeout="1m15s")
    env = {var["name"]: var.get("value") for var in told["spec"]["containers"][0]["env"]}
    assert env["SLIPWAY_IDLE_TIMEOUT_S"] == "75.0"
    assert resources.idle_timeout_ms(told) == 75_000
    assert resources.idle_timeout_ms(template(predictor())) == 0


@pytest.mark.parametrize(("said", "ms"), [("2.5", 2500), ("99999", 3_600_000), ("soon", 0), ("nan", 0), ("-1", 0)])
def test_what_the_environment_says_of_quiet_connections_counts_as_far_as_it_is_a_number(said: str, ms: int) -> None:
    told = template(predictor(), idleTimeout="75s", env=[{"name": "SLIPWAY_IDLE_TIMEOUT_S", "value": said}])
    assert resources.idle_timeout_ms(told) == ms


def test_a_variant_of_the_same_model_is_another_revision() -> None:
    assert digest(choice(predictor(), "b")) != digest(choice(predictor()))
    assert digest(choice(predictor(), "b")) != digest(choice(predictor(), "c"))
