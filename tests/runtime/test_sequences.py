"""Who of a sequence may go next, and what is no sequence."""

import pytest

from slipway_runtime.engine.job import Job
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Parameter


def of(number: Parameter | None = 1, *, start: Parameter = False, end: Parameter = False) -> Job:
    job = Job([], 1)
    job.parameters = {"sequence_start": start, "sequence_end": end}
    if number is not None:
        job.parameters = {**job.parameters, "sequence_id": number}
    return job


@pytest.fixture
def sequences() -> Sequences:
    return Sequences("m", idle_s=10, most=2)


def test_one_request_at_a_time_in_order(sequences: Sequences) -> None:
    jobs = [of(start=True), of(), of(), of(end=True)]
    assert [sequences.enter(job, 0) for job in jobs] == [True, False, False, False]
    assert [sequences.leave(job, 0) for job in jobs] == [*jobs[1:], None]
    assert len(sequences) == 0


def test_sequences_do_not_wait_for_each_other(sequences: Sequences) -> None:
    assert sequences.enter(of(1, start=True), 0)
    assert sequences.enter(of("one", start=True), 0)


@pytest.mark.parametrize("true", [True, 1])
def test_flags_may_be_numbers(sequences: Sequences, true: Parameter) -> None:
    job = of(start=true, end=true)
    assert sequences.enter(job, 0)
    assert sequences.leave(job, 0) is None
    assert len(sequences) == 0


@pytest.mark.parametrize("number", [None, 0, "", 1.5])
def test_a_request_without_an_id_is_refused(sequences: Sequences, number: Parameter | None) -> None:
    with pytest.raises(RequestError, match="'m' must specify a non-zero or non-empty correlation ID") as caught:
        sequences.enter(of(number, start=True), 0)
    assert caught.value.kind is Kind.INVALID


def not_begun(sequences: Sequences, job: Job, now_s: float) -> bool:
    with pytest.raises(RequestError, match="sequence 1 to model 'm' must specify the START flag") as caught:
        sequences.enter(job, now_s)
    return caught.value.kind is Kind.INVALID


def test_a_sequence_that_has_not_begun_is_refused(sequences: Sequences) -> None:
    assert not_begun(sequences, of(), 0)


def test_nothing_comes_after_the_end_but_a_new_start(sequences: Sequences) -> None:
    first, last, again = of(start=True), of(end=True), of(start=True)
    sequences.enter(first, 0)
    sequences.enter(last, 0)
    assert not_begun(sequences, of(), 0)
    assert not sequences.enter(again, 0)
    assert not sequences.enter(more := of(), 0)
    assert [sequences.leave(job, 0) for job in (first, last, again, more)] == [last, again, more, None]
    assert len(sequences) == 1


def test_a_sequence_may_begin_anew_without_an_end(sequences: Sequences) -> None:
    first, again = of(start=True), of(start=True)
    sequences.enter(first, 0)
    sequences.leave(first, 0)
    assert sequences.enter(again, 0)
    assert sequences.leave(again, 0) is None


def test_one_that_leaves_from_the_middle_is_passed_over(sequences: Sequences) -> None:
    jobs = [of(start=True), of(), of()]
    for job in jobs:
        sequences.enter(job, 0)
    assert sequences.leave(jobs[1], 0) is None
    assert sequences.leave(jobs[0], 0) is jobs[2]


def test_too_many_sequences_are_refused_until_one_ends_or_is_idle(sequences: Sequences) -> None:
    first, second = of(1, start=True), of(2, start=True)
    for job in (first, second):
        sequences.enter(job, 0)
    with pytest.raises(RequestError, match="model 'm' has 2 sequences already") as caught:
        sequences.enter(of(3, start=True), 100)
    assert caught.value.kind is Kind.FULL
    sequences.leave(second, 100)
    with pytest.raises(RequestError, match="has 2 sequences already"):
        sequences.enter(of(3, start=True), 109)
    assert sequences.enter(of(3, start=True), 110)
    assert len(sequences) == 2


def test_a_sequence_that_was_idle_too_long_is_over_however_many_there_are(sequences: Sequences) -> None:
    first = of(start=True)
    sequences.enter(first, 0)
    sequences.leave(first, 1)
    assert not_begun(sequences, of(), 11)
    assert sequences.enter(of(start=True), 11)


def test_one_that_works_long_is_not_idle(sequences: Sequences) -> None:
    first = of(start=True)
    sequences.enter(first, 0)
    assert not sequences.enter(of(), 1000)
    assert sequences.leave(first, 1000) is not None


def test_a_start_that_found_no_place_has_begun_nothing(sequences: Sequences) -> None:
    job = of(start=True)
    sequences.enter(job, 0)
    sequences.refuse(job)
    assert len(sequences) == 0
    assert not_begun(sequences, of(), 0)


@pytest.mark.parametrize("works", [True, False])
def test_an_end_that_found_no_place_can_be_sent_again(sequences: Sequences, works: bool) -> None:
    first, end, again = of(start=True), of(end=True), of(end=True)
    sequences.enter(first, 0)
    if not works:
        sequences.leave(first, 0)
    sequences.enter(end, 0)
    sequences.refuse(end)
    assert sequences.enter(again, 0) is not works
    assert sequences.leave(first, 0) is (again if works else None)
    assert sequences.leave(again, 0) is None
    assert len(sequences) == 0


def test_a_new_start_that_found_no_place_leaves_the_end_of_the_one_before(sequences: Sequences) -> None:
    last, again = of(start=True, end=True), of(start=True)
    sequences.enter(last, 0)
    sequences.enter(again, 0)
    sequences.refuse(again)
    assert not_begun(sequences, of(), 0)
    assert sequences.leave(last, 0) is None
    assert len(sequences) == 0


def told_of(sequences: Sequences) -> list[int | str]:
    told: list[int | str] = []
    sequences.forgotten = told.append
    return told


def test_an_end_that_was_not_run_ends_the_sequence_and_the_model_is_told(sequences: Sequences) -> None:
    told, first, second, end = told_of(sequences), of(start=True), of(), of(end=True)
    for job in (first, second, end):
        sequences.enter(job, 0)
    assert sequences.leave(end, 0, ran=False) is None
    assert sequences.leave(first, 0) is second
    assert not told, "the second is still to be run"
    assert sequences.leave(second, 0) is None
    assert (told, len(sequences)) == ([1], 0)


def test_those_after_a_start_that_was_not_run_are_refused_until_the_next_start(sequences: Sequences) -> None:
    told, first, orphan, again, last = told_of(sequences), of(start=True), of(), of(start=True), of()
    for job in (first, orphan, again, last):
        sequences.enter(job, 0)
    assert sequences.leave(first, 0, ran=False) is orphan
    with pytest.raises(RequestError, match="must specify the START flag"):
        sequences.check(orphan)
    assert sequences.leave(orphan, 0, ran=False) is again
    sequences.check(again)
    assert sequences.leave(again, 0) is last
    sequences.check(last)
    assert sequences.leave(last, 0) is None
    assert (told, len(sequences)) == ([], 1)


def test_idle_sequences_are_forgotten_at_the_next_request_of_any(sequences: Sequences) -> None:
    told, works, idle = told_of(sequences), of(1, start=True), of(2, start=True)
    sequences.enter(works, 0)
    sequences.enter(idle, 0)
    sequences.leave(idle, 0)
    assert sequences.enter(of(3, start=True), 11)
    assert (told, len(sequences)) == ([2], 2)
