"""A Kubernetes control plane for measuring: real etcd, API server, controllers and scheduler, pretend nodes by KWOK.

All of it on loopback with ports of its own and without root, beside whatever else runs; its processes end with the
benchmark. It has no kubelet, so no pod runs for real. Every user has a token, and the API server keeps an audit log
of what the operator and the benchmark asked for, from which the figures are taken.
"""

import json
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.api import Api, Manifest, until
from e2e.cluster import build, pki

NODES = 20
OPERATOR, BENCH, CLUSTER = "operator", "bench", "cluster"
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [OPERATOR, BENCH]}, {"level": "None"}],
}
_SERVICES = "10.97.0.0/16"


@dataclass(frozen=True, slots=True)
class Plane:
    api: Api
    folder: Path
    url: str

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    def kubeconfig(self, user: str) -> Path:
        return self.folder / f"{user}.kubeconfig"

    def account(self, user: str) -> Path:
        """A folder as a pod's service account has it."""
        return self.folder / f"{user}.account"


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[Api, Path]]:
    """A client of the control plane, which has its nodes, and its audit log; all of it ends with the context."""
    kwok = build.kwok()
    async with api_server(folder) as plane:
        with ExitStack() as running:
            # Only now: a controller-manager that finds no API server for 10 s gives up.
            for command in _controllers(folder, build.programs(), kwok, plane.url):
                running.enter_context(daemon(folder / "log" / f"{Path(command[0]).name}.log", command))
            await _add_nodes(plane.api)
            yield plane.api, plane.audit_log


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[Plane]:
    """An etcd and an API server, with nobody at work on what they hold; both end with the context."""
    programs = build.programs()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "log").mkdir(parents=True)
    pki.create(folder / "pki", "127.0.0.1", _SERVICES.replace(".0/16", ".1"))
    url, tokens = (
        f"https://127.0.0.1:{free_port()}",
        {user: secrets.token_hex(16) for user in (OPERATOR, BENCH, CLUSTER)},
    )
    for name, content in _files(folder, url, tokens).items():
        (folder / name).write_text(content)
    for user, token in tokens.items():
        account = folder / f"{user}.account"
        account.mkdir()
        (account / "token").write_text(token)
        shutil.copy(folder / "pki" / "ca.crt", account / "ca.crt")
    async with Api.connected(url, tokens[BENCH], folder / "pki" / "ca.crt") as api:
        with ExitStack() as running:
            for command in _store(folder, programs, url):
                running.enter_context(daemon(folder / "log" / f"{Path(command[0]).name}.log", command))
            await until(api.is_ready, "the API server to be ready")
            yield Plane(api, folder, url)


@contextmanager
def daemon(log: Path, command: list[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end of the context, and by the kernel should the benchmark itself be killed."""
    with log.open("ab") as output:
        argv = ["setpriv", "--pdeathsig", "KILL", *command]
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _store(folder: Path, programs: Path, url: str) -> list[list[str]]:
    """Command lines: etcd and the API server on it."""
    etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    return [
        [
            f"{programs}/etcd",
            f"--data-dir={folder}/etcd",
            "--unsafe-no-fsync",  # the disk is not what is measured
            f"--listen-peer-urls={peers}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            "--log-level=warn",
        ],
        [
            f"{programs}/kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={url.rpartition(':')[2]}",
            "--endpoint-reconciler-type=none",  # an endpoint may not be on loopback, and nobody looks for it
            f"--tls-cert-file={folder}/pki/apiserver.crt",
            f"--tls-private-key-file={folder}/pki/apiserver.key",
            f"--token-auth-file={folder}/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={folder}/pki/sa.key",
            f"--service-account-signing-key-file={folder}/pki/sa.key",
            "--authorization-mode=RBAC",
            f"--service-cluster-ip-range={_SERVICES}",
            f"--audit-policy-file={folder}/audit.json",
            f"--audit-log-path={folder}/audit.log",
            "--audit-log-maxsize=4096",  # MB: never rotated
        ],
    ]


def _controllers(folder: Path, programs: Path, kwok: Path, url: str) -> list[list[str]]:
    """Command lines of who works with it."""
    # Rates that never hold a benchmark back: with the defaults (20 to 50 a second) they would be what it measures.
    client = [f"--kubeconfig={folder}/{CLUSTER}.kubeconfig", "--kube-api-qps=500", "--kube-api-burst=1000"]
    apart = ["--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"]
    return [
        [
            f"{programs}/kube-controller-manager",
            *client,
            *apart,
            f"--service-account-private-key-file={folder}/pki/sa.key",
            f"--root-ca-file={folder}/pki/ca.crt",
            # A starved KWOK that misses a heartbeat would turn its pods not Ready for ever.
            "--node-monitor-grace-period=15m",
        ],
        [f"{programs}/kube-scheduler", *client, *apart],
        [
            str(kwok),
            client[0],
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=120",
            f"--server-address=127.0.0.1:{free_port()}",
        ],
    ]


def _files(folder: Path, url: str, tokens: dict[str, str]) -> dict[str, str]:
    configs = {f"{user}.kubeconfig": json.dumps(_kubeconfig(folder, url, token)) for user, token in tokens.items()}
    users = "".join(f"{token},{user},{user},system:masters\n" for user, token in tokens.items())
    return configs | {"tokens.csv": users, "audit.json": json.dumps(AUDIT)}


def _kubeconfig(folder: Path, url: str, token: str) -> dict[str, object]:
    cluster = {"server": url, "certificate-authority": f"{folder}/pki/ca.crt"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": {"token": token}}],
    }


async def _add_nodes(api: Api) -> None:
    names = [f"pretend-{number:02}" for number in range(NODES)]
    for name in names:
        await api.create("/api/v1/nodes", _node(name))

    async def ready() -> bool:
        nodes = (await api.get("/api/v1/nodes"))["items"]
        return sum(_is_ready(node) for node in nodes) == NODES

    await until(ready, "the pretend nodes to be Ready")


def _node(name: str) -> Manifest:
    metadata = {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def _is_ready(node: Manifest) -> bool:
    conditions = node["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
