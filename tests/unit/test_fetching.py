"""The init container that fetches a model: what it is told, what it sees of a Secret, and what its end means."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.storage import Storage
from slipway.api.v1alpha1 import Predictor, RuntimeContainer
from slipway.decide import fetching, resources
from slipway.decide.fetching import Fetching
from slipway.decide.pods import FETCH_REASONS, Fault, fault
from slipway.decide.revision import Record
from slipway_runtime.fetch import nodecache, settings
from slipway_runtime.fetch.__main__ import _arguments
from slipway_runtime.fetch.failures import Why

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = "slipway/runtime:1"


def pod(uri: str, fetched: Fetching | None = None, **storage: Any) -> Manifest:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri} | ({"storage": storage} if storage else {})
    predictor = Predictor.model_validate({"model": model})
    container = RuntimeContainer.model_validate({"image": IMAGE})
    template = resources.pod_template("hello", predictor, container, IMAGE, IMAGE, fetched=fetched or Fetching())
    spec: Manifest = template["spec"]
    return spec


def told(spec: Manifest) -> dict[str, Any]:
    env = {variable["name"]: variable for variable in spec["initContainers"][0]["env"]}
    found: dict[str, Any] = json.loads(env["SLIPWAY_FETCH"]["value"])
    return found


@pytest.mark.parametrize("scheme", ["s3", "gs", "https", "oci", "hf", "az"])
def test_what_lies_in_a_store_is_fetched_also_for_the_fetchers_own_image(scheme: str) -> None:
    spec = pod(f"{scheme}://account1/models/m:1")
    assert spec["initContainers"][0]["args"] == [f"{scheme}://account1/models/m:1", "/mnt/models"]
    assert spec["initContainers"][0]["image"] == IMAGE
    assert {"name": "model", "mountPath": "/mnt/models", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    assert {"name": "SLIPWAY_MODEL_PATH", "value": "/mnt/models"} in spec["containers"][0]["env"]


def test_only_the_fetcher_sees_keys_of_the_secret_and_of_no_other_scheme() -> None:
    spec = pod("s3://models/m", secretName="keys")
    refs = [one["valueFrom"]["secretKeyRef"] for one in spec["initContainers"][0]["env"] if "valueFrom" in one]
    assert {ref["key"] for ref in refs} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ca.crt"}
    assert all(ref["name"] == "keys" and ref["optional"] is True for ref in refs)
    assert "keys" not in json.dumps([spec["containers"], spec["volumes"]])


def test_the_fetcher_alone_has_a_token_for_the_cache_and_for_nothing_else() -> None:
    spec = pod("s3://models/m", Fetching(cache="http://slipway-cache.slipway-system.svc:8097"))
    [volume] = [one for one in spec["volumes"] if "projected" in one]
    [source] = volume["projected"]["sources"]
    assert source["serviceAccountToken"] == {"audience": "slipway-cache", "expirationSeconds": 600, "path": "token"}
    mounts = {one["name"]: [mount["name"] for mount in one["volumeMounts"]] for one in spec["initContainers"]}
    assert volume["name"] in mounts["fetch"]
    assert all(mount["name"] != volume["name"] for mount in spec["containers"][0]["volumeMounts"])
    env = {variable["name"]: variable.get("value") for variable in spec["initContainers"][0]["env"]}
    assert env[nodecache.ADDRESS] == "http://slipway-cache.slipway-system.svc:8097"
    assert env[nodecache.TOKEN] == "/var/run/secrets/slipway-cache/token"


def test_a_model_that_is_there_already_needs_no_cache() -> None:
    spec = pod("pvc://claim/m", Fetching(cache="http://cache:8097"))
    assert not [one for one in spec["volumes"] if "projected" in one]


def test_without_a_secret_there_is_none() -> None:
    names = [variable["name"] for variable in pod("s3://models/m")["initContainers"][0]["env"]]
    assert names == ["SLIPWAY_FETCH", "SLIPWAY_FETCH_PROGRESS_PORT"]


def test_the_fetcher_tells_how_far_it_is_where_the_operator_asks() -> None:
    container = pod("s3://models/m")["initContainers"][0]
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    args = _arguments(container["args"], {name: value for name, value in told.items() if value})
    assert container["ports"] == [{"name": "progress", "containerPort": args.progress_port, "protocol": "TCP"}]


@pytest.mark.parametrize("uri", ["az://account1/models/m", "s3://models/m", "file:///m"])
def test_what_a_cloud_gives_a_service_account_is_the_fetchers_alone(uri: str) -> None:
    """By what the webhooks of EKS and Azure go by."""
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri}
    predictor = Predictor.model_validate({"model": model, "serviceAccountName": "reader"})
    container = RuntimeContainer.model_validate({"image": IMAGE})
    template = resources.pod_template("hello", predictor, container, IMAGE, IMAGE)
    spec = template["spec"]
    assert (spec["serviceAccountName"], spec["serviceAccount"]) == ("reader", "reader")
    assert spec["automountServiceAccountToken"] is False
    owner = {"metadata": {"name": "hello", "namespace": "team", "uid": "u"}}
    made = resources.deployment(owner, Record("hello-1", 1, "1", "r", uri, template), 1)
    meta = made["spec"]["template"]["metadata"]
    [server] = [each["name"] for each in spec["containers"]]
    assert meta["annotations"] == {
        "eks.amazonaws.com/skip-containers": server,
        "azure.workload.identity/skip-containers": server,
    }
    assert meta["labels"].get("azure.workload.identity/use") == ("true" if uri.startswith("az:") else None)
    assert made["spec"]["selector"]["matchLabels"].items() <= meta["labels"].items()


def test_pods_without_a_service_account_of_their_own_have_no_such_marks() -> None:
    owner = {"metadata": {"name": "hello", "namespace": "team", "uid": "u"}}
    template = {"spec": pod("az://account1/models/m")}
    made = resources.deployment(owner, Record("hello-1", 1, "1", "r", "az://account1/models/m", template), 1)
    assert made["spec"]["template"]["metadata"].keys() == {"labels"}
    assert "azure.workload.identity/use" not in made["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("scheme", list(fetching.KEYS))
def test_every_key_becomes_a_variable_that_the_fetcher_reads(scheme: str) -> None:
    """By the fetcher's own class: whichever key is there alone or with its sisters, it finds something."""
    from slipway_runtime.fetch.credentials import Credentials  # noqa: PLC0415 - takes obstore along

    spec = pod(f"{scheme}://account1/models/m:1", secretName="keys")
    names = [variable["name"] for variable in spec["initContainers"][0]["env"] if "valueFrom" in variable]
    values = dict.fromkeys(names, "x")
    if "SLIPWAY_SECRET_DOCKERCONFIGJSON" in values:
        config = {"auths": {"h": {"username": "x", "password": "x"}}}
        values["SLIPWAY_SECRET_DOCKERCONFIGJSON"] = json.dumps(config)
    seen: set[str] = set()

    class Env(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            seen.add(key)
            return super().get(key, default)

    known = Credentials(Env(values))
    found = [known.s3(), known.google(), known.azure(), known.authorization(), known.registry("h", 443)]
    assert any(found)
    assert known.authorities() == ["x"]
    known = Credentials(Env({}))
    assert not any([known.s3(), known.google(), known.azure(), known.authorization(), known.registry("h", 443)])
    assert set(names) <= seen


def test_policy_limits_proxy_and_storage_are_told_as_the_fetcher_reads_them() -> None:
    given = {
        "policy": {"schemes": ["s3"], "insideHosts": ["minio:9000"], "cloudCredentials": False},
        "limits": {"maxSize": "200Gi", "maxFileSize": "50Gi", "maxFiles": 1000, "maxRatio": 50, "minSpeed": "1Mi"},
        "proxy": "http://proxy:3128",
        "caConfigMap": "bundle",
    }
    fetched = fetching.parse(json.dumps(given))
    spec = pod("s3://models/m", fetched, endpoint="http://minio:9000", sha256="a" * 64, maxSize="10Gi", unpack=False)
    read = settings.read({"SLIPWAY_FETCH": json.dumps(told(spec))})
    assert read.policy == settings.Policy(schemes=("s3",), inside_hosts=("minio:9000",))
    assert read.limits == settings.Limits(
        max_bytes=10 << 30, max_file_bytes=50 << 30, max_files=1000, max_ratio=50, min_bytes_per_second=1 << 20
    )
    assert read.storage == settings.Storage(endpoint="http://minio:9000", sha256="a" * 64, unpack=False)
    assert read.proxy == "http://proxy:3128"
    mount = {"name": "ca", "mountPath": "/etc/slipway/ca", "readOnly": True}
    assert mount in spec["initContainers"][0]["volumeMounts"]
    assert mount not in spec["containers"][0]["volumeMounts"]
    source = next(volume for volume in spec["volumes"] if volume["name"] == "ca")["configMap"]
    assert (source["name"], source["optional"], source["items"]) == (
        "bundle",
        True,
        [{"key": "ca.crt", "path": "ca.crt"}],
    )


def test_every_field_of_storage_is_one_that_the_fetcher_knows() -> None:
    everything = Storage(
        secret_name="s",  # noqa: S106 - the name of one
        sha256="a" * 64, endpoint="http://h", region="eu", path_style=False, anonymous=True,
        unpack=False, allow_patterns=["*"], max_size="1Gi",
    )  # fmt: skip
    spec = pod("s3://models/m", None, **everything.model_dump(by_alias=True))
    read = settings.read({"SLIPWAY_FETCH": json.dumps(told(spec))})
    assert read.limits.max_bytes == 1 << 30
    assert read.storage == settings.Storage("s", "a" * 64, "http://h", "eu", False, True, False, ("*",))


def test_a_service_may_ask_for_less_than_the_installation_allows_and_not_for_more() -> None:
    fetched = fetching.parse('{"limits": {"maxSize": "1Gi"}}')
    assert told(pod("s3://models/m", fetched, maxSize="2Gi"))["limits"]["maxBytes"] == 1 << 30
    assert told(pod("s3://models/m", fetched, maxSize="1Mi"))["limits"]["maxBytes"] == 1 << 20


def test_a_model_that_is_here_already_is_not_told_about_stores() -> None:
    container = fetching.container(
        "sample://hello", None, IMAGE, Fetching(policy={"schemes": ["s3"]}, ca_config_map="c")
    )
    assert "env" not in container
    assert len(container["volumeMounts"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '"x"',
        "{",
        '{"limits": {"x": 1}}',
        '{"limits": {"maxSize": "many"}}',
        '{"limits": {"maxFiles": 0}}',
        '{"limits": []}',
    ],
)
def test_settings_that_no_chart_writes_are_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        fetching.parse(text)


def test_no_settings_are_the_fetchers_own_defaults() -> None:
    assert fetching.parse("") == Fetching()
    assert settings.read({"SLIPWAY_FETCH": json.dumps(told(pod("s3://models/m")))}) == settings.Settings()


def ended(message: str, *, code: int = 1, reason: str = "Error", restarts: int = 0) -> Manifest:
    end = {"exitCode": code, "reason": reason, "message": message}
    status = {"name": "fetch", "restartCount": restarts, "state": {"terminated": end}}
    return {"metadata": {"name": "p"}, "status": {"initContainerStatuses": [status]}}


@pytest.mark.parametrize("why", list(Why))
def test_every_word_of_the_fetcher_is_a_reason_with_its_sentence(why: Why) -> None:
    found = fault(ended(json.dumps({"reason": str(why), "message": "the disk is full"}), code=75), NOW)
    assert found == Fault(Reason(why), "the disk is full", terminal=FETCH_REASONS[Reason(why)])


@pytest.mark.parametrize(
    "message",
    [
        "Traceback\n  boom",
        "[]",
        '{"reason": "Nonsense", "message": "x"}',
        '{"reason": "Ready"}',
        '{"reason": "Healthy", "message": "x"}',
        '"x"',
        "null",
    ],
)
def test_a_fetcher_that_could_not_say_why_is_quoted(message: str) -> None:
    found = fault(ended(message), NOW)
    assert found is not None
    assert found.reason is Reason.FETCH_FAILED
    assert found.message == f"{message.splitlines()[-1].strip()} (exit code 1)"


def test_a_fetcher_ended_for_memory_does_not_blame_the_models_limit() -> None:
    found = fault(ended("", code=137, reason="OOMKilled"), NOW, "2Gi")
    assert found == Fault(Reason.FETCH_FAILED, "the fetcher was ended at its own memory limit", terminal=False)
