"""A request that two parsers could read as one or as two is refused, or answered as exactly one."""

import re
import socket
from contextlib import suppress

import pytest

from tests.runtime.process import ServerProcess
from tests.runtime.smuggling import forms, two

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things


def answers(server: ServerProcess, form: bytes) -> list[int]:
    """The status of every answer, until the server closes or has nothing left to say."""
    got = bytearray()
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as connection, suppress(ConnectionError):
        connection.sendall(form)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            got += data
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", got)]


def test_no_form_of_one_request_is_answered_as_two(servers: dict[str, ServerProcess]) -> None:
    server, count, refused, wrong = servers["hello"], 0, 0, []
    for name, form in forms():
        count += 1
        found = answers(server, form)
        refused += found == [400]
        if len(found) > 1 or (found and found[0] < 400):
            wrong.append((name, found))
    assert wrong == []
    assert count >= 200
    assert refused > 0.7 * count, f"{refused} of {count}"
    assert answers(server, two()) == [400, 200], "two that are two are answered as two, or this would see nothing"
