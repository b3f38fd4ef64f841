"""All of it, or a part: `make bench-runtime ROUNDS=1 SECONDS=1 ONLY="tiny json c8 slipway triton"`."""

import argparse
import shutil
import statistics
import sys

from e2e.bench.report import phase, say
from e2e.bench.runtime import environments, measure, results
from e2e.bench.runtime.calibration import calibrate
from e2e.bench.runtime.cells import Choice, Subject
from e2e.bench.runtime.measure import Bench
from e2e.bench.runtime.results import Results
from e2e.bench.runtime.servers import OURS, Server
from e2e.cluster.paths import cache
from e2e.cluster.shell import ClusterError

IDLE_S = 20


def main(argv: list[str]) -> None:
    arguments = _arguments(argv)
    choice: Choice = arguments.only
    environments.require_generators()
    servers, absent = _installed(choice.servers())
    folder = cache() / "bench" / "runtime"
    shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(folder / "models", folder, arguments.seconds, Results(), absent)
    folder.mkdir(parents=True)
    environments.run_models(sys.executable, bench.models)
    with phase("calibration"):
        calibrate(bench, [cell for model in choice.models() for cell in choice.cells(model)])
    for number in range(arguments.rounds):
        with phase(f"round {number + 1} of {arguments.rounds}"):
            # Who comes late finds a warmer machine: the order is turned each time.
            _round(bench, choice, servers if number % 2 == 0 else servers[::-1])
    figures = results.ratios(bench.results)
    if any(server.name == OURS for server in servers):
        with phase("ourselves"):
            figures |= _ourselves(bench, next(server for server in servers if server.name == OURS))
    _print(bench, arguments, servers, figures)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.runtime")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each cell in each round")
    parser.add_argument("--only", type=_choice, default=Choice(), help="servers, models, protocols, c1 c8 c64 open")
    return parser.parse_args(argv)


def _choice(text: str) -> Choice:
    try:
        return Choice.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _installed(servers: list[Server]) -> tuple[list[Server], dict[str, str]]:
    """Who can be measured, and why the others cannot."""
    absent: dict[str, str] = {}
    for name in dict.fromkeys(server.name for server in servers if server.name != OURS):
        try:
            environments.ensure(name)
        except ClusterError as error:
            say(f"{name} cannot be installed: {error}")
            absent[name] = "could not be installed"
    return [server for server in servers if server.name not in absent], absent


def _round(bench: Bench, choice: Choice, servers: list[Server]) -> None:
    for server in servers:
        for model in choice.models():
            cells = choice.cells(model, server.protocols)
            worth = [cell for cell in cells if bench.results.is_worth_more(Subject.of(server), cell)]
            if worth:
                bench.measure(server, model, worth)


def _ourselves(bench: Bench, server: Server) -> dict[str, float | None]:
    say(f"our own server is idle for {IDLE_S} s")
    return {
        "idle_cpu_pct": measure.idle_cpu_pct(bench, server, IDLE_S),
        "rss_over_python_mib": measure.rss_over_python_mib(),
    }


def _print(
    bench: Bench,
    arguments: argparse.Namespace,
    servers: list[Server],
    figures: dict[str, float | None],
) -> None:
    others = bench.results.others_pct()
    print(f"medians of {arguments.rounds} rounds of {arguments.seconds} s; peers:")
    for server in {server.name: server for server in servers}.values():
        if server.package:
            print(f"  {server.package} {environments.version(server.name, server.package)}")
    print(results.table(bench.results, bench.absent))
    if others:
        typical, worst = statistics.median(others), max(others)
        print(f"\nCPU of one core that others used meanwhile: {typical:.0f} % (median), {worst:.0f} % (most)")
    print(f"\n{results.verdicts(figures)}")
    print(results.line(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
