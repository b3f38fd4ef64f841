"""`slipway`: what people run on their own machine. Each subcommand is a module with `add_arguments` and `run`.

Exit codes: 0 done; 1 it could not be done, the last line on stderr says why; 2 wrong arguments; 130 interrupted.
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence

from slipway.sim import command as simulate

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point `slipway`."""
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read has what they wanted (`| head`). At exit Python would write to the pipe once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slipway", description="Tools of Slipway, which runs models on Kubernetes.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    replay = commands.add_parser("simulate", help="replay traffic against the scaling decision, on a virtual clock")
    simulate.add_arguments(replay)
    replay.set_defaults(run=simulate.run)
    # The model server's own: it knows torch, and nothing here does.
    about = "make a model out of a module of yours, and look whether it answers alike (slipway-runtime export)"
    exporting = commands.add_parser("export", help=about, add_help=False, prefix_chars="\0")
    exporting.add_argument("words", nargs=argparse.REMAINDER)
    exporting.set_defaults(run=_export)
    return parser


def _export(arguments: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "slipway_runtime", "export", *arguments.words]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - a person's own words, without a shell


def _version() -> str:
    try:
        return importlib.metadata.version("slipway")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
