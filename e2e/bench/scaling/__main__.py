"""Our decision beside its rivals: `make bench-scaling`, or a part: `ONLY="code conv"`, `FULL=1`, `TRACES=folder`.

Ours has one setting; a rival its best one of a sweep, found anew for every trace and lead time.
"""

import argparse
import os
import sys
from pathlib import Path

from e2e.bench.report import phase, say
from e2e.bench.scaling import cells, results, speed
from e2e.bench.scaling.cells import LEADS, Cell, Run, Task
from slipway.sim import picture
from slipway.sim.sweep import OURS, Point

SEEDS, SEEDS_OF_RIVALS = 10, 2
"""Ours has few runs, rivals many: their medians need fewer in the short run."""


def main(argv: list[str]) -> None:
    arguments = _arguments(argv)
    folder: Path | None = arguments.traces
    names = [name for name in cells.known(folder, arguments.extra) if not arguments.only or name in arguments.only]
    if not folder:
        say("no folder of traces (TRACES=folder or SLIPWAY_TRACES): the synthetic ones only")
    of_rivals = arguments.rounds if arguments.full else min(SEEDS_OF_RIVALS, arguments.rounds)
    tasks = _tasks(names, arguments.rounds, of_rivals, full=arguments.full)
    runs: list[Run] = []
    with phase(f"{len(tasks)} replays of {', '.join(names)}"):
        for run in cells.run_all(tasks, folder):
            runs.append(run)
            if len(runs) % 500 == 0:
                say(f"{len(runs)} of {len(tasks)}")
    found = cells.points(runs)
    found = {cell: found[cell] for cell in sorted(found, key=lambda cell: (names.index(cell.trace), cell.lead_s))}
    here = results.figures(found, runs)
    with phase("speed of one decision"):
        here |= speed.measure()
    print(
        f"ours: medians of {arguments.rounds} seeds, compared on the {of_rivals} that rivals have too, each at its best"
    )
    print(results.table(found, runs))
    if arguments.svg:
        _draw(found, arguments.svg)
    print(f"\n{results.verdict(here)}")
    print(results.line(here))


def _tasks(names: list[str], seeds: int, of_rivals: int, *, full: bool) -> list[Task]:
    """Neighbours share a trace and a seed, which a process keeps."""
    chosen = [
        number for number, one in enumerate(cells.settings()) if one.policy == OURS or full or cells.is_usual(one)
    ]
    return [
        Task(Cell(name, lead), setting, seed)
        for name in names
        for seed in range(seeds)
        for lead in LEADS
        for setting in chosen
        if setting == 0 or seed < of_rivals
    ]


def _draw(found: dict[Cell, list[Point]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for cell, points in found.items():
        path = folder / f"{Path(cell.trace).stem}-{cell.lead_s:g}s.svg"
        path.write_text(picture.pareto(f"{Path(cell.trace).stem}, lead time {cell.lead_s:g} s", points))
    say(f"drawn: {len(found)} pictures in {folder}")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.scaling")
    parser.add_argument("--rounds", type=int, default=SEEDS, help="seeds")
    parser.add_argument("--full", action="store_true", help="every setting of rivals, with as many seeds as ours")
    parser.add_argument("--only", type=str.split, default=[], help="names of traces")
    parser.add_argument("--traces", type=_folder, default=_folder(os.environ.get("SLIPWAY_TRACES", "")))
    parser.add_argument("--extra", type=Path, nargs="*", default=[], help="further trace files")
    parser.add_argument("--svg", type=_folder, help="folder for pictures")
    return parser.parse_args(argv)


def _folder(text: str) -> Path | None:
    return Path(text) if text else None


if __name__ == "__main__":
    main(sys.argv[1:])
