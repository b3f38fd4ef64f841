"""The node's network namespace: kube-proxy's rules and the pods' bridge stay in it, and one deletion ends them all."""

from contextlib import suppress
from pathlib import Path

from .config import HOST_IP, LINK, NODE_IP, PODS, PREFIX, SERVICES
from .shell import ClusterError, run


def enter(state: Path) -> tuple[str, ...]:
    """What to put before a command to run it in the namespace."""
    # Not `ip netns exec`: that hides /sys/fs/cgroup, and leaves a mount on /run/netns behind.
    return "nsenter", f"--net={state}/netns"


def create(state: Path) -> None:
    """The namespace, a veth pair that gives the node its address, and routes from the machine to pods and services."""
    (state / "netns").touch()
    run("unshare", f"--net={state}/netns", "true")
    inside = (*enter(state), "ip")
    run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "node", "netns", f"{state}/netns")
    run("ip", "address", "add", f"{HOST_IP}/{PREFIX}", "dev", LINK)
    run("ip", "link", "set", LINK, "up")
    run(*inside, "address", "add", f"{NODE_IP}/{PREFIX}", "dev", "node")
    for device in ("lo", "node"):
        run(*inside, "link", "set", device, "up")
    run(*inside, "route", "add", "default", "via", HOST_IP)
    for subnet in (PODS, SERVICES):
        run("ip", "route", "replace", subnet, "via", NODE_IP)
    run(*enter(state), "sysctl", "-qw", "net.ipv4.ip_forward=1")
    with suppress(ClusterError):  # where the kernel has no bridge filter, there is nothing to turn on
        run(*enter(state), "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")


def delete() -> None:
    """Remove the pair, and with it the routes; the namespace ends with its last process and mount."""
    # The kernel may take the pair away itself, in this very moment: the namespace's last process has ended.
    with suppress(ClusterError):
        run("ip", "link", "delete", LINK)
    if Path(f"/sys/class/net/{LINK}").exists():
        raise ClusterError(f"the link {LINK} could not be removed: ip link delete {LINK}")
