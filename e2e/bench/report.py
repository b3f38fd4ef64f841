"""What a person reads while it runs, and what is left at the end: a table, and one line for machines."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.cluster.shell import say as _say

PEER = "KServe HEAD, 300, not of this run: measured earlier on such a machine"
_BEGIN = time.monotonic()


@dataclass(frozen=True, slots=True)
class Row:
    figure: str
    title: str
    floor: float | None = None
    """The most it may be, of 300 services; None: told for interest, not part of RESULT."""
    kserve: str = ""
    in_result: bool = True


ROWS = (
    Row("create_to_ready_s", "all Ready, s", 40, "70.0"),
    Row("baseline_s", "plain Deployments and Services Available, s", in_result=False),
    Row("ratio_vs_plain_deployments", "ratio of the two", 1.3),
    Row("apply_to_first_write_p50_ms", "change to first write at 20/s, p50, ms", 30),
    Row("apply_to_first_write_p99_ms", "change to first write at 20/s, p99, ms", 250),
    Row("burst_to_first_write_p50_ms", "create to first write, all at once, p50, ms", in_result=False),
    Row("burst_to_first_write_p99_ms", "create to first write, all at once, p99, ms", in_result=False),
    Row("release_s", "all changed at 20/s and old revisions gone, s", in_result=False),
    Row("rss_mib", "peak RSS, MiB", 110, "114"),
    Row("cpu_s_per_100_creates", "CPU per 100 creates, s", 2, "3.8"),
    Row("cpu_s_per_100_changes", "CPU per 100 version changes, s", in_result=False),
    Row("writes_per_create", "writes per create", 9, "11"),
    Row("reads_per_create", "reads per create", 0, "14", in_result=False),
    Row("events_per_create", "Events per create", in_result=False),
    Row("writes_per_version_change", "writes per version change", 10, "23"),
    Row("reads_per_version_change", "reads per version change", 0, "28", in_result=False),
    Row("events_per_version_change", "Events per version change", in_result=False),
    Row("steady_writes_per_min", "writes per idle minute", 0, "0"),
    Row("steady_reads_per_min", "reads per idle minute (the sweep)", in_result=False),
    Row("steady_cpu_pct", "CPU when idle, %", 2),
    Row("restart_catch_up_s", "start until caught up, s"),
    Row("others_cpu_pct", "CPU of the machine that others used meanwhile, %", in_result=False),
)


def say(text: str) -> None:
    _say(f"{time.monotonic() - _BEGIN:7.1f} s  {text}")


@contextmanager
def phase(name: str) -> Iterator[None]:
    begin = time.monotonic()
    say(f"{name} ...")
    yield
    say(f"{name}: done in {time.monotonic() - begin:.1f} s")


def table(figures: Mapping[str, float], services: int) -> str:
    lines = [
        f"| {services} services, operator on one core | Slipway | floor for 300 | {PEER} |",
        "|---|---|---|---|",
    ]
    for row in ROWS:
        floor = "" if row.floor is None else f"<= {row.floor:g}" if row.floor else "0"
        lines.append(f"| {row.title} | {figures[row.figure]:.4g} | {floor} | {row.kserve} |")
    return "\n".join(lines)


def result(figures: Mapping[str, float]) -> str:
    return "RESULT " + json.dumps({row.figure: round(figures[row.figure], 3) for row in ROWS if row.in_result})


def line_of(figures: Mapping[str, float | None], keys: Iterable[str]) -> str:
    """The last line: every key, null where nothing was measured."""
    return "RESULT " + json.dumps(
        {key: None if (value := figures.get(key)) is None else round(value, 3) for key in keys}
    )


def verdicts(
    figures: Mapping[str, float | None], keys: Iterable[str], floors: Mapping[str, float], ceilings: Mapping[str, float]
) -> str:
    """What was to be reached, and whether it was; keys without a limit are left out."""
    limits = [(key, ">=" if key in floors else "<=") for key in keys if key in floors or key in ceilings]
    width = max(len(key) for key, _ in limits)
    lines = []
    for key, sign in limits:
        value, limit = figures.get(key), floors[key] if sign == ">=" else ceilings[key]
        is_met = value is not None and (value >= limit if sign == ">=" else value <= limit)
        here = "-" if value is None else f"{value:.2f}"
        met = "not measured" if value is None else "yes" if is_met else "NO"
        lines.append(f"  {key:<{width}} {here:>8}  {f'{sign} {limit:g}':>7}  {met}")
    return "\n".join(lines)
