"""What the installed parts may do, and how their pods are held."""

from copy import deepcopy
from dataclasses import replace

import pytest

from slipway.api.manifest import Manifest
from slipway.api.v1alpha1 import Predictor, RuntimeContainer
from slipway.decide import resources
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, NETWORK_POLICY, POD, POD_DISRUPTION_BUDGET, SERVICE
from tests.chart import helm
from tests.chart.rbac import Grant, allows, grants
from tests.chart.restricted import violations
from tests.control.world import KEY, World, service
from tests.fake import Call

MODES = [pytest.param({}, id="cluster"), pytest.param(helm.NAMESPACED, id="namespaced")]
OPERATOR, GATEWAY = "slipway-operator", "slipway-gateway"
WHOLE_LIST = {
    ("slipway.dev", "inferenceservices"): "get list watch",
    ("slipway.dev", "inferenceservices/status"): "patch",
    ("slipway.dev", "servingruntimes"): "get list watch",
    ("slipway.dev", "clusterservingruntimes"): "get list watch",
    ("apps", "deployments"): "get list watch create update delete",
    ("apps", "deployments/scale"): "patch",
    ("apps", "controllerrevisions"): "get list watch create update delete",
    ("", "services"): "get list watch create update delete",
    ("policy", "poddisruptionbudgets"): "get list watch create update",
    ("networking.k8s.io", "networkpolicies"): "get list watch create update delete",
    ("", "pods"): "get list watch patch",
    ("autoscaling", "horizontalpodautoscalers"): "list",
    ("discovery.k8s.io", "endpointslices"): "get list watch",
    ("events.k8s.io", "events"): "create",
}
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate"}
GROUPS_OF_POWER = {"rbac.authorization.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "*"}


def in_its_own(namespace: str) -> set[Grant]:
    """The Lease, and the gateways."""
    named = ("slipway-operator",)
    group = "coordination.k8s.io"
    kept = {Grant(group, "leases", verb, namespace, named) for verb in ("get", "update")}
    gateways = {Grant("", "pods", verb, namespace) for verb in ("get", "list", "watch", "patch")}
    gateways |= {Grant("discovery.k8s.io", "endpointslices", verb, namespace) for verb in ("get", "list", "watch")}
    return kept | gateways | {Grant(group, "leases", "create", namespace, ())}


def test_the_operator_may_do_this_and_no_more() -> None:
    wanted = {Grant(*what, verb, "") for what, verbs in WHOLE_LIST.items() for verb in verbs.split()}
    assert grants(helm.render(), OPERATOR) == wanted | in_its_own(helm.NAMESPACE)


def test_in_namespaced_mode_it_may_do_the_same_there_only() -> None:
    wanted = {
        Grant(*what, verb, namespace)
        for what, verbs in WHOLE_LIST.items()
        for verb in verbs.split()
        for namespace in ("team-a", "team-b")
        if what[1] != "clusterservingruntimes"
    }
    assert grants(helm.render(helm.NAMESPACED), OPERATOR) == wanted | in_its_own(helm.NAMESPACE)


READ = ("get", "list", "watch")


def of_a_gateway(namespace: str) -> set[Grant]:
    read = {
        Grant(*what, verb, namespace)
        for what in (("slipway.dev", "inferenceservices"), ("discovery.k8s.io", "endpointslices"))
        for verb in READ
    }
    return read | {Grant("", "secrets", verb, namespace, ("slipway-api-keys",)) for verb in READ}


def test_a_gateway_may_read_what_it_routes_by_and_the_secrets_of_one_name() -> None:
    assert grants(helm.render(), GATEWAY) == of_a_gateway("")
    assert grants(helm.render(helm.NAMESPACED), GATEWAY) == of_a_gateway("team-a") | of_a_gateway("team-b")


@pytest.mark.parametrize("values", MODES)
def test_no_role_has_wildcards_secrets_or_power_over_permissions(values: Manifest) -> None:
    """But for the Secrets with clients' keys, by their name."""
    rules = [rule for role in helm.of_kind(helm.render(values), "Role", "ClusterRole") for rule in role["rules"]]
    assert rules
    for rule in rules:
        assert not set(rule["verbs"]) & FORBIDDEN_VERBS, rule
        assert not set(rule["apiGroups"]) & GROUPS_OF_POWER, rule
        assert not {"*", "serviceaccounts/token", "pods/exec"} & set(rule["resources"]), rule
        assert "secrets" not in rule["resources"] or rule["resourceNames"] == ["slipway-api-keys"], rule


def test_the_hook_may_write_the_default_runtimes_only() -> None:
    assert grants(helm.render(), "slipway-runtimes") == {
        Grant(
            "slipway.dev",
            "clusterservingruntimes",
            verb,
            "",
            ("slipway-pytorch", "slipway-triton", "slipway-sklearn-xgboost"),
        )
        for verb in ("create", "patch")
    }


def test_people_get_the_new_kinds_with_the_roles_they_have() -> None:
    roles = {
        role["metadata"]["name"]: {
            label.removeprefix("rbac.authorization.k8s.io/aggregate-to-")
            for label in role["metadata"]["labels"]
            if label.startswith("rbac.authorization.k8s.io/")
        }
        for role in helm.of_kind(helm.render(), "ClusterRole")
    }
    assert roles["slipway-view"] == {"view", "edit", "admin"}
    assert roles["slipway-edit"] == {"edit", "admin"}
    assert roles["slipway-admin"] == {"admin"}
    assert roles["slipway-operator"] == set()


def test_only_administrators_write_runtimes_which_say_what_runs() -> None:
    write = {
        role["metadata"]["name"]
        for role in helm.of_kind(helm.render(), "ClusterRole")
        for rule in role["rules"]
        if "slipway.dev" in rule["apiGroups"] and "create" in rule["verbs"]
        if any("runtimes" in kind for kind in rule["resources"]) and "helm.sh/hook" not in str(role["metadata"])
    }
    assert write == {"slipway-admin"}


def damage(live: Manifest) -> None:
    live["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})


async def calls_of_a_life() -> list[Call]:
    """What the operator asks of the API server while a service is made, scaled, damaged and changed many times."""
    world = World()
    world.user_applies(service(replicas=2))
    await world.converge()
    world.user_applies(service(replicas=3))
    await world.converge()
    world.demanded.pods = {pod["metadata"]["name"]: float(load) for load, pod in enumerate(world.store.list(POD))}
    world.user_applies(service(replicas=2))
    await world.converge()
    (name,) = world.names(DEPLOYMENT)
    world.store.edit(DEPLOYMENT, KEY[0], name, damage)
    world.store.edit(CONTROLLER_REVISION, KEY[0], name, lambda live: live["metadata"].update(labels={}))
    world.store.edit(SERVICE, *KEY, lambda live: live["spec"].update(externalName="elsewhere.example"))
    world.store.edit(POD_DISRUPTION_BUDGET, *KEY, lambda live: live["spec"].update(maxUnavailable=2))
    await world.converge()
    world.store.edit(NETWORK_POLICY, *KEY, lambda live: live["spec"].update(egress=[{}]))
    for n in range(world.config.revision_history_limit + 2):
        world.user_applies(service(f"sample://model-{n}"))
        await world.converge()
    calls = world.kube.calls
    world.config = replace(world.config, network=None)
    world.restart()
    await world.converge()
    return [*calls, *world.kube.calls]


async def test_the_operator_may_do_what_it_does_and_does_what_it_may() -> None:
    granted, calls = grants(helm.render(), OPERATOR), await calls_of_a_life()
    assert not [call for call in calls if not allows(granted, call)]
    used = {(call.group, f"{call.resource}/{call.subresource}".rstrip("/"), call.verb) for call in calls}
    # Events and leases go past the fake.
    unused = {
        (*what, verb)
        for what, verbs in WHOLE_LIST.items()
        for verb in set(verbs.split()) - {"get", "list", "watch"}
        if what[0] != "events.k8s.io" and (*what, verb) not in used
    }
    assert unused == set()


@pytest.mark.parametrize("values", MODES)
def test_every_installed_pod_is_restricted(values: Manifest) -> None:
    pods = helm.pod_specs(helm.render(values))
    made = {"Deployment/slipway-operator", "Deployment/slipway-gateway", "Job/slipway-runtimes", "Pod/slipway-test"}
    assert pods.keys() == made
    for name, pod in pods.items():
        assert violations(pod) == [], name
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"].keys() == {"requests", "limits"}


@pytest.mark.parametrize("uri", ["sample://hello", "pvc://claim/a", "file:///models/a"])
def test_every_pod_of_a_revision_is_restricted(uri: str) -> None:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri}
    predictor = Predictor.model_validate({"model": model})
    container = RuntimeContainer.model_validate({"image": "runtime:1", "sharedMemory": "1Gi", "metricsPort": 8002})
    for fetcher in ("runtime:1", "fetcher:1"):
        pod = resources.pod_template("hello", predictor, container, "runtime:1", fetcher)["spec"]
        assert violations(pod) == []
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"] + pod.get("initContainers", []):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["hostNetwork"], True, "hostNetwork"),
        (["volumes"], [{"name": "h", "hostPath": {"path": "/"}}], "volume h of type hostPath"),
        (["securityContext", "runAsNonRoot"], False, "operator: runAsNonRoot is not set"),
        (["securityContext", "runAsUser"], 0, "runAsUser 0"),
        (["securityContext", "seccompProfile"], {"type": "Unconfined"}, "operator: seccompProfile"),
        (["containers", 0, "securityContext", "allowPrivilegeEscalation"], True, "operator: allowPrivilegeEscalation"),
        (["containers", 0, "securityContext", "privileged"], True, "operator: privileged"),
        (["containers", 0, "securityContext", "capabilities", "drop"], [], "operator: capabilities are not dropped"),
        (
            ["containers", 0, "securityContext", "capabilities", "add"],
            ["SYS_ADMIN"],
            "operator: capabilities are added",
        ),
        (["containers", 0, "ports"], [{"hostPort": 80}], "operator: hostPort"),
    ],
)
def test_the_check_itself_sees_what_is_not_restricted(path: list[str | int], value: object, says: str) -> None:
    pod = deepcopy(helm.pod_specs(helm.render())["Deployment/slipway-operator"])
    node = pod
    for step in path[:-1]:
        node = node[step]  # type: ignore[index]
    node[path[-1]] = value  # type: ignore[index]
    assert violations(pod) == [says]
