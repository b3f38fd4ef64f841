"""The gateway's speed and size: requests beside nginx and haproxy, changes with few and with many services.

`make bench-gateway`, or a part of it: `make bench-gateway ROUNDS=1 SECONDS=1 ONLY="requests slipway haproxy"`,
`make bench-gateway ONLY=changes`. The figures of requests are medians of the rounds.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import sys
from pathlib import Path

from e2e.bench import plane, workload
from e2e.bench.api import CannotMeasureError
from e2e.bench.gateway import changes, environments, results, services
from e2e.bench.gateway.ours import Gateway
from e2e.bench.gateway.proxies import CANDIDATE_PCT, PROXIES
from e2e.bench.gateway.requests import DIRECT, OURS, SERVICE, Bench
from e2e.bench.report import phase
from e2e.bench.runtime.processes import running
from e2e.bench.runtime.results import Results
from e2e.cluster.paths import cache
from e2e.cluster.shell import ClusterError

SUBJECTS = (DIRECT, OURS, *(proxy.name for proxy in PROXIES))
PARTS = ("requests", "changes")


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    parts, subjects = arguments.only
    folder = cache() / "bench" / "gateway"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures: dict[str, float | None] = {}
    code = 0
    try:
        environments.require()
        if "requests" in parts:
            figures |= _requests(arguments, subjects, folder)
        if "changes" in parts:
            figures |= _changes(arguments, folder)
    except* (CannotMeasureError, ClusterError) as errors:
        print("NOT MEASURED:", *errors.exceptions, sep="\n", file=sys.stderr)
        code = 1
    print(f"\n{results.verdicts(figures)}")
    print(results.line(figures))
    return code


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.gateway")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each cell in each round")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--idle-s", type=float, default=30)
    parser.add_argument("--only", type=choice, default=choice(""), help=" ".join((*PARTS, *SUBJECTS[1:])))
    return parser.parse_args(argv)


def choice(text: str) -> tuple[list[str], list[str]]:
    """Parts and subjects; of a kind that no word names, all. Past the proxies is always measured."""
    words = set(text.replace(",", " ").split())
    if unknown := words - {*PARTS, *SUBJECTS}:
        raise argparse.ArgumentTypeError(f"has {' '.join(unknown)}, may have: {' '.join((*PARTS, *SUBJECTS[1:]))}")
    parts = [part for part in PARTS if part in words or words.isdisjoint(PARTS)]
    chosen = [name for name in SUBJECTS if name in words or name == DIRECT or words.isdisjoint(SUBJECTS)]
    return parts, chosen


def _requests(arguments: argparse.Namespace, subjects: list[str], folder: Path) -> dict[str, float | None]:
    measured, cores = Results(), environments.cores()
    port = plane.free_port()
    address = environments.own_address()
    command = environments.pinned(cores[0], [str(environments.backend()), f":{port}"])
    with (
        running(command, folder / "backend.log", os.environ) as backend,
        Gateway(folder / "slipway", cores[1]) as gateway,
    ):
        if OURS in subjects:
            with phase("our gateway reads its service; then the API server is stopped"):
                asyncio.run(_teach(gateway, (address, port), folder))
        bench = Bench(folder, backend, port, gateway, arguments.seconds, measured, cores)
        for number in range(arguments.rounds):
            with phase(f"round {number + 1} of {arguments.rounds}"):
                # Who comes late finds a warmer machine: the order is turned each time.
                bench.round(subjects if number % 2 == 0 else subjects[::-1])
    print("\n".join(environments.versions()))
    print(results.requests_table(measured))
    others = measured.others_pct()
    print(f"\nCPU of one core that others used meanwhile: {statistics.median(others):.0f} % (median)")
    return results.of_requests(measured)


async def _teach(gateway: Gateway, pod: tuple[str, int], folder: Path) -> None:
    """From now on it starts from its own disk: nobody else works while requests are measured."""
    async with plane.api_server(folder / "api") as control:
        await workload.install(control.api, workload.read_crds(), "slipway-system")
        await services.make(control.api, [SERVICE], pod, CANDIDATE_PCT)
        gateway.knows(control)
        await gateway.start()
        gateway.stop()


def _changes(arguments: argparse.Namespace, folder: Path) -> dict[str, float | None]:
    port = plane.free_port()
    pod = (environments.own_address(), port)
    found = []
    with running([str(environments.backend()), f":{port}"], folder / "backend.log", os.environ):
        for number in (results.FEW, results.MANY):
            with phase(f"changes with {number} services"):
                place = folder / f"changes-{number}"
                found.append(asyncio.run(changes.measure(number, arguments.changes, arguments.idle_s, pod, place)))
    print(results.changes_table(*found))
    return results.of_changes(*found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
