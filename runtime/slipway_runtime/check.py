"""`slipway-runtime check MODEL`: would it be served, as what, and what would surprise its users.

It is loaded as `serve` does and asked for real. What `serve` would end with ends this too, with the same sentence and
exit code. What it would serve, but not as somebody expects, is a problem, and each problem has a fix.
"""

import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from slipway_runtime import trial
from slipway_runtime.cpus import cpu_limit
from slipway_runtime.errors import RequestError
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel
from slipway_runtime.protocol.api import example_request
from slipway_runtime.repository import Plan, load_options, plan_of
from slipway_runtime.settings import Command, Settings
from slipway_runtime.tensors import Array, Metadata, Rows, Tensor, TensorSpec, numbers_of
from slipway_runtime.trial import Trial

WIDTH = 80
_INDENT = 10
_FEW_ROWS = 4
_LONGEST = 400
_EVAL = "call .eval() on the module before it is saved: dropout and batch norm are still learning"

_STATE = "look for what it keeps from one call to the next"


@dataclass(frozen=True, slots=True)
class Problem:
    what: str
    fix: str


@dataclass(slots=True)
class Report:
    """`facts` are lines of text by their headings, `data` the same for machines."""

    facts: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check(command: Command) -> None:
    """Print what the model is and what is wrong with it.

    Raises:
        Failure: it cannot be served.
    """
    settings = command.settings
    name, artifacts = trial.models(settings, command.inputs)
    reports = [report(name, artifact, settings) for artifact in artifacts]
    if command.json:
        parts = [item.data | {"problems": [_fields(problem) for problem in item.problems]} for item in reports]
        sys.stdout.buffer.write(orjson.dumps({"model": name, "versions": parts}, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        sys.stdout.write("\n".join(text_of(item) for item in reports))
        count = sum(len(item.problems) for item in reports)
        sys.stdout.write(f"\n{name} can be served; {count or 'no'} problem{'' if count == 1 else 's'} found\n")


def report(name: str, artifact: Artifact, settings: Settings) -> Report:
    """Raises Failure."""
    plan = plan_of(name, artifact.config, settings)
    options = load_options(settings)
    with trial.opened(artifact, options) as opened:
        result = Report()
        spent = _ask(opened.model, result)
        _describe(result, name, opened, plan, options.threads)
        result.facts["answers"] = ", ".join(f"{rows} row{'s' * (rows > 1)} in {ms:.3g} ms" for rows, ms in spent)
        result.data["answers"] = [{"rows": rows, "ms": round(ms, 4)} for rows, ms in spent]
        result.problems[:0] = _of_config(opened.model, options.threads)
    return result


def text_of(result: Report) -> str:
    """At most 80 columns."""
    lines = []
    for heading, text in result.facts.items():
        if text:
            lines += _wrapped(f"{heading:<{_INDENT}}", text)
    for problem in result.problems:
        lines += [
            "",
            *_wrapped(f"{'PROBLEM':<{_INDENT}}", problem.what),
            *_wrapped(f"{'  fix':<{_INDENT}}", problem.fix),
        ]
    return "\n".join(lines) + "\n"


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT, break_on_hyphens=False)


def _fields(problem: Problem) -> dict[str, str]:
    return {"what": problem.what, "fix": problem.fix}


# --- what it is


def _describe(result: Report, name: str, opened: Trial, plan: Plan, threads: int) -> None:
    model, artifact = opened.model, opened.model.artifact
    metadata, own = model.metadata, model.options
    device = "GPU" if opened.gpu_bytes else "CPU"
    options = (own.dtype or "as in the file", "on" if own.compile else "off", own.quantization, own.shards)
    size_bytes = artifact.path.stat().st_size if artifact.path.is_file() else 0
    result.facts |= {
        "model": f"{name}, version {artifact.version}",
        "file": f"{trial.source(artifact)}, {_size(size_bytes)}",
        "inputs": _signature(metadata.inputs),
        "outputs": _signature(metadata.outputs),
        "batches": _batches(model),
        "runs on": f"{device}, {_many(threads, 'thread')}, {_many(len(model.runners), 'instance')}",
        "options": "dtype {}; compile {}; quantization {}; shards {}".format(*options),
        "queue": f"{plan.policy.max_queue} requests may wait, each {plan.policy.timeout_s:g} s at most",
        "ignored": ", ".join(metadata.ignored),
        "loaded": f"in {opened.load_s:.2f} s, after {opened.engine_s:.1f} s for what runs it",
        "warm-up": f"in {opened.warm_s:.2f} s" if opened.warmed else "none: shapes are not known",
        "memory": _memory(opened),
        "example": _example(metadata),
    }
    result.data |= {
        "version": artifact.version,
        "file": str(artifact.path),
        "format": artifact.format,
        "inputs": [_spec(spec) for spec in metadata.inputs],
        "outputs": [_spec(spec) for spec in metadata.outputs],
        "max_batch_size": metadata.max_batch,
        "decoupled": model.decoupled,
        "device": device,
        "threads": threads,
        "instances": len(model.runners),
        "dtype": own.dtype,
        "compile": own.compile,
        "buckets": own.buckets,
        "quantization": own.quantization,
        "shards": own.shards,
        "ignored": metadata.ignored,
        "load_s": round(opened.load_s, 3),
        "engine_s": round(opened.engine_s, 3),
        "warmed_up": opened.warmed,
        "warm_up_s": round(opened.warm_s, 3),
        "memory_bytes": opened.memory_bytes,
        "engine_bytes": opened.engine_bytes,
        "gpu_bytes": opened.gpu_bytes,
        "example": example_request(metadata),
    }


def _example(metadata: Metadata) -> str:
    text = orjson.dumps(example_request(metadata)).decode() if metadata.example else ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _signature(specs: tuple[TensorSpec, ...]) -> str:
    texts = [f"{spec.name} {spec.datatype or 'of any type'} {list(spec.shape) if spec.shape else ''}" for spec in specs]
    return "; ".join(text.strip() for text in texts) or "known after the first answer"


def _batches(model: LoadedModel) -> str:
    if model.decoupled:
        return "none: it answers by streams"
    if model.config.sequence_batching:
        return f"up to {model.metadata.max_batch or 1} rows, of different sequences"
    if not model.metadata.max_batch:
        return "none: max_batch_size is 0"
    buckets = f", filled up to {', '.join(map(str, model.options.buckets))}" if model.options.buckets else ""
    return f"up to {model.metadata.max_batch} rows{buckets}"


def _memory(opened: Trial) -> str:
    gpu = f"; on the GPU {_size(opened.gpu_bytes)}" if opened.gpu_bytes else ""
    return f"{_size(opened.memory_bytes)} for the model, {_size(opened.engine_bytes)} for what runs it{gpu}"


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


# --- what is wrong with it


def _of_config(model: LoadedModel, threads: int) -> Iterator[Problem]:
    metadata = model.metadata
    if any(spec.shape is None or not spec.datatype for spec in metadata.inputs):
        yield Problem(
            "the model does not tell the types and shapes of its inputs: requests are not checked before they reach "
            "it, and no warm-up is possible",
            'write a config.json beside it with "input" (name, data_type, dims) and "max_batch_size"; '
            "`slipway-runtime bench --input NAME:DATATYPE:DIMS` prints one",
        )
    elif (
        not metadata.max_batch
        and not model.decoupled
        and all((spec.shape or (0,))[0] == -1 for spec in metadata.inputs)
    ):
        yield Problem(
            "the model takes any number of rows, but requests are not batched: max_batch_size is 0",
            "set max_batch_size in its config.json; `slipway-runtime bench` finds the size that pays",
        )
    if metadata.ignored:
        yield Problem(
            f"the config has fields that do nothing here: {', '.join(metadata.ignored)}",
            "remove them, or do not count on them",
        )
    if threads > (limit := cpu_limit()):
        yield Problem(f"{threads} threads share {_many(limit, 'CPU')}", "leave --threads out, or give it more CPUs")


def _ask(model: LoadedModel, result: Report) -> list[tuple[int, float]]:
    """Real requests: one row, and a full batch. Returns how many milliseconds each size took."""
    call = trial.request(model, 1)
    if call is None:
        return []
    spent = []
    try:
        spent.append((1, _timed(model, 1)))
        first = trial.answers(model, [call])
        result.problems += _of_answers(model, first)
    except RequestError as error:
        result.problems.append(
            Problem(
                f"it answers zeros, but not random numbers: {error.message}",
                "if it takes only some values, put real ones into a file of model_warmup; else correct the model",
            )
        )
        return []
    if (rows := _largest(model)) > 1:
        try:
            spent.append((rows, _timed(model, rows)))
        except RequestError as error:
            result.problems.append(
                Problem(
                    f"it answers one row, but not {rows}, which is its max_batch_size: {error.message}",
                    "set max_batch_size to what it was made for; `slipway-runtime bench` finds it",
                )
            )
            return spent
    if not model.decoupled and not model.config.sequence_batching:
        try:
            result.problems += _of_repeats(model, call, first)
        except RequestError as error:
            result.problems.append(Problem(f"it failed on a request that it answered before: {error.message}", _STATE))
    return spent


def _largest(model: LoadedModel) -> int:
    return 1 if model.decoupled or model.config.sequence_batching else max(1, model.metadata.max_batch)


def _timed(model: LoadedModel, rows: int) -> float:
    """The second run, in milliseconds: the first finds caches cold."""
    call = trial.request(model, rows)
    if call is None:
        return 0.0
    began_s = 0.0
    for _ in range(2):
        began_s = time.perf_counter()
        trial.answers(model, [call])
    return (time.perf_counter() - began_s) * 1e3


def _of_answers(model: LoadedModel, found: list[Rows]) -> Iterator[Problem]:
    specs = model.metadata.outputs
    if not found:
        yield Problem("the stream of a made-up request had no answer", "nothing, if that is what it does on such input")
    for rows in found[:1]:
        for spec, data in zip(specs, rows, strict=False):
            if not spec.accepts(data.shape):
                yield Problem(
                    f"output '{spec.name}' has shape {list(data.shape)}, its config says {list(spec.shape or ())}",
                    "correct dims of that output; clients read them from the metadata",
                )
            values = numbers_of(Tensor(spec.name, spec.datatype, data))
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                yield Problem(
                    f"output '{spec.name}' has NaN or infinity on random input",
                    "nothing, if that is meant; else look at dtype: float16 overflows above 65504",
                )


def _of_repeats(model: LoadedModel, call: OwnCall, first: list[Rows]) -> Iterator[Problem]:
    """The same request twice; then some rows together and each alone."""
    if not _alike(model, first[0], trial.answers(model, [call])[0]):
        yield Problem("the same request gets different answers", _EVAL)
        return
    rows = min(_FEW_ROWS, _largest(model))
    together = trial.request(model, rows) if rows > 1 else None
    if together is None:
        return
    singles = [replace(together, inputs=[data[i : i + 1] for data in together.inputs], rows=1) for i in range(rows)]
    (whole,) = trial.answers(model, [together])
    parts = [trial.answers(model, [single])[0] for single in singles]
    alone = [np.concatenate([part[index] for part in parts]) for index in range(len(whole))]
    if not _alike(model, whole, alone):
        yield Problem(
            "the answer to a row depends on the other rows of its batch", f"{_EVAL}; or set max_batch_size to 1"
        )


def _alike(model: LoadedModel, left: Rows, right: Rows) -> bool:
    """But for rounding, which depends on the size of a batch."""
    specs = model.metadata.outputs or tuple(TensorSpec("") for _ in left)
    return all(_close(spec, a, b) for spec, a, b in zip(specs, left, right, strict=False))


def _close(spec: TensorSpec, left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    a, b = (numbers_of(Tensor(spec.name, spec.datatype, data)) for data in (left, right))
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=0.02, atol=0.01 * scale, equal_nan=True))
