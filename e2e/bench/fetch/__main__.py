"""One file of 4 GiB and 10,000 of 64 KiB, fetched by us, rclone, aws s3 cp and KServe from an S3 server on loopback.

By turns, in one run; the median of the rounds. Every time ends when the files are on disk. The server is on the same
machine and has its part of the cores, the same for all. Then twice with the node's cache, which is empty at first.
"""

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

from e2e.bench.fetch.tools import FIRST, KSERVE, OURS, PEERS, SECOND, Run, available, caching, run, serving
from e2e.bench.machine import Usage
from e2e.bench.report import line_of, phase, say, verdicts
from e2e.cluster import ClusterError
from e2e.cluster.paths import cache

KEYS = (
    "s3_4gib_ratio_vs_best",
    "s3_small_ratio_vs_best",
    "ratio_vs_kserve",
    "rss_mib",
    "second_start_same_node_ratio",
    "others_cpu_pct",
)
FLOORS = {"s3_4gib_ratio_vs_best": 1.0, "s3_small_ratio_vs_best": 1.0, "ratio_vs_kserve": 2.0}
CEILINGS = {"rss_mib": 150.0, "second_start_same_node_ratio": 0.2}
BUCKET = "models"
LARGE, SMALL = "large", "small"
Results = dict[tuple[str, str], list[Run]]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.fetch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=4096, help="of the large file")
    parser.add_argument("--files", type=int, default=10_000, help="of 64 KiB")
    args = parser.parse_args(argv)
    before = Usage.now()
    try:
        place = cache() / "bench-fetch"  # one that was ended in the middle has left it
        shutil.rmtree(place, ignore_errors=True)
        try:
            results = _measured(place, args.rounds, args.mib, args.files)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except ClusterError as error:
        print("NOT MEASURED:", error, sep="\n", file=sys.stderr)
        return 1
    result = ratios(results) | {"others_cpu_pct": Usage.now().others_pct(before)}
    print(f"{table(results)}\n\n{verdicts(result, KEYS, FLOORS, CEILINGS)}")
    print(line_of(result, KEYS))
    return 0


def _measured(place: Path, rounds: int, mib: int, files: int) -> Results:
    store = place / "store"
    with phase(f"writing {mib} MiB and {files} files"):
        fill(store / BUCKET, mib, files)
    peers = available()
    for peer, why in peers.items():
        if why:
            say(f"{peer} is left out: {why}")
    tools = [OURS, *(peer for peer in PEERS if not peers[peer])]
    results: Results = {}
    with serving(store):
        for number in range(rounds):
            for load in (LARGE, SMALL):
                for tool in tools:
                    done = run(tool, BUCKET, load, place / "dest")
                    results.setdefault((load, tool), []).append(done)
                    say(f"round {number + 1}: {load}, {tool}: {done.seconds:.1f} s")
            with caching(place / "cache"):
                for load in (LARGE, SMALL):
                    for tool in (FIRST, SECOND):
                        done = run(tool, BUCKET, load, place / "dest")
                        results.setdefault((load, tool), []).append(done)
                        say(f"round {number + 1}: {load}, {tool}: {done.seconds:.1f} s")
    return results


def fill(bucket: Path, mib: int, files: int) -> None:
    """Bytes that do not compress; the same for all rounds."""
    (bucket / LARGE).mkdir(parents=True)
    block = os.urandom(1 << 20)
    with (bucket / LARGE / "model.safetensors").open("wb") as file:
        for _ in range(mib):
            file.write(block)
    for number in range(files):
        folder = bucket / SMALL / f"{number // 100:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 100:02d}.bin").write_bytes(block[: 64 << 10])
    os.sync()  # or the first tool would wait for what was written here


def ratios(results: Results) -> dict[str, float | None]:
    """How many times as fast ours is."""

    def seconds(load: str, tool: str) -> float | None:
        runs = results.get((load, tool))
        return statistics.median(each.seconds for each in runs) if runs else None

    def against(load: str, tools: tuple[str, ...]) -> float | None:
        others = [found for tool in tools if (found := seconds(load, tool)) is not None]
        ours = seconds(load, OURS)
        return min(others) / ours if others and ours else None

    second_starts = [
        second / first
        for load in (LARGE, SMALL)
        if (second := seconds(load, SECOND)) and (first := seconds(load, OURS))
    ]
    slower = [found for load in (LARGE, SMALL) if (found := against(load, (KSERVE,))) is not None]
    return {
        "s3_4gib_ratio_vs_best": against(LARGE, PEERS),
        "s3_small_ratio_vs_best": against(SMALL, PEERS),
        "ratio_vs_kserve": min(slower) if slower else None,
        "rss_mib": max(each.rss_mib for (_, tool), runs in results.items() if tool == OURS for each in runs),
        # The worse of the two; the first start is one without a cache.
        "second_start_same_node_ratio": max(second_starts) if second_starts else None,
    }


def table(results: Results) -> str:
    tools = dict.fromkeys(tool for _, tool in results)
    lines = ["| | " + " | ".join(tools) + " |", "|---|" + "---|" * len(tools)]
    for load, title in ((LARGE, "one large file, s"), (SMALL, "small files, s")):
        cells = [f"{statistics.median(each.seconds for each in results[load, tool]):.1f}" for tool in tools]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for load, title in ((LARGE, "CPU of the tool for it, s"), (SMALL, "CPU for the small ones, s")):
        cells = [f"{statistics.median(each.cpu_s for each in results[load, tool]):.1f}" for tool in tools]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    rss = [f"{max(each.rss_mib for load in (LARGE, SMALL) for each in results[load, tool]):.0f}" for tool in tools]
    return "\n".join([*lines, "| peak RSS, MiB | " + " | ".join(rss) + " |"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
