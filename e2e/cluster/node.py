"""One real Kubernetes node on this machine, in a network namespace of its own: start, stop, is it well.

What survives a stop is containerd's store, because images take minutes to import; everything else is made anew.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import cgroups, config, network, pki, processes, store
from .api import Api, is_available, is_node_ready
from .paths import HERE, digest
from .shell import ClusterError, run

OWNER = Path("/run/slipway-cluster.owner")  # the folder of the cluster that has the fixed addresses now
SOCKET_PATH = 107  # bytes; Source: unix(7)
NODE = "/api/v1/nodes/node"
DNS = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"
CONTROL_PLANE = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
_RECOVERY_S = 30.0


def is_well(state: Path) -> bool:
    """Whether every daemon runs as this checkout would start it, the node is Ready and the cluster's DNS answers."""
    if not _is_running(state):
        return False
    api = Api(state / "pki")
    return api.is_ready() and is_node_ready(api.get(NODE), with_gpus=True) and is_available(api.get(DNS))


def becomes_well(state: Path) -> bool:
    """Whether it is well, or is again within half a minute: to start it anew takes everything in it away, and a busy
    machine makes a node miss a heartbeat.
    """
    deadline = time.monotonic() + _RECOVERY_S
    while not is_well(state):
        if not _is_running(state) or time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _is_running(state: Path) -> bool:
    is_complete = config.commands(state, state).keys() <= processes.running(state).keys()
    return is_complete and (state / "version").read_text() == version()


def version() -> str:
    return digest([HERE / name for name in ("go", "manifests", "config.py")])


def start(state: Path, programs: Path) -> None:
    """Start every daemon anew; the node becomes Ready by itself."""
    stop(state)
    state.mkdir(parents=True, exist_ok=True)
    (state / "audit.log").unlink(missing_ok=True)  # kept by `stop`, for a person to read
    OWNER.write_text(str(state))
    for folder in ("cni", "log", "kubelet"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    pki.create(state / "pki", config.NODE_IP, config.API_IP)
    (state / "version").write_text(version())
    for name, content in config.files(state).items():
        (state / name).write_text(content)
    (state / "kubeconfig").chmod(0o600)
    cgroups.create()
    network.create(state)
    commands = config.commands(state, programs)
    for name in ("etcd", "kube-apiserver", "containerd"):
        processes.start(state, name, commands[name])
    _wait((state / "containerd.sock").exists, "containerd to listen", state / "log" / "containerd.log")
    _wait(Api(state / "pki").is_ready, "the API server to be ready", state / "log" / "kube-apiserver.log")
    for name in CONTROL_PLANE:  # only now: a controller-manager that finds no API server for 10 s gives up
        processes.start(state, name, commands[name])


def wait_ready(state: Path) -> None:
    """Return when the node is Ready, has its pretended GPUs, and the cluster's DNS answers."""
    api = Api(state / "pki")
    log = state / "log" / "kubelet.log"
    _wait(lambda: is_node_ready(api.get(NODE)), "the node to be Ready", log)
    _wait(api.pretend_gpus, "the node to take its GPUs", log)
    _wait(lambda: is_available(api.get(DNS)), "the cluster's DNS to be ready", log)


def stop(state: Path) -> None:
    """End it all: processes, containers, mounts, namespaces, routes, cgroups. Safe to call when nothing runs."""
    require_machine(state)
    processes.stop(state, CONTROL_PLANE, 2)
    cgroups.kill()
    _forget_containers(state)
    processes.stop(state, (processes.SHIM, "containerd"), 3)
    # The API server would wait up to a minute for hanging watches, and neither has anything to keep.
    processes.stop(state, ("kube-apiserver", "etcd"), 0.5)
    _unmount(state)
    cgroups.remove()
    network.delete()
    OWNER.unlink(missing_ok=True)
    _remove_files(state)


def require_machine(state: Path) -> None:
    """Refuse what could not work, or would hurt another cluster; before anything slow or final is done."""
    if os.geteuid() != 0:
        raise ClusterError("the local cluster needs root; run as root, or choose another with CLUSTER=kind")
    if len(f"{state}/containerd.sock.ttrpc") > SOCKET_PATH:
        raise ClusterError(f"{state} is too long a path for a Unix socket; set SLIPWAY_CACHE to a shorter one")
    owner = Path(OWNER.read_text()) if OWNER.exists() else state
    if owner != state and processes.running(owner):
        raise ClusterError(
            f"another local cluster runs on this machine, from {owner}; stop it with "
            f"SLIPWAY_CACHE={owner.parent} python -m e2e.cluster down"
        )


def _wait(done: Callable[[], bool], what: str, log: Path, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
            raise ClusterError(f"waited {within_s:.0f} s for {what}; the end of {log}:\n{tail}")
        time.sleep(0.05)


def _forget_containers(state: Path) -> None:
    """Remove the containers' records and their writable layers; the images stay."""
    if not processes.running(state).get("containerd"):
        return
    left = store.containers(state)
    deadline = time.monotonic() + 5
    while left and time.monotonic() < deadline:
        with suppress(ClusterError):  # containerd has not noticed yet that the container has ended
            run(*store.ctr(state), "containers", "delete", *left)
        left = store.containers(state)


def _unmount(state: Path) -> None:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(f"{state}/")]):
        run("umount", "--lazy", point)


def _remove_files(state: Path) -> None:
    """Everything but the images and the logs, which a person may want to read after the fact."""
    stale = ("etcd", "pki", "cni", "ipam", "kubelet", "pod-logs", "containerd-state", "containerd-opt", "netns")
    cri = [f"containerd/io.containerd.grpc.v1.cri/{name}" for name in ("containers", "sandboxes")]
    for name in (*stale, *cri, "containerd.sock", "containerd.sock.ttrpc", "kubeconfig", "node.kubeconfig"):
        path = state / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # Two folders that kubelet and the CNI library do not let anybody choose.
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(state):
            link.unlink()
    for result in Path("/var/lib/cni/results").glob("*"):
        if f"{state}/" in result.read_text(errors="replace"):
            result.unlink()
