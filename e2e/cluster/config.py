"""The configuration of every component of the local node, as pure functions of where things lie."""

import base64
import json
from pathlib import Path

LINK = "slipway-host"  # the machine's end of the veth pair into the node's network namespace
HOST_IP, NODE_IP, PREFIX = "10.246.0.1", "10.246.0.2", 30
PODS, SERVICES = "10.244.0.0/16", "10.96.0.0/16"
API_IP, DNS_IP = "10.96.0.1", "10.96.0.10"
SERVER = f"https://{NODE_IP}:6443"
CGROUP = "slipway"  # every pod's cgroup is below this one
NETWORK = "slipway-pods"  # the pods' network, as CNI calls it
PAUSE = "slipway.local/pause:1"
GPUS = "4"
# Client rates that never hold a benchmark back: the defaults (20 to 50 a second) would be what it measures.
QPS, BURST = 500, 1000


def commands(state: Path, programs: Path) -> dict[str, list[str]]:
    """Every daemon's command line by its name, in the order in which they start."""
    pki, admin = state / "pki", state / "kubeconfig"
    rates = [f"--kube-api-qps={QPS}", f"--kube-api-burst={BURST}", "--leader-elect=false", "--bind-address=127.0.0.1"]
    return {
        "etcd": [
            f"{programs}/etcd",
            f"--data-dir={state}/etcd",
            "--unsafe-no-fsync",  # the cluster does not outlive a power cut anyway
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--log-level=warn",
        ],
        "kube-apiserver": [f"{programs}/kube-apiserver", *_apiserver(state, pki)],
        "containerd": ["containerd", "--config", f"{state}/containerd.toml"],
        "kube-controller-manager": [
            f"{programs}/kube-controller-manager",
            f"--kubeconfig={admin}",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            "--use-service-account-credentials",
            # A starved KWOK that misses a heartbeat would turn its pods not Ready for ever.
            "--node-monitor-grace-period=15m",
            *rates,
        ],
        "kube-scheduler": [f"{programs}/kube-scheduler", f"--kubeconfig={admin}", *rates],
        "kube-proxy": [
            f"{programs}/kube-proxy",
            f"--kubeconfig={admin}",
            f"--cluster-cidr={PODS}",
            "--hostname-override=node",
            # A network namespace may not set these.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
        "kubelet": [
            f"{programs}/kubelet",
            f"--kubeconfig={state}/node.kubeconfig",
            f"--config={state}/kubelet.json",
            "--hostname-override=node",
            f"--root-dir={state}/kubelet",
            f"--node-ip={NODE_IP}",
        ],
    }


def _apiserver(state: Path, pki: Path) -> list[str]:
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_IP}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/sa.key",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICES}",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        f"--audit-policy-file={Path(__file__).parent}/manifests/audit.yaml",
        f"--audit-log-path={state}/audit.log",
        "--audit-log-maxsize=4096",  # MB: never rotated, so that a test finds all of it in one file
    ]


def files(state: Path) -> dict[str, str]:
    """Every configuration file's content by its path below the cluster's folder; needs the keys in pki/."""
    return {
        "kubeconfig": _kubeconfig(state / "pki", "admin"),
        "node.kubeconfig": _kubeconfig(state / "pki", "node"),
        "kubelet.json": json.dumps(_kubelet(state)),
        "containerd.toml": _containerd(state),
        f"cni/10-{NETWORK}.conflist": json.dumps(_bridge(state)),
        "resolv.conf": "",
    }


def _kubeconfig(pki: Path, user: str) -> str:
    def data(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    credentials = {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "slipway",
            "contexts": [{"name": "slipway", "context": {"cluster": "slipway", "user": user}}],
            "clusters": [
                {"name": "slipway", "cluster": {"server": SERVER, "certificate-authority-data": data("ca.crt")}}
            ],
            "users": [{"name": user, "user": credentials}],
        },
        indent=1,
    )


def _kubelet(state: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{state}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{state}/pki/node.crt",
        "tlsPrivateKeyFile": f"{state}/pki/node.key",
        "address": NODE_IP,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{state}/containerd.sock",
        "resolvConf": f"{state}/resolv.conf",  # empty: the cluster's DNS knows no world outside
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "kubeAPIQPS": QPS,
        "kubeAPIBurst": BURST,
        "serializeImagePulls": False,
        # A developer's disk is fuller than a server's, and images here cannot be pulled again.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # Scenarios read gateways' logs, of which there is the newest file only: a minute's at the usual 10 Mi.
        "containerLogMaxSize": "200Mi",
        "volumePluginDir": f"{state}/kubelet/volume-plugins",
        "podLogsDir": f"{state}/pod-logs",
    }


def _bridge(state: Path) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS.replace("/16", "/24")}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{state}/ipam",
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": NETWORK, "plugins": [bridge, ports]}


def _containerd(state: Path) -> str:
    return f"""
version = 2
root = "{state}/containerd"
state = "{state}/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  netns_mounts_under_state_dir = true   # pods' network namespaces lie where `down` finds them
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE a sandbox fails: "can't get final child's PID from pipe"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
"""
