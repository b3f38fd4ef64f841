"""How often a good release is aborted, and how soon a bad one: python -m e2e.bench.judge --rounds 3

Releases of 5, 25 and 50 % with two minutes each, stable failing 0.2 % of its requests, drawn at random (`world`) and
judged by the operator's own judge and by the rules of others (`rules`), all on the same requests. Two tables, good and
bad releases; each share with its 95 % interval (Wilson). A round is 300 good
releases for each noise and rate, 100 at one request a second.
"""

import argparse
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from e2e.bench import report
from e2e.bench.judge.rules import RULES, End
from e2e.bench.judge.world import NOISES, Fault, Setting, draw
from e2e.bench.report import phase, say
from slipway.decide.shares import wilson

RATES = (1, 10, 100, 1000)
OURS = "slipway"
FAULTS = {
    "errors x5": Fault(errors=5),
    "errors x20": Fault(errors=20),
    "20 % errors": Fault(rate=0.2),
    "all errors": Fault(rate=1.0),
    "latency x3": Fault(edges=3),
}
KEYS = (
    "false_abort_max_pct",
    "false_abort_argo_pct",
    "detect_x20_median_min_at_10rps",
    "detect_x20_median_min_at_100rps",
    "detect_x5_pct",
    "missed_bad_pct",
)
CEILINGS = {
    "false_abort_max_pct": 1.0,
    "detect_x20_median_min_at_10rps": 7.0,
    "detect_x20_median_min_at_100rps": 1.0,
    "missed_bad_pct": 0.0,
}
_CHUNK = 50
_GOOD, _BAD = 300, 100
"""Runs of a cell and round."""
_KAYENTA_EVERY = 5
"""Its rank sums take long: one run in so many."""


@dataclass(frozen=True, slots=True)
class Cell:
    fault: str
    """Empty: a good release."""
    noise: str
    rps: int

    @property
    def minutes(self) -> int:
        """That a release may take: at 1 request/s it waits for requests, or is found late."""
        return 20 if self.rps < 10 and self.fault else 12


Ends = dict[str, list[End]]
"""Rule -> what became of each run."""


def cells() -> Iterator[Cell]:
    yield from (Cell("", noise, rps) for noise, rps in product(NOISES, RATES))
    yield from (Cell(fault, "bernoulli", rps) for fault, rps in product(FAULTS, RATES))
    yield from (Cell(fault, "bursts_1", 100) for fault in FAULTS)


def judge(cell: Cell, seed: int, runs: int) -> tuple[Cell, Ends]:
    """Some runs of a cell, by every rule."""
    setting = Setting(cell.rps, cell.noise, FAULTS.get(cell.fault, Fault()), cell.minutes)
    random = np.random.default_rng([seed, *cell.fault.encode(), *cell.noise.encode(), cell.rps])
    ends: Ends = defaultdict(list)
    for run in range(runs):
        traffic = draw(random, setting)
        for name, rule in RULES.items():
            if name != "kayenta" or run % _KAYENTA_EVERY == 0:
                ends[name].append(rule(traffic, cell.minutes))
    return cell, dict(ends)


def measure(rounds: int, seed: int) -> dict[Cell, Ends]:
    """Every cell, on all cores; tells of each when it is done."""
    jobs = [(cell, seed + chunk, _CHUNK) for cell in cells() for chunk in range(rounds * _runs(cell) // _CHUNK)]
    found: dict[Cell, Ends] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell, ends in pool.map(judge, *zip(*jobs, strict=True)):
            known = found.setdefault(cell, {name: [] for name in RULES})
            for name, some in ends.items():
                known[name] += some
            if len(known[OURS]) == rounds * _runs(cell):
                say(f"{cell.fault or 'good'}, {cell.noise}, {cell.rps}/s: {_told(known[OURS])}")
    return found


def _runs(cell: Cell) -> int:
    """Of a round. At 1 request/s they take longest and nothing is aborted: fewer of them."""
    return _BAD if cell.fault or cell.rps < 10 else _GOOD


def aborted(ends: Iterable[End]) -> list[End]:
    return [end for end in ends if end.what == "aborted"]


def _pct(part: int, whole: int) -> str:
    low, high = wilson(part, whole)
    return f"{100 * part / whole:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def good_table(found: Mapping[Cell, Ends]) -> str:
    lines = ["| good releases aborted, % | " + " | ".join(RULES) + " |", "|---" * (len(RULES) + 1) + "|"]
    for cell in (cell for cell in found if not cell.fault):
        row = [_pct(len(aborted(found[cell][name])), len(found[cell][name])) for name in RULES]
        lines.append(f"| {cell.noise}, {cell.rps}/s | " + " | ".join(row) + " |")
    return "\n".join(lines)


def bad_table(found: Mapping[Cell, Ends]) -> str:
    lines = [
        "| bad releases: found, %; median and p95 minutes; failed requests; promoted, % | " + " | ".join(RULES) + " |",
        "|---" * (len(RULES) + 1) + "|",
    ]
    for cell in (cell for cell in found if cell.fault):
        noise = "" if cell.noise == "bernoulli" else f", {cell.noise}"
        row = [_told(found[cell][name]) for name in RULES]
        lines.append(f"| {cell.fault}, {cell.rps}/s{noise} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _told(ends: list[End]) -> str:
    times = sorted(end.minutes for end in aborted(ends))
    promoted = 100 * sum(end.what == "promoted" for end in ends) / len(ends)
    if not times:
        return f"0; promoted {promoted:.0f}"
    late = times[min(len(times) - 1, int(0.95 * len(times)))]
    failed = statistics.median(end.user_errors for end in aborted(ends))
    share, usual = 100 * len(times) / len(ends), statistics.median(times)
    return f"{share:.0f}; {usual:.1f}, {late:.1f}; {failed:.0f}; promoted {promoted:.0f}"


def outcomes(found: Mapping[Cell, Ends]) -> str:
    """What became of good releases that were not aborted: at few requests they wait for more."""
    lines = []
    for rps in RATES:
        ends = [end for cell in found if not cell.fault and cell.rps == rps for end in found[cell][OURS]]
        promoted = [end.minutes for end in ends if end.what == "promoted"]
        took = f", after {statistics.median(promoted):.1f} min (median)" if promoted else ""
        lines.append(f"slipway, good releases at {rps}/s: {100 * len(promoted) / len(ends):.1f} % promoted{took}")
    return "\n".join(lines)


def figures(found: Mapping[Cell, Ends]) -> dict[str, float | None]:
    good = [found[cell][OURS] for cell in found if not cell.fault]
    bad = [end for cell in found if cell.fault == "20 % errors" for end in found[cell][OURS]]
    argo = found[Cell("", "bernoulli", 10)]["argo"]
    x5, x20, x20_fast = (
        found[Cell(fault, "bernoulli", rps)][OURS]
        for fault, rps in (("errors x5", 100), ("errors x20", 10), ("errors x20", 100))
    )
    return {
        "false_abort_max_pct": max(100 * len(aborted(ends)) / len(ends) for ends in good),
        "false_abort_argo_pct": 100 * len(aborted(argo)) / len(argo),
        "detect_x20_median_min_at_10rps": _median(x20),
        "detect_x20_median_min_at_100rps": _median(x20_fast),
        "detect_x5_pct": 100 * len(aborted(x5)) / len(x5),
        "missed_bad_pct": 100 * sum(end.what == "promoted" for end in bad) / len(bad),
    }


def _median(ends: list[End]) -> float | None:
    """Minutes until half of all were found; None: fewer were."""
    times = sorted(end.minutes for end in aborted(ends))
    return times[len(ends) // 2] if len(times) > len(ends) // 2 else None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="The judge beside the rules of others, on simulated releases.")
    parser.add_argument("--rounds", type=int, default=3, help="of 300 good and 100 bad releases for each cell")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    with phase("releases"):
        found = measure(arguments.rounds, arguments.seed)
    print(good_table(found), bad_table(found), outcomes(found), sep="\n\n")
    measured = figures(found)
    print(report.verdicts(measured, KEYS, {}, CEILINGS))
    print(report.line_of(measured, KEYS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
