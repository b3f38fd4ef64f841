"""Helm installs, upgrades, removes and installs again; models do not notice, and nothing is left behind."""

import json
import os
import secrets
import subprocess
from pathlib import Path

import pytest

from e2e.cluster import GATEWAY
from e2e.support import team as teams
from e2e.support.api import ApiError, Manifest
from e2e.support.installation import ACCOUNT, CRDS, NAMESPACE, RELEASE, Installation, name
from e2e.support.manifests import secret, service
from e2e.support.site import Site
from e2e.support.team import Team
from e2e.support.wait import until

OWN = {"kube-root-ca.crt", "default"}
"""What Kubernetes itself puts into every namespace."""
FULL = bool(os.environ.get("SLIPWAY_FULL"))
FRONT = "front"
"""The Secret with the gateways' certificate."""


@pytest.fixture(scope="module")
def kept(shared_slipway: Installation, shared_team: Team) -> Team:
    assert shared_slipway
    shared_team.apply(service("kept"))
    shared_team.start_client()
    shared_team.wait_settled("kept")
    return shared_team


def test_helm_test_passes(slipway: Installation) -> None:
    assert "Succeeded" in slipway.site.helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "60s")


def test_operators_and_gateways_run_restricted(slipway: Installation) -> None:
    """The namespace enforces the restricted standard; beyond it: a read-only root, and limits."""
    namespace = slipway.site.api.get("namespaces", None, NAMESPACE)
    assert namespace
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(slipway.pods()) == len(slipway.gateways()) == 2
    for pod in slipway.pods() + slipway.gateways():
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize(
    ("verb", "group", "resource", "allowed"),
    [
        ("get", "", "secrets", False),
        ("list", "", "secrets", False),
        ("watch", "", "secrets", False),
        ("create", "", "pods", False),
        ("create", "", "pods/exec", False),
        ("create", "", "serviceaccounts/token", False),
        ("update", "slipway.dev", "inferenceservices", False),
        ("patch", "slipway.dev", "inferenceservices", False),
        ("update", "slipway.dev", "inferenceservices/finalizers", False),
        ("delete", "slipway.dev", "inferenceservices", False),
        ("create", "rbac.authorization.k8s.io", "rolebindings", False),
        ("escalate", "rbac.authorization.k8s.io", "clusterroles", False),
        ("impersonate", "", "users", False),
        ("delete", "", "namespaces", False),
        ("create", "apps", "deployments", True),
        ("patch", "slipway.dev", "inferenceservices/status", True),
    ],
)
def test_the_operator_may_do_what_it_must_and_no_more(
    slipway: Installation, verb: str, group: str, resource: str, allowed: bool
) -> None:
    plural, _, subresource = resource.partition("/")
    about = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "namespace": "default"}
    spec = {"user": ACCOUNT, "groups": ["system:authenticated", "system:serviceaccounts"], "resourceAttributes": about}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = slipway.site.api.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer["status"]["allowed"] is allowed


def test_an_upgrade_replaces_operator_and_gateways_and_loses_no_request(
    slipway: Installation, kept: Team, tmp_path: Path
) -> None:
    """To gateways with a certificate, and with an Envoy from an image that the administrator names."""
    lives, gateways = kept.lives("kept"), {name(pod) for pod in slipway.gateways()}
    certificate = new_certificate(slipway.site, tmp_path, f"kept.{kept.name}")
    envoy = (f"gateway.envoyImage.repository=slipway/{GATEWAY.name}", f"gateway.envoyImage.tag={GATEWAY.tag}")
    changed = ("replicas=1", "workers=4", "gateway.maxConnections=9000", f"gateway.tls.secretName={FRONT}", *envoy)
    with kept.traffic("kept") as flow:
        slipway.upgrade(*(argument for value in changed for argument in ("--set", value)))
        until("one operator is left", slipway.is_well, within_s=90, seen=slipway.seen)
        assert not gateways & {name(pod) for pod in slipway.gateways()}
        flow.wait_answered(100)
    flow.assert_unharmed()
    assert kept.lives("kept") == lives
    if slipway.site.is_local:
        assert by_tls(slipway, kept, certificate) == "2 200"
        if FULL:  # the kubelet takes a minute or two to bring a Secret's news into a pod
            renewed = new_certificate(slipway.site, tmp_path, f"kept.{kept.name}")
            until("the renewed one is shown", lambda: by_tls(slipway, kept, renewed) == "2 200", within_s=240)
            assert by_tls(slipway, kept, certificate) == "0 000"
    slipway.site.kubectl("--namespace", NAMESPACE, "delete", "secret", FRONT)


def new_certificate(site: Site, folder: Path, host: str) -> Path:
    """One that nobody but this test trusts, in the Secret of the gateways."""
    key, certificate = folder / "key.pem", folder / f"{secrets.token_hex(4)}.pem"
    asked = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}")
    told = ("-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(certificate))
    subprocess.run(asked + told, check=True, capture_output=True)
    front = secret(FRONT, **{"tls.crt": certificate.read_text(), "tls.key": key.read_text()})
    site.apply(front | {"type": "kubernetes.io/tls"}, namespace=NAMESPACE)
    return certificate


def by_tls(slipway: Installation, team: Team, certificate: Path) -> str:
    """Version of HTTP and status of an answer on port 443; 0 and 000 where the certificate is not the gateway's."""
    host = f"kept.{team.name}"
    there = ("--connect-to", f"{host}:443:{slipway.gateway_address()}:443", "--cacert", str(certificate))
    told = ("--silent", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}", "--max-time", "10")
    argv = ("curl", *there, *told, f"https://{host}/v2/health/ready")
    return subprocess.run(argv, check=False, capture_output=True, text=True).stdout


def test_uninstall_and_reinstall_reach_no_model(slipway: Installation, kept: Team, team: Team) -> None:
    """The pods go on, by themselves; the address, which is the gateway's, is back with the gateway."""
    lives = kept.lives("kept")
    slipway.uninstall()
    assert_nothing_is_left(slipway.site)
    assert kept.pod_answers("kept", 1)
    # Nobody is there to serve a new one, but the kinds are, and take it.
    team.apply(service("late"))
    assert "status" not in team.must_get("inferenceservices", "late")
    slipway.ensure()
    team.wait_settled("late")
    assert team.answers("late", 1)
    kept.wait_settled("kept")
    with kept.traffic("kept") as flow:
        flow.wait_answered(50)
    flow.assert_unharmed()
    assert kept.lives("kept") == lives


def assert_nothing_is_left(site: Site) -> None:
    """By label, by namespace and by name, over every kind that the cluster knows; once gateways have drained."""
    crds = {f"customresourcedefinitions {plural}.slipway.dev" for plural in CRDS}
    until(
        "what was removed is gone", lambda: traces(site) == crds, within_s=60, seen=lambda: sorted(traces(site) - crds)
    )


def traces(site: Site) -> set[str]:
    found = set()
    for where, resource in kinds(site):
        try:
            items = site.api.call("GET", where)["items"]
        except ApiError:  # a kind that went away in between, or cannot be listed
            continue
        found |= {f"{resource} {name(item)}" for item in items if is_of_the_release(resource, item)}
    return found


def is_of_the_release(resource: str, item: Manifest) -> bool:
    metadata = item["metadata"]
    if resource in ("events", "namespaces", "inferenceservices"):
        return False
    is_inside = metadata.get("namespace") == NAMESPACE and metadata["name"] not in OWN
    is_labelled = metadata.get("labels", {}).get("app.kubernetes.io/instance") == RELEASE
    is_named = (
        "namespace" not in metadata and "slipway" in metadata["name"] and resource not in ("nodes", "apiservices")
    )
    return is_inside or is_labelled or is_named


def kinds(site: Site) -> list[tuple[str, str]]:
    """(path of a list over all namespaces, plural) of every kind that can be listed."""
    groups = [f"/apis/{group['preferredVersion']['groupVersion']}" for group in site.api.call("GET", "/apis")["groups"]]
    return [
        (f"{group}/{resource['name']}", resource["name"])
        for group in ["/api/v1", *groups]
        for resource in site.api.call("GET", group)["resources"]
        if "list" in resource["verbs"] and "/" not in resource["name"]
    ]


def test_namespaced_mode_serves_its_namespace_and_no_other(slipway: Installation, kept: Team, team: Team) -> None:
    lives = kept.lives("kept")
    outside = teams.make(team.site, f"outside-{secrets.token_hex(2)}")
    slipway.uninstall()
    try:
        slipway.upgrade("--set", f"watchNamespaces={{{team.name}}}")
        roles = {
            name(item) for item in team.site.api.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
        }
        assert [role for role in roles if "slipway" in role] == []
        assert team.names("servingruntimes") == ["slipway-pytorch", "slipway-triton"]
        assert slipway.site.api.items("clusterservingruntimes") == []
        outside.apply(service())
        team.apply(service())
        team.wait_settled("hello")
        assert team.answers("hello", 1)
        assert "status" not in outside.must_get("inferenceservices", "hello")
        assert outside.children("hello") == []
        assert kept.lives("kept") == lives
        assert kept.pod_answers("kept", 1)
        assert not kept.answers("kept", 1), "a gateway for one namespace leads to no other"
        assert_no_complaints(slipway)
        slipway.uninstall()
        assert_nothing_is_left(slipway.site)
        assert team.names("servingruntimes") == []
        assert team.pod_answers("hello", 1)
    finally:
        teams.clear(outside)


def assert_no_complaints(slipway: Installation) -> None:
    """An operator without cluster-wide rights that asks for them would say so again and again."""
    lines = [json.loads(line) for line in slipway.log(1000).splitlines() if line.startswith("{")]
    assert lines
    assert [line for line in lines if line.get("level", "info").lower() in ("error", "warning", "critical")] == []


def test_what_was_installed_for_one_namespace_can_be_installed_for_all(slipway: Installation, kept: Team) -> None:
    """The fixture has installed the usual release again: the service of before is still the same."""
    assert slipway.is_well()
    kept.wait_settled("kept")
    assert kept.answers("kept", 1)
