"""How long a service that sleeps takes to answer its first request. `make bench-zero`

On the cluster, which is started if it does not run, with this checkout's Slipway; the sample model. By turns a start
through Slipway, woken by requests, and one of the same pod template as a bare Deployment, told by hand to have one and
timed until the kubelet calls it Ready. How each moment is taken is told in `starts.py`.
"""

import argparse
import statistics
import sys

from e2e.bench.audit import percentile
from e2e.bench.report import line_of, phase, say, verdicts
from e2e.bench.site import namespace
from e2e.bench.zero.starts import PARTS, PLAIN, Start, copy_of, plainly, woken
from e2e.cluster import Busy, ClusterError, hold
from e2e.support.api import Manifest
from e2e.support.history import recorded
from e2e.support.manifests import service
from e2e.support.team import Team

NAME, CALLERS = "sleeper", 20
KEYS = ("first_byte_p50_s", "first_byte_p95_s", "plain_pod_ready_p50_s", "over_plain_p50_s", "held_lost")
OVER_P50_S, OVER_P95_S, AIM_S = 1.0, 2.5, 3.0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.zero")
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args(argv).rounds
    try:
        with hold("bench-zero"), namespace("bench-zero") as team:
            ours, plain = _measured(team, rounds)
    except (AssertionError, Busy, ClusterError) as error:
        print("NOT MEASURED:", error, sep="\n", file=sys.stderr)
        return 1
    result = _result(ours, plain)
    base = result["plain_pod_ready_p50_s"]
    ceilings = {
        "first_byte_p50_s": base + OVER_P50_S,
        "first_byte_p95_s": base + OVER_P95_S,
        "over_plain_p50_s": OVER_P50_S,
        "held_lost": 0.0,
    }
    print(f"{_table(ours, plain)}\n\n{verdicts(result, KEYS, {}, ceilings)}")
    print(f"  aim: first_byte_p50_s {AIM_S:g} s in all")
    print(line_of(result, KEYS))
    return 0


def _result(ours: list[Start], plain: list[Start]) -> dict[str, float]:
    first = [start.first_byte for start in ours]
    base = statistics.median(start.ready for start in plain)
    return {
        "first_byte_p50_s": statistics.median(first),
        "first_byte_p95_s": percentile(first, 95),
        "plain_pod_ready_p50_s": base,
        "over_plain_p50_s": statistics.median(first) - base,
        "held_lost": float(sum(start.lost for start in ours)),
    }


def _measured(team: Team, rounds: int) -> tuple[list[Start], list[Start]]:
    ours, plain = list[Start](), list[Start]()
    with phase("the service is proven to load"):
        team.apply(_sleeper())
        team.wait_settled(NAME)
        [deployment] = [
            each for each in team.site.api.items("deployments", team.name) if NAME in each["metadata"]["name"]
        ]
        team.apply(copy_of(deployment))
    with (
        recorded(team.site.api, "deployments", team.name) as deployments,
        recorded(team.site.api, "pods", team.name) as pods,
    ):
        for number in range(rounds):
            plain.append(plainly(team, deployments, pods))
            ours.append(woken(team, NAME, deployments, pods, CALLERS))
            say(
                f"{number + 1} of {rounds}: first byte after {ours[-1].first_byte:.2f} s, of {CALLERS} requests"
                f" {ours[-1].lost} lost; plain pod ready after {plain[-1].ready:.2f} s"
            )
    return ours, plain


def _sleeper() -> Manifest:
    found = service(NAME)
    found["spec"]["scaling"] = {"minReplicas": 0, "maxReplicas": 2, "idleAfter": "2s"}
    return found


def _table(ours: list[Start], plain: list[Start]) -> str:
    def row(title: str, cells: list[list[float]]) -> str:
        shown = [f"{statistics.median(cell):.2f} | {percentile(cell, 95):.2f}" if cell else " | " for cell in cells]
        return f"| {title} | {' | '.join(shown)} |"

    parts = [row(part, [[s.parts[part] for s in ours], [s.parts[part] for s in plain]]) for part in PARTS]
    return "\n".join(
        [
            f"\n| of {len(ours)} starts, s | Slipway p50 | p95 | {PLAIN} p50 | p95 |",
            "|---|---|---|---|---|",
            *parts,
            row("pod Ready", [[start.ready for start in ours], [start.ready for start in plain]]),
            row("first byte", [[start.first_byte for start in ours], []]),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
