"""Every failure the runtime names, in one small tree.

    Failure                 the process cannot go on; its message is the last line on stderr
      BadModel              exit 65: the model's data is damaged or of a kind we do not load
      MissingModel          exit 66: there is no model at that address
      BadConfig             exit 78: a flag, a variable or an address is wrong
    RequestError            one request cannot be answered; the server lives on

Foreign exceptions are mapped to these once, where they arise.
"""

import re
import sys
from enum import StrEnum
from pathlib import Path

TERMINATION_LOG = Path("/dev/termination-log")


class Failure(Exception):
    exit_code = 1


class BadModel(Failure):
    exit_code = 65


class MissingModel(Failure):
    exit_code = 66


class BadConfig(Failure):
    exit_code = 78


class Kind(StrEnum):
    """Why a request failed. The two protocols map it to their own codes, as Triton does."""

    INVALID = "invalid"
    NOT_FOUND = "not found"
    UNAVAILABLE = "unavailable"
    FULL = "full"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too large"
    DEADLINE = "deadline"
    EXISTS = "already exists"
    INTERNAL = "internal"


class RequestError(Exception):
    """`retry_after_s`: when to ask again, if that is known; a client of REST is told."""

    def __init__(self, kind: Kind, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s


def invalid(message: str) -> RequestError:
    return RequestError(Kind.INVALID, message)


def cause(error: BaseException, limit: int = 400) -> str:
    """The one line of a foreign exception that tells a person something.

    TorchScript puts its own traceback into the message and the real cause on the last line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[-1] if lines else type(error).__name__
    return re.sub(r"^[\w.]+(Error|Exception): ", "", line)[:limit]


def report(failure: Failure) -> int:
    """Say why the process ends, where Kubernetes looks for it, and return the exit code."""
    sentence = " ".join(str(failure).split())
    if TERMINATION_LOG.exists():
        TERMINATION_LOG.write_text(sentence)
    sys.stdout.flush()
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
    return failure.exit_code
