"""Provider `local`: a whole Kubernetes on this machine, without Docker or a registry."""

from collections.abc import Iterable
from pathlib import Path

from . import apt, build, builder, node, processes, store
from .cluster import Cluster
from .images import Image
from .lock import hold
from .paths import HERE, state
from .shell import run, step


class Local:
    def cluster(self) -> Cluster:
        programs, folder = build.programs(), state()
        return Cluster("local", folder / "kubeconfig", programs / "kubectl", programs / "helm", folder / "audit.log")

    def is_up(self) -> bool:
        return node.is_well(state())

    def up(self) -> None:
        if node.becomes_well(state()):
            return
        with hold("starting the local cluster"):
            node.require_machine(state())
            apt.require(apt.NODE)
            cluster = self.cluster()
            with step("starting a Kubernetes node"):
                _start(cluster)

    def down(self) -> None:
        with hold("stopping the local cluster"), step("stopping the Kubernetes node"):
            node.stop(state())

    def status(self) -> str:
        running = processes.running(state())
        health = "well" if self.is_up() else "NOT well" if running else "not running"
        lines = [f"local cluster in {state()}: {health}"]
        for name, pids in sorted(running.items()):
            lines.append(f"  {name:<24} {len(pids)} process(es), {sum(map(_rss_mib, pids))} MiB")
        if "containerd" in running:
            lines += [f"  image {name}" for name in sorted(store.names(state())) if name.startswith("docker.io/")]
        return "\n".join(lines)

    def load(self, images: Iterable[Image]) -> None:
        missing = [image for image in images if image.reference not in store.names(state())]
        if not missing:
            return
        with hold("building images"):
            apt.require(apt.IMAGES)
            for image in missing:
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
