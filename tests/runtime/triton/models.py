"""Small models that a real Triton runs: Python code, an ensemble of it, ONNX."""

from pathlib import Path

from tests.runtime.triton.folders import ENSEMBLE, INPUT, OUTPUT, put

_CODE = """\
import time
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        BEFORE

    def execute(self, requests):
        answers = []
        for request in requests:
            x = triton.get_input_tensor_by_name(request, "x").as_numpy()
            y = WORK
            answers.append(triton.InferenceResponse([triton.Tensor("y", y)]))
        return answers
"""
CONFIG = f"max_batch_size: 8 {INPUT} {OUTPUT}"


def code(work: str = "x", before: str = "pass") -> str:
    return _CODE.replace("WORK", work).replace("BEFORE", before)


def chain(folder: Path) -> Path:
    """y = 2x + 1 by an ensemble of two; `increase` has a second version, which adds 100."""
    return put(
        folder,
        {
            "double/1/model.py": code("x * 2"),
            "double/config.pbtxt": CONFIG,
            "increase/1/model.py": code("x + 100"),
            "increase/2/model.py": code("x + 1"),
            "increase/config.pbtxt": CONFIG,
            "pipeline/config.pbtxt": ENSEMBLE,
        },
    )


def slow(folder: Path) -> Path:
    """y = x, after as many seconds as x says."""
    return put(folder, {"model.py": code("(time.sleep(float(x.max())), x)[1]"), "config.pbtxt": CONFIG})


def linear(path: Path) -> Path:
    """y = 2x + 1 in ONNX, for rows of 4."""
    import onnx  # noqa: PLC0415 - slow to load
    from onnx import TensorProto, helper  # noqa: PLC0415

    numbers = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("two", 2.0), ("one", 1.0))]
    nodes = [helper.make_node("Mul", ["x", "two"], ["a"]), helper.make_node("Add", ["a", "one"], ["y"])]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "linear", tensors[:1], tensors[1:], numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
