"""What the judge keeps of the past, and how it stands in `status.rollout.evidence`: JSON of less than two kilobytes."""

from collections.abc import Mapping, Sequence
from operator import add
from types import MappingProxyType
from typing import Any, NamedTuple

from slipway.decide.buckets import packed, unpacked
from slipway.decide.evidence import BETS, Tally, Trial
from slipway.decide.limits import ERRORS, REJECTED, Limit, Record
from slipway.decide.release import EDGES_MS, Sample

Evidence = dict[str, Any]

RECORD_MINUTES_MAX = 10.0
_RECORD_MEMORY = 0.95
"""Of stable's record, what still counts one minute later: twenty minutes are remembered."""
_FINE = 10_000
"""Parts of what a bet has won that are kept: losses add up as wins do, and one error of thousands changes little."""
_LOST = -80.0
"""Less than that of a bet is as good as nothing: 10**-35."""
_ABOVE_LOST = 1_000_000
_STORED = 15 + len(BETS)
"""Entries of a trial."""


class Memory(NamedTuple):
    """All evidence of one candidate against one stable revision."""

    stable: str
    candidate: str
    requests: int = 0
    """The candidate's."""
    seconds: float = 0.0
    """Since its first one."""
    windows: int = 0
    """That had any."""
    block_s: float = 0.0
    """Age of the open block."""
    blocks: int = 0
    """That were closed since its first request."""
    excused: int = 0
    """Requests of its cold start, if that looked bad: no credit for them."""
    record: Record = Record()
    recent: Tally = Tally()
    """Errors of the last windows, each worth half of the next."""
    trials: Mapping[str, Trial] = MappingProxyType({})
    beyond_s: Mapping[str, float] = MappingProxyType({})
    """Metric of the spec -> for how long its limit has been broken."""
    usual: Record | None = None
    """Where users are kept to a revision: the record of before the candidate's first request, without latency."""

    def trial(self, limit: Limit) -> Trial:
        """What there is on a limit; nothing, if it was another then."""
        trial = self.trials.get(limit.key)
        if trial is not None and trial.limit == limit.mark:
            return trial
        if self.is_quiet(limit) and ERRORS in self.trials:
            n, _, m, _ = self.trials[ERRORS].seen
            return Trial(limit.mark, seen=Tally(n, 0, m, 0))
        return Trial(limit.mark)

    def is_quiet(self, limit: Limit) -> bool:
        """Whether neither side has rejected anything yet, so that there was nothing to bet on: most never do."""
        return limit.metric == REJECTED and limit.ratio is not None and limit.key not in self.trials


def recorded(record: Record, sample: Sample, window_s: float) -> Record:
    """Stable's record with one more window; of a long one not more than ten minutes are worth their time."""
    kept = record.latency or (0,) * (len(EDGES_MS) + 1)
    latency = tuple(map(add, kept, sample.latency)) if sample.latency else record.latency
    minutes = min(window_s / 60, RECORD_MINUTES_MAX) if sample.requests else 0.0
    return Record(
        record.requests + sample.requests,
        record.errors + sample.errors,
        record.minutes + minutes,
        latency,
        record.rejected + sample.rejected,
    )


def faded(record: Record) -> Record:
    """Stable's record a minute later."""
    return Record(
        record.requests * _RECORD_MEMORY,
        record.errors * _RECORD_MEMORY,
        record.minutes * _RECORD_MEMORY,
        tuple([round(count * _RECORD_MEMORY) for count in record.latency]),
        record.rejected * _RECORD_MEMORY,
    )


def read(evidence: Evidence | None, stable: str, candidate: str) -> Memory:
    """The memory as stored; an empty one for another candidate, or where what is stored cannot be read."""
    memory = recall(evidence)
    return memory if (memory.stable, memory.candidate) == (stable, candidate) else Memory(stable, candidate)


def recall(evidence: Evidence | None) -> Memory:
    """The memory as stored, whomever it is of; an empty one of nobody, where it cannot be read."""
    if not evidence:
        return Memory("", "")
    try:
        (stable, candidate), (requests, excused) = evidence["of"], evidence["n"]
        seconds, windows, block_s, blocks = evidence["time"]
        return Memory(
            str(stable),
            str(candidate),
            requests,
            seconds,
            windows,
            block_s,
            blocks,
            excused,
            _record(evidence["record"], _latency(evidence["latency"])),
            Tally(*evidence["recent"]),
            {key: _trial(stored) for key, stored in evidence["trials"].items() if len(stored) == _STORED},
            evidence["beyond"],
            _record(evidence["usual"], ()) if "usual" in evidence else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return Memory("", "")


def write(memory: Memory) -> Evidence:
    """The memory as it is stored."""
    usual = {"usual": _counts(memory.usual)} if memory.usual is not None else {}
    return {
        "of": [memory.stable, memory.candidate],
        "n": [memory.requests, memory.excused],
        "time": [round(memory.seconds, 1), memory.windows, round(memory.block_s, 1), memory.blocks],
        "record": _counts(memory.record),
        "latency": packed(memory.record.latency),
        "recent": [round(count, 2) for count in memory.recent],
        "trials": {key: _stored(trial) for key, trial in memory.trials.items()},
        "beyond": dict(memory.beyond_s),
        **usual,
    }


def _counts(record: Record) -> list[float]:
    return [round(record.requests), round(record.errors, 1), round(record.minutes, 2), round(record.rejected, 1)]


def _record(stored: Sequence[Any], latency: tuple[int, ...]) -> Record:
    requests, errors, minutes, *more = stored  # a Slipway of before counted no rejections
    return Record(requests, errors, minutes, latency, more[0] if more else 0)


def _stored(trial: Trial) -> list[Any]:
    bets = trial.bets if min(trial.bets) >= _LOST else tuple([max(won, _LOST) for won in trial.bets])
    # `round` takes five times as long as what is done here; nothing is negative where it is cut off.
    fine = [int(won * _FINE + _ABOVE_LOST + 0.5) - _ABOVE_LOST for won in bets]
    return [trial.limit, *trial.seen, *trial.block, *trial.past, *trial.bursts, *fine]


def _trial(stored: Sequence[Any]) -> Trial:
    return Trial(
        stored[0],
        tuple([won / _FINE for won in stored[15:]]),
        Tally._make(stored[1:5]),
        tuple(stored[9:13]),
        tuple(stored[13:15]),
        Tally._make(stored[5:9]),
    )


def _latency(stored: Sequence[int]) -> tuple[int, ...]:
    """None counted is no histogram at all."""
    return tuple(unpacked(stored)) if stored else ()
