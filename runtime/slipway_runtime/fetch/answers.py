"""HTTP/1.1 answers read from a socket: the head as text, the body straight into a buffer of the caller's.

Lean on purpose. Of 10,000 small files half the time would be Python's own client reading heads as if they were mail.
"""

import re
import socket
import ssl
from collections.abc import Mapping

HEAD_MAX = 64 << 10
_PIECE = 64 << 10
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\r\n]*))?")


class BrokenAnswer(Exception):
    """What came is no answer, or not all of one."""


class Answer:
    """The answer to one request. Its body is read once, from the front."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._rest = connected, b""
        self.status, self.reason, keeps = self._head()
        while self.status < 200:  # a server that is still thinking
            self.status, self.reason, keeps = self._head()
        self._is_chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        self.length = self._length()
        """Bytes left of the body; None: it tells with the body."""
        self._chunk = 0
        self.is_whole = self.length == 0
        self._keeps = keeps and (self.length is not None or self._is_chunked)

    headers: Mapping[str, str]
    """By names in lower case."""

    @property
    def leaves_connection(self) -> bool:
        """Whether another request may follow: all of this answer was read, and nothing that nobody asked for."""
        return self._keeps and self.is_whole and not self._rest

    @property
    def source(self) -> int:
        """Descriptor that the kernel can take the rest of the body from; -1: there is none."""
        is_plain = self.length and not self._rest and not isinstance(self._socket, ssl.SSLSocket)
        return self._socket.fileno() if is_plain else -1

    def took(self, count: int) -> None:
        """The kernel has taken so many bytes from `source`.

        Raises:
            BrokenAnswer: it got none, for the connection was cut.
        """
        if not count or self.length is None:
            raise BrokenAnswer("the connection was cut")
        self.length -= count
        self.is_whole = self.length == 0

    def read_into(self, room: memoryview) -> int:
        """Put what has come next of the body into `room`; 0: that was all.

        Raises:
            BrokenAnswer: the connection was cut.  OSError: it is silent, or broke.
        """
        if self.is_whole:
            return 0
        if self._is_chunked:
            return self._chunked_into(room)
        count = self._into(room if self.length is None else room[: self.length])
        if self.length is not None:
            self.took(count)
        else:
            self.is_whole = not count
        return count

    def read(self, limit: int) -> bytes:
        """The whole body, or its first `limit` + 1 bytes."""
        found, room = bytearray(), memoryview(bytearray(_PIECE))
        while len(found) <= limit and (count := self.read_into(room)):
            found += room[:count]
        return bytes(found[: limit + 1])

    def _into(self, room: memoryview) -> int:
        if not self._rest:
            return self._socket.recv_into(room)
        count = min(len(self._rest), len(room))
        room[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _head(self) -> tuple[int, str, bool]:
        """Status, reason, and whether the connection outlives the answer."""
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        found = _STATUS.fullmatch(first)
        if found is None:
            raise BrokenAnswer("it does not speak HTTP")
        pairs = [line.partition(":") for line in lines]
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        keeps = found[1] == "1" and "close" not in self.headers.get("connection", "").lower()
        return int(found[2]), (found[3] or "")[:80], keeps

    def _length(self) -> int | None:
        if self.status in (204, 304):
            return 0
        if self._is_chunked or "content-length" not in self.headers:
            return None
        text = self.headers["content-length"]
        if not re.fullmatch("[0-9]{1,18}", text):
            raise BrokenAnswer("it tells no length that is one")
        return int(text)

    def _until(self, end: bytes) -> bytes:
        found = self._rest
        while (at := found.find(end)) < 0:
            if len(found) > HEAD_MAX:
                raise BrokenAnswer("it answers with headers without end")
            data = self._socket.recv(_PIECE)
            if not data:
                raise BrokenAnswer("the connection was cut")
            found += data
        self._rest = found[at + len(end) :]
        return found[:at]

    def _chunked_into(self, room: memoryview) -> int:
        if not self._chunk:
            line = self._until(b"\r\n").partition(b";")[0].strip()
            if not re.fullmatch(b"[0-9A-Fa-f]{1,15}", line):
                raise BrokenAnswer("its chunks are none")
            self._chunk = int(line, 16)
            if not self._chunk:
                while self._until(b"\r\n"):  # trailers
                    pass
                self.is_whole = True
                return 0
        count = self._into(room[: self._chunk])
        if not count:
            raise BrokenAnswer("the connection was cut")
        self._chunk -= count
        if not self._chunk and self._until(b"\r\n"):
            raise BrokenAnswer("its chunks are none")
        return count
