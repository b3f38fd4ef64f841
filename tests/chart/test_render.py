"""What the chart installs, in both of its modes."""

import re

import pytest
import yaml

from slipway.api.manifest import Manifest
from slipway.api.v1alpha1 import ServingRuntimeSpec
from tests import golden
from tests.chart import helm

MODES = [pytest.param({}, id="cluster"), pytest.param(helm.NAMESPACED, id="namespaced")]


@pytest.mark.parametrize(("values", "name"), [({}, "chart-cluster.yaml"), (helm.NAMESPACED, "chart-namespaced.yaml")])
def test_the_release_is_the_reviewed_one(values: Manifest, name: str) -> None:
    """CRDs apart: they have a test of their own."""
    objects = [obj for obj in helm.render(values) if obj["kind"] != "CustomResourceDefinition"]
    golden.check(name, yaml.safe_dump_all(objects, sort_keys=False, width=120))


@pytest.mark.parametrize("values", MODES)
def test_lint_has_no_complaint(values: Manifest) -> None:
    result = helm.helm("lint", "--strict", str(helm.CHART), values=values)
    assert result.returncode == 0, result.stdout


def test_the_crds_are_the_generated_ones_and_survive_the_release() -> None:
    rendered = {obj["metadata"]["name"]: obj for obj in helm.of_kind(helm.render(), "CustomResourceDefinition")}
    generated = [yaml.safe_load(path.read_text()) for path in (helm.REPO / "crds").glob("*.yaml")]
    assert len(rendered) == len(generated) == 3
    for crd in generated:
        live = rendered[crd["metadata"]["name"]]
        assert live["spec"] == crd["spec"]
        assert live["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crds_can_be_left_to_somebody_else() -> None:
    assert not helm.of_kind(helm.render({"crds": {"install": False}}), "CustomResourceDefinition")


def test_no_template_reads_the_cluster() -> None:
    """`lookup` renders differently in `helm template`, Argo CD and Flux than in `helm install`."""
    for path in (helm.CHART / "templates").rglob("*.*"):
        assert not re.search(r"\blookup\b", path.read_text()), path


def test_namespaced_mode_has_nothing_cluster_wide_but_the_crds() -> None:
    kinds = {obj["kind"] for obj in helm.render(helm.NAMESPACED)}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "ClusterServingRuntime"}
    runtimes = helm.of_kind(helm.render(helm.NAMESPACED), "ServingRuntime")
    assert {obj["metadata"]["namespace"] for obj in runtimes} == {"team-a", "team-b"}


@pytest.mark.parametrize(
    ("values", "environment"),
    [
        pytest.param({}, {"SLIPWAY_WATCH_NAMESPACES": "", "SLIPWAY_CLUSTER_RUNTIMES": "true"}, id="cluster"),
        pytest.param(
            helm.NAMESPACED,
            {"SLIPWAY_WATCH_NAMESPACES": "team-a,team-b", "SLIPWAY_CLUSTER_RUNTIMES": "false"},
            id="namespaced",
        ),
        pytest.param(
            {"runtime": {"image": {"tag": "dev-1"}}, "log": {"format": "text"}, "resyncSeconds": 60},
            {
                "SLIPWAY_FETCHER_IMAGE": "slipway/runtime:dev-1",
                "SLIPWAY_LOG_FORMAT": "text",
                "SLIPWAY_RESYNC_S": "60",
            },
            id="settings",
        ),
    ],
)
def test_the_operator_is_told_by_its_environment(values: Manifest, environment: dict[str, str]) -> None:
    container = helm.pod_specs(helm.render(values))["Deployment/slipway-operator"]["containers"][0]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment.items() <= told.items()


def test_two_replicas_change_places_without_a_gap() -> None:
    (deployment,) = helm.of_kind(helm.render(), "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "a" * 64
    pod = helm.pod_specs(helm.render({"image": {"digest": digest, "tag": "x"}}))["Deployment/slipway-operator"]
    assert pod["containers"][0]["image"] == f"slipway/operator@{digest}"


@pytest.mark.parametrize("values", MODES)
def test_the_default_runtime_fits_the_models(values: Manifest) -> None:
    runtimes = helm.of_kind(helm.render(values), "ServingRuntime", "ClusterServingRuntime")
    assert runtimes
    for runtime in runtimes:
        spec = ServingRuntimeSpec.model_validate(runtime["spec"], extra="forbid")
        assert {known.name for known in spec.supported_model_formats} == {"torchscript", "torch-export"}


def test_the_runtime_that_goes_with_the_release_is_the_one_the_hook_applied() -> None:
    (job,) = helm.of_kind(helm.render(), "Job")
    (going,) = helm.of_kind(helm.render(), "ClusterServingRuntime")
    applied = yaml.safe_load(job["spec"]["template"]["spec"]["containers"][0]["args"][-1])
    assert applied["metadata"]["name"] == going["metadata"]["name"]
    assert applied["spec"] == going["spec"]
    assert going["metadata"]["annotations"]["helm.sh/hook"] == "post-delete"


def test_without_the_default_runtime_nothing_touches_one() -> None:
    objects = helm.render({"runtime": {"install": False}})
    assert not helm.of_kind(objects, "Job", "ClusterServingRuntime")


@pytest.mark.parametrize("values", MODES)
def test_everything_of_a_namespace_says_which(values: Manifest) -> None:
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "ClusterServingRuntime", "CustomResourceDefinition"}
    for obj in helm.render(values):
        assert ("namespace" in obj["metadata"]) == (obj["kind"] not in cluster_wide), obj["metadata"]


@pytest.mark.parametrize("values", MODES)
def test_objects_are_told_apart(values: Manifest) -> None:
    keys = [(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in helm.render(values)]
    assert len(keys) == len(set(keys))


def test_another_release_name_is_in_every_name() -> None:
    names = {
        obj["metadata"]["name"]
        for obj in helm.render({"fullnameOverride": "models"})
        if obj["kind"] not in {"CustomResourceDefinition", "ClusterServingRuntime"}
    }
    assert all(name.startswith("models") for name in names), names


def test_a_service_monitor_comes_when_asked_for() -> None:
    values = {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}}}}
    (monitor,) = helm.of_kind(helm.render(values), "ServiceMonitor")
    (service,) = helm.of_kind(helm.render(values), "Service")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_the_network_policy_lets_in_probes_and_metrics_and_out_dns_and_the_api() -> None:
    (policy,) = helm.of_kind(helm.render(), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"] for rule in policy["spec"]["ingress"]] == [[{"port": "http", "protocol": "TCP"}]]
    (out,) = policy["spec"]["egress"]
    assert [port["port"] for port in out["ports"]] == [53, 53, 443, 6443]


def test_the_notes_tell_the_next_command() -> None:
    """`helm template` leaves the notes out, so the text itself is looked at: it must name what is really there."""
    notes = (helm.CHART / "templates" / "NOTES.txt").read_text()
    assert "kind: InferenceService" in notes
    assert "kubectl wait -n {{ $namespace }} infsvc/hello --for=condition=Ready" in notes
