"""HTTP/1.1 over real sockets and uvloop: framing, order, limits, time-outs, back-pressure.

The handler behind it says what it was given; models have no part in this.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import uvloop

from slipway_runtime.wire.http1 import HEAD_TIMEOUT_S, STALL_TIMEOUT_S
from slipway_runtime.wire.http1_messages import Answer, Cancel, Request, Response, refusal
from slipway_runtime.wire.http1_server import HttpServer, Limits

LIMIT = 1 << 20
IDLE_S = 60.0
PATIENCE_S = 50.0
BIG = 32 << 20


def handler(request: Request, answer: Answer) -> Cancel | None:
    """Most are answered at once, /slow later; /stream in pieces, /wait never."""
    if request.path == "/slow":
        return asyncio.get_running_loop().call_later(0.03, lambda: answer(echo(request))).cancel
    if request.path == "/wait":
        return lambda: CANCELLED.append(request.path)
    if request.path == "/late":
        LATE.append(answer)
        return None
    answer(echo(request))
    return None


CANCELLED: list[str] = []
LATE: list[Answer] = []
CLOSED: list[str] = []


class Closable:
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        CLOSED.append("closed")


def echo(request: Request) -> Response:
    if request.path == "/big":
        return Response(200, (bytes(BIG),), content_type="application/octet-stream")
    if request.path == "/404":
        return refusal(404, "not here")
    if request.path.startswith("/stream"):
        return Response(200, content_type="text/event-stream", stream=pieces(int(request.path.rpartition("/")[2])))
    if request.path == "/sum":
        body = memoryview(request.body)
        answer = {"size": len(body), "sum": sum(body[::4099]), "aligned": address(body) % 64}
        return Response(200, (json.dumps(answer).encode(),))
    seen = {
        "method": request.method,
        "path": request.path,
        "headers": {name.decode(): value.decode() for name, value in request.headers.items()},
        "body": bytes(request.body).decode("latin-1"),
    }
    return Response(200, (json.dumps(seen).encode(),))


def address(body: memoryview) -> int:
    return int(np.frombuffer(body, np.uint8).ctypes.data) + 10 if len(body) else 0


async def pieces(count: int) -> AsyncIterator[bytes]:
    """As many as asked for; 13 of them and the stream breaks."""
    for number in range(count):
        yield b"piece %d;" % number
        if number == 13:
            raise ConnectionError
        await asyncio.sleep(0)


class Site:
    """The server on a thread of its own."""

    def __init__(self) -> None:
        self.skew_s = 0.0
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        limits = Limits(body_bytes=LIMIT, held_bytes=4 * LIMIT, connections=50, idle_timeout_s=IDLE_S)
        self.server = HttpServer(handler, limits)
        self.server.clock = lambda: time.monotonic() + self.skew_s
        self.port = await self.server.listen("127.0.0.1", 0)
        self._started.set()
        await self._end.wait()
        await self.server.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def answer(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        body = b"" if head_only or status == 100 else self._file.read(int(headers["content-length"]))
        return status, headers, body

    def echo(self) -> dict[str, Any]:
        status, _, body = self.answer()
        assert status == 200, body
        return dict(json.loads(body))

    def refused(self) -> tuple[int, str]:
        """The status and the sentence of a refusal; the connection ends after it."""
        status, headers, body = self.answer()
        assert headers["connection"] == "close"
        assert self.is_closed()
        return status, json.loads(body)["error"]

    def is_closed(self) -> bool:
        """Waits for the server's close. A reset would raise: it may take the last answer with it."""
        return self._file.read(1) == b""

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def connect() -> Iterator[Callable[[Site], Client]]:
    clients: list[Client] = []

    def connected(site: Site) -> Client:
        clients.append(Client(site.port))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def client(shared: Site, connect: Callable[[Site], Client]) -> Client:
    return connect(shared)


POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: t\r\n\r\n"
)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_connection_serves_many_requests(client: Client) -> None:
    for _ in range(3):
        assert client.send(POST).echo()["body"] == "hello"


@pytest.mark.parametrize(("request_", "body"), [(POST, "hello"), (CHUNKED, "abcde")], ids=["length", "chunked"])
def test_bytes_may_come_one_by_one(client: Client, request_: bytes, body: str) -> None:
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for index in range(len(request_)):
        client.send(request_[index : index + 1])
    assert client.echo()["body"] == body


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    paths = ["/slow", "/a", "/slow", "/b", *(f"/{n}" for n in range(50))]
    client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in paths))
    assert [client.echo()["path"] for _ in paths] == paths


def test_a_refusal_waits_for_the_answers_before_it(client: Client) -> None:
    client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" + POST + b"GET / HTTP/1.1\r\n\r\n")
    assert client.echo()["path"] == "/slow"
    assert client.echo()["path"] == "/a"
    assert client.refused()[0] == 400


def test_many_chunks_of_a_pipelined_upload_do_not_mix(client: Client) -> None:
    for _ in range(20):
        client.send(CHUNKED[:70]).send(CHUNKED[70:] + POST)
    assert [client.echo()["body"] for _ in range(40)] == ["abcde", "hello"] * 20


def test_the_path_has_no_query_and_no_host(client: Client) -> None:
    assert client.send(b"GET /v2/x?a=/b HTTP/1.1\r\nHost: h\r\n\r\n").echo()["path"] == "/v2/x"
    assert client.send(b"GET http://h:80/v2/x?y HTTP/1.1\r\nHost: h\r\n\r\n").echo()["path"] == "/v2/x"


def test_header_names_have_one_case_and_repeats_are_joined(client: Client) -> None:
    headers = client.send(b"GET / HTTP/1.1\r\nHOST: h\r\nX-a: 1\r\nx-A: 2\r\n\r\n").echo()["headers"]
    assert headers == {"host": "h", "x-a": "1, 2"}


def test_head_gets_the_length_but_no_body(client: Client) -> None:
    status, headers, _ = client.send(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n").answer(head_only=True)
    assert (status, int(headers["content-length"]) > 0) == (200, True)
    assert client.send(POST).echo()["path"] == "/a"


def test_connection_close_is_honoured(client: Client) -> None:
    _, headers, _ = client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").answer()
    assert headers["connection"] == "close"
    assert client.is_closed()


def test_http_1_0_closes_unless_asked_to_stay(client: Client, shared: Site, connect: Callable[[Site], Client]) -> None:
    assert client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()[1]["connection"] == "keep-alive"
    assert client.send(b"GET / HTTP/1.0\r\n\r\n").answer()[1]["connection"] == "close"
    assert client.is_closed()


def test_expect_100_continue_is_answered_before_the_body(client: Client) -> None:
    client.send(b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer()[0] == 100
    assert client.send(b"ok").echo()["body"] == "ok"


def test_100_continue_waits_for_the_answer_before_it(client: Client) -> None:
    client.send(
        b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"
        b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert client.echo()["path"] == "/slow"
    assert client.answer()[0] == 100
    assert client.send(b"ok").echo()["body"] == "ok"


def test_an_offer_to_upgrade_is_ignored(client: Client) -> None:
    """curl --http2 and Java's client send it with their first request."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for _ in range(2):
        client.send(b"POST /u HTTP/1.1\r\nHost: h\r\n" + upgrade + b"Content-Length: 2\r\n\r\nok" + POST)
        assert [client.echo()["path"] for _ in range(2)] == ["/u", "/a"]


def test_a_client_that_sends_no_more_is_taken_for_gone(client: Client) -> None:
    client.send(POST + b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.echo()["path"] == "/a"
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


def test_an_error_of_the_handler_keeps_the_connection(client: Client) -> None:
    status, headers, body = client.send(b"GET /404 HTTP/1.1\r\nHost: h\r\n\r\n").answer()
    assert (status, headers["connection"], json.loads(body)) == (404, "keep-alive", {"error": "not here"})


GET = b"GET / HTTP/1.1\r\n"
END = b"\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        pytest.param(GET + b"A: b" + END, 400, "exactly one Host", id="no Host"),
        pytest.param(GET + b"Host: a\r\nHost: b" + END, 400, "exactly one Host", id="two Hosts"),
        pytest.param(GET + b"Host: a\r\nhost: a" + END, 400, "exactly one Host", id="the same Host twice"),
        pytest.param(b"nonsense\r\n\r\n", 400, "not valid HTTP/1.1", id="nonsense"),
        pytest.param(b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\nabc", 405, "CONNECT is not served", id="CONNECT"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not valid HTTP/1.1", id="HTTP/2 preface"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not valid HTTP/1.1", id="TLS hello"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
            400,
            "not valid HTTP/1.1",
            id="length and chunked",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4" + END,
            400,
            "not valid HTTP/1.1",
            id="two lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1" + END, 400, "not valid HTTP/1.1", id="negative length"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 40 + END, 400, "not valid", id="40-digit length"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip" + END, 400, "not valid HTTP/1.1", id="TE gzip"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked" + END + b"zz\r\n",
            400,
            "not valid HTTP/1.1",
            id="bad chunk size",
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
            400,
            "not allowed in HTTP/1.0",
            id="chunked in HTTP/1.0",
        ),
        pytest.param(GET + b"Host: h\r\n folded: x" + END, 400, "not valid HTTP/1.1", id="folded line"),
        pytest.param(GET + b"Host : h" + END, 400, "not valid HTTP/1.1", id="space before the colon"),
        pytest.param(GET + b"Host: h\r\nA: b\x00c" + END, 400, "not valid HTTP/1.1", id="NUL"),
        pytest.param(GET + b"Host: h\nA: b" + END, 400, "not valid HTTP/1.1", id="bare LF"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h" + END, 414, "URL is longer", id="long URL"),
        pytest.param(GET + b"Host: h\r\nA: " + b"b" * 40_000 + END, 431, "head has more", id="long header"),
        pytest.param(GET + b"Host: h\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "head has more", id="101 headers"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d" % (LIMIT + 1) + END,
            413,
            f"larger than {LIMIT} bytes",
            id="announced body too large",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: tea" + END,
            417,
            "100-continue",
            id="expect tea",
        ),
    ],
)
def test_what_is_no_request_is_refused_and_the_client_can_read_why(
    client: Client, data: bytes, status: int, sentence: str
) -> None:
    got, message = client.send(data).refused()
    assert got == status
    assert sentence in message


def test_a_chunked_body_is_refused_when_it_passes_the_limit(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    for _ in range(LIMIT // 0x10000 + 1):
        client.send(piece)
    assert client.refused()[0] == 413


def test_a_header_that_never_ends_is_refused(client: Client) -> None:
    client.send(GET + b"Host: h\r\nA: ")
    for _ in range(10):
        client.send(b"b" * 100_000)
    assert client.refused()[0] == 431


def test_a_body_of_exactly_the_limit_is_taken(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % LIMIT + b"a" * LIMIT)
    assert len(client.echo()["body"]) == LIMIT


def test_a_refused_upload_can_read_its_answer_while_it_still_sends(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900000000\r\n\r\n")
    for _ in range(50):
        client.send(bytes(10_000))
    assert client.answer()[0] == 413


@pytest.mark.parametrize(
    ("begun", "skew_s", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost", HEAD_TIMEOUT_S + 1, 408, id="a head that stops"),
        pytest.param(POST[:-1], STALL_TIMEOUT_S + 1, 408, id="a body that stops"),
        pytest.param(b"", IDLE_S + 1, None, id="silence"),
        pytest.param(POST, IDLE_S + 1, None, id="silence after a request"),
    ],
)
def test_a_client_that_stops_is_let_go(
    site: Site, connect: Callable[[Site], Client], begun: bytes, skew_s: float, status: int | None
) -> None:
    client = connect(site).send(begun)
    if begun == POST:
        client.echo()
    until(lambda: any(c._receiving == (status == 408) for c in site.server.connections))
    site.skew_s = skew_s
    assert (client.refused()[0] == 408) if status else client.is_closed()


def test_a_client_that_does_not_read_is_cut_off(site: Site, connect: Callable[[Site], Client]) -> None:
    connect(site).send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    until(lambda: any(c._write_paused for c in site.server.connections))
    site.skew_s = STALL_TIMEOUT_S + 1
    until(lambda: not site.server.connections)


def test_a_client_that_reads_slowly_gets_everything(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(b"GET /big HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    until(lambda: any(c._write_paused for c in site.server.connections))
    before = [c._transport.get_write_buffer_size() for c in site.server.connections]
    got = client.read(BIG // 2)
    until(lambda: [c._transport.get_write_buffer_size() for c in site.server.connections] < before)
    site.skew_s = STALL_TIMEOUT_S + 1
    until(lambda: all(c.expires_s > site.server.clock() for c in site.server.connections))  # looked at, and let be
    assert len(got + client.read()) > BIG


def test_a_client_that_asks_without_reading_is_not_read_either(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site)
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 1_000_000)
    until(lambda: [c._read_paused for c in site.server.connections] == [True])


def test_a_client_that_leaves_cancels_its_request(site: Site, connect: Callable[[Site], Client]) -> None:
    connect(site).send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" * 100).close()
    until(lambda: not site.server.connections)


def test_draining_sends_clients_away_after_all_they_asked_for(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site)
    site.server.draining = True
    client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
    answers = [client.answer()[1]["connection"] for _ in range(3)]
    assert answers == ["keep-alive", "keep-alive", "close"]
    assert client.is_closed()


def large(path: str, size: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("size", [65_535, 65_536, 300_000, LIMIT])
@pytest.mark.parametrize("cut", [0, 1, 70_000], ids=["head alone", "with a byte", "with a part"])
def test_a_large_body_arrives_whole_and_the_next_request_after_it(client: Client, size: int, cut: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    expected = {"size": size, "sum": sum(body[:size:4099])}
    for _ in range(2):
        client.send(large("/sum", size) + body[: min(cut, size)])
        client.send(body[min(cut, size) : size] + POST)
        answer = client.echo()
        assert {key: answer[key] for key in expected} == expected
        assert client.echo()["body"] == "hello"


def test_the_tensors_of_a_large_body_are_aligned(client: Client) -> None:
    client.send(large("/sum", 100_000, "Inference-Header-Content-Length: 10") + bytes(100_000))
    assert client.echo()["aligned"] == 0


def test_a_large_body_may_be_announced_and_continued(client: Client) -> None:
    client.send(large("/sum", 100_000, "Expect: 100-continue"))
    assert client.answer()[0] == 100
    assert client.send(bytes(100_000)).echo()["size"] == 100_000


def test_a_large_body_that_stops_is_let_go(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(large("/sum", 100_000) + bytes(50_000))
    until(lambda: any(c._receiving for c in site.server.connections))
    site.skew_s = STALL_TIMEOUT_S + 1
    assert client.refused()[0] == 408


def test_bodies_of_all_clients_together_are_bounded_by_what_has_arrived(
    site: Site, connect: Callable[[Site], Client]
) -> None:
    held = [connect(site).send(large("/sum", LIMIT) + bytes(LIMIT - 1)) for _ in range(4)]
    until(lambda: site.server.held.count == 4 * LIMIT - 4)
    for request in (POST, large("/sum", LIMIT)):
        status, sentence = connect(site).send(request).refused()
        assert (status, "too many bytes" in sentence) == (503, True)
    held.pop().close()
    until(lambda: site.server.held.count == 3 * LIMIT - 3)
    assert connect(site).send(POST).echo()["body"] == "hello"
    for client in held:
        assert client.send(b"x").echo()["size"] == LIMIT
    until(lambda: site.server.held.count == 0)


def test_what_is_announced_and_not_sent_takes_no_room(site: Site, connect: Callable[[Site], Client]) -> None:
    announced = [connect(site).send(large("/sum", LIMIT) + b"x") for _ in range(12)]
    until(lambda: site.server.held.count == len(announced))
    assert connect(site).send(POST).echo()["body"] == "hello"


def test_a_body_that_finds_no_room_on_its_way_is_refused_and_let_go(
    site: Site, connect: Callable[[Site], Client]
) -> None:
    clients = [connect(site).send(large("/sum", LIMIT) + b"x") for _ in range(5)]
    until(lambda: site.server.held.count == 5)
    for client in clients[:4]:
        client.send(bytes(LIMIT - 2))
    until(lambda: site.server.held.count == 4 * (LIMIT - 1) + 1)
    assert clients[4].send(bytes(1000)).refused()[0] == 503
    until(lambda: site.server.held.count == 4 * (LIMIT - 1))


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(large("/sum", 100_000) + b"x", b"x", id="large"),
        pytest.param(POST[:-4], b"x", id="small"),
        pytest.param(CHUNKED[:57] + b"3\r\nabc\r\n", b"1\r\nx\r\n", id="chunked"),
    ],
)
def test_a_byte_now_and_then_does_not_keep_a_body(
    site: Site, connect: Callable[[Site], Client], head: bytes, piece: bytes
) -> None:
    client = connect(site).send(head)
    until(lambda: any(c._arriving_bytes for c in site.server.connections))
    (connection,) = site.server.connections
    seen = connection._arriving_bytes
    site.skew_s = STALL_TIMEOUT_S / 2
    until(lambda: site.server.now_s > time.monotonic() + STALL_TIMEOUT_S / 3)
    client.send(piece)
    until(lambda: connection._arriving_bytes > seen)
    site.skew_s = STALL_TIMEOUT_S + 2
    assert client.refused()[0] == 408


def test_a_slow_body_that_goes_on_is_waited_for(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(large("/sum", 400_000) + b"x")
    for step in range(1, 4):
        site.skew_s = step * STALL_TIMEOUT_S / 3
        until(lambda: site.server.now_s > time.monotonic() + site.skew_s - 2)
        client.send(bytes(133_333))
        until(lambda: site.server.held.count in (0, 1 + step * 133_333))  # noqa: B023 - called at once
    site.skew_s = STALL_TIMEOUT_S + 5
    assert client.echo()["size"] == 400_000


def test_many_tiny_chunks_take_little_more_than_their_bytes(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(CHUNKED[:57] + b"1\r\na\r\n" * 100_000)
    until(lambda: site.server.held.count == 100_000)
    assert [len(c._body) for c in site.server.connections] <= [3]
    assert client.send(b"0\r\n\r\n").echo()["body"] == "a" * 100_000


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param(b"X: " + b"a" * 1_000_000, id="one without end"),
        pytest.param(b"X: " + b"a" * 40_000 + b"\r\n\r\n", id="a long one"),
        pytest.param(b"X: y\r\n" * 101 + b"\r\n", id="101"),
    ],
)
def test_trailers_have_the_limits_of_the_head(client: Client, trailers: bytes) -> None:
    client.send(CHUNKED[:57] + b"3\r\nabc\r\n0\r\n" + trailers)
    status, sentence = client.refused()
    assert (status, "trailers" in sentence) == (431, True)


def test_nothing_stays_reserved(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(CHUNKED + POST * 3 + large("/sum", 70_000) + bytes(70_000))
    for _ in range(5):
        client.answer()
    connect(site).send(b"GET /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" + POST)
    until(lambda: site.server.held.count == 10)
    for connection in list(site.server.connections):
        site.loop.call_soon_threadsafe(connection._transport.abort)
    until(lambda: site.server.held.count == 0)


def test_one_connection_too_many_is_closed(site: Site, connect: Callable[[Site], Client]) -> None:
    clients = [connect(site).send(POST) for _ in range(50)]
    assert all(client.echo() for client in clients)
    extra = connect(site)
    with pytest.raises((ConnectionError, IndexError)):
        extra.send(POST).answer()
    assert clients[0].send(POST).echo()["body"] == "hello"


def chunks(client: Client) -> list[bytes]:
    found = []
    while size := int(client._file.readline(), 16):
        found.append(client.read(size))
        client.read(2)
    client.read(2)
    return found


def head(client: Client) -> dict[str, str]:
    assert b" 200 " in client._file.readline()
    lines = iter(lambda: client._file.readline().strip().decode(), "")
    return dict(line.split(": ", 1) for line in lines)


def test_a_stream_is_chunked_and_the_connection_goes_on(client: Client) -> None:
    for count in (0, 1, 5):
        client.send(b"GET /stream/%d HTTP/1.1\r\nHost: h\r\n\r\n" % count)
        assert head(client)["transfer-encoding"] == "chunked"
        assert chunks(client) == [b"piece %d;" % number for number in range(count)]
    assert client.send(POST).echo()["body"] == "hello"


def test_a_stream_to_http_1_0_ends_with_the_connection(client: Client) -> None:
    client.send(b"GET /stream/3 HTTP/1.0\r\n\r\n")
    assert "transfer-encoding" not in head(client)
    assert client.read() == b"piece 0;piece 1;piece 2;"


def test_a_stream_that_breaks_is_not_taken_for_whole(client: Client) -> None:
    client.send(b"GET /stream/20 HTTP/1.1\r\nHost: h\r\n\r\n")
    head(client)
    with pytest.raises((ConnectionError, ValueError)):
        chunks(client)


def test_a_stream_that_comes_too_late_is_closed(site: Site, connect: Callable[[Site], Client]) -> None:
    LATE.clear()
    CLOSED.clear()
    client = connect(site).send(b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n")
    until(lambda: len(LATE) == 1)
    client.close()
    until(lambda: not site.server.connections)
    site.loop.call_soon_threadsafe(LATE[0], Response(200, stream=Closable()))
    until(lambda: CLOSED == ["closed"])


@pytest.mark.parametrize("size", [b"5", b"f" * 16])
def test_a_request_that_is_cut_short_is_refused(client: Client, size: bytes) -> None:
    client.send(CHUNKED[:57] + size + b"\r\nabc")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.refused()[0] == 400


def test_a_client_that_leaves_cancels_what_it_waits_for(site: Site, connect: Callable[[Site], Client]) -> None:
    CANCELLED.clear()
    connect(site).send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").close()
    until(lambda: CANCELLED == ["/wait"])


def test_many_pipelined_requests_do_not_pile_up_on_the_stack(client: Client) -> None:
    count = 3000
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * count)
    assert all(client.echo()["path"] == "/" for _ in range(count))
