"""One at a time: whoever changes the cluster or relies on it holds this lock; the next one is told who, and goes.

The lock is the machine's, not the checkout's: the local cluster owns fixed addresses, so two caches collide too.
It is the kernel's flock, so a holder that dies lets go by dying.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .paths import cache

BUSY = 75  # EX_TEMPFAIL: try again later
TOKEN = "SLIPWAY_CLUSTER_LOCK"  # noqa: S105 - names the variable by which a holder's children know that the lock is theirs


class Busy(Exception):
    """Another run holds the cluster; the text says which."""


@contextmanager
def hold(purpose: str) -> Iterator[None]:
    """Hold the cluster, or raise `Busy`. A holder may take it again, in its child processes too."""
    path = Path("/run/slipway-cluster.lock") if os.geteuid() == 0 else cache() / "cluster.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse_strangers(path)
            yield
            return
        os.environ[TOKEN] = secrets.token_hex(8)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "purpose": purpose, "cache": str(cache()), "token": os.environ[TOKEN]}, file)
        file.flush()
        try:
            yield
        finally:
            del os.environ[TOKEN]


def _refuse_strangers(path: Path) -> None:
    try:
        holder = json.loads(path.read_text())
    except ValueError:  # between its flock and its first write
        holder = {"pid": "?", "purpose": "?", "cache": "?", "token": None}
    if os.environ.get(TOKEN) != holder["token"] or not holder["token"]:
        raise Busy(
            f"the cluster is in use by process {holder['pid']} ({holder['purpose']}, cache {holder['cache']}); "
            "wait until it has ended, or end it"
        )
