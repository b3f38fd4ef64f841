"""In which order the models of an ensemble run, and which tensor of one is which of the next. Pure.

The tensors of one request lie in a pool, by place: the ensemble's inputs first, then what the stages give. Whoever runs
the stages passes arrays from place to place; nothing is copied or written out in between.

    pool = [*inputs, None, None, ...]
    for stage in plan.stages:
        rows = answer of stage.model to [pool[place] for place in stage.inputs]
        for number, place in stage.outputs: pool[place] = rows[number]
    outputs = [pool[place] for place in plan.outputs]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slipway_runtime.errors import BadModel
from slipway_runtime.models.config import EnsembleStep, ModelConfig
from slipway_runtime.tensors import Metadata, TensorSpec

MetadataOf = Callable[[str, int], Metadata]
"""The signature of a model by its name and version, -1 = the newest. Raises BadModel if it is not there."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`inputs` are places, in the model's order; `outputs` pairs of the number of an output of it and its place."""

    model: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`size` is how many places the pool has."""

    metadata: Metadata
    stages: tuple[Stage, ...]
    outputs: tuple[int, ...]
    size: int


def plan(config: ModelConfig, metadata_of: MetadataOf) -> Plan:
    """The stages in an order in which each has its inputs when it runs. O(steps squared).

    Raises:
        BadModel: a tensor is missing, comes from two steps, or does not fit the model it goes to.
    """
    pool = {spec.name: spec for spec in config.inputs}
    stages = []
    waiting = list(config.ensemble)
    while waiting:
        step = next((step for step in waiting if pool.keys() >= set(step.input_map.values())), None)
        if step is None:
            missing = sorted({name for step in waiting for name in step.input_map.values()} - pool.keys())
            raise _wrong(config, f"nothing gives tensor {missing[0]!r}, or its steps wait for each other")
        waiting.remove(step)
        stages.append(_stage(config, step, pool, metadata_of(step.model, step.version)))
    places = {name: place for place, name in enumerate(pool)}
    for spec in config.outputs:
        if spec.name not in pool:
            raise _wrong(config, f"no step gives output {spec.name!r}")
        _check_fits(config, pool[spec.name], spec, f"output '{spec.name}'")
    metadata = Metadata("ensemble", config.inputs, config.outputs, config.max_batch, config.ignored)
    return Plan(metadata, tuple(stages), tuple(places[spec.name] for spec in config.outputs), len(pool))


def _stage(config: ModelConfig, step: EnsembleStep, pool: dict[str, TensorSpec], model: Metadata) -> Stage:
    """Puts the outputs of the step into the pool, at its end."""
    if model.max_batch and config.max_batch > model.max_batch:
        raise _wrong(config, f"its max_batch_size {config.max_batch} is more than model '{step.model}' takes")
    places = {name: place for place, name in enumerate(pool)}
    inputs = _named(config, step, "input", step.input_map, model.inputs)
    for spec in model.inputs:
        tensor = inputs[spec.name]
        _check_fits(config, pool[tensor], spec, f"input '{spec.name}' of model '{step.model}'")
    outputs = []
    for name, tensor in step.output_map.items():
        number = next((number for number, spec in enumerate(model.outputs) if spec.name == name), None)
        if number is None:
            raise _wrong(config, f"model '{step.model}' gives no output {name!r}")
        if tensor in pool:
            raise _wrong(config, f"tensor {tensor!r} is given twice")
        outputs.append((number, len(pool)))
        pool[tensor] = model.outputs[number]
    return Stage(step.model, step.version, tuple(places[inputs[spec.name]] for spec in model.inputs), tuple(outputs))


def _named(
    config: ModelConfig, step: EnsembleStep, kind: str, given: Mapping[str, str], wanted: tuple[TensorSpec, ...]
) -> Mapping[str, str]:
    names = {spec.name for spec in wanted}
    if given.keys() != names:
        raise _wrong(config, f"{kind}_map of model '{step.model}' has {sorted(given)}, must have {sorted(names)}")
    return given


def _check_fits(config: ModelConfig, given: TensorSpec, wanted: TensorSpec, where: str) -> None:
    """Types and sizes that are not known are checked when a request is there."""
    same_type = "" in (given.datatype, wanted.datatype) or given.datatype == wanted.datatype
    if not same_type or not _compatible(given.shape, wanted.shape):
        raise _wrong(
            config,
            f"{where} is {wanted.datatype} {list(wanted.shape or ())}, but it is given {given.datatype} "
            f"{list(given.shape or ())}",
        )


def _compatible(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> bool:
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(-1 in (x, y) or x == y for x, y in zip(a, b, strict=True))


def _wrong(config: ModelConfig, what: str) -> BadModel:
    return BadModel(f"ensemble '{config.name}': {what}; correct its ensemble_scheduling")
