"""Triton beside PyTorch: the same model, the same answers, the same gateway, releases from one to the other.

The server is the real one, of PyPI's nvidia-pytriton.
"""

import json

import pytest

from e2e.support.api import ApiError
from e2e.support.manifests import service, with_spec
from e2e.support.releases import canary, wait_promoted
from e2e.support.team import Team, is_ready
from e2e.support.triton import CODE, PIPELINE, READY_S, RUNTIME, SIZE, TENSORS, brought, hello, runtime
from e2e.support.wait import until

ASK = """
import sys, json
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
model = sys.argv[2]
x = np.array(json.loads(sys.argv[3]), np.float32)
tensor = triton.InferInput("x", x.shape, "FP32")
tensor.set_data_from_numpy(x)
about = client.get_model_metadata(model, as_json=True)
print(json.dumps([client.infer(model, [tensor]).as_numpy("y").tolist(), about["inputs"], about["outputs"]]))
"""
X = [[1.0, 2.0, 3.0, 4.0], [-0.5, 0.25, 1e6, 0.0]]
Y = [[2 * x + 1 for x in row] for row in X]


@pytest.fixture(scope="module")
def both(triton: Team) -> Team:
    """The sample `hello` by each of the two runtimes, and by an ensemble of Python models."""
    triton.apply(runtime("chain", PIPELINE, allow_code=True))
    triton.apply(hello("ours", "slipway-pytorch"), hello("theirs"), brought("chain"))
    for name in ("ours", "theirs", "chain"):
        triton.wait_settled(name, within_s=READY_S)
    return triton


def rest(team: Team, name: str) -> object:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X}
    answer = team.site.api.call("POST", f"{team.path_of(name)}/v2/models/{name}/infer", {"inputs": [tensor]})
    return answer["outputs"]


def test_the_same_model_answers_alike_by_both_runtimes_over_rest(both: Team) -> None:
    expected = [{"name": "y", "datatype": "FP32", "shape": [2, 4], "data": [y for row in Y for y in row]}]
    assert {name: rest(both, name) for name in ("ours", "theirs", "chain")} == dict.fromkeys(
        ("ours", "theirs", "chain"), expected
    )


def test_the_same_model_answers_alike_by_both_runtimes_over_grpc(both: Team) -> None:
    ours, theirs, chain = (
        json.loads(both.run_inside(ASK, f"{name}.{both.name}:80", name, json.dumps(X)))
        for name in ("ours", "theirs", "chain")
    )
    assert ours == theirs == chain
    assert theirs[0] == Y


def test_the_pod_is_asked_as_those_of_pytorch_are(both: Team) -> None:
    """Probes, figures and shared memory; that it exists says that it is restricted."""
    (pod,) = both.pods("theirs")
    assert is_ready(pod)
    assert pod["metadata"]["labels"]["slipway.dev/metrics"] == "metrics"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}} in pod["spec"]["volumes"]
    figures = both.site.api.text(f"/api/v1/namespaces/{both.name}/pods/{pod['metadata']['name']}:8002/proxy/metrics")
    assert 'nv_inference_request_success{model="theirs",version="1"}' in figures


CLOSED = ("config", "stats", "trace/setting")


def test_the_gateway_opens_of_triton_what_it_opens_of_pytorch(both: Team) -> None:
    for path in CLOSED:
        with pytest.raises(ApiError) as refused:
            both.site.api.call("GET", f"{both.path_of('theirs')}/v2/models/theirs/{path}")
        assert refused.value.code == 404
    with pytest.raises(ApiError) as refused:
        both.site.api.call("POST", f"{both.path_of('theirs')}/v2/repository/index", {})
    assert refused.value.code == 404


def test_past_the_gateway_people_read_and_nobody_changes(both: Team) -> None:
    (pod,) = both.pods("theirs")
    where = f"/api/v1/namespaces/{both.name}/pods/{pod['metadata']['name']}:8080/proxy/v2"
    assert both.site.api.call("GET", f"{where}/models/theirs/config")["name"] == "theirs"
    assert both.site.api.call("GET", f"{where}/models/theirs/stats")["model_stats"][0]["name"] == "theirs"
    for verb, path in (
        ("POST", "repository/index"),
        ("POST", "repository/models/theirs/unload"),
        ("GET", "systemsharedmemory/status"),
        ("GET", "trace/setting"),
        ("GET", "logging"),
    ):
        with pytest.raises(ApiError) as refused:
            both.site.api.call(verb, f"{where}/{path}", {} if verb == "POST" else None)
        assert (refused.value.code, "restricted" in str(refused.value)) == (403, True), path
    assert is_ready(both.pods("theirs")[0])


@pytest.mark.parametrize(
    ("name", "before", "after"), [("to", "slipway-pytorch", RUNTIME), ("fro", RUNTIME, "slipway-pytorch")]
)
def test_a_canary_from_one_runtime_to_the_other_fails_no_request(
    both: Team, name: str, before: str, after: str
) -> None:
    policy = canary(10, 50)
    both.apply(with_spec(hello(name, before), rollout=policy))
    old = str(both.wait_settled(name, within_s=READY_S)["stable"])
    with both.traffic(name, rate=40) as flow:
        flow.wait_answered(50, within_s=60)
        both.apply(with_spec(hello(name, after), rollout=policy))
        new = wait_promoted(both, name, after=old, within_s=READY_S)
        until("the old pods are gone", lambda: not both.pods(name, old), within_s=90)
        flow.wait_only(1)
    flow.assert_unharmed()
    assert flow.arm(new)["answered"] > 0
    both.delete_service(name)


# What would hurt, brought by a team of its own runtime; name -> files, and what its owner is told.
HOSTILE = {
    "code": ({"1/model.py": CODE, "config.pbtxt": TENSORS}, "which the administrator has not allowed"),
    "library": ({"1/model.onnx": "\x08\x09", "1/libtriton_onnxruntime.so": "x"}, "is a backend of its own"),
    "agent": (
        {"1/model.onnx": "\x08\x09", "config.pbtxt": "model_repository_agents { agents { name: 'a' } }"},
        "model_repository_agents, which load libraries",
    ),
    "link": (
        {"1/model.onnx": "\x08\x09", "1/data": "link:/proc/self/environ"},
        "is a link that leaves the model's folder",
    ),
    "climb": (
        {"1/model.onnx": "\x08\x09", "config.pbtxt": "default_model_filename: '../../etc/passwd'"},
        "must be a name without a folder",
    ),
    "text": ({"1/model.onnx": "\x08\x09", "config.pbtxt": "instance_group {"}, "is not a model config"),
}


def test_hostile_repositories_are_never_served_and_told_in_words(triton: Team) -> None:
    for name, (files, _) in HOSTILE.items():
        triton.apply(runtime(f"bad-{name}", files, allow_code=False), brought(f"bad-{name}"))
    for name, (_, words) in HOSTILE.items():
        told = triton.wait(f"bad-{name}", "ModelLoaded", "False", reason="ModelInvalid", within_s=READY_S)
        assert words in told["message"]
        assert not any(map(is_ready, triton.pods(f"bad-{name}")))
        triton.delete_service(f"bad-{name}")


def test_a_service_cannot_allow_itself_what_its_runtime_does_not(triton: Team) -> None:
    sly = service("sly", runtime=RUNTIME, resources=SIZE, args=["--allow-code", "true"])
    triton.apply(sly)
    told = triton.wait("sly", "Accepted", "False", reason="RuntimeForbids")
    assert "--allow-code is not among those that ClusterServingRuntime/slipway-triton allows" in told["message"]
    loading = service(
        "sly", runtime=RUNTIME, resources=SIZE, env=[{"name": "LD_PRELOAD", "value": "/mnt/models/own.so"}]
    )
    triton.apply(loading)
    until(
        "the variable is refused",
        lambda: "LD_PRELOAD says what is loaded" in triton.condition("sly", "Accepted").get("message", ""),
        within_s=15,
    )
    triton.delete_service("sly")
