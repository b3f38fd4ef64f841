"""What the API server fills in: the defaults a client reads back from the kinds Slipway writes.

Each function completes its manifest in place and is idempotent. Source: `pkg/apis/{apps,core}/v1/defaults.go`
of Kubernetes 1.34; the contract tests compare with a real server.
"""

from collections.abc import Callable
from ipaddress import IPv4Address

from slipway.api.manifest import Manifest

from . import crds


def complete(obj: Manifest, serial: int) -> None:
    """Fill in the defaults of `obj`'s kind; `serial` makes what the server allocates (cluster IPs) unique."""
    if obj["kind"] == "Service":
        _service(obj, serial)
    elif obj["kind"] in _DEFAULTS:
        _DEFAULTS[obj["kind"]](obj)
    elif obj["kind"] in crds.schemas():
        crds.fill(obj, crds.schemas()[obj["kind"]])


def _fill(target: Manifest, defaults: Manifest) -> None:
    for name, value in defaults.items():
        target.setdefault(name, value)


def _deployment(obj: Manifest) -> None:
    spec = obj["spec"]
    _fill(spec, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600})
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy.setdefault("rollingUpdate", {}), {"maxSurge": "25%", "maxUnavailable": "25%"})
    _pod_spec(spec["template"]["spec"])


def _service(obj: Manifest, serial: int) -> None:
    spec = obj["spec"]
    _fill(spec, {"type": "ClusterIP", "sessionAffinity": "None"})
    for port in spec.get("ports", []):
        _fill(port, {"protocol": "TCP", "targetPort": port["port"]})
    if spec["type"] == "ExternalName":
        return
    address = spec.setdefault("clusterIP", str(IPv4Address("10.96.0.0") + serial % 65_000))
    _fill(
        spec,
        {
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
        },
    )


def _pod(obj: Manifest) -> None:
    _pod_spec(obj["spec"])
    for container in obj["spec"].get("initContainers", []) + obj["spec"]["containers"]:
        _requests(container["resources"])
    _fill(obj["spec"], {"enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority", "priority": 0})


def _pod_spec(spec: Manifest) -> None:
    _fill(
        spec,
        {
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        },
    )
    if "serviceAccountName" in spec:
        spec["serviceAccount"] = spec["serviceAccountName"]
    for container in spec.get("initContainers", []) + spec["containers"]:
        _container(container)
    for volume in spec.get("volumes", []):
        _volume(volume)


def _container(container: Manifest) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    _fill(
        container,
        {
            "imagePullPolicy": "IfNotPresent" if "@" in image or tag not in {"", "latest"} else "Always",
            "resources": {},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        },
    )
    for port in container.get("ports", []):
        port.setdefault("protocol", "TCP")
    for env in container.get("env", []):
        if field := env.get("valueFrom", {}).get("fieldRef"):
            field.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            _probe(container[name])


def _requests(resources: Manifest) -> None:
    """A limit without a request is the request too: in pods, not in templates."""
    if resources.get("limits"):
        _fill(resources.setdefault("requests", {}), resources["limits"])


def _probe(probe: Manifest) -> None:
    _fill(probe, {"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1})
    if "httpGet" in probe:
        _fill(probe["httpGet"], {"path": "/", "scheme": "HTTP"})
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _volume(volume: Manifest) -> None:
    for source in ("configMap", "secret", "projected", "downwardAPI"):
        if source in volume:
            volume[source].setdefault("defaultMode", 420)
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}


_DEFAULTS: dict[str, Callable[[Manifest], None]] = {"Deployment": _deployment, "Pod": _pod}
