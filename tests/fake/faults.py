"""What can go wrong between the operator and the API server, put at a chosen write.

    operator ──── write k ────► commit ──── answer ────►
              ▲                          ▲
              fail before: it never      fail after: it happened,
              happened                   the operator does not know

`Faults` is a function from the index of a write (0, 1, ...) and the call to a Fault or None. `Crash` is no
Exception, so that no handler of the code under test can survive it, as none survives SIGKILL.
"""

from collections.abc import Callable
from dataclasses import dataclass

from slipway.kube.errors import Conflict, Throttled, Unavailable


class Crash(BaseException):
    """The operator ends here."""


@dataclass(frozen=True, slots=True)
class Call:
    verb: str
    """As RBAC names it: get, list, create, patch, update, delete."""
    group: str
    resource: str
    namespace: str | None
    name: str
    manager: str = ""
    subresource: str = ""


WRITES = frozenset({"create", "patch", "update", "delete"})


@dataclass(frozen=True, slots=True)
class Fault:
    error: BaseException
    committed: bool = False
    """Whether the write happens before the error is raised."""


Faults = Callable[[int, Call], Fault | None]


def none(_k: int, _call: Call) -> Fault | None:
    return None


def at(k: int, fault: Fault) -> Faults:
    """`fault` at write number `k` only."""
    return lambda index, _call: fault if index == k else None


def crash_before(k: int) -> Faults:
    return at(k, Fault(Crash(f"before write {k}")))


def crash_after(k: int) -> Faults:
    return at(k, Fault(Crash(f"after write {k}"), committed=True))


def lost(k: int) -> Faults:
    """The request never arrives."""
    return at(k, Fault(Unavailable(f"write {k}: connection refused")))


def reply_lost(k: int) -> Faults:
    """The write happens and its answer is lost."""
    return at(k, Fault(Unavailable(f"write {k}: no answer in time"), committed=True))


def conflict(k: int) -> Faults:
    return at(k, Fault(Conflict(f"write {k}: the object has been modified")))


def throttled(k: int, retry_after_s: float = 1.0) -> Faults:
    return at(k, Fault(Throttled(f"write {k}: too many requests", retry_after_s)))
