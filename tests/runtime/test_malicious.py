"""Checkpoints that want to run code, or to read and write files: each is refused by a sentence, and none has run."""
# ruff: noqa: E501 - the table is one line a case

import json
from contextlib import suppress
from pathlib import Path

import pytest

from slipway_runtime.errors import Failure
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.load import LoadOptions, load
from tests.runtime import malicious as evil
from tests.runtime.malicious import Kit, Make

PICKLE = "is a pickle made by torch.save, which can run any code"
NO_MODEL = "is not a PyTorch model"
NO_CODE = "is nothing that torch itself writes"
CODE = "is Python code, which runs with the server's rights; allow it"
CLASS = "which is not allowed; allow it with --allowed-classes"
FILES = "reads and writes files of the container"
LEAF = '{"type": null, "context": null, "children_spec": []}'
DICT = '{"type": "builtins.dict", "context": CONTEXT, "children_spec": [LEAF, LEAF]}'.replace("LEAF", LEAF)

CHECKPOINTS: dict[str, tuple[Make, str]] = {
    # Pickles, under every name and in every wrapping
    "a pickle that calls os.system": (evil.system("model.pt"), PICKLE),
    "a pickle named as exported program": (evil.system("model.pt2"), PICKLE),
    "a pickle named as weights": (evil.system("model.safetensors"), PICKLE),
    "a pickle named as ONNX": (evil.system("model.onnx"), PICKLE),
    "a pickle of protocol 0": (evil.pickled("model.pt", 0), NO_MODEL),
    "a pickle of protocol 1": (evil.pickled("model.pth", 1), NO_MODEL),
    "a pickle of protocol 2": (evil.pickled("model.pth", 2), PICKLE),
    "a pickle of protocol 5": (evil.pickled("model.pth", 5), PICKLE),
    "what torch.save writes": (evil.saved("model.pt", zipped=True), PICKLE),
    "what torch.save wrote before": (evil.saved("model.pt", zipped=False), PICKLE),
    "a pickle of joblib, in gzip": (evil.pickled("model.pt", wrap=evil.compressed), NO_MODEL),
    "a pickle in a tar, as the oldest torch": (evil.pickled("model.pt", wrap=evil.tarred), NO_MODEL),
    "a pickle in a zip": (evil.pickled("model.pt", wrap=evil.zipped("m/data.pkl")), PICKLE),
    "a zip in a zip": (evil.pickled("model.pt", wrap=lambda d: evil.zipped("m/x")(evil.zipped("m/data.pkl")(d))), "no PyTorch"),
    "an array of objects of numpy": (evil.arrays, NO_MODEL),
    "a pickle that says to be TorchScript": (evil.disguised("constants.pkl"), "cannot be loaded by torch"),
    "a pickle that says to be a program": (evil.disguised("archive_format"), "cannot be loaded by torch"),
    # Exported programs
    "a pickle as weights of a program": (evil.replaced("/data/weights/weight_0"), "cannot be loaded by torch"),
    "a pickle as sample inputs": (evil.replaced("/data/sample_inputs/model.pt"), "cannot be loaded by torch"),
    "a pickle as constant": (evil.added("data/constants/opaque_obj_0"), "holds pickled objects"),
    "a library beside a program": (evil.added("data/aotinductor/model/x.so", b"\x7fELF"), "AOTInductor package, which is native"),
    "a library as another model": (evil.added("data/aotinductor/../x/x.so", b"\x7fELF"), "AOTInductor package, which is native"),
    "an object of a class of torch": (evil.added("data/constants/custom_obj_0", b"ctorch.classes.dist_rpc.Agent"), "torch.classes.dist_rpc"),
    "a program of an older format beside": (evil.older, "is damaged or cut short"),
    "a size that is evaluated": (evil.every("expr_str", "TOUCH or 3"), NO_CODE),
    "a size that is called": (evil.every("expr_str", "(lambda: TOUCH)() or 3"), NO_CODE),
    "a size in brackets": (evil.every("expr_str", "[TOUCH, 3][1]"), NO_CODE),
    "a size that is a comprehension": (evil.every("expr_str", "sum(1 for _ in [TOUCH])"), NO_CODE),
    "a size by an attribute": (evil.every("expr_str", "Symbol.__init__.__globals__['os']"), NO_CODE),
    "a size in the name of a symbol": (evil.every("expr_str", "Symbol('x', positive=TOUCH)"), NO_CODE),
    "a size that is an f-string": (evil.every("expr_str", "f'{TOUCH}'"), NO_CODE),
    "a size by eval": (evil.every("expr_str", "eval('3')"), NO_CODE),
    "a size by sympify": (evil.every("expr_str", "sympify('3')"), NO_CODE),
    "a size by open": (evil.every("expr_str", "open(3)"), NO_CODE),
    "a size by a wide letter": (evil.every("expr_str", "ｅval('3')"), NO_CODE),
    "a size on two lines": (evil.every("expr_str", "(3,\nTOUCH)"), NO_CODE),
    "a guard that is evaluated": (evil.guard("TOUCH or True"), NO_CODE),
    "a guard beside a good one": (evil.guard("L['x'].size()[0] == 3 or TOUCH"), NO_CODE),
    "a guard that ends its sentence": (evil.guard("L['x\"+TOUCH+\"'].size()[0] == 3"), NO_CODE),
    "a guard that ends its line": (evil.guard("True)\n  TOUCH\n  (True"), NO_CODE),
    "a guard by what is private": (evil.guard("L['x'].__class__.__base__.__subclasses__()"), NO_CODE),
    "a guard that writes a file": (evil.guard("L['x'].numpy().tofile('x')"), NO_CODE),
    "a guard by a walrus": (evil.guard("(y := L['x'].size()[0]) == 3"), NO_CODE),
    "a function of the system": (evil.every("target", "torch.os.system"), NO_CODE),
    "a function that unpickles": (evil.every("target", "torch.load"), NO_CODE),
    "a function that loads libraries": (evil.every("target", "torch.ops.load_library"), NO_CODE),
    "a function of a class by name": (evil.every("target", "torch.export.custom_ops._call_custom_autograd_function_in_pre_dispatch"), NO_CODE),
    "an operator that reads files": (evil.every("target", "torch.ops.aten.from_file.default"), NO_CODE),
    "an operator that calls what it is given": (evil.every("target", "torch.ops.higher_order.call_torchbind"), NO_CODE),
    "a method caller": (evil.every("target", "_operator.methodcaller"), NO_CODE),
    "an input named as code": (evil.named("x", "x=TOUCH"), NO_CODE),
    "a node named as code": (evil.named("add", "add=TOUCH"), NO_CODE),
    "a weight named as code": (evil.named("layer.weight", 'layer.w") or TOUCH or ("'), NO_CODE),
    "an output named as code": (evil.tree("out_spec", DICT.replace("CONTEXT", '"[\\"a\\", \\"b\\\\\\"+TOUCH+\\\\\\"\\"]"')), NO_CODE),
    "an output that imports a module": (evil.tree("out_spec", DICT.replace("CONTEXT", '"[{\\"__enum__\\": true, \\"fqn\\": \\"antigravity:x\\"}]"')), NO_CODE),
    # TorchScript
    "a script that writes a file": (evil.calls('torch.save(x, "CANARY")'), FILES),
    "a script that writes a file by its operator": (evil.calls('ops.aten.save(x, "CANARY")'), FILES),
    "a script that writes a file, hidden": (evil.calls('torch. \\\n  save(x, "CANARY")'), FILES),
    "a script that reads a file": (evil.calls('y = torch.from_file("/etc/passwd", True, 8)'), FILES),
    "a script with a class of torch": (evil.calls("y = __torch__.torch.classes.dist_rpc.Agent(x)"), "torch.classes.dist_rpc"),
    # Weights with a class, code, configs
    "weights of a class of the system": (evil.weights(class_="os:system", class_args='{"command": "true"}'), CLASS),
    "weights of a class of builtins": (evil.weights(class_="builtins:eval"), CLASS),
    "weights of our own class of samples": (evil.weights(class_="slipway_runtime.samples:Classifier"), CLASS),
    "weights of a class that is code": (evil.weights(class_="TOUCH:x"), "must be MODULE:CLASS"),
    "Python": (evil.code(), CODE),
    "Python by its backend": (evil.code(backend="python"), CODE),
    "Python that says to be something else": (evil.code(default_model_filename="model.py", backend="pytorch"), "has backend 'pytorch', but the file is python"),
    "a file outside": (evil.configured(default_model_filename="../outside.pt"), "must be a name without a folder"),
    "a library of operators": (evil.configured(model_operations={"op_library_filename": ["ops.so"]}), "model_operations"),
    "an agent": (evil.configured(model_repository_agents={"agents": [{"name": "mine"}]}), "model_repository_agents"),
    # ONNX
    "an ONNX of nothing": (evil.onnx, "cannot be loaded by onnxruntime"),
    "an ONNX with an operator of a library": (evil.onnx_with(domain="mine"), "cannot be loaded by onnxruntime"),
    "an ONNX with weights that are a file of the pod": (evil.onnx_with(location="/etc/passwd"), "cannot be loaded by onnxruntime"),
    "an ONNX with weights that climb": (evil.onnx_with(location="../outside.pt"), "cannot be loaded by onnxruntime"),
    "an ONNX with weights from its environment": (evil.onnx_with(location="../../../../../../proc/self/environ"), "cannot be loaded by onnxruntime"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good() -> tuple[bytes, bytes]:
    return evil.exported(), evil.script()


@pytest.fixture
def kit(tmp_path: Path, good: tuple[bytes, bytes]) -> Kit:
    (tmp_path / "m").mkdir()
    (tmp_path / "outside.pt").write_bytes(good[1])
    return Kit(tmp_path / "m", tmp_path / "canary", *good)


@pytest.mark.parametrize(("make", "words"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_malicious_checkpoint_is_refused_and_has_not_run(kit: Kit, make: Make, words: str) -> None:
    make(kit)
    with pytest.raises(Failure) as told:
        load(find(str(kit.folder)), LoadOptions(device="cpu")).close()
    assert words in str(told.value)
    assert not kit.canary.exists()


def test_there_are_sixty_of_them() -> None:
    assert len(CHECKPOINTS) >= 60


@pytest.mark.parametrize("name", ["a size that is evaluated", "a guard that is evaluated", "Python"])
def test_they_would_run_where_code_is_allowed(kit: Kit, name: str) -> None:
    """Or nothing would be shown by their not having run."""
    CHECKPOINTS[name][0](kit)
    if name == "Python":
        tensors = [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}]
        kit.put("config.json", json.dumps({"input": tensors, "output": tensors}).encode())
    with suppress(Failure):  # it need not be of any use
        load(find(str(kit.folder)), LoadOptions(device="cpu", allow_code=True)).warm_up()
    assert kit.canary.exists()


@pytest.mark.parametrize("name", ["model.pt2", "model.pt"])
def test_the_models_that_were_spoilt_are_good(kit: Kit, name: str) -> None:
    kit.put(name, kit.exported if name == "model.pt2" else kit.script)
    load(find(str(kit.folder)), LoadOptions(device="cpu")).close()
