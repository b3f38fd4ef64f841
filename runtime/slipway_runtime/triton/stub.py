"""Runs in the process of Triton's Python backend: a model of slipway-runtime's loaders as Triton asks for one.

Which file it is, and the largest batch where nobody said one, are parameters of the config (`adapter`).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # of the process it runs in

from slipway_runtime.cpus import cpu_limit
from slipway_runtime.errors import BadModel, RequestError
from slipway_runtime.models import artifacts
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.tensors import Rows, TensorSpec
from slipway_runtime.triton.adapter import FILE, MAX_BATCH


def model_at(folder: Path) -> type:
    """The class that the Python backend looks for, of the model in a version's folder."""

    class TritonPythonModel(Adapted):
        place = folder

    return TritonPythonModel


class Adapted:
    place: Path

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Fill in what the model tells itself; asked before it is loaded."""
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config
        model = _load(cls.place, known, LoadOptions())
        inputs, outputs = model.metadata.inputs, model.metadata.outputs
        model.close()
        if not inputs or not outputs or any(not spec.datatype or spec.shape is None for spec in (*inputs, *outputs)):
            raise BadModel(
                f"model '{known['name']}' does not tell its tensors: give --input and --output, or a config with them"
            )
        specs = (*inputs, *outputs)
        batch = known["max_batch_size"]
        if not batch and all(spec.shape and spec.shape[0] == -1 for spec in specs):
            batch = int(known["parameters"][MAX_BATCH]["string_value"])
            config.set_max_batch_size(batch)
        for add, given in ((config.add_input, inputs), (config.add_output, outputs)):
            for spec in given:
                add(_described(spec, batched=batch > 0))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        gpu = args["model_instance_kind"] == "GPU"
        instances = sum(group.get("count", 1) for group in config["instance_group"]) or 1
        options = LoadOptions(
            device=f"cuda:{args['model_instance_device_id']}" if gpu else "cpu",
            threads=max(1, (cpu_limit() - 1) // instances),
            own_cores=False,
        )
        self._model = _load(self.place, config, options)
        self._batched = config["max_batch_size"] > 0
        (self._runner,) = self._model.runners
        if attach := getattr(self._runner, "attach", None):
            attach()
        self._model.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        calls = [self._call(request) for request in requests]
        answers = self._runner.run(calls)
        return [self._response(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def finalize(self) -> None:
        self._model.close()

    def _call(self, request: Any) -> OwnCall:
        names = [spec.name for spec in self._model.metadata.inputs]
        inputs = [triton.get_input_tensor_by_name(request, name).as_numpy() for name in names]
        return OwnCall(inputs, len(inputs[0]) if self._batched else 1)

    def _response(self, request: Any, answer: Rows | RequestError) -> Any:
        if isinstance(answer, RequestError):
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(answer.message))
        wanted = set(request.requested_output_names())
        outputs = zip(self._model.metadata.outputs, answer, strict=True)
        return triton.InferenceResponse([triton.Tensor(spec.name, a) for spec, a in outputs if spec.name in wanted])


def _load(place: Path, config: dict[str, Any], options: LoadOptions) -> LoadedModel:
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    # The real file: a model may name others that lie beside it.
    artifact = artifacts.find(str((place / parameters.pop(FILE)).resolve()))
    parameters.pop(MAX_BATCH)
    batch = config["max_batch_size"]
    own = ModelConfig(
        name=config["name"],
        max_batch=batch,
        inputs=tuple(_spec(one, batched=batch > 0) for one in config["input"]),
        outputs=tuple(_spec(one, batched=batch > 0) for one in config["output"]),
        parameters=parameters,
    )
    return load(replace(artifact, config=own), options)


def _spec(one: dict[str, Any], *, batched: bool) -> TensorSpec:
    dims = tuple(int(size) for size in one["dims"])
    datatype = one["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    return TensorSpec(one["name"], datatype, (-1, *dims) if batched else dims)


def _described(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = list(spec.shape or ())[batched:]
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype.replace('BYTES', 'STRING')}", "dims": dims}
