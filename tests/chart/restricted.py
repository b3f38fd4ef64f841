"""Whether a pod passes the `restricted` Pod Security Standard, as the API server's admission judges it (v1.34).

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Iterator

from slipway.api.manifest import Manifest

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(pod: Manifest) -> list[str]:
    """What the standard forbids in this pod spec, in words; empty when it passes."""
    return [*_of_pod(pod), *(found for container in _containers(pod) for found in _of_container(pod, container))]


def _containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]


def _of_pod(pod: Manifest) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']} of type {kind}"
    if pod.get("securityContext", {}).get("sysctls"):
        yield "sysctls"
    if pod.get("securityContext", {}).get("runAsUser") == 0:
        yield "runAsUser 0"


def _of_container(pod: Manifest, container: Manifest) -> Iterator[str]:
    name, own, pods = container["name"], container.get("securityContext", {}), pod.get("securityContext", {})
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if not own.get("runAsNonRoot", pods.get("runAsNonRoot")):
        yield f"{name}: runAsNonRoot is not set"
    if own.get("runAsUser") == 0:
        yield f"{name}: runAsUser 0"
    if own.get("seccompProfile", pods.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield f"{name}: seccompProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}: hostPort"
