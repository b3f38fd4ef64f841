"""Everything that happened to the objects of one kind in one namespace, in the order in which it happened."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.support.api import Api, Manifest, path


@dataclass(frozen=True, slots=True)
class Change:
    seen: float
    """Epoch seconds at which it arrived here."""
    type: str
    object: Manifest
    is_listed: bool = False
    """It was so already when the watch began."""

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def version(self) -> int:
        """Counts up over all objects of a cluster, in the order in which things became true.

        What was there before comes first of all, whichever of two objects was written last: a watcher of several kinds
        begins with one picture of them.
        """
        return 0 if self.is_listed else int(self.object["metadata"]["resourceVersion"])


class History:
    """`changes` grows while the watch runs; reading it from another thread is fine."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.has_ended = threading.Event()

    def of(self, name: str) -> list[Change]:
        return [change for change in self.changes.copy() if change.name == name]


@contextmanager
def recorded(api: Api, resource: str, namespace: str) -> Iterator[History]:
    """Watch from now on until the context ends; what exists already comes first, as ADDED."""
    listed = api.call("GET", path(resource, namespace))
    history = History()
    history.changes = [Change(time.time(), "ADDED", item, is_listed=True) for item in listed["items"]]
    connection = api.watch(resource, namespace, listed["metadata"]["resourceVersion"])
    sock = connection.sock
    reader = threading.Thread(target=_read, args=(connection, history), name=f"watch {resource}", daemon=True)
    reader.start()
    try:
        yield history
        assert not history.has_ended.is_set(), f"the watch of {resource} ended by itself: its history has a hole"
    finally:
        sock.shutdown(socket.SHUT_RDWR)
        reader.join(5)
        connection.close()


def _read(connection: http.client.HTTPConnection, history: History) -> None:
    try:
        with connection.getresponse() as lines:
            for line in lines:
                event = json.loads(line)
                history.changes.append(Change(time.time(), event["type"], event["object"]))
    except (OSError, http.client.HTTPException, ValueError):
        pass  # the socket was shut down, in the middle of a chunk
    finally:
        history.has_ended.set()
