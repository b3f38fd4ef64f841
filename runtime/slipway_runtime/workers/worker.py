"""One worker: the server as ever, in a process that the supervisor started and that does not outlive it."""

import asyncio
import ctypes
import logging
import os
import pickle
import signal
import sys
from typing import NoReturn

import uvloop

from slipway_runtime import logs
from slipway_runtime.errors import Failure, cause
from slipway_runtime.server import serve
from slipway_runtime.settings import Settings
from slipway_runtime.workers.crew import Crew, Place

log = logging.getLogger("slipway.workers")
_PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it had ended before we could ask to end with it
    # Written by the supervisor, into a pipe that nobody else has.
    settings, place = pickle.load(sys.stdin.buffer)  # noqa: S301
    for fd in (place.page, place.link, *place.listeners):
        os.set_inheritable(fd, False)  # no program that a model starts is to hold them
    logs.configure(settings.log_level, settings.log_format, worker=place.number)
    code = 1
    try:
        uvloop.run(_work(settings, place))
        code = 0
    except Failure as failure:
        code = failure.exit_code  # its sentence is with the supervisor
    except KeyboardInterrupt:
        log.info("interrupted")
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


async def _work(settings: Settings, place: Place) -> None:
    crew = Crew(place)
    try:
        await serve(settings, crew)
    except Failure as failure:
        await crew.failed(failure.exit_code, str(failure))
        raise
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.exception("the server failed")
        told = Failure(f"the server failed: {cause(error)} ({type(error).__name__})")
        await crew.failed(told.exit_code, str(told))
        raise told from error
    finally:
        await crew.close()


if __name__ == "__main__":
    main()
