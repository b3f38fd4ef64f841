"""Requests of one sequence reach a stateful model one after the other, in the order they came. Pure.

A sequence begins with a request that has sequence_start and ends with one that has sequence_end, or after a time
without requests. Its state lives in the model; here is only who may go next.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from slipway_runtime.engine.job import Job
from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import Parameter

SequenceId = int | str
Forgotten = Callable[[SequenceId], None]


@dataclass(slots=True)
class _Sequence:
    last_s: float
    running: Job | None = None
    waiting: OrderedDict[Job, None] = field(default_factory=OrderedDict)
    ended: bool = False
    """sequence_end has been accepted: only what waits is still to come."""
    ended_before: bool = False
    lost: bool = False
    """The model was not given its start or its end: it is to forget the sequence when that is over."""
    orphans: set[Job] = field(default_factory=set)
    """Of those who wait: they follow a start that was not run."""


class Sequences:
    def __init__(self, model: str, *, idle_s: float, most: int) -> None:
        self._model, self._idle_s, self._most = model, idle_s, most
        self._live: OrderedDict[SequenceId, _Sequence] = OrderedDict()
        """Those longest without a request first."""
        self.forgotten: Forgotten = lambda _: None
        """Told of sequences that were given up without their last request."""

    def __len__(self) -> int:
        return len(self._live)

    def enter(self, job: Job, now_s: float) -> bool:
        """Whether the job may go to the queue now; if not, `leave` of the one before it gives it back.

        Raises:
            RequestError: INVALID without an id, or when its sequence has not begun; FULL with too many sequences.
        """
        number, start, end = _flags(job, self._model)
        self._forget_idle(now_s)
        sequence = self._live.get(number)
        if sequence is None or (start and sequence.running is None):
            sequence = self._begin(number, start=start, now_s=now_s)
        elif sequence.ended and not start:
            raise self._not_begun(number)
        self._touch(number, now_s)
        sequence.ended_before, sequence.ended = sequence.ended, end
        if sequence.running is None:
            sequence.running = job
            return True
        sequence.waiting[job] = None
        return False

    def refuse(self, job: Job) -> None:
        """What `enter` has just let in found no place: as if it had not come. What it was to begin has not begun."""
        number, start, _ = _flags(job, self._model)
        sequence = self._live[number]
        if sequence.running is job:
            sequence.running = None
        sequence.waiting.pop(job, None)
        sequence.ended = sequence.ended_before
        if start and sequence.running is None:
            del self._live[number]

    def check(self, job: Job) -> None:
        """Raises RequestError, INVALID: the start of its sequence was not run."""
        number = _id(job)
        if (sequence := self._live.get(number)) is not None and job in sequence.orphans:
            sequence.orphans.remove(job)
            raise self._not_begun(number)

    def leave(self, job: Job, now_s: float, *, ran: bool = True) -> Job | None:
        """The job is answered, or nobody wants its answer any more. Returns who is next, if somebody waits."""
        number, start, end = _flags(job, self._model)
        sequence = self._live.get(number)
        if sequence is None:
            return None
        if not ran and (start or end):
            self._lose(sequence, job, start=start)
        sequence.orphans.discard(job)
        if sequence.running is not job:
            sequence.waiting.pop(job, None)
            return None
        self._touch(number, now_s)
        sequence.running = sequence.waiting.popitem(last=False)[0] if sequence.waiting else None
        if sequence.running is None and sequence.ended:
            del self._live[number]
            if sequence.lost:
                self.forgotten(number)
        return sequence.running

    def _lose(self, sequence: _Sequence, job: Job, *, start: bool) -> None:
        after = list(sequence.waiting)
        if job in sequence.waiting:
            after = after[after.index(job) + 1 :]
        again = next((index for index, one in enumerate(after) if _flags(one, self._model)[1]), None)
        if start:
            sequence.orphans.update(after[:again])
        if again is None:
            sequence.ended = sequence.lost = True

    def _touch(self, number: SequenceId, now_s: float) -> None:
        self._live[number].last_s = now_s
        self._live.move_to_end(number)

    def _begin(self, number: SequenceId, *, start: bool, now_s: float) -> _Sequence:
        if not start:
            raise self._not_begun(number)
        if number not in self._live and len(self._live) >= self._most:
            raise RequestError(
                Kind.FULL, f"model '{self._model}' has {self._most} sequences already, end one or try again later"
            )
        sequence = self._live[number] = _Sequence(now_s)
        return sequence

    def _forget_idle(self, now_s: float) -> None:
        for _ in range(len(self._live)):
            number, sequence = next(iter(self._live.items()))
            if now_s - sequence.last_s < self._idle_s:
                return
            if sequence.running is None:
                del self._live[number]
                self.forgotten(number)
            else:
                self._touch(number, now_s)

    def _not_begun(self, number: SequenceId) -> RequestError:
        return invalid(
            f"inference request for sequence {number} to model '{self._model}' must specify the START flag on the "
            "first request of the sequence"
        )


def _id(job: Job) -> SequenceId:
    value = job.parameters.get("sequence_id", 0)
    return value if isinstance(value, int | str) else 0


def _flags(job: Job, model: str) -> tuple[SequenceId, bool, bool]:
    number = _id(job)
    if not number:
        raise invalid(
            f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID (sequence_id)"
        )
    return number, _is(job.parameters.get("sequence_start")), _is(job.parameters.get("sequence_end"))


def _is(value: Parameter | None) -> bool:
    return value is True or value == 1
