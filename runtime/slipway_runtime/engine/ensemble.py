"""A model that is an ordered list of others: tensors go from one to the next by name, as arrays, never serialised.

    inputs ──▶ step: model a (x -> y) ──▶ step: model b (y -> z) ──▶ outputs
                  every step begins as soon as all it needs is there, so steps that do not need each other run together

Each step waits in the queue of its own model, with the tenant, the priority and the time that is left of the request.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from slipway_runtime.engine.job import DONE, Job
from slipway_runtime.engine.pending import Pending
from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, Tensor

_DEEPEST = 16
log = logging.getLogger("slipway.ensemble")


@dataclass(frozen=True, slots=True)
class Step:
    """The maps go from the model's tensors to the ensemble's. `version` "" = the latest."""

    model: str
    version: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Ticket(Protocol):
    def cancel(self) -> None: ...


Submit = Callable[[Step, InferRequest, Callable[[InferResponse | RequestError], None]], Ticket]
"""To the model of a step. Raises RequestError when it is not there or does not take the request."""


class _Run:
    """One request on its way through the steps."""

    __slots__ = ("job", "tensors", "tickets", "todo")

    def __init__(self, job: Job, tensors: dict[str, Tensor], todo: list[Step]) -> None:
        self.job, self.tensors, self.todo = job, tensors, todo
        self.tickets: dict[int, Ticket] = {}


class Ensemble:
    """A way to the models of its steps. `metadata` is that of the whole."""

    def __init__(self, steps: Sequence[Step], metadata: Metadata, submit: Submit, timeout_s: float) -> None:
        self._steps, self._inputs, self._outputs = list(steps), metadata.inputs, metadata.outputs
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._pending = Pending(self._loop, timeout_s, self._give_up)
        self._runs: dict[Job, _Run] = {}

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        if job.depth >= _DEEPEST:
            raise invalid(f"ensembles are nested more than {_DEEPEST} deep: does one lead back to itself?")
        given = {
            spec.name: Tensor(spec.name, spec.datatype, data)
            for spec, data in zip(self._inputs, job.inputs, strict=True)
        }
        run = self._runs[job] = _Run(job, given, list(self._steps))
        self._pending.add(job, timeout_s)
        self._loop.call_soon(self._advance, run)

    def cancel(self, job: Job) -> bool:
        return self._pending.cancel(job)

    async def close(self) -> None:
        for job in list(self._runs):
            self._pending.fail(
                job, RequestError(Kind.UNAVAILABLE, "the model is being unloaded, send the request again")
            )
        self._pending.close()

    def _advance(self, run: _Run) -> None:
        """Begin every step that has all it needs."""
        job = run.job
        for step in list(run.todo):
            if job.state is DONE:
                return
            if all(name in run.tensors for name in step.inputs.values()):
                run.todo.remove(step)
                self._begin(run, step)
        if job.state is not DONE and not run.tickets:
            self._finish(run)

    def _begin(self, run: _Run, step: Step) -> None:
        given = [
            Tensor(theirs, run.tensors[ours].datatype, run.tensors[ours].data) for theirs, ours in step.inputs.items()
        ]
        request = InferRequest(
            given,
            patience_s=max(0.0, run.job.deadline_s - self._loop.time()),
            priority=run.job.priority,
            tenant=run.job.tenant,
            parameters=dict(run.job.parameters),
            depth=run.job.depth + 1,
        )
        try:
            run.tickets[id(step)] = self._submit(step, request, lambda result: self._done(run, step, result))
        except RequestError as error:
            self._pending.fail(run.job, RequestError(error.kind, f"in step '{step.model}': {error.message}"))

    def _done(self, run: _Run, step: Step, result: InferResponse | RequestError) -> None:
        if run.job.state is DONE:
            return
        run.tickets.pop(id(step), None)
        if isinstance(result, RequestError):
            self._pending.fail(run.job, RequestError(result.kind, f"in step '{step.model}': {result.message}"))
            return
        for tensor in result.outputs:
            if (ours := step.outputs.get(tensor.name)) is not None:
                run.tensors[ours] = tensor
        self._advance(run)

    def _finish(self, run: _Run) -> None:
        job = run.job
        missing = [spec.name for spec in self._outputs if spec.name not in run.tensors]
        if missing:
            self._pending.fail(job, RequestError(Kind.INTERNAL, f"the steps of the ensemble gave no {missing}"))
            return
        del self._runs[job]
        self._pending.answer(job, [run.tensors[spec.name].data for spec in self._outputs])

    def _give_up(self, job: Job) -> None:
        job.state = DONE
        run = self._runs.pop(job, None)
        if run is not None:
            for ticket in run.tickets.values():
                try:
                    ticket.cancel()
                except Exception:  # the others are to be given up, and the job answered, all the same
                    log.exception("a step could not be cancelled")
