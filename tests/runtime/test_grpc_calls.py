"""gRPC calls with the real client, sync and aio, against a server on a thread of its own."""

import asyncio
import gzip
import itertools
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import uvloop

from slipway_runtime.wire import grpc_messages as words
from slipway_runtime.wire.grpc_calls import Call, GrpcServer, StreamCall, streaming, unary
from slipway_runtime.wire.grpc_messages import Code, GrpcError
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, frame, message

LIMIT = 32 * 2**20
PATIENCE_S = 50.0
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Site:
    """What runs of it: `cancelled` and `taken` say what the methods saw."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.taken = 0
        self.waiting: list[Call] = []
        self.server = GrpcServer(
            {
                b"/test.Test/Echo": lambda call, text: call.reply(text),
                b"/test.Test/Later": self.later,
                b"/test.Test/Pieces": lambda call, text: call.reply([memoryview(text)[:3], b"-", bytearray(text[3:])]),
                b"/test.Test/Metadata": self.metadata,
                b"/test.Test/Fails": unary(self.fails),
                b"/test.Test/Wait": self.wait,
                b"/test.Test/Async": unary(self.sleeps),
                b"/test.Test/Boom": self.boom,
                b"/test.Test/Chat": streaming(self.chat),
                b"/test.Test/Count": streaming(self.count),
                b"/test.Test/Forever": streaming(self.forever),
            },
            max_message_bytes=LIMIT,
            max_held_bytes=256 * 2**20,
            idle_timeout_s=60.0,
        )

    def later(self, call: Call, text: bytes) -> None:
        asyncio.get_running_loop().call_later(0.02, call.reply, text)

    def metadata(self, call: Call, text: bytes) -> None:
        seen = b"%s %s %s" % (
            call.header(b"x-one") or b"none",
            call.header(b"x-two") or b"none",
            b"%r" % call.timeout_s,
        )
        call.reply(seen, initial=[(b"x-first", b"1")], trailing=[(b"endpoint-load-metrics", b"TEXT cpu=1")])

    async def fails(self, call: Call, text: bytes) -> bytes:
        await asyncio.sleep(0)
        raise GrpcError(Code(int(text)), "no such model: 'ä%\n'")

    def wait(self, call: Call, text: bytes) -> None:
        self.waiting.append(call)
        call.on_cancel = lambda: self.cancelled.append("wait")

    async def sleeps(self, call: Call, text: bytes) -> bytes:
        try:
            await asyncio.sleep(float(text))
        except asyncio.CancelledError:
            self.cancelled.append("async")
            raise
        return text

    def boom(self, call: Call, text: bytes) -> None:
        raise ZeroDivisionError(text)

    async def chat(self, call: StreamCall) -> None:
        call.initial, call.trailing = [(b"x-first", b"1")], [(b"x-last", b"2")]
        async for text in call:
            if text == b"fail":
                raise GrpcError(Code.NOT_FOUND, "not that")
            if text == b"boom":
                raise ZeroDivisionError
            self.taken += 1
            await call.send(text)

    async def count(self, call: StreamCall) -> None:
        size, number = [int(part) for part in (await anext(aiter(call))).split()]
        for _ in range(number):
            self.taken += 1
            await call.send(bytes(size))

    async def forever(self, call: StreamCall) -> None:
        try:
            await call.send(b"begun")
            await asyncio.Event().wait()
        finally:
            self.cancelled.append("forever")


class ThreadSite(Site):
    def __init__(self) -> None:
        super().__init__()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        self.address = f"127.0.0.1:{self.port}"

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.port = await self.server.listen("127.0.0.1", 0)
        self._started.set()
        await self._end.wait()
        await self.server.close(0.1)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def until(self, what: str, number: int = 1) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        while self.cancelled.count(what) < number:
            assert time.monotonic() < ends_s, f"{what} was not cancelled {number} times"
            time.sleep(0.001)


@pytest.fixture
def site() -> Iterator[ThreadSite]:
    running = ThreadSite()
    yield running
    running.stop()
    assert running.server.held.count == 0


@pytest.fixture
def channel(site: ThreadSite) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(site.address, options=NO_LIMIT) as opened:
        yield opened


def call(channel: grpc.Channel, method: str, text: bytes, **options: object) -> bytes:
    return bytes(
        channel.unary_unary(f"/test.Test/{method}")(text, timeout=options.pop("timeout", PATIENCE_S), **options)
    )


# --- unary


@pytest.mark.parametrize("size", [0, 1, 100, 16_379, 16_380, 65_536, 600_000, 24 * 2**20])
def test_a_message_of_any_size_comes_back(channel: grpc.Channel, size: int) -> None:
    text = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert call(channel, "Echo", text) == text
    assert call(channel, "Later", text) == text
    assert call(channel, "Async", b"0") == b"0"


def test_an_answer_may_be_several_buffers(channel: grpc.Channel) -> None:
    assert call(channel, "Pieces", b"abcdef") == b"abc-def"
    assert call(channel, "Pieces", b"abc" + bytes(100_000)) == b"abc-" + bytes(100_000)


def test_metadata_goes_both_ways(channel: grpc.Channel) -> None:
    multi = channel.unary_unary("/test.Test/Metadata")
    sent = (("x-one", "a"), ("x-one", "b"), ("x-other", "z"))
    answer, state = multi.with_call(b"", metadata=sent, timeout=PATIENCE_S)
    one, two, timeout_s = answer.split(b" ")
    assert one.replace(b", ", b",") == b"a,b"
    assert two == b"none"
    assert 40 < float(timeout_s) <= PATIENCE_S
    assert ("x-first", "1") in [tuple(pair) for pair in state.initial_metadata()]
    assert ("endpoint-load-metrics", "TEXT cpu=1") in [tuple(pair) for pair in state.trailing_metadata()]


@pytest.mark.parametrize("code", [code for code in Code if code != Code.OK])
def test_an_error_keeps_its_code_and_its_text(channel: grpc.Channel, code: Code) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Fails", b"%d" % code)
    assert failed.value.code().value[0] == code
    assert failed.value.details() == "no such model: 'ä%\n'"


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Nothing", b"x" * 100_000)
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert failed.value.details() == "Method not found: /test.Test/Nothing"
    assert call(channel, "Echo", b"still here") == b"still here"


def test_a_mistake_of_the_server_is_internal_and_says_no_more(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("Boom", "Async"):
        with pytest.raises(grpc.RpcError) as failed:
            call(channel, method, b"secret")
        assert failed.value.code() == grpc.StatusCode.INTERNAL
        assert failed.value.details() == "internal error; the server's log says more"
    assert "ZeroDivisionError" in caplog.text
    assert "/test.Test/Boom failed" in caplog.text


def test_a_message_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Echo", bytes(LIMIT + 1))
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.value.details() == f"Received message larger than max ({LIMIT + 1} vs. {LIMIT})"
    assert call(channel, "Echo", b"still here") == b"still here"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [100, 2_000_000])
def test_compressed_requests_are_understood(channel: grpc.Channel, compression: grpc.Compression, size: int) -> None:
    text = b"abcd" * (size // 4)
    assert call(channel, "Echo", text, compression=compression) == text


def test_a_client_that_gives_up_cancels_its_call(site: ThreadSite, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Wait", b"", timeout=0.1)
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    site.until("wait")
    running = channel.unary_unary("/test.Test/Async").future(b"30")
    while not site.server.is_busy():
        time.sleep(0.001)
    running.cancel()
    site.until("async")
    assert call(channel, "Echo", b"still here") == b"still here"


def test_clients_that_go_cancel_their_calls(site: ThreadSite) -> None:
    with grpc.insecure_channel(site.address) as channel:
        futures = [channel.unary_unary("/test.Test/Wait").future(b"") for _ in range(10)]
        while len(site.waiting) < 10:
            time.sleep(0.001)
    assert all(future.done() for future in futures)
    site.until("wait", 10)


def test_sixteen_threads_get_their_own_answers(channel: grpc.Channel) -> None:
    def run(thread: int) -> bool:
        texts = [b"%d of %d " % (n, thread) + b"x" * (n * 997 * thread % 70_000) for n in range(60)]
        return all(call(channel, "Later" if n % 9 == 0 else "Echo", text) == text for n, text in enumerate(texts))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(run, range(16)))


# --- streams


def test_a_conversation(channel: grpc.Channel) -> None:
    texts = [b"%d" % n + b"x" * (n * 1999) for n in range(100)]
    chat = channel.stream_stream("/test.Test/Chat")(iter(texts), timeout=PATIENCE_S)
    assert list(chat) == texts
    assert ("x-first", "1") in [tuple(pair) for pair in chat.initial_metadata()]
    assert ("x-last", "2") in [tuple(pair) for pair in chat.trailing_metadata()]
    assert list(channel.stream_stream("/test.Test/Chat")(iter([]), timeout=PATIENCE_S)) == []


def test_large_messages_of_a_conversation_go_through_the_window(channel: grpc.Channel) -> None:
    texts = [bytes(5 * 2**20), b"small", bytes(3 * 2**20), bytes(2**20), b""] * 2
    assert list(channel.stream_stream("/test.Test/Chat")(iter(texts), timeout=PATIENCE_S)) == texts


def test_a_compressed_conversation(channel: grpc.Channel) -> None:
    texts = [b"abcd" * 1000] * 5
    chat = channel.stream_stream("/test.Test/Chat")(iter(texts), compression=grpc.Compression.Gzip, timeout=PATIENCE_S)
    assert list(chat) == texts


@pytest.mark.parametrize(
    ("text", "code", "details"),
    [
        (b"fail", grpc.StatusCode.NOT_FOUND, "not that"),
        (b"boom", grpc.StatusCode.INTERNAL, "internal error; the server's log says more"),
    ],
)
def test_an_error_ends_a_conversation(channel: grpc.Channel, text: bytes, code: grpc.StatusCode, details: str) -> None:
    endless = itertools.chain([b"a", text], itertools.repeat(b"more", 100_000))
    chat = channel.stream_stream("/test.Test/Chat")(endless, timeout=PATIENCE_S)
    got = []
    with pytest.raises(grpc.RpcError) as failed:
        got.extend(chat)
    assert failed.value.code() == code
    assert failed.value.details() == details
    assert call(channel, "Echo", b"still here") == b"still here"


def test_a_conversation_past_its_deadline_ends(site: ThreadSite, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        list(channel.stream_stream("/test.Test/Forever")(iter([]), timeout=0.2))
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    site.until("forever")


def test_a_conversation_that_the_client_leaves_is_cancelled(site: ThreadSite, channel: grpc.Channel) -> None:
    chat = channel.stream_stream("/test.Test/Forever")(iter([]))
    assert next(chat) == b"begun"
    chat.cancel()
    site.until("forever")


def test_a_reader_that_stops_stops_the_sender(site: ThreadSite, channel: grpc.Channel) -> None:
    counting = channel.stream_stream("/test.Test/Count")(iter([b"100000 1000"]), timeout=PATIENCE_S)
    next(counting)
    taken = -1
    while taken != site.taken:  # until nothing moves any more
        taken = site.taken
        time.sleep(0.2)
    assert taken < 500
    assert len(list(counting)) == 999


async def test_sixty_four_at_once_with_the_aio_client(site: ThreadSite) -> None:
    async with grpc.aio.insecure_channel(site.address) as channel:
        echo, chat = channel.unary_unary("/test.Test/Later"), channel.stream_stream("/test.Test/Chat")

        async def one(number: int) -> None:
            for turn in range(5):
                text = b"%d %d" % (number, turn)
                assert await echo(text, timeout=PATIENCE_S) == text

        async def texts() -> AsyncIterator[bytes]:
            for number in range(50):
                yield b"%d" % number

        async def talk() -> None:
            got = [text async for text in chat(texts(), timeout=PATIENCE_S)]
            assert got == [b"%d" % number for number in range(50)]

        await asyncio.gather(*(one(number) for number in range(64)), *(talk() for _ in range(8)))


# --- the end


def test_draining_under_load_loses_nothing(site: ThreadSite) -> None:
    draining = threading.Event()
    answered = itertools.count()

    def run(thread: int) -> int:
        done = 0
        with grpc.insecure_channel(site.address) as channel:
            echo = channel.unary_unary("/test.Test/Later")
            while not draining.is_set() or done < 50:
                text = b"%d %d" % (thread, done)
                assert echo(text, timeout=PATIENCE_S) == text
                done += 1
                next(answered)
        return done

    async def drain() -> None:
        site.server.drain()

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(run, thread) for thread in range(8)]
        for _ in range(5):  # clients come back, and are asked to leave again
            before = next(answered)
            while next(answered) < before + 100:
                time.sleep(0.001)
            asyncio.run_coroutine_threadsafe(drain(), site.loop).result(PATIENCE_S)
            site.server.draining = False
        draining.set()
        assert all(future.result(PATIENCE_S) >= 50 for future in running)


def test_closing_answers_what_runs(site: ThreadSite, channel: grpc.Channel) -> None:
    futures = [channel.unary_unary("/test.Test/Async").future(b"0.3") for _ in range(32)]
    while not site.server.is_busy():
        time.sleep(0.001)
    time.sleep(0.05)
    asyncio.run_coroutine_threadsafe(site.server.close(PATIENCE_S), site.loop).result(PATIENCE_S)
    assert [future.result(1) for future in futures] == [b"0.3"] * 32
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Echo", b"")
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


# --- what no honest client sends


async def status_of(peer: Peer, stream: int = 1) -> tuple[str, str]:
    fields, _ = await peer.answer(stream)
    return fields.get("grpc-status", ""), fields.get("grpc-message", "")


def bomb() -> bytes:
    return gzip.compress(bytes(2 * LIMIT))


@pytest.mark.parametrize(
    ("path", "encoding", "body", "expected"),
    [
        pytest.param("Echo", "gzip", lambda: message(bomb(), 1), ("8", "decompressed"), id="gzip bomb"),
        pytest.param("Chat", "gzip", lambda: message(bomb(), 1), ("8", "decompressed"), id="gzip bomb in a stream"),
        pytest.param("Echo", "gzip", lambda: message(b"nothing", 1), ("13", "not valid gzip"), id="no gzip"),
        pytest.param("Echo", "gzip", lambda: message(gzip.compress(b"a")[:-1], 1), ("13", "cut short"), id="cut gzip"),
        pytest.param(
            "Echo", "gzip", lambda: message(gzip.compress(b"a") + b"b", 1), ("13", "after its end"), id="gzip and more"
        ),
        pytest.param("Echo", "deflate", lambda: message(zlib.compress(b"a"), 2), ("13", "marked"), id="unknown flag"),
        pytest.param("Echo", "identity", lambda: message(b"a", 1), ("13", "no grpc-encoding"), id="no encoding"),
        pytest.param("Echo", "br", lambda: message(b"a", 1), ("12", "grpc-encoding 'br'"), id="unknown encoding"),
        pytest.param("Echo", "gzip", lambda: message(b"plain"), ("0", ""), id="not compressed although it could be"),
        pytest.param("Echo", "identity", lambda: message(b"a") * 2, ("13", "more than one"), id="two messages"),
        pytest.param("Echo", "identity", lambda: b"", ("13", "before its message"), id="no message"),
        pytest.param("Echo", "identity", lambda: b"\0\0\0", ("13", "before its message"), id="half a prefix"),
        pytest.param(
            "Echo", "identity", lambda: message(b"abc")[:-1], ("13", "before its message"), id="half a message"
        ),
        pytest.param("Echo", "identity", lambda: message(b"a") + b"\0", ("13", "before its message"), id="and a half"),
        pytest.param(
            "Chat", "identity", lambda: message(b"abc")[:-1], ("13", "within a message"), id="half in a stream"
        ),
        pytest.param(
            "Echo", "identity", lambda: b"\0\xff\xff\xff\xff", ("8", "larger than max (4294967295"), id="4 GiB"
        ),
        pytest.param(
            "Chat", "identity", lambda: b"\0\xff\xff\xff\xff", ("8", "larger than max"), id="4 GiB in a stream"
        ),
    ],
)
@pytest.mark.parametrize("piece", [0, 1, 4, 9], ids=["whole", "by 1", "by 4", "by 9"])
async def test_a_body_that_is_none_gets_a_status(
    path: str, encoding: str, body: Callable[[], bytes], expected: tuple[str, str], piece: int
) -> None:
    site = Site()
    peer = Peer(site.server)
    whole = body()
    peer.send(peer.request(1, None, path=f"/test.Test/{path}", grpc_encoding=encoding))
    for at in range(0, len(whole), piece or len(whole) or 1):
        end = raw.END_STREAM if piece and at + piece >= len(whole) else 0
        peer.send(frame(raw.DATA, end, 1, whole[at : at + (piece or len(whole))]))
    if not piece or not whole:
        peer.send(frame(raw.DATA, raw.END_STREAM, 1))
    status, text = await status_of(peer)
    assert status == expected[0]
    assert expected[1] in text
    assert await peer.goaway() is None
    peer.transport.abort()
    await peer.frames()
    assert site.server.held.count == 0


async def test_a_conversation_takes_no_more_than_its_window_until_messages_are_read() -> None:
    site = Site()
    site.server = GrpcServer(
        {b"/test.Test/Echo": streaming(site.forever)}, max_message_bytes=LIMIT, max_held_bytes=2**30, idle_timeout_s=1
    )
    peer = Peer(site.server)
    peer.send(peer.request(1, None) + frame(raw.DATA, 0, 1, message(bytes(2**19 - 5)) * 2))
    await peer.frames()
    assert [got for got in peer.seen if got.type == raw.WINDOW_UPDATE and got.stream == 1] == []
    assert site.server.held.count >= 2**20 - 10
    peer.send(frame(raw.DATA, 0, 1, b"x"))
    assert await peer.reset(1) == 3
    await peer.frames()
    assert site.server.held.count == 0
    assert site.cancelled == ["forever"]


async def test_the_window_opens_as_messages_are_read() -> None:
    site = Site()
    peer = Peer(site.server, window=2**24, ours=2**24)
    peer.send(peer.request(1, None, path="/test.Test/Chat"))
    for _ in range(20):
        peer.send(frame(raw.DATA, 0, 1, message(bytes(2**18))))
        await peer.frames()
    assert await peer.reset(1) is None
    assert site.taken == 20


async def test_only_the_first_answer_counts() -> None:
    site = Site()
    peer = Peer(site.server)
    peer.send(peer.request(1, path="/test.Test/Wait"))
    waiting = site.waiting[0]
    waiting.reply(b"first")
    waiting.reply(b"second")
    waiting.fail(Code.INTERNAL, "third")
    fields, body = await peer.answer(1)
    assert (fields["grpc-status"], body) == ("0", message(b"first"))
    peer.transport.abort()
    assert site.cancelled == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1S", 1), (b"250m", 0.25), (b"3H", 10800), (b"2M", 120), (b"99999999u", 99.999999), (b"5n", 5e-9)]
    + [(bad, None) for bad in (b"", b"S", b"1", b"1x", b"-1S", b"1.5S", b"123456789S", b" 1S", "²S".encode())],
)
def test_time_outs_are_read_or_ignored(text: bytes, seconds: float | None) -> None:
    assert words.read_timeout_s(text) == pytest.approx(seconds)


async def test_a_deadline_counts_though_the_client_forgets_it() -> None:
    site = Site()
    peer = Peer(site.server)
    peer.send(peer.request(1, b"30", path="/test.Test/Async", grpc_timeout="10m"))
    peer.send(peer.request(3, path="/test.Test/Forever", grpc_timeout="10m"))
    while len(site.cancelled) < 2:  # noqa: ASYNC110 - the deadlines are real
        await asyncio.sleep(0.001)
    assert (await status_of(peer, 1))[0] == "4"
    assert (await status_of(peer, 3))[0] == "4"


def test_a_status_text_is_cut_and_quoted() -> None:
    block = words.status_block(3, "%" * 2000)
    assert block.endswith(b"%25" * 1024)
    assert words.status_block(0) == words.OK_BLOCK


def test_a_message_that_grows_more_than_honest_ones_is_refused() -> None:
    with pytest.raises(GrpcError, match="256 times what was sent"):
        words.plain(1, gzip.compress(bytes(32 << 20)), b"gzip", 64 << 20)
