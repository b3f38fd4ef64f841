"""From nothing to a prediction: three commands, 90 seconds. And every way in which a prediction can be asked for."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from e2e.cluster.paths import REPO
from e2e.support.installation import Installation
from e2e.support.manifests import fetching_runtime, service
from e2e.support.site import Site
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

LIMIT_S = 90
QUESTION = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
ANSWER = [3.0, 5.0, 7.0, 9.0]


@dataclass
class Commands:
    """What a user types, counted and timed."""

    begin: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)

    def run(self, *argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT_S + 30)
        self.lines.append(f"{time.monotonic() - self.begin:6.1f} s  {' '.join(argv)[:150]}")
        assert done.returncode == 0, f"{self}\n{done.stdout}{done.stderr}"
        return done.stdout

    def __str__(self) -> str:
        return "\n".join(self.lines)


def test_three_commands_lead_to_a_prediction(site: Site, installation: Installation, team: Team) -> None:
    if not site.is_local:
        pytest.skip("the third command reaches the service's address from this machine, which is so on `local` only")
    installation.uninstall(everything=True)
    installation.make_namespace()  # for its Pod Security label only; --create-namespace would do
    kubeconfig = ("--kubeconfig", str(site.cluster.kubeconfig))
    user = Commands()
    user.run(str(site.cluster.helm), *kubeconfig, *installation.install_command())
    example = str(REPO / "examples" / "hello.yaml")
    user.run(str(site.cluster.kubectl), *kubeconfig, "apply", "--namespace", team.name, "--filename", example)
    # The name's address is all that this machine lacks to be a place in the cluster.
    address = until("the service has an address", lambda: team.get("services", "hello"), within_s=30)["spec"]
    assert address["externalName"].startswith("slipway-gateway.slipway-system.svc.")
    via = installation.gateway_address()
    there = ("--connect-to", f"hello.{team.name}:80:{via}:80", f"http://hello.{team.name}/v2/models/hello/infer")
    # A connection begun before kube-proxy knows the address is lost for minutes; no client should wait for it.
    patiently = (
        "--connect-timeout",
        "2",
        "--retry",
        str(LIMIT_S),
        "--retry-delay",
        "1",
        "--retry-all-errors",
        "--fail",
        "--silent",
    )
    answer = json.loads(user.run("curl", *patiently, "--data", json.dumps(QUESTION), *there))
    seconds = time.monotonic() - user.begin
    print(user)
    assert answer["outputs"][0]["data"] == ANSWER
    assert len(user.lines) == 3
    assert seconds <= LIMIT_S, user
    assert team.wait("hello", "Ready")["message"].startswith("revision hello-")
    assert team.status("hello")["url"] == f"http://hello.{team.name}"


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    """A service, and a pod to ask it from."""
    assert shared_slipway
    shared_team.apply(service())
    shared_team.start_client()
    shared_team.wait_settled("hello")
    return shared_team


@pytest.fixture
def address(hello: Team, installation: Installation) -> str:
    if not hello.site.is_local:
        pytest.skip("the gateway's address can be reached from this machine on `local` only")
    return installation.gateway_address()


TRITON_CLIENT = """
import json
import sys
import numpy as np
import tritonclient.{protocol} as triton

client, headers = triton.InferenceServerClient(sys.argv[1]), json.loads(sys.argv[2])
assert client.is_server_live(headers) and client.is_server_ready(headers)
assert client.is_model_ready("hello", "", headers)
tensor = triton.InferInput("x", [1, 4], "FP32")
tensor.set_data_from_numpy(np.array([[1, 2, 3, 4]], dtype=np.float32))
print(client.infer("hello", [tensor], headers=headers).as_numpy("y")[0].tolist())
client.close()
"""
PLAIN = """
import json, sys, urllib.request
body = json.dumps(json.loads(sys.argv[2])).encode()
with urllib.request.urlopen(urllib.request.Request(sys.argv[1], body), timeout=10) as answer:
    print(json.loads(answer.read())["outputs"][0]["data"])
"""


def python(script: str, *argv: str) -> str:
    """A client in a process of its own: tritonclient brings gevent, which does not belong into a test session."""
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("by", ["host", "path"])
def test_curl_gets_json_from_the_address(hello: Team, address: str, by: str) -> None:
    """By its own name, or below the gateway's."""
    host = ["--header", f"Host: hello.{hello.name}"] if by == "host" else []
    where = f"http://{address}{'' if by == 'host' else f'/{hello.name}/hello'}/v2/models/hello/infer"
    argv = ["curl", "--silent", "--fail", *host, "--data", json.dumps(QUESTION), where]
    answer = json.loads(subprocess.check_output(argv))
    assert answer["outputs"][0] == {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": ANSWER}


def test_curl_gets_binary_tensors_from_the_address(hello: Team, address: str) -> None:
    x = np.array([[1, 2, 3, 4]], dtype=np.float32).tobytes()
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": len(x)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    where = f"http://{address}/{hello.name}/hello/v2/models/hello/infer"
    argv = ["curl", "--silent", "--fail", "--header", length, "--data-binary", "@-", where]
    answer = subprocess.run(argv, input=head + x, capture_output=True, check=True).stdout
    json_part, y = answer[:-16], answer[-16:]
    assert json.loads(json_part)["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(y, dtype=np.float32).tolist() == ANSWER


def test_tritonclient_predicts_over_rest_below_the_gateways_name(hello: Team, address: str) -> None:
    assert python(TRITON_CLIENT.format(protocol="http"), f"{address}:80/{hello.name}/hello", "{}") == str(ANSWER)


def test_tritonclient_predicts_over_grpc_by_a_header_on_the_same_port(hello: Team, address: str) -> None:
    header = json.dumps({"x-slipway-service": f"{hello.name}/hello"})
    assert python(TRITON_CLIENT.format(protocol="grpc"), f"{address}:80", header) == str(ANSWER)


HOSTS = ["hello.{namespace}", "hello.{namespace}.svc", "hello.{namespace}.svc.cluster.local"]


@pytest.mark.parametrize("host", [*HOSTS, "hello.{namespace}:80"])
def test_a_pod_predicts_by_name_over_rest(hello: Team, host: str) -> None:
    where = f"http://{host.format(namespace=hello.name)}/v2/models/hello/infer"
    assert hello.run_inside(PLAIN, where, json.dumps(QUESTION)).strip() == str(ANSWER)


@pytest.mark.parametrize("host", HOSTS)
def test_a_pod_predicts_by_name_over_grpc(hello: Team, host: str) -> None:
    where = f"{host.format(namespace=hello.name)}:80"
    assert hello.run_inside(TRITON_CLIENT.format(protocol="grpc"), where, "{}").strip() == str(ANSWER)


REFUSED = """
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=10)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def test_the_bare_name_says_which_name_to_use(hello: Team) -> None:
    """It carries no namespace, so the gateway cannot know whose `hello` is meant."""
    code, words = hello.run_inside(REFUSED, "http://hello/v2/models/hello").split(" ", 1)
    assert code in ("400", "404")
    assert "NAME.NAMESPACE" in json.loads(words)["error"]


def test_metadata_names_the_model_and_its_tensors(hello: Team) -> None:
    answer = hello.site.api.call("GET", f"{hello.path_of('hello')}/v2/models/hello")
    assert (answer["name"], answer["inputs"][0]["name"], answer["outputs"][0]["name"]) == ("hello", "x", "y")


def test_a_model_that_must_be_fetched_is_fetched(hello: Team) -> None:
    """The runtime's image is spelled unlike the fetcher's, so an init container brings the sample."""
    hello.apply(fetching_runtime(), service("fetched", "sample://hello-v2", runtime="fetching"))
    hello.wait_settled("fetched")
    pod = hello.pods("fetched")[0]
    assert [container["name"] for container in pod["spec"]["initContainers"]] == ["fetch"]
    assert hello.answers("fetched", 101)


def test_pods_run_restricted_on_a_read_only_root(hello: Team) -> None:
    """The namespace enforces the restricted standard, so that the pod exists says half of it already."""
    pod = hello.pods("hello")[0]
    assert is_ready(pod)
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in pod["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    script = "open('/opt/slipway/x', 'w')"
    done = hello.site.try_kubectl(
        "exec", "-n", hello.name, pod["metadata"]["name"], "-c", "model", "--", "python", "-c", script
    )
    assert "Read-only file system" in done.stderr


def test_kubectl_get_shows_what_one_wants_to_know(hello: Team) -> None:
    header, line = hello.kubectl("get", "infsvc", "hello").splitlines()
    shown = dict(zip(header.split(), line.split(), strict=False))
    assert shown["NAME"] == "hello"
    assert shown["READY"] == "True"
