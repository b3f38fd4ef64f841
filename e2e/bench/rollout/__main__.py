"""Releases: how soon a bad one is off the wire, what a good one costs, what judging costs. `make bench-rollout`

On the cluster, which is started if it does not run, with this checkout's Slipway; six minutes. How each figure is taken
is told in `releases.py`; `judge_us` is one interval folded and judged, here, without a cluster.
"""

import argparse
import sys

from e2e.bench.audit import percentile
from e2e.bench.report import line_of, phase, verdicts
from e2e.bench.rollout.judging import judge_us
from e2e.bench.rollout.releases import HOLD_S, WEIGHTS, Figures, aborted, good, judged
from e2e.bench.site import namespace
from e2e.cluster import Busy, ClusterError, hold
from e2e.support.releases import runtime

KEYS = ("abort_to_clean_p95_ms", "canary_overhead_s", "judge_us", "rollout_status_bytes", "failed_requests")
CEILINGS = dict(zip(KEYS, (1000.0, 5.0, 50.0, 4096.0, 0.0), strict=True))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.rollout")
    parser.add_argument("--good", type=int, default=3, help="good releases")
    parser.add_argument("--aborts", type=int, default=20, help="aborts by command")
    parser.add_argument("--bad", type=int, default=3, help="bad releases")
    arguments = parser.parse_args(argv)
    figures = Figures()
    try:
        with phase("judging"):
            cost_us = judge_us()
        with hold("bench-rollout"), namespace("bench-rollout") as team:
            team.apply(runtime())
            for number in range(arguments.good):
                with phase(f"good release {number + 1} of {arguments.good}"):
                    good(team, figures, f"good-{number}")
            with phase(f"{arguments.aborts} aborts"):
                aborted(team, figures, "aborted", arguments.aborts)
            with phase(f"{arguments.bad} bad releases"):
                judged(team, figures, "bad", arguments.bad)
    except (AssertionError, Busy, ClusterError) as error:
        print("NOT MEASURED:", error, sep="\n", file=sys.stderr)
        return 1
    print(_table(figures))
    result = {
        "abort_to_clean_p95_ms": percentile(figures.abort_ms + figures.verdict_ms, 95),
        "canary_overhead_s": max(figures.overhead_s),
        "judge_us": cost_us,
        "rollout_status_bytes": float(figures.status_bytes),
        "failed_requests": float(figures.failed),
    }
    print(f"\n{verdicts(result, KEYS, {}, CEILINGS)}")
    print(line_of(result, KEYS))
    return 0


def _table(figures: Figures) -> str:
    def row(title: str, values: list[float], unit: str) -> str:
        ordered = sorted(values)
        return f"| {title} | {len(ordered)} | {ordered[len(ordered) // 2]:.1f} | {ordered[-1]:.1f} | {unit} |"

    return "\n".join(
        [
            "\n| | n | median | most | |",
            "|---|---|---|---|---|",
            row("abort by command until the candidate's last request", figures.abort_ms, "ms"),
            row("abort by verdict until the candidate's last request", figures.verdict_ms, "ms"),
            row("20 % errors at a share of 20 %: first request to verdict", figures.detect_s, "s"),
            row(f"good canary beyond its holds of {len(WEIGHTS)} x {HOLD_S} s", figures.overhead_s, "s"),
            row("spec changed to first Ready pod", figures.start_s, "s"),
            f"\n{figures.sent:,} requests, {figures.failed} failed that the candidate is not to blame for",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
