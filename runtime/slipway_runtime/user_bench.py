"""`slipway-runtime bench MODEL`: which batch sizes, threads and options pay on this machine, as a table and a config.

Measured is what the server has the model do: requests of one row each, gathered into a batch, run, and taken apart
again. Not measured are sockets and parsing, which cost the same whatever the model is.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from slipway_runtime import trial
from slipway_runtime.errors import BadConfig, BadModel, Failure, RequestError
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.config_reader import TEXT_FILE
from slipway_runtime.models.config_writer import to_triton_json
from slipway_runtime.models.load import LoadedModel, LoadOptions
from slipway_runtime.repository import load_options
from slipway_runtime.settings import Command
from slipway_runtime.tensors import Metadata

Say = Callable[[str], None]
PAYS = 1.05
"""A step is worth taking if it gives so many times the rows per second; what is measured is not surer than that."""
COMPILE_PAYS = 1.10
"""More is asked of torch.compile: it makes every start slower by the time it takes."""
_WARM_RUNS = 3
_FEWEST_RUNS, _MOST_RUNS = 5, 100_000
HEADING = f"{'threads':>7}  {'compile':>7}  {'batch':>5}  {'ms p50':>9}  {'ms p99':>9}  {'rows/s':>12}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table. Times are of one batch."""

    threads: int
    compile: bool
    batch: int
    ms_p50: float
    ms_p99: float
    rows_per_s: float

    def __str__(self) -> str:
        return (
            f"{self.threads:>7}  {'on' if self.compile else 'off':>7}  {self.batch:>5}  {self.ms_p50:>9.3f}  "
            f"{self.ms_p99:>9.3f}  {self.rows_per_s:>12,.0f}"
        )


@dataclass(slots=True)
class Bench:
    """`signature` is how the model looked when it was loaded, outputs that it told by its answers included."""

    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: ModelConfig = field(default_factory=ModelConfig)
    signature: Metadata | None = None


def bench(command: Command) -> None:
    """Measure, print the table as it grows, recommend.

    Raises:
        Failure: the model cannot be loaded or asked.
    """
    stream = sys.stderr if command.json else sys.stdout

    def say(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    name, artifacts = trial.models(command.settings, command.inputs)
    artifact = artifacts[-1]
    found = measure(artifact, command, say)
    assert found.signature is not None  # noqa: S101 - nothing is measured before a model is loaded
    best = choice(found.cells)
    advice = config_json(_advised(found.config, best), found.signature, name)
    if command.output:
        _write(Path(command.output), advice, say)
    if (artifact.folder / TEXT_FILE).exists():
        found.notes.append(f"the folder has a {TEXT_FILE}; remove it when you put a config.json there")
    if command.json:
        sys.stdout.buffer.write(orjson.dumps(_data(name, found, best, advice), option=orjson.OPT_INDENT_2) + b"\n")
        return
    for line in _told(found, best, command):
        say(line)
    say(_pretty(advice).decode())


# --- measuring


def measure(artifact: Artifact, command: Command, say: Say) -> Bench:
    """Raises Failure."""
    result = Bench()
    options = load_options(command.settings)
    eager = replace(artifact, config=_without_compile(artifact.config))
    counts = [options.threads] if command.settings.threads else thread_counts(options.threads)
    for threads in counts:
        if not _variant(result, eager, command, replace(options, threads=threads), say):
            break
    if sum(group.count for group in artifact.config.instances) > 1:
        result.notes.append("the figures are of one instance; the config asks for more of them")
    best = choice(result.cells)
    if best.batch == result.config.max_batch and not command.max_batch and best.batch > 1:
        result.notes.append(f"{best.batch} rows were the most that was tried; --max-batch {4 * best.batch} tries more")
    if command.compile and artifact.format in ("torch-export", "safetensors") and result.config.max_batch:
        compiled = _compiled(result.config, best.batch)
        try:
            say(f"compiling for batches of {compiled.parameters['buckets']} ...")
            artifact = replace(artifact, config=compiled)
            _variant(result, artifact, command, replace(options, threads=best.threads), say)
        except Failure as failure:
            result.notes.append(f"torch.compile does not work for it here: {failure}")
    return result


def thread_counts(limit: int) -> list[int]:
    """1, 2, 4, ... and the limit itself."""
    return sorted({*(1 << power for power in range(limit.bit_length())), limit})


def _without_compile(config: ModelConfig) -> ModelConfig:
    kept = {key: value for key, value in config.parameters.items() if key not in ("compile", "buckets")}
    return replace(config, parameters=kept)


def _compiled(config: ModelConfig, batch: int) -> ModelConfig:
    """The two sizes that show whether it pays: each is compiled on its own, which takes its time."""
    buckets = ",".join(map(str, sorted({1, batch})))
    return replace(config, max_batch=batch, parameters={**config.parameters, "compile": "on", "buckets": buckets})


def _variant(result: Bench, artifact: Artifact, command: Command, options: LoadOptions, say: Say) -> bool:
    """One way to load the model, in all batch sizes that may pay. Whether CPU threads make a difference to it."""
    if artifact.config.parameters.get("compile") != "on":
        artifact = replace(artifact, config=_growing(artifact, options, command.max_batch))
        result.config = artifact.config
    with trial.opened(artifact, options) as opened:
        model = opened.model
        if trial.request(model, 1) is None:
            raise trial.unknown_shapes(artifact)
        if not result.cells:
            say(f"{trial.source(artifact)}\n{trial.machine()}\n\n{HEADING}")
        for cell in _cells(model, options.threads, command.seconds, result.notes):
            result.cells.append(cell)
            say(str(cell))
        result.signature = model.metadata
    if not result.cells:
        raise BadModel("; ".join(result.notes))
    return not opened.gpu_bytes


def _growing(artifact: Artifact, options: LoadOptions, most: int) -> ModelConfig:
    """The config with room for batches, if the model can take any: it says so, or its shapes begin with any size."""
    config = artifact.config
    if config.decoupled or config.sequence_batching:
        return config
    if not config.max_batch:
        with trial.opened(artifact, options) as opened:
            specs = opened.model.metadata.inputs
            if opened.model.decoupled or not all((spec.shape or (0,))[0] == -1 for spec in specs):
                return config
    return replace(config, max_batch=most or max(config.max_batch, trial.TRIED_BATCH))


def _cells(model: LoadedModel, threads: int, seconds: float, notes: list[str]) -> Iterator[Cell]:
    """Batches of 1, 2, 4, ... rows until two steps in a row do not pay.

    By their medians: a machine that does something else for a moment slows some runs of a size, and is not to end the
    table.
    """
    best, idle = 0.0, 0
    for size in sizes(model):
        try:
            times = _times(model, size, seconds)
        except RequestError as error:
            note = f"batches of {size} rows fail: {error.message}"
            notes += [note] if note not in notes else []
            return
        rows_per_s = size * len(times) / sum(times)
        times.sort()
        median_s = times[len(times) // 2]
        yield Cell(
            threads=threads,
            compile=model.options.compile,
            batch=size,
            ms_p50=round(1e3 * median_s, 4),
            ms_p99=round(1e3 * times[len(times) * 99 // 100], 4),
            rows_per_s=round(rows_per_s, 1),
        )
        idle = 0 if size / median_s >= PAYS * best else idle + 1
        best = max(best, size / median_s)
        if idle == 2:
            return


def sizes(model: LoadedModel) -> list[int]:
    if model.options.buckets:
        return list(model.options.buckets)
    most = model.metadata.max_batch
    if model.decoupled or model.config.sequence_batching or not most:
        return [1]
    return sorted({*(1 << power for power in range(most.bit_length())), most})


def _times(model: LoadedModel, size: int, seconds: float) -> list[float]:
    """How long each batch took. Raises RequestError."""
    call = trial.request(model, 1)
    if call is None:
        raise trial.unknown_shapes(model.artifact)
    batch = [call] * size
    if (whole := trial.request(model, size)) is not None:
        # A batch that fails is run again request by request, so only a request of its own shows that it does.
        trial.answers(model, [whole])
    for _ in range(_WARM_RUNS):
        trial.answers(model, batch)
    times: list[float] = []
    ends_s = time.perf_counter() + seconds
    while len(times) < _FEWEST_RUNS or (time.perf_counter() < ends_s and len(times) < _MOST_RUNS):
        began_s = time.perf_counter()
        trial.answers(model, batch)
        times.append(time.perf_counter() - began_s)
    return times


# --- choosing


def choice(cells: list[Cell]) -> Cell:
    """The one to be recommended: of the plainest way to run it that is not beaten, its knee.

    `cells` begin with what is plainest: few threads, no compiler.
    """
    ways: dict[tuple[int, bool], list[Cell]] = {}
    for cell in cells:
        ways.setdefault((cell.threads, cell.compile), []).append(cell)
    knees = [knee(way) for way in ways.values()]
    best = knees[0]
    for cell in knees[1:]:
        asked = COMPILE_PAYS if cell.compile and not best.compile else PAYS
        if cell.rows_per_s >= asked * best.rows_per_s:
            best = cell
    return best


def knee(cells: list[Cell]) -> Cell:
    """The smallest batch that is not slower than the fastest by more than is sure."""
    fastest = max(cell.rows_per_s for cell in cells)
    return next(cell for cell in cells if cell.rows_per_s * PAYS >= fastest)


# --- the config


def _advised(config: ModelConfig, best: Cell) -> ModelConfig:
    """Buckets are left out: by default they are the powers of two up to max_batch_size."""
    plain = _without_compile(config)
    parameters = {**plain.parameters, "compile": "on"} if best.compile else plain.parameters
    return replace(plain, max_batch=best.batch if config.max_batch else 0, parameters=parameters)


def config_json(config: ModelConfig, signature: Metadata, name: str) -> dict[str, Any]:
    """Triton's ModelConfig with only those fields that say something; `read_config` makes the same of it again."""
    full = to_triton_json(config, replace(signature, max_batch=config.max_batch), name)
    kept: dict[str, Any] = {key: full[key] for key in _KEPT if full.get(key)}
    if config.platform:
        kept["platform"] = config.platform
    if not config.dynamic_batching:
        kept.pop("dynamic_batching", None)
    if not config.instances:
        kept.pop("instance_group", None)
    if kept.get("version_policy") == {"latest": {"num_versions": 1}}:
        del kept["version_policy"]
    for group in ("input", "output"):
        # What nobody knows the type of cannot be written into a config.
        if any(tensor["data_type"] == "TYPE_INVALID" for tensor in kept.get(group, ())):
            del kept[group]
    pruned: dict[str, Any] = _pruned(kept)
    if config.parameters:
        pruned["parameters"] = full["parameters"]  # an empty one may mean something to the model
    return {"name": name, "max_batch_size": config.max_batch} | pruned


_KEPT = (
    "name",
    "backend",
    "max_batch_size",
    "input",
    "output",
    "version_policy",
    "dynamic_batching",
    "sequence_batching",
    "instance_group",
    "default_model_filename",
    "model_warmup",
    "model_transaction_policy",
    "response_cache",
)


def _pruned(value: Any) -> Any:
    """Without fields that are at their defaults; lists keep their items."""
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    if not isinstance(value, dict):
        return value
    pairs = {key: _pruned(item) for key, item in value.items()}
    return {key: item for key, item in pairs.items() if item not in _DEFAULTS or key in _SAYING}


_DEFAULTS: tuple[Any, ...] = (0, "", [], {}, None, "FORMAT_NONE", "KIND_AUTO", "REJECT")  # False is 0
_SAYING = ("dims", "all", "oldest")
"""Fields that say something by being there."""


def _write(path: Path, advice: dict[str, Any], say: Say) -> None:
    try:
        path.write_bytes(_pretty(advice) + b"\n")
    except OSError as exc:
        raise BadConfig(f"--output '{path}' cannot be written: {exc.strerror}") from exc
    say(f"\nthe config is written to {path}")


def _pretty(advice: dict[str, Any]) -> bytes:
    return orjson.dumps(advice, option=orjson.OPT_INDENT_2)


# --- telling


def _told(found: Bench, best: Cell, command: Command) -> Iterator[str]:
    one = next(cell for cell in found.cells if cell.batch == 1)
    gain = best.rows_per_s / one.rows_per_s
    yield ""
    yield f"Best here: batches of {best.batch}, {best.threads} thread{'s' * (best.threads > 1)}, compile {_on(best)}:"
    yield f"  {best.rows_per_s:,.0f} rows/s, {gain:.1f} times {one.rows_per_s:,.0f} of one row after the other;"
    yield f"  a batch takes {best.ms_p50:.3f} ms (p99 {best.ms_p99:.3f} ms)."
    for note in found.notes:
        yield f"Note: {note}"
    yield ""
    yield f"slipway-runtime serve --model {command.settings.model} --threads {best.threads}"
    yield "with this config.json beside the model:"
    yield ""


def _on(cell: Cell) -> str:
    return "on" if cell.compile else "off"


def _data(name: str, found: Bench, best: Cell, advice: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": name,
        "machine": trial.machine(),
        "cells": [asdict(cell) for cell in found.cells],
        "best": asdict(best),
        "notes": found.notes,
        "threads": best.threads,
        "config": advice,
    }
