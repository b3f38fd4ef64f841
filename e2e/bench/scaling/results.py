"""Tables and the last line of `make bench-scaling`."""

import statistics
from collections.abc import Mapping, Sequence

from e2e.bench.report import line_of, verdicts
from e2e.bench.scaling.cells import HELD_OUT, Cell, Run, all_of_ours, of_ours
from slipway.sim.sweep import Point, bests, dominates, dominators, interval

KEYS = (
    "code_180s_attainment_pct",
    "code_180s_gpu_hours",
    "keda_best_attainment_pct",
    "keda_best_gpu_hours",
    "code_180s_dominates",
    "cells_dominated_by_a_rival",
    "cells",
    "scale_events_ratio_vs_kpa",
    "decide_us",
    "decisions_per_s",
)
FLOORS = {"code_180s_attainment_pct": 99.0, "code_180s_dominates": 1.0, "decisions_per_s": 5000.0}
CEILINGS = {"code_180s_gpu_hours": 4.5, "cells_dominated_by_a_rival": 0.0, "decide_us": 200.0}
CODE_180 = Cell("code", 180.0)


def figures(found: Mapping[Cell, Sequence[Point]], runs: Sequence[Run]) -> dict[str, float | None]:
    """`found`: of the seeds that all were replayed with; our own figures are of all seeds."""
    dominated = [cell for cell, points in found.items() if dominators(of_ours(points), points)]
    events, kpa = 0.0, 0.0
    for points in found.values():
        best = bests(points)
        if "kpa" in best:
            events, kpa = events + of_ours(points).events, kpa + best["kpa"].events
    here: dict[str, float | None] = {
        "cells": float(len(found)),
        "cells_dominated_by_a_rival": float(len(dominated)),
        "scale_events_ratio_vs_kpa": events / kpa if kpa else None,
    }
    if CODE_180 in found:
        points = found[CODE_180]
        mine, keda = of_ours(points), bests(points).get("keda")
        here |= {
            "code_180s_attainment_pct": statistics.median(run.attainment_pct for run in all_of_ours(runs, CODE_180)),
            "code_180s_gpu_hours": statistics.median(run.gpu_hours for run in all_of_ours(runs, CODE_180)),
            "keda_best_attainment_pct": keda.attainment_pct if keda else None,
            "keda_best_gpu_hours": keda.gpu_hours if keda else None,
            "code_180s_dominates": float(dominates(mine, points)),
        }
    return here


def table(found: Mapping[Cell, Sequence[Point]], runs: Sequence[Run]) -> str:
    """A row per cell: ours with its interval, each rival at its best, and who dominates us."""
    lines = [
        "| trace | lead, s | ours, all seeds: in time %, 95 % interval | ours, common seeds | changes | "
        + " | ".join(f"{name} at its best" for name in ("keda", "hpa", "kpa", "ray"))
        + " | dominated by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, points in found.items():
        mine, best = of_ours(points), bests(points)
        middle, low, high = interval([run.attainment_pct for run in all_of_ours(runs, cell)])
        name = f"{cell.trace} (held out)" if cell.trace == HELD_OUT else cell.trace
        others = " | ".join(
            f"{best[policy].attainment_pct:.1f} @ {best[policy].gpu_hours:.2f}" if policy in best else "-"
            for policy in ("keda", "hpa", "kpa", "ray")
        )
        over = ", ".join(f"{one.policy} {one.words}" for one in dominators(mine, points)[:2]) or "-"
        lines.append(
            f"| {name} | {cell.lead_s:g} | {middle:.2f} ({low:.2f} to {high:.2f}) | {mine.attainment_pct:.1f} @"
            f" {mine.gpu_hours:.2f} | {mine.events:g} | {others} | {over} |"
        )
    return "\n".join(lines)


def verdict(here: Mapping[str, float | None]) -> str:
    return verdicts(here, KEYS, FLOORS, CEILINGS)


def line(here: Mapping[str, float | None]) -> str:
    return line_of(here, KEYS)
