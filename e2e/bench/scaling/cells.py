"""What is replayed: traces and lead times, in processes of their own."""

import multiprocessing
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from slipway.sim import traces
from slipway.sim.sweep import OURS, Point, Setting, ours, rivals
from slipway.sim.traces import Trace
from slipway.sim.world import Terms, replay

LEADS = (10.0, 45.0, 180.0, 420.0)
FILES = {
    "conv": ("AzureLLMInferenceTrace_conv.csv", 6),
    "code": ("AzureLLMInferenceTrace_code.csv", 4),
    "mooncake": ("mooncake_synthetic_trace.jsonl", 6),
}
"""Name, file, replicas at the begin."""
USUAL = (0.35, 0.5, 0.7)
HELD_OUT = "mooncake"
"""No constant was chosen by it."""


@dataclass(frozen=True, slots=True)
class Cell:
    trace: str
    lead_s: float


@dataclass(frozen=True, slots=True)
class Task:
    cell: Cell
    setting: int
    """0: ours; else a rival's."""
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    task: Task
    attainment_pct: float
    gpu_hours: float
    events: int
    reversals: int
    worst_pct: float


def settings() -> list[Setting]:
    return [ours(), *rivals()]


def is_usual(setting: Setting) -> bool:
    """Of the short run: the targets and holds from which a rival's best nearly always comes."""
    return any(f"target {use:g}," in setting.words for use in USUAL)


def known(folder: Path | None, extra: Sequence[Path] = ()) -> list[str]:
    """Names of the traces that can be replayed here; further files go by their path."""
    files = [name for name, (file, _) in FILES.items() if folder and (folder / file).exists()]
    return [*files, *traces.SYNTHETIC, *map(str, extra)]


@lru_cache(maxsize=4)
def trace_of(name: str, folder: Path | None, seed: int) -> Trace:
    if name in traces.SYNTHETIC:
        return traces.SYNTHETIC[name](seed)
    if name in FILES and folder:
        file, initial = FILES[name]
        return traces.load(folder / file, replicas=initial)
    return traces.load(Path(name), seed)


def run(arguments: tuple[Task, Path | None]) -> Run:
    task, folder = arguments
    name = task.cell.trace
    # Files are the same for every seed: one copy is enough.
    trace = trace_of(name, folder, task.seed if name in traces.SYNTHETIC else 0)
    terms = Terms(lead_s=task.cell.lead_s, seed=task.seed)
    outcome = replay(trace, settings()[task.setting].make(trace.model, terms), terms)
    return Run(task, outcome.attainment_pct, outcome.gpu_hours, outcome.events, outcome.reversals, outcome.worst_pct)


def run_all(tasks: Sequence[Task], folder: Path | None) -> Iterator[Run]:
    """In as many processes as there are cores; neighbours share a trace."""
    with multiprocessing.Pool(os.cpu_count()) as pool:
        yield from pool.imap_unordered(run, [(task, folder) for task in tasks], chunksize=8)


def points(runs: Iterable[Run]) -> dict[Cell, list[Point]]:
    """Medians over the seeds, of each setting in each cell.

    Only seeds that every setting was replayed with: another seed is other traffic, and no ground to compare.
    """
    names = settings()
    groups: dict[Cell, dict[int, dict[int, Run]]] = {}
    for one in runs:
        groups.setdefault(one.task.cell, {}).setdefault(one.task.setting, {})[one.task.seed] = one
    found: dict[Cell, list[Point]] = {}
    for cell, by_setting in groups.items():
        common = set.intersection(*(set(by_seed) for by_seed in by_setting.values()))
        for setting, by_seed in by_setting.items():
            group = [by_seed[seed] for seed in common]
            found.setdefault(cell, []).append(
                Point(
                    names[setting].policy,
                    names[setting].words,
                    statistics.median(one.attainment_pct for one in group),
                    statistics.median(one.gpu_hours for one in group),
                    statistics.median(one.events for one in group),
                )
            )
    return found


def all_of_ours(runs: Iterable[Run], cell: Cell) -> list[Run]:
    return [one for one in runs if one.task.cell == cell and one.task.setting == 0]


def of_ours(found: Iterable[Point]) -> Point:
    return next(point for point in found if point.policy == OURS)
