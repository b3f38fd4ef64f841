"""Provider `local`: a whole Kubernetes on this machine, without Docker or a registry."""

from collections.abc import Iterable
from pathlib import Path

from . import apt, build, builder, node, processes, store
from .cluster import Cluster
from .images import Image
from .paths import HERE, state
from .shell import run, step


class Local:
    def cluster(self) -> Cluster:
        programs, folder = build.programs(), state()
        return Cluster("local", folder / "kubeconfig", programs / "kubectl", programs / "helm", folder / "audit.log")

    def up(self) -> None:
        apt.require(apt.NODE)
        cluster = self.cluster()
        if not node.is_well(state()):
            with step("starting a Kubernetes node"):
                _start(cluster)

    def down(self) -> None:
        with step("stopping the Kubernetes node"):
            node.stop(state())

    def status(self) -> str:
        running = processes.running(state())
        health = "well" if node.is_well(state()) else "NOT well" if running else "not running"
        lines = [f"local cluster in {state()}: {health}"]
        for name, pids in sorted(running.items()):
            lines.append(f"  {name:<24} {len(pids)} process(es), {sum(map(_rss_mib, pids))} MiB")
        if "containerd" in running:
            lines += [f"  image {name}" for name in sorted(store.names(state())) if name.startswith("docker.io/")]
        return "\n".join(lines)

    def load(self, images: Iterable[Image]) -> None:
        apt.require(apt.IMAGES)
        for image in images:
            if image.reference not in store.names(state()):
                builder.build(image)
                with step(f"bringing {image.name} to the node"):
                    store.add_built(state(), image.reference)


def _start(cluster: Cluster) -> None:
    programs = build.programs()
    node.start(state(), programs)
    store.add_single_programs(state(), programs)
    manifest = HERE / "manifests" / "coredns.yaml"
    run(cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "apply", "--filename", manifest)
    node.wait_ready(state())


def _rss_mib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 >> 20
