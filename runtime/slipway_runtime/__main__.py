"""`slipway-runtime serve|check|bench|export`: the process around them, its exit code and its last words."""

import logging
import os
import sys
from typing import NoReturn

import uvloop

from slipway_runtime import logs
from slipway_runtime.errors import Failure, cause, report
from slipway_runtime.settings import Command, read_command


def run(argv: list[str]) -> int:
    try:
        command = read_command(argv)
        logs.configure(command.settings.log_level, command.settings.log_format)
        _do(command)
    except Failure as failure:
        return report(failure)
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        logging.getLogger("slipway").exception("the server failed")
        return report(Failure(f"the server failed: {cause(error)} ({type(error).__name__})"))
    return 0


def _do(command: Command) -> None:
    """What each needs is loaded for it alone; a wrong flag is answered without any of it."""
    match command.name:
        case "check":
            from slipway_runtime.check import check  # noqa: PLC0415

            check(command)
        case "bench":
            from slipway_runtime.user_bench import bench  # noqa: PLC0415

            bench(command)
        case "export" if command.export is not None:
            from slipway_runtime.export import export  # noqa: PLC0415

            export(command.export)
        case _ if command.settings.workers > 1:
            from slipway_runtime.workers.supervisor import supervise  # noqa: PLC0415

            uvloop.run(supervise(command.settings))
        case _:
            from slipway_runtime.server import serve  # noqa: PLC0415

            uvloop.run(serve(command.settings))


def main() -> NoReturn:
    code = run(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A forward pass that is still running would hold the interpreter's own exit for as long as it takes.
    os._exit(code)


if __name__ == "__main__":
    main()
