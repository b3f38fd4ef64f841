"""Makers of checkpoints that want to run code: each gets a folder, and what would leave the canary there."""

import gzip
import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from torch.export import Dim


@dataclass(frozen=True, slots=True)
class Kit:
    """`folder` is to hold the model; `touch` is Python that leaves the canary. The others are good models to spoil."""

    folder: Path
    canary: Path
    exported: bytes
    script: bytes

    @property
    def touch(self) -> str:
        return f"__import__('pathlib').Path('{self.canary}').touch()"

    def put(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def config(self, **fields: Any) -> None:
        self.put("config.json", json.dumps(fields).encode())


Make = Callable[[Kit], None]


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": torch.relu(self.layer(x)) + y, "b": x.shape[0] * y}


def exported() -> bytes:
    rows, given = Dim("rows", min=2, max=64), (torch.ones(3, 4), torch.ones(3, 4))
    program = torch.export.export(_Net(), given, dynamic_shapes=({0: rows}, {0: rows}))
    torch.export.save(program, made := io.BytesIO())
    return made.getvalue()


def script() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated; users still have such files
        torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.ones(2)), made := io.BytesIO())  # type: ignore[no-untyped-call]
    return made.getvalue()


def rezipped(data: bytes, changed: Callable[[str, bytes], bytes], added: Mapping[str, bytes] | None = None) -> bytes:
    """An archive with its records changed and others added; `added` goes below the archive's own folder."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, changed(name, old.read(name)))
        top = old.namelist()[0].partition("/")[0]
        for name, content in (added or {}).items():
            new.writestr(f"{top}/{name}", content)
    return made.getvalue()


def _same(_name: str, data: bytes) -> bytes:
    return data


def program(change: Callable[[Any, str], None]) -> Make:
    """An exported program, its JSON changed by `change(json, touch)`."""

    def make(kit: Kit) -> None:
        def changed(name: str, data: bytes) -> bytes:
            if not name.endswith("/models/model.json"):
                return data
            value = json.loads(data)
            change(value, kit.touch)
            return json.dumps(value).encode()

        kit.put("model.pt2", rezipped(kit.exported, changed))

    return make


def every(key: str, text: str) -> Make:
    """All strings of one field, wherever they stand; TOUCH in `text` is what leaves the canary."""

    def change(value: Any, touch: str) -> None:
        todo = [value]
        while todo:
            one = todo.pop()
            if isinstance(one, dict):
                if isinstance(one.get(key), str):
                    one[key] = text.replace("TOUCH", touch)
                todo += one.values()
            elif isinstance(one, list):
                todo += one

    return program(change)


def guard(text: str) -> Make:
    return program(lambda value, touch: value.update(guards_code=[text.replace("TOUCH", touch)]))


def named(old: str, new: str) -> Make:
    """A name of the program, wherever it stands."""

    def changed(value: Any, touch: str, name: str) -> Any:
        if isinstance(value, dict):
            return {changed(key, touch, ""): changed(one, touch, key) for key, one in value.items()}
        if isinstance(value, list):
            return [changed(one, touch, name) for one in value]
        return new.replace("TOUCH", touch) if value == old else value

    def change(value: Any, touch: str) -> None:
        value.update(changed(value, touch, ""))

    return program(change)


def tree(field: str, text: str) -> Make:
    def change(value: Any, touch: str) -> None:
        entry = value["graph_module"]["module_call_graph"][0]["signature"]
        entry[field] = json.dumps([1, json.loads(text.replace("TOUCH", touch))])

    return program(change)


def added(name: str, content: bytes | None = None) -> Make:
    """A record more in an exported program; a pickle that leaves the canary, unless it is given."""

    def make(kit: Kit) -> None:
        data = content if content is not None else pickle.dumps(Evil(eval, kit.touch))
        kit.put("model.pt2", rezipped(kit.exported, _same, {name: data}))

    return make


def replaced(ending: str) -> Make:
    """A record of an exported program that torch takes for saved tensors, in place of a good one."""

    def make(kit: Kit) -> None:
        torch.save(Evil(eval, kit.touch), saved := io.BytesIO())
        kit.put("model.pt2", rezipped(kit.exported, lambda name, d: saved.getvalue() if name.endswith(ending) else d))

    return make


def older(kit: Kit) -> None:
    """One that torch fails to read, with a program of an older format beside it, which it would read then."""
    made, old = io.BytesIO(), {"graph_module": {}, "guards_code": [kit.touch]}
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {
            "archive_format": "pt2",
            "archive_version": "0",
            "version": "3",
            "models/model.json": "{}",
        }.items():
            archive.writestr(f"m/{name}", text)
        archive.writestr("version", "8.20")
        archive.writestr("serialized_exported_program.json", json.dumps(old))
        for name in ("serialized_state_dict", "serialized_constants", "serialized_example_inputs"):
            archive.writestr(f"{name}.pt", pickle.dumps(Evil(eval, kit.touch)))
    kit.put("model.pt2", made.getvalue())


def calls(statement: str) -> Make:
    """A TorchScript archive whose forward begins with a statement; CANARY in it is the file."""

    def make(kit: Kit) -> None:
        def changed(name: str, data: bytes) -> bytes:
            if not (name.endswith(".py") and b"def forward" in data):
                return data
            head, _, body = data.partition(b"-> Tensor:\n")
            line = f"    {statement}\n".replace("CANARY", str(kit.canary))
            return head + b"-> Tensor:\n" + line.encode() + body

        kit.put("model.pt", rezipped(kit.script, changed))

    return make


class Evil:
    """A pickle of this calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


def pickled(name: str, protocol: int = 4, wrap: Callable[[bytes], bytes] = lambda data: data) -> Make:
    return lambda kit: kit.put(name, wrap(pickle.dumps(Evil(eval, kit.touch), protocol)))


def system(name: str) -> Make:
    return lambda kit: kit.put(name, pickle.dumps(Evil(os.system, f"touch {kit.canary}")))


def saved(name: str, *, zipped: bool) -> Make:
    def make(kit: Kit) -> None:
        made = io.BytesIO()
        torch.save({"weights": Evil(eval, kit.touch)}, made, _use_new_zipfile_serialization=zipped)
        kit.put(name, made.getvalue())

    return make


def tarred(data: bytes) -> bytes:
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def zipped(inner: str) -> Callable[[bytes], bytes]:
    def wrap(data: bytes) -> bytes:
        with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
            archive.writestr(inner, data)
        return made.getvalue()

    return wrap


compressed = gzip.compress


def arrays(kit: Kit) -> None:
    np.save(made := io.BytesIO(), np.array([Evil(eval, kit.touch)], object), allow_pickle=True)
    kit.put("model.pt", made.getvalue())


def disguised(marker: str) -> Make:
    """A pickle of torch.save with the record by which another kind of archive is told."""

    def make(kit: Kit) -> None:
        torch.save({"weights": Evil(eval, kit.touch)}, made := io.BytesIO())
        kit.put("model.pt", rezipped(made.getvalue(), _same, {marker: pickle.dumps(Evil(eval, kit.touch))}))

    return make


def weights(**parameters: str) -> Make:
    """Weights that name a class, with a config as it should be."""

    def make(kit: Kit) -> None:
        text = {key: value.replace("TOUCH", kit.touch) for key, value in parameters.items()}
        tensors = [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}]
        given = {key.rstrip("_"): {"string_value": value} for key, value in text.items()}
        kit.config(input=tensors, output=tensors, parameters=given)
        kit.put("model.safetensors", (2).to_bytes(8, "little") + b"{}")

    return make


def code(**config: Any) -> Make:
    """Python beside which a config makes it the model, in one way or another."""

    def make(kit: Kit) -> None:
        kit.put("model.py", f"{kit.touch}\nclass Model: ...\n".encode())
        if config:
            kit.config(**config)

    return make


def configured(**config: Any) -> Make:
    """A good TorchScript archive with such a config."""

    def make(kit: Kit) -> None:
        kit.put("model.pt", kit.script)
        kit.config(**config)

    return make


def onnx(kit: Kit) -> None:
    kit.put("model.onnx", b"\x08\x0a" + b"\xff" * 64)


def onnx_with(domain: str = "", location: str = "") -> Make:
    """An ONNX model with an operator of somebody's own, or with weights in another file."""

    def make(kit: Kit) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
        added = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
        if location:
            added.data_location = TensorProto.EXTERNAL
            added.external_data.add(key="location", value=location)
        else:
            added.raw_data = bytes(16)
        node = helper.make_node("Add", ["x", "w"], ["y"], domain=domain)
        graph = helper.make_graph([node], "g", values[:1], values[1:], [added])
        domains = [helper.make_opsetid(name, 1 if name else 17) for name in {"", domain}]
        kit.put("model.onnx", helper.make_model(graph, ir_version=8, opset_imports=domains).SerializeToString())

    return make
