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
from e2e.support.wait import until


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
    def written(self) -> int:
        """Counts up over all objects of a cluster."""
        return int(self.object["metadata"]["resourceVersion"])

    @property
    def version(self) -> int:
        """The order in which things became true.

        What was there before comes first of all, whichever of two objects was written last: a watcher of several kinds
        begins with one picture of them.
        """
        return 0 if self.is_listed else self.written


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
        _wait_for_all(api, resource, namespace, history)
        assert not history.has_ended.is_set(), f"the watch of {resource} ended by itself: its history has a hole"
    finally:
        sock.shutdown(socket.SHUT_RDWR)
        reader.join(5)
        connection.close()


def _wait_for_all(api: Api, resource: str, namespace: str, history: History) -> None:
    """Until the history has what is there now: on a busy machine a watch is behind what was read beside it."""
    listed = api.call("GET", path(resource, namespace))
    now = int(listed["metadata"]["resourceVersion"])
    live = {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"]) for item in listed["items"]}

    def is_complete() -> bool:
        newest = {change.name: change for change in history.changes.copy()}
        gone = (change for name, change in newest.items() if name not in live)
        return all(name in newest and newest[name].written >= version for name, version in live.items()) and all(
            change.type == "DELETED" or change.written > now for change in gone
        )

    until(f"the watch of {resource} has told all", lambda: history.has_ended.is_set() or is_complete(), within_s=30)


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
