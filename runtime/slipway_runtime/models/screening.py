"""What a TorchScript archive or an exported program would have torch do beyond arithmetic, found before torch reads it.

Torch takes both for data, and runs parts of them: it evaluates the sizes and guards of an exported program as Python,
writes its names into Python code that it compiles, looks functions up by dotted names, and loads the libraries that an
archive has beside the program. TorchScript has operators that read and write files. Everything else that such a file
may hold is numbers, names and operators, and only these are let through. Read by torch's own reader of archives, so
that what is looked at is what torch loads.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from slipway_runtime.errors import BadModel
from slipway_runtime.models.artifacts import Artifact

Check = Callable[[str], bool]

_FILES = ("from_file", "save", "load_tensor")
"""Operators that read or write files of the container."""
_CLASSES = ("quantized", "rnn", "sparse", "xnnpack", "mkldnn", "mkldnn_prepacked")
"""Namespaces of torch's own classes that hold packed weights and nothing else."""
_FILE_CALL = re.compile(rf"[.](?:\s|\\|#[^\n]*\n)*({'|'.join(_FILES)})\b")
_CLASS = re.compile(r"torch[.]classes[.](\w*)")

_OPERATORS = (
    *("aten", "prims", "higher_order", "quantized", "_quantized", "quantized_decomposed"),
    *("onednn", "mkldnn", "xnnpack", "torchvision", "torchao", "torchaudio", "_c10d_functional"),
)
_HIGHER = (
    *("associative_scan", "auto_functionalized", "auto_functionalized_v2", "cond", "flex_attention", "hints_wrapper"),
    *("invoke_subgraph", "map_impl", "out_dtype", "scan", "strict_mode", "while_loop", "with_effects"),
    *("wrap_with_autocast", "wrap_with_set_grad_enabled", "tag_activation_checkpoint"),
)
_OPERATOR = re.compile(r"torch[.]ops[.](?P<space>\w+)[.](?P<name>\w+)([.](?!__)\w+)?")
_FUNCTION = re.compile(
    r"_operator[.](getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_"
    r"|lshift|rshift)|math[.](ceil|floor|trunc)|builtins[.]round|torch[.]sym_\w+|torch[.]_C[.]_set_grad_enabled"
    r"|torch[.]amp[.]autocast_mode[.]_(enter|exit)_autocast"
    r"|torch[.]fx[.]experimental[.]symbolic_shapes[.]cast_symbool_to_symint_guardless"
)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[^\"'\\(){}\x00-\x1f\x7f]*")
"""What cannot end a string in code, nor begin a call."""


def screen(artifact: Artifact) -> None:
    """Raises BadModel when a model that is taken for data has more than that in it."""
    match artifact.format:
        case "torchscript":
            screen_script(artifact.path)
        case "torch-export":
            _screen_program(artifact.path)


def screen_script(path: Path) -> None:
    """The same of a TorchScript archive, for who loads it elsewhere."""
    for name, data in _records(path):
        if name.startswith("code/") and (found := _FILE_CALL.search(data().decode(errors="replace"))):
            raise _refused(path, f"it calls '{found[1]}', which reads and writes files of the container")
        if name.endswith((".pkl", ".py")):
            _screen_classes(path, data())


def _screen_program(path: Path) -> None:
    for name, data in _records(path):
        if name.startswith("data/aotinductor/"):
            raise _refused(path, "it has a native library beside the program")
        if "opaque_obj_" in name:
            raise _refused(path, "it holds pickled objects")
        if "custom_obj_" in name:
            _screen_classes(path, data())
        if name.startswith("models/"):
            _screen_strings(path, data())


def _records(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        import torch  # noqa: PLC0415 - takes seconds, and is needed for such files only
    except ImportError as exc:
        raise BadModel(
            f"model file '{path}' cannot be looked through where there is no torch; use slipway-pytorch"
        ) from exc
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
    except RuntimeError as exc:
        raise BadModel(f"model file '{path}' is damaged or cut short; upload it again") from exc
    for name in names:
        yield name, partial(_record, reader, name)


def _record(reader: Any, name: str) -> bytes:
    return bytes(reader.get_record(name))


def _screen_classes(path: Path, data: bytes) -> None:
    for found in _CLASS.finditer(data.decode("latin-1")):
        if found[1] not in _CLASSES:
            raise _refused(path, f"it makes an object of torch.classes.{found[1][:40]}")


def _screen_strings(path: Path, data: bytes) -> None:
    try:
        program = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadModel(f"model file '{path}' is damaged: its program is no JSON; save it again") from exc
    todo: list[tuple[str, Any]] = [("", program)]
    while todo:
        key, value = todo.pop()
        if isinstance(value, dict):
            todo += value.items()
            # The names of symbols; other keys are looked up and go nowhere.
            todo += [("name", name) for name in value] if key == "range_constraints" else []
        elif isinstance(value, list):
            todo += [(key, one) for one in value]
        elif isinstance(value, str) and (check := CHECKS.get(key)) and not check(value):
            raise _refused(
                path, f"its {key} {_shown(value)} is nothing that torch itself writes, and would run as code"
            )


def _shown(text: str) -> str:
    return repr(text[:60] + ("..." if len(text) > 60 else ""))


def _refused(path: Path, why: str) -> BadModel:
    return BadModel(
        f"model file '{path}' is more than a model: {why}; export it again, or have the administrator allow code"
    )


def _is_operator(text: str) -> bool:
    found = _OPERATOR.fullmatch(text)
    if found is None or found["space"] not in _OPERATORS or found["name"] in _FILES:
        return False
    return found["space"] != "higher_order" or found["name"] in _HIGHER


def _is_target(text: str) -> bool:
    return _is_operator(text) or _FUNCTION.fullmatch(text) is not None


def _is_name(text: str) -> bool:
    return not text or _IDENTIFIER.fullmatch(text) is not None


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


def _is_tree(text: str) -> bool:
    """A tree of inputs or outputs, whose names come into code, and which may have modules imported."""
    try:
        return "__enum__" not in text and _is_plain_tree(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _is_plain_tree(value: Any) -> bool:
    if isinstance(value, dict):
        context = value.get("context")
        inner = json.loads(context) if isinstance(context, str) else context
        others = (one for key, one in value.items() if key != "context")
        return "default_factory_module" not in str(inner) and all(map(_is_plain_tree, [inner, *others, *value]))
    if isinstance(value, list):
        return all(map(_is_plain_tree, value))
    return not isinstance(value, str) or _is_plain(value)


_SIZES = (
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Abs", "Mod", "PythonMod"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "ExprCondPair", "Where", "Identity"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Tuple"),
    *("FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "PowByNatural", "FloatPow"),
    *("CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt", "TruncToFloat", "ToFloat", "RoundDecimal"),
    *("LShift", "RShift", "IsNonOverlappingAndDenseIndicator", "floor", "ceiling", "sqrt", "log", "exp"),
    *("BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "OpaqueUnaryFn_sqrt"),
)
_METHODS = ("size", "stride", "storage_offset", "dim", "ndim", "numel", "item", "dtype", "device", "shape")
_MATHS = ("ceil", "floor", "trunc", "sqrt", "isnan", "inf", "pi", "e", "log", "exp")
_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Load, ast.Name, ast.keyword, ast.Tuple),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def _is_expression(text: str) -> bool:
    """Arithmetic on symbols, as sympy writes it, with nothing called but functions of numbers."""
    return _is_arithmetic(text, lambda node: isinstance(node, ast.Call) and _calls(node, _SIZES))


def _is_guard(text: str) -> bool:
    """A comparison of sizes of inputs, as in "L['x'].size()[0] == 4"."""

    def is_known(node: ast.AST) -> bool:
        match node:
            case ast.Call(func=ast.Attribute()) | ast.Subscript():
                return True
            case ast.Call():
                return _calls(node, _SIZES)
            case ast.Attribute(value=ast.Name(id="math"), attr=name):
                return name in _MATHS
            case ast.Attribute(attr=name):
                return name in _METHODS
        return False

    return _is_arithmetic(text, is_known)


def _calls(node: ast.Call, names: tuple[str, ...]) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in names


def _is_arithmetic(text: str, is_known: Callable[[ast.AST], bool]) -> bool:
    # sympy's own reading of a text is wider than Python's: what has another character it might take for something else.
    if not text.isascii() or not text.isprintable():
        return False
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _NODES) or _is_constant(node) or is_known(node) for node in nodes)


def _is_constant(node: ast.AST) -> bool:
    if not isinstance(node, ast.Constant):
        return False
    return isinstance(node.value, int | float | None) or (isinstance(node.value, str) and _is_plain(node.value))


CHECKS: Mapping[str, Check] = {
    "expr_str": _is_expression,
    "guards_code": _is_guard,
    "target": _is_target,
    "as_operator": _is_operator,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
    "class_fqn": _is_plain,
    **dict.fromkeys(("name", "as_name", "forward_arg_names", "field_names", "verifiers"), _is_name),
    **dict.fromkeys(
        ("parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "fqn", "user_input_name"),
        _is_plain,
    ),
}
"""By the field that a string of the program stands in; others are told to nobody but people."""
