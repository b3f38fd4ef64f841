"""Who is measured: how each is started with one model, what it speaks, and which of its settings are tried.

Of several variants the better one is taken, cell by cell; of our own all are shown. All load the same TorchScript file,
with one instance of it. Peers run with OMP_NUM_THREADS=1, our own server with its defaults, and with `--workers 2`.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.bench import plane
from e2e.bench.runtime import environments
from e2e.bench.runtime.messages import Protocol, Style
from e2e.cluster.paths import REPO

OURS = "slipway"
PEERS = Path(__file__).with_name("peers")


@dataclass(frozen=True, slots=True)
class Place:
    """What a server is started with."""

    model: str
    models: Path
    work: Path
    """A folder of its own, empty."""
    http_port: int = field(default_factory=plane.free_port)
    grpc_port: int = field(default_factory=plane.free_port)
    other_port: int = field(default_factory=plane.free_port)

    def config(self) -> dict[str, list[dict[str, object]]]:
        config: dict[str, list[dict[str, object]]] = json.loads((self.models / self.model / "config.json").read_text())
        return config


@dataclass(frozen=True, slots=True)
class Launch:
    command: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/v2/health/ready"
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    style: Style
    protocols: tuple[Protocol, ...]
    launch: Callable[["Server", Place], Launch]
    package: str = ""
    """Whose version is told; empty = our own."""
    variant: str = ""
    batch: int = 64
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment."""

    @property
    def title(self) -> str:
        return f"{self.name} {self.variant}".strip()

    @property
    def python(self) -> Path:
        return environments.folder(self.name) / "bin" / "python"


def _ours(_: Server, place: Place) -> Launch:
    """One model by flags, everything else by default, but for what the variant sets by variables."""
    model = ["--model", str(place.models / place.model), "--name", place.model, "--host", "127.0.0.1"]
    ports = ["--http-port", str(place.http_port), "--grpc-port", str(place.grpc_port)]
    env = {"PYTHONPATH": str(REPO / "runtime")}
    return Launch([sys.executable, "-m", "slipway_runtime", "serve", *model, *ports], env)


def _app(server: Server, place: Place) -> Launch:
    return Launch([server.python, PEERS / f"{server.name}_app.py"], ready="/ready")


def _kserve(server: Server, place: Place) -> Launch:
    return Launch([server.python, PEERS / "kserve_app.py"])


def _litserve(server: Server, place: Place) -> Launch:
    # It writes beside itself what its clients may use.
    return Launch([server.python, PEERS / "litserve_app.py"], ready="/health", cwd=place.work)


def _mosec(server: Server, place: Place) -> Launch:
    flags = ["--address", "127.0.0.1", "--port", str(place.http_port), "--timeout", "30000", "--log-level", "error"]
    return Launch([server.python, PEERS / "mosec_app.py", *flags], ready="/")


def _ray(server: Server, place: Place) -> Launch:
    return Launch([server.python, PEERS / "ray_app.py"], ready="/-/healthz")


def _mlserver(server: Server, place: Place) -> Launch:
    batching = {"max_batch_size": server.batch, "max_batch_time": 0.001} if server.batch > 1 else {}
    settings = {"name": place.model, "implementation": "mlserver_model.Served", **batching}
    (place.work / "model-settings.json").write_text(json.dumps(settings))
    env = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(place.http_port),
        "MLSERVER_GRPC_PORT": str(place.grpc_port),
        "MLSERVER_METRICS_PORT": str(place.other_port),
        "MLSERVER_DEBUG": "false",
        "PYTHONPATH": str(PEERS),
    }
    return Launch([server.python.with_name("mlserver"), "start", str(place.work)], env, cwd=place.work)


def _triton(server: Server, place: Place) -> Launch:
    """As PyTriton starts it: the wheel has the server, its libraries, and a stub for each version of Python."""
    site = environments.site_packages(environments.folder(server.name))
    root, backend, repository = site / "pytriton" / "tritonserver", place.work / "backends", place.work / "models"
    shutil.copytree(root / "backends" / "python", backend / "python")
    shutil.copy(root / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", backend / "python")
    (repository / place.model / "1").mkdir(parents=True)
    shutil.copy(PEERS / "triton_model.py", repository / place.model / "1" / "model.py")
    (repository / place.model / "config.pbtxt").write_text(triton_config(place))
    flags = {
        "model-repository": repository,
        "backend-directory": backend,
        "http-address": "127.0.0.1",
        "http-port": place.http_port,
        "grpc-address": "127.0.0.1",
        "grpc-port": place.grpc_port,
        "metrics-port": place.other_port,
    }
    env = {
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        # The stub takes its packages from the first python that it finds.
        "PATH": f"{server.python.parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(server.python.parents[1]),
    }
    return Launch([root / "bin" / "tritonserver", *(f"--{name}={value}" for name, value in flags.items())], env)


def triton_config(place: Place) -> str:
    config, kinds = place.config(), ("input", "output")
    tensors = [f'{kind} [{{name: "{one["name"]}" data_type: {one["data_type"]} dims: {one["dims"]}}}]'
               for kind in kinds for one in config[kind]]  # fmt: skip
    lines = [f'name: "{place.model}"', 'backend: "python"', "max_batch_size: 64", *tensors, "dynamic_batching { }"]
    return "\n".join([*lines, "instance_group [{kind: KIND_CPU count: 1}]", ""])


_MOSEC: dict[Protocol, str] = {"json": "/json", "bin": "/raw"}
_RAY_FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}

SERVERS = (
    Server(OURS, "v2", ("json", "bin", "grpc"), _ours),
    Server(OURS, "v2", ("json", "bin", "grpc"), _ours, variant="2 workers", settings={"SLIPWAY_WORKERS": "2"}),
    Server("triton", "v2", ("json", "bin", "grpc"), _triton, "nvidia-pytriton"),
    Server("kserve", "v2", ("json", "bin", "grpc"), _kserve, "kserve", batch=1),
    *(
        Server(
            "mlserver", "v2", ("json", "grpc"), _mlserver, "mlserver", variant, batch, {"MLSERVER_PARALLEL_WORKERS": n}
        )
        for variant, batch, n in (("in process", 1, "0"), ("a worker", 1, "1"), ("batching", 64, "0"))
    ),
    *(Server("litserve", "own", ("json",), _litserve, "litserve", f"batch {size}", size) for size in (64, 1)),
    Server("fastapi", "own", ("json", "bin"), _app, "fastapi", batch=1),
    *(
        Server("mosec", "own", (protocol,), _mosec, "mosec", f"batch {size}", size, {"BENCH_ROUTE": route})
        for protocol, route in _MOSEC.items()
        for size in (64, 8, 1)
    ),
    Server("ray", "own", ("json", "bin"), _ray, "ray", settings=_RAY_FAST),
)


def environment(server: Server, launch: Launch, place: Place) -> dict[str, str]:
    """Of the server's process. Nothing of our own settings reaches a server by accident."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "PYTHON"))}
    if server.name == OURS:
        return {**kept, **server.settings, **launch.env}
    told = {
        "BENCH_MODEL": place.model,
        "BENCH_MODELS": str(place.models),
        "BENCH_SHAPE": ",".join(str(size) for size in place.config()["input"][0]["dims"]),  # type: ignore[attr-defined]
        "BENCH_HTTP_PORT": str(place.http_port),
        "BENCH_GRPC_PORT": str(place.grpc_port),
        "BENCH_BATCH": str(server.batch),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**kept, **told, **server.settings, **launch.env}
