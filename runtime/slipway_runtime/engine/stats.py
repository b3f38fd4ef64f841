"""What happened to a model's requests and batches, as plain integers that only grow.

Written by the loop's thread alone. The words are Triton's: a request is one call of a client, an inference one row of
a batch, an execution one run of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from slipway_runtime.engine.job import Job
from slipway_runtime.engine.queue import Cut
from slipway_runtime.errors import Kind

# Triton's reasons for a failed request.
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_REASON_OF = {Kind.FULL: "REJECTED", Kind.UNAVAILABLE: "REJECTED", Kind.DEADLINE: "REJECTED", Kind.INTERNAL: "BACKEND"}


@dataclass(slots=True)
class Ran:
    """One run of the model: how many rows, why no more of them, and its nanoseconds, of which two parts are known."""

    rows: int
    cut: Cut
    failed_rows: int = 0
    took_ns: int = 0
    input_ns: int = 0
    output_ns: int = 0
    cpu_ns: int = 0
    """Of the thread it ran on: without its waiting for other threads, as that says nothing of the model."""


@dataclass(slots=True)
class OfBatchSize:
    executions: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


@dataclass(slots=True)
class Stats:
    """Durations are sums of nanoseconds, each over the requests (a batch's own counts for all of its requests)."""

    success: int = 0
    failure: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    failure_ns: int = 0
    inferences: int = 0
    executions: int = 0
    request_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_hit_ns: int = 0
    cache_miss_ns: int = 0
    responses: int = 0
    batches: dict[int, OfBatchSize] = field(default_factory=dict)
    cuts: dict[Cut, int] = field(default_factory=lambda: dict.fromkeys(Cut, 0))
    last_ms: int = 0
    """Unix time of the last request that was run."""

    def ran(self, jobs: Sequence[Job], run: Ran) -> None:
        """`jobs` are those that have answers: what failed is counted by `failed` alone."""
        count = len(jobs)
        self.executions += 1
        self.inferences += run.rows - run.failed_rows
        self.queue_ns += sum([job.started_ns - job.queued_ns for job in jobs])
        self.input_ns += run.input_ns * count
        infer_ns = run.took_ns - run.input_ns - run.output_ns
        self.infer_ns += infer_ns * count
        self.output_ns += run.output_ns * count
        self.cuts[run.cut] += 1
        size = self.batches.get(run.rows)
        if size is None:
            size = self.batches[run.rows] = OfBatchSize()
        size.executions += 1
        size.input_ns += run.input_ns
        size.infer_ns += infer_ns
        size.output_ns += run.output_ns

    def failed(self, kind: Kind | None, took_ns: int) -> None:
        """`kind` None = the client went away."""
        self.failure["CANCELED" if kind is None else _REASON_OF.get(kind, "OTHER")] += 1
        self.failure_ns += took_ns
