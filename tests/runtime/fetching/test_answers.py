"""Answers of servers that speak HTTP well, oddly, or not at all, byte for byte; and how bodies reach files."""

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from slipway_runtime.fetch.answers import Answer, BrokenAnswer
from slipway_runtime.fetch.splice import Pipe

GOOD = b"HTTP/1.1 200 OK\r\n"


def answered(data: bytes, *, cut: int | None = None) -> tuple[Answer, socket.socket]:
    """The answer whose bytes these are, in two pieces; then the connection is closed."""
    here, there = socket.socketpair()
    here.settimeout(5)
    middle = len(data) // 2 if cut is None else cut

    def send() -> None:
        with there:
            try:
                there.sendall(data[:middle])
                there.sendall(data[middle:])
            except OSError:
                return  # who reads has had enough

    threading.Thread(target=send, daemon=True).start()
    try:
        return Answer(here), here
    except BrokenAnswer:
        here.close()
        raise


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (GOOD + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (GOOD + b"Content-Length: 0\r\n\r\n", b""),
        (GOOD + b"\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200\r\ncontent-length:5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD + b"Content-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n", b"hello!"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    ],
)
@pytest.mark.parametrize("cut", [None, 1, 30])
def test_a_good_answer_is_read_however_it_comes(data: bytes, body: bytes, cut: int | None) -> None:
    answer, here = answered(data, cut=cut)
    with here:
        assert answer.read(100) == body
        assert answer.is_whole


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut"),
        (b"HTTP/1.1 200 OK\r\n", "cut"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 999 OK\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "does not speak HTTP"),
        (GOOD + b"Content-Length: -1\r\n\r\n", "no length"),
        (GOOD + b"Content-Length: 5, 5\r\n\r\nhello", "no length"),
        (GOOD + b"Content-Length: 0x5\r\n\r\nhello", "no length"),
        (GOOD + b"X: " + b"x" * 200_000, "headers without end"),
        (GOOD + b"Content-Length: 9\r\n\r\nhello", "cut"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "cut"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello", "cut"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n", "chunks are none"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", "chunks are none"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n", "chunks are none"),
    ],
)
def test_an_answer_that_is_none_is_told(data: bytes, words: str) -> None:
    def read() -> bytes:
        answer, here = answered(data)
        with here:
            return answer.read(1000)

    with pytest.raises(BrokenAnswer, match=words):
        read()


@pytest.mark.parametrize(
    ("data", "leaves"),
    [
        (GOOD + b"Content-Length: 2\r\n\r\nok", True),
        (GOOD + b"Content-Length: 2\r\nConnection: close\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (GOOD + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", False),
        (GOOD + b"\r\nok", False),
    ],
)
def test_a_connection_is_used_again_only_when_nothing_of_the_answer_is_left(data: bytes, leaves: bool) -> None:
    answer, here = answered(data, cut=len(data))
    with here:
        answer.read(100)
        assert answer.leaves_connection is leaves


@pytest.mark.parametrize("is_supported", [True, False], ids=["by the kernel", "where the filesystem refuses"])
def test_a_body_reaches_its_place_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_supported: bool
) -> None:
    data, real = os.urandom(3_000_000), os.splice
    if not is_supported:

        def splice(source: int, target: int, count: int, **more: int) -> int:
            if more:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(source, target, count)

        monkeypatch.setattr(os, "splice", splice)
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    here, there = socket.socketpair()
    here.settimeout(5)

    def send() -> None:
        with there:
            there.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    pipe, at = Pipe(), 100
    out = os.open(path, os.O_WRONLY)
    with here:
        while count := pipe.move(here.fileno(), out, at, 1 << 20):
            at += count
    os.close(out)
    pipe.close()
    assert path.read_bytes() == bytes(100) + data
    assert pipe.works is is_supported


def test_a_silent_socket_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.dial.STALL_S", 0.1)
    here, there = socket.socketpair()
    here.settimeout(5)
    pipe = Pipe()
    with here, there, (tmp_path / "file").open("wb") as out, pytest.raises(TimeoutError):
        pipe.move(here.fileno(), out.fileno(), 0, 100)
    pipe.close()
