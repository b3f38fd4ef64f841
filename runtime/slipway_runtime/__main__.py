"""`slipway-runtime serve`: the process around the server, its exit code and its last words."""

import logging
import os
import sys
from typing import NoReturn

import uvloop

from slipway_runtime import logs
from slipway_runtime.errors import Failure, cause, report
from slipway_runtime.settings import read_settings


def run(argv: list[str]) -> int:
    try:
        settings = read_settings(argv)
        logs.configure(settings.log_level, settings.log_format)
        from slipway_runtime.server import serve  # noqa: PLC0415 - a wrong flag is answered without loading grpc

        uvloop.run(serve(settings))
    except Failure as failure:
        return report(failure)
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        logging.getLogger("slipway").exception("the server failed")
        return report(Failure(f"the server failed: {cause(error)} ({type(error).__name__})"))
    return 0


def main() -> NoReturn:
    code = run(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A forward pass that is still running would hold the interpreter's own exit for as long as it takes.
    os._exit(code)


if __name__ == "__main__":
    main()
