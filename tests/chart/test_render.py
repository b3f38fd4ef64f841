"""What the chart installs, in both of its modes."""

import json
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from slipway.api.manifest import Manifest
from slipway.api.model import Model
from slipway.api.names import LABEL_METRICS, LABEL_REVISION, LABEL_SERVICE, LABEL_VARIANT
from slipway.api.v1alpha1 import ServingRuntimeSpec
from slipway.decide.fetching import PROGRESS_PORT
from slipway.decide.runtimes import Runtime, choose
from slipway.decide.types import Refusal
from slipway.main import Settings
from slipway.nodecache.__main__ import Settings as CacheSettings
from slipway.signals.prometheus import Place
from slipway_runtime.errors import BadConfig
from slipway_runtime.fetch.settings import Settings as FetchSettings
from slipway_runtime.fetch.settings import read
from slipway_runtime.models.formats import MLFLOW, TABULAR
from slipway_runtime.reserved import RESERVED
from slipway_runtime.settings import OPTIONS, read_settings
from slipway_runtime.triton import wishes
from slipway_runtime.triton.layout import WANTED
from tests import golden
from tests.chart import helm

RUNTIMES = ("slipway-pytorch", "slipway-triton", "slipway-sklearn-xgboost")
OF_VALUES = dict(zip(("runtime", "triton", "sklearn"), RUNTIMES, strict=True))
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
    deployments = helm.of_kind(helm.render(), "Deployment")
    assert {deployment["metadata"]["name"] for deployment in deployments} == {"slipway-operator", "slipway-gateway"}
    for deployment in deployments:
        assert deployment["spec"]["replicas"] == 2
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "a" * 64
    pod = helm.pod_specs(helm.render({"image": {"digest": digest, "tag": "x"}}))["Deployment/slipway-operator"]
    assert pod["containers"][0]["image"] == f"slipway/operator@{digest}"


@pytest.mark.parametrize("values", MODES)
def test_the_default_runtimes_fit_the_models(values: Manifest) -> None:
    runtimes = helm.of_kind(helm.render(values), "ServingRuntime", "ClusterServingRuntime")
    found = {name: set[str]() for name in RUNTIMES}
    for runtime in runtimes:
        spec = ServingRuntimeSpec.model_validate(runtime["spec"], extra="forbid")
        found[runtime["metadata"]["name"]] |= {known.name for known in spec.supported_model_formats}
    assert found["slipway-pytorch"] == {"torchscript", "torch-export"}
    assert found["slipway-triton"] == set(WANTED) - {"auto"}
    assert found["slipway-sklearn-xgboost"] == {*TABULAR, MLFLOW}


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("torchscript", "slipway-pytorch"),
        ("onnx", "slipway-triton"),
        ("xgboost", "slipway-sklearn-xgboost"),
        ("mlflow", "slipway-sklearn-xgboost"),
    ],
)
def test_a_format_alone_finds_its_runtime(form: str, name: str) -> None:
    model = Model.model_validate({"modelFormat": {"name": form}, "storageUri": "sample://hello"})
    chosen = choose(model, helm.of_kind(helm.render(), "ClusterServingRuntime"))
    assert isinstance(chosen, Runtime)
    assert chosen.name == name


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    ("key", "parse"), [("runtime", read_settings), ("triton", wishes.read), ("sklearn", read_settings)]
)
def test_the_argument_that_allows_code_stands_where_a_service_cannot_change_it(
    key: str, parse: Callable[[list[str], Mapping[str, str]], Any], allowed: bool
) -> None:
    objects = helm.of_kind(helm.render({key: {"allowCode": allowed}}), "ClusterServingRuntime")
    name = OF_VALUES[key]
    (container,) = (one["spec"]["container"] for one in objects if one["metadata"]["name"] == name)
    args, env = container["args"], {"SLIPWAY_MODEL_PATH": "/mnt/models", "SLIPWAY_MODEL_NAME": "hello"}
    settings = parse(args, env)
    assert settings.allow_code == allowed
    assert (settings.http_port, settings.grpc_port) == (8080, 8001)
    assert settings.metrics_port == container.get("metricsPort", 0)
    with pytest.raises(BadConfig):
        parse([*args, "--allow-code", "true"], env)


def test_the_arguments_that_services_may_give_are_those_that_the_servers_take_from_them() -> None:
    runtimes = helm.of_kind(helm.render(), "ClusterServingRuntime")
    allowed = {one["metadata"]["name"]: set(one["spec"]["container"]["allowedArgs"]) for one in runtimes}
    assert allowed["slipway-pytorch"] == {option.flag for option in OPTIONS.values()} - set(RESERVED)
    assert allowed["slipway-triton"] == wishes._service_flags()
    assert allowed["slipway-sklearn-xgboost"] == allowed["slipway-pytorch"] - {"--device"}


def test_a_runtime_for_cpus_refuses_a_model_that_asks_for_a_device() -> None:
    limits = {"limits": {"nvidia.com/gpu": 1}}
    wanted = {"modelFormat": {"name": "xgboost"}, "storageUri": "sample://iris", "resources": limits}
    told = choose(Model.model_validate(wanted), helm.of_kind(helm.render(), "ClusterServingRuntime"))
    assert isinstance(told, Refusal)
    assert "ClusterServingRuntime/slipway-sklearn-xgboost cannot use nvidia.com/gpu (but cpu)" in told.message


def test_the_classes_that_are_allowed_are_the_administrators_word() -> None:
    values: Manifest = {"sklearn": {"allowedClasses": ["xgboost.*", "own.models:*"]}}
    objects = helm.of_kind(helm.render(values), "ClusterServingRuntime")
    (args,) = (one["spec"]["container"]["args"] for one in objects if one["metadata"]["name"] == RUNTIMES[2])
    environment = {"SLIPWAY_MODEL_PATH": "/mnt/models"}
    assert read_settings(args, environment).allowed_classes == ("xgboost.*", "own.models:*")
    with pytest.raises(BadConfig):
        read_settings([*args, "--allowed-classes", "*"], environment)


def test_the_runtimes_that_go_with_the_release_are_those_the_hook_applied() -> None:
    (job,) = helm.of_kind(helm.render(), "Job")
    going = helm.of_kind(helm.render(), "ClusterServingRuntime")
    actions = job["spec"]["template"]["spec"]["containers"][0]["args"]
    applied = [yaml.safe_load(action) for action in actions[1:]]
    assert [one["metadata"]["name"] for one in applied] == [one["metadata"]["name"] for one in going] == list(RUNTIMES)
    assert [one["spec"] for one in applied] == [one["spec"] for one in going]
    assert {one["metadata"]["annotations"]["helm.sh/hook"] for one in going} == {"post-delete"}


@pytest.mark.parametrize("left", [(), *((name,) for name in RUNTIMES)])
def test_without_a_default_runtime_nothing_touches_one(left: tuple[str, ...]) -> None:
    objects = helm.render({value: {"install": name in left} for value, name in OF_VALUES.items()})
    assert tuple(one["metadata"]["name"] for one in helm.of_kind(objects, "ClusterServingRuntime")) == left
    assert len(helm.of_kind(objects, "Job")) == bool(left)
    assert ("slipway-pytorch" in json.dumps(objects)) == ("slipway-pytorch" in left)


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


PROMETHEUS_OPERATOR = ("--api-versions", "monitoring.coreos.com/v1/PodMonitor")
SCRAPED = {"prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"}


def annotations(objects: list[Manifest]) -> dict[str, dict[str, str]]:
    deployments = helm.of_kind(objects, "Deployment")
    return {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["annotations"] for each in deployments}


def test_prometheus_finds_operator_and_gateways_by_annotations_where_it_is_by_itself() -> None:
    objects = helm.render()
    assert not helm.of_kind(objects, "ServiceMonitor", "PodMonitor")
    pods = helm.pod_specs(objects)
    for name, found in annotations(objects).items():
        ports = [port for each in pods[f"Deployment/{name}"]["containers"] for port in each.get("ports", ())]
        port = next(each for each in ports if str(each["containerPort"]) == found["prometheus.io/port"])
        assert port["name"] == ("http" if name == "slipway-operator" else "report")
        assert (found["prometheus.io/scrape"], found["prometheus.io/path"]) == ("true", "/metrics")


def test_prometheus_finds_everything_by_monitors_where_there_is_its_operator() -> None:
    objects = helm.render({"metrics": {"labels": {"release": "prom"}}}, *PROMETHEUS_OPERATOR)
    monitors = helm.of_kind(objects, "ServiceMonitor")
    services = helm.of_kind(objects, "Service")
    assert {monitor["metadata"]["name"] for monitor in monitors} == {"slipway-operator", "slipway-gateway"}
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [service for service in services if wanted <= service["metadata"]["labels"].items()]
        assert [service["metadata"]["name"] for service in found] == [f"{monitor['metadata']['name']}-metrics"]
        assert monitor["metadata"]["labels"]["release"] == "prom"
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] == found[0]["spec"]["ports"][0]["name"]
        assert endpoint["honorLabels"], "its series are about services of other namespaces"
    assert not any(SCRAPED & found.keys() for found in annotations(objects).values()), "read twice"


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [
        pytest.param({}, {"any": True}, id="cluster"),
        pytest.param(helm.NAMESPACED, {"matchNames": ["team-a", "team-b"]}, id="namespaced"),
    ],
)
def test_the_series_of_models_bear_the_names_that_releases_go_by(values: Manifest, namespaces: Manifest) -> None:
    (monitor,) = helm.of_kind(helm.render(values, *PROMETHEUS_OPERATOR), "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == namespaces
    assert monitor["spec"]["selector"]["matchExpressions"] == [{"key": LABEL_REVISION, "operator": "Exists"}]
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    assert "honorLabels" not in json.dumps(endpoints), "a model must not speak for another namespace"
    for endpoint in endpoints:
        found = {rule["targetLabel"]: rule["sourceLabels"] for rule in endpoint["relabelings"][1:]}
        assert found == {
            name: [meta_label(label)]
            for name, label in (("service", LABEL_SERVICE), ("revision", LABEL_REVISION), ("variant", LABEL_VARIANT))
        }


@pytest.mark.parametrize(("label", "port"), [("", "http"), ("metrics", "metrics")])
def test_a_pod_of_a_model_is_read_at_one_port(label: str, port: str) -> None:
    """What has a port for metrics alone has no /metrics at `http`: a target that is down would be an alarm."""
    (monitor,) = helm.of_kind(helm.render({}, *PROMETHEUS_OPERATOR), "PodMonitor")
    read = []
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        rule = endpoint["relabelings"][0]
        assert (rule["sourceLabels"], rule["action"]) == ([meta_label(LABEL_METRICS)], "keep")
        read += [endpoint["port"]] if re.fullmatch(rule["regex"], label) else []
    assert read == [port]


def meta_label(label: str) -> str:
    """As Prometheus' discovery calls a label of a pod."""
    return "__meta_kubernetes_pod_label_" + re.sub(r"[^a-z]", "_", label)


@pytest.mark.parametrize(
    ("scrape", "kinds", "has_annotations"),
    [
        ("monitors", {"ServiceMonitor", "PodMonitor"}, False),
        ("annotations", set(), True),
        ("none", set(), False),
    ],
)
def test_how_prometheus_finds_it_can_be_insisted_on(scrape: str, kinds: set[str], has_annotations: bool) -> None:
    for more in ((), PROMETHEUS_OPERATOR):
        objects = helm.render({"metrics": {"scrape": scrape}}, *more)
        assert {each["kind"] for each in helm.of_kind(objects, "ServiceMonitor", "PodMonitor")} == kinds
        assert all((found.keys() >= SCRAPED) == has_annotations for found in annotations(objects).values())


def test_an_annotation_of_ones_own_wins() -> None:
    own = {"prometheus.io/scrape": "false", "team": "ml"}
    found = annotations(helm.render({"podAnnotations": own, "gateway": {"podAnnotations": own}}))
    assert all(own.items() <= each.items() for each in found.values())


def test_monitors_of_models_can_be_left_out() -> None:
    objects = helm.render({"metrics": {"models": False}}, *PROMETHEUS_OPERATOR)
    assert {each["kind"] for each in helm.of_kind(objects, "ServiceMonitor", "PodMonitor")} == {"ServiceMonitor"}


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("http://prometheus.monitoring:9090", [9090]),
        ("http://prometheus.monitoring", [80, 9090]),
        ("https://prometheus.example/prom", [443, 9090]),
        ("https://[fd00::1]:9443/prom", [9443, 9090]),
    ],
)
def test_the_operator_is_told_of_prometheus_and_let_out_to_it(url: str, ports: list[int]) -> None:
    values = {"prometheus": {"url": url, "secretName": "prometheus"}}
    pod = helm.pod_specs(helm.render(values))["Deployment/slipway-operator"]
    container = pod["containers"][0]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert Settings.from_env(
        {name: value for name, value in told.items() if value is not None}
    ).prometheus == Place.parse(url, "/etc/slipway/prometheus")
    mount = {"name": "prometheus", "mountPath": "/etc/slipway/prometheus", "readOnly": True}
    assert mount in container["volumeMounts"]
    assert {"name": "prometheus", "secret": {"secretName": "prometheus", "optional": True}} in pod["volumes"]
    assert [port["port"] for port in policies(values)["slipway-operator"]["egress"][-1]["ports"]] == ports


def test_the_operator_tells_fetchers_what_the_chart_says() -> None:
    values = {
        "policy": {"schemes": ["s3", "oci"], "insideHosts": ["minio.storage.svc:9000", "*.corp"]},
        "limits": {"maxSize": "200Gi", "maxFiles": 1_000_000},
        "proxy": "http://proxy:3128",
        "caConfigMap": "bundle",
    }
    container = helm.pod_specs(helm.render({"fetch": values}))["Deployment/slipway-operator"]["containers"][0]
    told = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    fetching = Settings.from_env(told).fetching
    assert fetching.policy["insideHosts"] == ["minio.storage.svc:9000", "*.corp"]
    assert (fetching.limits["maxBytes"], fetching.limits["maxFiles"]) == (200 << 30, 1_000_000)
    assert (fetching.proxy, fetching.ca_config_map) == ("http://proxy:3128", "bundle")


def test_the_charts_own_words_on_fetching_are_the_fetchers_defaults() -> None:
    container = helm.pod_specs(helm.render())["Deployment/slipway-operator"]["containers"][0]
    told = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    fetching = Settings.from_env(told).fetching
    given = {"policy": fetching.policy, "limits": fetching.limits, "proxy": fetching.proxy}
    assert read({"SLIPWAY_FETCH": json.dumps(given)}) == FetchSettings()


def test_without_a_prometheus_the_operator_hears_of_none() -> None:
    container = helm.pod_specs(helm.render({"prometheus": {"secretName": "x"}}))["Deployment/slipway-operator"]
    assert not [entry for entry in container["containers"][0]["env"] if "PROMETHEUS" in entry["name"]]
    assert [volume["name"] for volume in container["volumes"]] == ["tmp"]


def policies(values: Manifest | None = None) -> dict[str, Manifest]:
    found = {
        policy["metadata"]["name"]: policy["spec"] for policy in helm.of_kind(helm.render(values), "NetworkPolicy")
    }
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in found.values())
    return found


def test_the_operators_network_policy_lets_in_metrics_and_out_dns_the_api_reports_and_models() -> None:
    policy = policies()["slipway-operator"]
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "http", "protocol": "TCP"}]]
    anywhere, gateways, models = policy["egress"]
    assert [port["port"] for port in anywhere["ports"]] == [53, 53, 443, 6443]
    assert [port["port"] for port in gateways["ports"]] == [8082]
    assert gateways["to"][0]["podSelector"]["matchLabels"].items() <= pod_labels("slipway-gateway").items()
    exists = {"key": LABEL_REVISION, "operator": "Exists"}
    assert models["to"] == [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [exists]}}]


def test_the_gateways_network_policy_leads_to_models_and_hides_the_report_when_told() -> None:
    requests, report = policies()["slipway-gateway"]["ingress"]
    assert requests == {"ports": [{"port": 8080, "protocol": "TCP"}]}
    assert report == {"ports": [{"port": 8082, "protocol": "TCP"}]}
    prometheus = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    values = {"networkPolicy": {"metricsFrom": [prometheus]}, "gateway": {"tls": {"secretName": "cert"}}}
    spec = policies(values)["slipway-gateway"]
    requests, report = spec["ingress"]
    assert [port["port"] for port in requests["ports"]] == [8080, 8443]
    operator, other = report["from"]
    assert operator["podSelector"]["matchLabels"].items() <= pod_labels("slipway-operator").items()
    assert other == prometheus
    assert spec["egress"][1]["to"][0]["podSelector"]["matchExpressions"] == [
        {"key": LABEL_REVISION, "operator": "Exists"}
    ]


def operators_settings(values: Manifest | None = None) -> Settings:
    container = helm.pod_specs(helm.render(values))["Deployment/slipway-operator"]["containers"][0]
    return Settings.from_env({entry["name"]: entry["value"] for entry in container["env"] if "value" in entry})


def test_models_have_no_network_policy_and_no_service_account_unless_told() -> None:
    assert operators_settings().network is None
    assert operators_settings().service_accounts == frozenset()
    given = operators_settings({"modelServiceAccounts": ["reader", "vision/own"]})
    assert given.service_accounts == {"reader", "vision/own"}


def test_models_are_reached_by_gateways_and_operator_and_reach_dns_and_the_internet_by_https() -> None:
    network = operators_settings({"networkPolicy": {"models": {"enabled": True}}}).network
    assert network is not None
    ports = [[port["port"] for port in rule["ports"]] for rule in network.ingress]
    assert ports == [["http", "grpc"], ["http", "metrics", PROGRESS_PORT]]
    for rule, deployment in zip(network.ingress, ("slipway-gateway", "slipway-operator"), strict=True):
        [peer] = rule["from"]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": helm.NAMESPACE}
        assert peer["podSelector"]["matchLabels"].items() <= pod_labels(deployment).items()
    dns, stores = network.egress
    assert {port["port"] for port in dns["ports"]} == {53}
    assert dns["to"]
    assert stores["ports"] == [{"port": 443, "protocol": "TCP"}]
    old, new = (ip_network(peer["ipBlock"]["cidr"]) for peer in stores["to"])
    inside = [ip_network(each) for each in stores["to"][0]["ipBlock"]["except"]]
    for address in ("10.96.0.1", "172.20.1.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"):
        assert any(ip_address(address) in net for net in inside), address
    assert ip_address("2606::1") in new
    assert not [address for address in ("fd00:ec2::254", "fe80::1", "::1") if ip_address(address) in new]
    assert ip_address("8.8.8.8") in old
    assert not any(ip_address("8.8.8.8") in net for net in inside)


def test_rules_for_models_are_taken_over_and_whoever_reads_metrics_comes_in() -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    minio = {"ports": [{"port": 9000}], "to": [{"namespaceSelector": {"matchLabels": {"team": "storage"}}}]}
    own: Manifest = {"from": [{"podSelector": {}}]}
    models = {"enabled": True, "dns": [], "egress": [minio], "ingress": [own]}
    network = operators_settings({"networkPolicy": {"metricsFrom": [prometheus], "models": models}}).network
    assert network is not None
    assert network.egress == (minio,)
    assert network.ingress[-1] == own
    assert network.ingress[2]["from"] == [prometheus]
    assert [port["port"] for port in network.ingress[2]["ports"]] == ["http", "metrics"]
    none = operators_settings({"networkPolicy": {"models": {"enabled": True, "dns": [], "egress": []}}}).network
    assert none is not None
    assert none.egress == ()


def pod_labels(deployment: str) -> dict[str, str]:
    found = {each["metadata"]["name"]: each for each in helm.of_kind(helm.render(), "Deployment")}
    labels: dict[str, str] = found[deployment]["spec"]["template"]["metadata"]["labels"]
    return labels


def test_a_label_that_the_operator_may_change_decides_whether_a_gateway_is_served_to() -> None:
    """In the Service's selector and not in the Deployment's: the pod stays one of the Deployment's."""
    objects = helm.render()
    service = next(each for each in helm.of_kind(objects, "Service") if each["metadata"]["name"] == "slipway-gateway")
    deployment = next(
        each for each in helm.of_kind(objects, "Deployment") if each["metadata"]["name"] == "slipway-gateway"
    )
    serving = {"slipway.dev/serving": "true"}
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] | serving
    assert pod_labels("slipway-gateway") == service["spec"]["selector"]


def test_the_operator_finds_the_gateways_by_the_labels_they_have() -> None:
    container = helm.pod_specs(helm.render())["Deployment/slipway-operator"]["containers"][0]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    wanted = dict(pair.split("=") for pair in str(told["SLIPWAY_GATEWAY_SELECTOR"]).split(","))
    assert wanted.items() <= pod_labels("slipway-gateway").items()
    services = {each["metadata"]["name"] for each in helm.of_kind(helm.render(), "Service")}
    assert told["SLIPWAY_GATEWAY_SERVICE"] in services
    ports = helm.pod_specs(helm.render())["Deployment/slipway-gateway"]["containers"][1]["ports"]
    assert told["SLIPWAY_GATEWAY_REPORT_PORT"] == str(ports[0]["containerPort"])


def test_envoy_has_no_token_and_starts_from_a_file_that_is_there_before_it() -> None:
    pod = helm.pod_specs(helm.render())["Deployment/slipway-gateway"]
    (bootstrap,), (envoy, agent) = pod["initContainers"], pod["containers"]
    assert bootstrap["env"] == agent["env"]
    assert pod["automountServiceAccountToken"] is False
    mounts = [{mount["name"] for mount in each["volumeMounts"]} for each in (bootstrap, envoy, agent)]
    assert mounts == [{"run"}, {"run"}, {"run", "account"}]
    assert "--reject-unknown-dynamic-fields" in envoy["args"]
    assert {each["name"]: each for each in pod["volumes"]}["run"]["emptyDir"]["medium"] == "Memory"


def test_the_last_requests_of_a_gateway_have_their_time() -> None:
    """Envoy ends only after the agent's word; kubelet waits longer than the agent."""
    pod = helm.pod_specs(helm.render({"gateway": {"drainSeconds": 100}}))["Deployment/slipway-gateway"]
    envoy, agent = pod["containers"]
    assert {"name": "SLIPWAY_DRAIN_GRACE_S", "value": "100"} in agent["env"]
    assert pod["terminationGracePeriodSeconds"] == 115
    assert envoy["lifecycle"]["preStop"]["httpGet"]["port"] == agent["ports"][0]["containerPort"]


def test_a_certificate_opens_the_tls_port_everywhere() -> None:
    objects = helm.render({"gateway": {"tls": {"secretName": "cert"}}})
    pod = helm.pod_specs(objects)["Deployment/slipway-gateway"]
    envoy, agent = pod["containers"]
    assert {"name": "https", "containerPort": 8443, "protocol": "TCP"} in envoy["ports"]
    assert {"name": "SLIPWAY_TLS_DIR", "value": "/etc/slipway/tls"} in agent["env"]
    assert {"name": "tls", "secret": {"secretName": "cert"}} in pod["volumes"]
    service = next(each for each in helm.of_kind(objects, "Service") if each["metadata"]["name"] == "slipway-gateway")
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 443]


def test_an_envoy_of_ones_own_runs_as_the_agents_user() -> None:
    own = {"repository": "registry.example/envoy", "tag": "v1.40.0"}
    pod = helm.pod_specs(helm.render({"gateway": {"envoyImage": own}}))["Deployment/slipway-gateway"]
    envoy, agent = pod["containers"]
    assert envoy["image"] == "registry.example/envoy:v1.40.0"
    assert agent["image"] == "slipway/gateway:0.1.0"
    assert envoy["securityContext"]["runAsUser"] == 10001
    refused = helm.template({"gateway": {"envoyImage": {"repository": "registry.example/envoy"}}})
    assert "gateway.envoyImage needs a tag or a digest" in refused.stderr


def test_the_notes_tell_the_next_command() -> None:
    """`helm template` leaves the notes out, so the text itself is looked at: it must name what is really there."""
    notes = (helm.CHART / "templates" / "NOTES.txt").read_text()
    assert "kind: InferenceService" in notes
    assert "kubectl wait -n {{ $namespace }} infsvc/hello --for=condition=Ready" in notes


CACHED = {"cache": {"enabled": True, "size": "20Gi"}}


def test_fetchers_are_told_where_the_cache_of_their_node_is() -> None:
    """And only where there is one."""
    operator = next(
        each for each in helm.of_kind(helm.render(CACHED), "Deployment") if "gateway" not in each["metadata"]["name"]
    )
    env = {each["name"]: each.get("value") for each in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    fetching = Settings.from_env(env | {"POD_NAMESPACE": "slipway-system"}).fetching
    [service] = [
        each for each in helm.of_kind(helm.render(CACHED), "Service") if each["metadata"]["name"].endswith("-cache")
    ]
    meta = service["metadata"]
    assert (
        fetching.cache
        == f"http://{meta['name']}.{meta['namespace']}.svc.cluster.local:{service['spec']['ports'][0]['port']}"
    )
    assert service["spec"]["internalTrafficPolicy"] == "Local"
    assert not helm.of_kind(helm.render(), "DaemonSet")


def test_the_cache_may_ask_whose_a_token_is_and_no_more() -> None:
    objects = helm.render(CACHED | {"networkPolicy": {"enabled": True, "models": {"enabled": True}}})
    [role] = [each for each in helm.of_kind(objects, "ClusterRole") if each["metadata"]["name"].endswith("-cache")]
    assert role["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    ]
    [daemons] = helm.of_kind(objects, "DaemonSet")
    pod = daemons["spec"]["template"]["spec"]
    [container] = pod["containers"]
    settings = CacheSettings.from_env({each["name"]: each["value"] for each in container["env"]})
    assert (settings.most_bytes, settings.port) == (int(20 * 2**30 * 0.9), container["ports"][0]["containerPort"])
    assert str(settings.folder) in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} == {"emptyDir"}
    [policy] = [each for each in helm.of_kind(objects, "NetworkPolicy") if each["metadata"]["name"].endswith("-cache")]
    assert policy["spec"]["podSelector"]["matchLabels"] == daemons["spec"]["selector"]["matchLabels"]
