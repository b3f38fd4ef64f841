"""Tells the operator how far a download is: one JSON object, at a port of the pod, while there is something to tell.

    {"done": 123, "total": 456, "bytesPerSecond": 78}     null: not known

It says nothing but numbers, and takes nothing: whatever is asked, one read and one answer. Who dawdles keeps the others
waiting for a second, and the download not at all.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

from slipway_runtime.fetch.progress import Progress, say

_ASK_S = 1.0
_REQUEST_MAX = 4096


class Board:
    def __init__(self) -> None:
        self._progress: Progress | None = None

    def show(self, progress: Progress) -> None:
        """From now on this is what is told."""
        self._progress = progress

    def answer(self) -> bytes:
        """503 as long as it is not known yet what there is to download."""
        progress = self._progress
        body = json.dumps(progress.facts(time.monotonic()) if progress else {}).encode()
        head = f"HTTP/1.1 {'200 OK' if progress else '503 Service Unavailable'}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body

    @contextlib.contextmanager
    def at(self, port: int) -> Iterator[int]:
        """Tells it there meanwhile; the port, also where 0 asked for any. No port is no reason not to fetch."""
        try:
            listener = _listen(port)
        except OSError as error:
            say(f"nobody can ask how far the download is: port {port}: {error.strerror or error}")
            yield 0
            return
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept; to close it does not
            listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return
                time.sleep(_ASK_S)  # no file to be had, or shut down and closed by then
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_ASK_S)
                connection.recv(_REQUEST_MAX)
                connection.sendall(self.answer())


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
