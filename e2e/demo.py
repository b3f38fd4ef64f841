"""The tour: a prediction, versions good and bad, replicas that follow, models from a store, shared traffic. `make demo`

Every step prints the command it runs, what came back and the seconds it took; you can type the same commands. The
cluster stays up afterwards.
"""

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from e2e.cluster import ALL, Busy, Cluster, ClusterError, chart_values, choose, hold
from e2e.demo_models import models
from e2e.demo_releases import releases
from e2e.demo_scaling import replicas

NAMESPACE = "demo"
PORT = 18080
URL = f"http://127.0.0.1:{PORT}/{NAMESPACE}/hello/v2/models/hello/infer"
BODY = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}'
TRITONCLIENT = """
import numpy, tritonclient.{protocol} as client
x = client.InferInput("x", [1, 4], "FP32"); x.set_data_from_numpy(numpy.array([[1, 2, 3, 4]], dtype=numpy.float32))
print(client.InferenceServerClient("{url}").infer("hello", [x], headers={headers}).as_numpy("y"))
"""
SHARES = """
import collections, json, urllib.request
def ask(**headers):
    request = urllib.request.Request("{url}", {body!r}.encode(), dict(authorization="Bearer {key}", **headers))
    return json.load(urllib.request.urlopen(request))["outputs"][0]["data"][0]
print("everybody:", dict(collections.Counter(ask() for _ in range(400))))
print("beta users:", dict(collections.Counter(ask(**{{"x-user-group": "beta"}}) for _ in range(50))))
"""
KEY = "sk-demo-5f2b8c1e9a"


class Tour:
    def __init__(self, cluster: Cluster) -> None:
        paths = f"{cluster.kubectl.parent}:{os.environ['PATH']}"
        self.env = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "PATH": paths}
        self.started = time.monotonic()

    def step(self, what: str, command: str, *, fails: bool = False) -> str:
        """Run one command as a person would; a result other than the expected one ends the tour."""
        print(f"\n\033[1m{what}\033[0m\n$ {command}", flush=True)
        began = time.monotonic()
        done = subprocess.run(command, shell=True, env=self.env, text=True, capture_output=True, check=False)  # noqa: S602
        output = (done.stdout + done.stderr).rstrip()
        print("\n".join(f"  {line}" for line in output.splitlines()))
        print(f"  ({time.monotonic() - began:.1f} s)", flush=True)
        if (done.returncode != 0) != fails:
            raise SystemExit(f"the last command ended with {done.returncode}; the tour stops here")
        return output

    def expect(self, text: str, output: str) -> None:
        if text not in output:
            raise SystemExit(f"expected {text!r} in the answer above; the tour stops here")

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[str]:
        """The gateway's URL on this machine, as `kubectl port-forward` gives it."""
        command = f"kubectl -n slipway-system port-forward service/slipway-gateway {PORT}:80"
        print(f"\n\033[1mReach the gateway from this machine\033[0m\n$ {command} &", flush=True)
        forward = subprocess.Popen(shlex.split(command), env=self.env, stdout=subprocess.DEVNULL)
        try:
            _wait_for_port(PORT)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            forward.terminate()
            forward.wait()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on port {port} after 15 s")


def predictions(tour: Tour, answer: str) -> None:
    tour.expect(answer, tour.step("Predict by curl (JSON)", f"curl -sS {URL} -d {shlex.quote(BODY)}"))
    header = {"x-slipway-service": f"{NAMESPACE}/hello"}
    ways: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("http", f"127.0.0.1:{PORT}/{NAMESPACE}/hello", {}),
        ("grpc", f"127.0.0.1:{PORT}", header),
    )
    for protocol, url, headers in ways:
        script = shlex.quote(TRITONCLIENT.format(protocol=protocol, url=url, headers=headers).strip())
        output = tour.step(f"Predict by tritonclient ({protocol})", f"{sys.executable} -c {script}")
        tour.expect(f"[[{' '.join(number.removesuffix('0') for number in answer.split(','))}]]", output)


def shared(tour: Tour, kubectl: str) -> None:
    """Two models side by side, a group of users, and a key."""
    secret = f"{kubectl} create secret generic slipway-api-keys --from-literal=web={KEY} --dry-run=client -o yaml"
    tour.step("A key for the client `web`", f"{secret} | {kubectl} apply -f -")
    tour.step("10 % of the users, and all beta users, get another model", f"{kubectl} apply -f examples/traffic.yaml")
    # By the variant's name: an index that is not there yet is an error to kubectl.
    routed = """--for=jsonpath='{.status.routing.targets[?(@.variant=="b")].weight}'=1000 --timeout=120s"""
    tour.step("Wait until it has its share", f"{kubectl} wait infsvc/hello {routed}")
    tour.step("... and the gateways serve it", f"{kubectl} wait infsvc/hello --for=condition=RoutesReady --timeout=30s")
    with tour.forwarded():
        without = f"curl -sS -o /dev/null -w '%{{http_code}}' {URL} -d {shlex.quote(BODY)}"
        tour.expect("401", tour.step("Without a key", without))
        script = SHARES.format(url=URL, body=BODY, key=KEY).strip()
        output = tour.step("With the key: who gets what", f"{sys.executable} -c {shlex.quote(script)}")
        tour.expect("beta users: {3.0: 50}", output)


def walk(tour: Tour, cluster: Cluster) -> None:
    install = (
        "helm upgrade --install slipway charts/slipway --namespace slipway-system --create-namespace --wait"
        f" {shlex.join(chart_values())}"
    )
    kubectl = f"kubectl -n {NAMESPACE}"
    tour.step("Install Slipway", install)
    # What an earlier tour has left would answer as versions that this one has not come to yet.
    tour.step(
        "A namespace",
        f"kubectl delete namespace {NAMESPACE} --ignore-not-found && kubectl create namespace {NAMESPACE}",
    )
    tour.step("Serve a model", f"{kubectl} apply -f examples/hello.yaml")
    tour.step("Wait until it answers", f"{kubectl} wait infsvc/hello --for=condition=Ready --timeout=120s")
    print(f"\n  first Ready {time.monotonic() - tour.started:.1f} s after the tour began")
    with tour.forwarded():
        predictions(tour, "3.0,5.0,7.0,9.0")
    tour.step("The next version of the model", f"{kubectl} apply -f examples/hello-v2.yaml")
    settled = "--for=jsonpath='{.status.rollout.phase}'=Healthy --timeout=120s"
    tour.step(
        "It takes over when it is ready",
        f"{kubectl} wait infsvc/hello --for=jsonpath='{{.status.observedGeneration}}'=2",
    )
    tour.step("... and the old one goes", f"{kubectl} wait infsvc/hello {settled}")
    with tour.forwarded():
        predictions(tour, "103.0,105.0,107.0,109.0")
    releases(tour, cluster, NAMESPACE)
    replicas(tour, cluster, NAMESPACE)
    models(tour, NAMESPACE, install, BODY)
    shared(tour, kubectl)
    tour.step("What it looks like now", f"{kubectl} get infsvc,deployments,services,pods")
    history = "'{range .status.history[*]}{.time}  {.reason}  {.message}{\"\\n\"}{end}'"
    tour.step("What was decided, and why", f"{kubectl} get infsvc hello -o jsonpath={history}")
    tour.step("A wrong spec is refused, with reasons", f"{kubectl} apply -f examples/wrong.yaml", fails=True)


def main() -> int:
    try:
        with hold("demo"):
            provider = choose()
            provider.up()
            provider.load(ALL)
            tour = Tour(provider.cluster())
            walk(tour, provider.cluster())
    except (Busy, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - tour.started:.0f} s. The cluster stays up; `make down` removes it. To go on:")
    print(f"  export KUBECONFIG={tour.env['KUBECONFIG']} PATH={provider.cluster().kubectl.parent}:$PATH")
    return 0


if __name__ == "__main__":
    sys.exit(main())
