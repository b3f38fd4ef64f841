"""Models that Triton serves: by the chart's runtime, or by one of a team's own that writes the files itself."""

import json
from collections.abc import Mapping
from typing import Any

from e2e.cluster import TRITON
from e2e.support.api import Manifest
from e2e.support.manifests import GROUP, service

RUNTIME = "slipway-triton"
IMAGE = f"slipway/{TRITON.name}:{TRITON.tag}"
SIZE = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "3Gi"}}
READY_S = 180
"""Torch is imported by a process of the Python backend, beside whatever else starts."""
_WRITE = """\
import json, os, pathlib
for name, text in json.loads(os.environ["FILES"]).items():
    path = pathlib.Path("/tmp/model", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(text[5:]) if text.startswith("link:") else path.write_text(text)
"""
_START = f"python3 -I -c '{_WRITE}' && exec python3 -I -m slipway_runtime.triton --allow-code $CODE serve"
CODE = """\
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = triton.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(triton.InferenceResponse([triton.Tensor("y", WORK)]))
        return answers
"""
TENSORS = """
max_batch_size: 64
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
"""


def _step(model: str, given: str, made: str) -> str:
    maps = f'input_map {{ key: "x" value: "{given}" }} output_map {{ key: "y" value: "{made}" }}'
    return f'step {{ model_name: "{model}" model_version: -1 {maps} }}'


PIPELINE = {
    "double/1/model.py": CODE.replace("WORK", "x * 2"),
    "double/config.pbtxt": TENSORS,
    "increase/1/model.py": CODE.replace("WORK", "x + 1"),
    "increase/config.pbtxt": TENSORS,
    "chain/config.pbtxt": f"""platform: "ensemble" {TENSORS}
ensemble_scheduling {{ {_step("double", "x", "twice")} {_step("increase", "twice", "y")} }}""",
}
"""y = 2x + 1, as the sample `hello`, by an ensemble of two."""


def runtime(name: str, files: Mapping[str, str], *, allow_code: bool) -> Manifest:
    """A ServingRuntime whose pods bring their model along. A text `link:TARGET` is a link."""
    env = {"FILES": json.dumps(files), "CODE": str(allow_code).lower()}
    container = {
        "image": IMAGE,
        "command": ["sh", "-c", _START],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "metricsPort": 8002,
        "sharedMemory": "128Mi",
        "maxQueue": 1000,
        "idleTimeout": "75s",
    }
    spec = {"supportedModelFormats": [{"name": "triton"}], "container": container}
    return {"apiVersion": GROUP, "kind": "ServingRuntime", "metadata": {"name": name}, "spec": spec}


def brought(name: str, **more: Any) -> Manifest:
    """The service of the runtime of that name."""
    model = {"modelFormat": {"name": "triton"}, "runtime": name, "resources": SIZE} | more
    return service(name, "file:///tmp/model", **model)


def hello(name: str, by: str = RUNTIME) -> Manifest:
    """The sample, by that runtime."""
    return service(name, runtime=by, resources=SIZE)
