"""gRPC calls with the real client, sync and aio, against a server on a thread of its own."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import uvloop

from slipway_runtime.wire.grpc_messages import Code
from tests.runtime.grpc_site import LIMIT, Site

PATIENCE_S = 50.0
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


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
        """It was cancelled so many times."""
        until(lambda: self.cancelled.count(what) >= number)


def until(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s
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
    assert 40 < float(timeout_s) <= PATIENCE_S + 0.1  # gRPC sends what is left in three digits, rounded up
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
    assert call(channel, "Echo", b"connected") == b"connected"  # or the time could be up before the call is sent
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Wait", b"", timeout=0.5)
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    site.until("wait")
    running = channel.unary_unary("/test.Test/Async").future(b"30")
    until(lambda: site.asleep == 1)
    running.cancel()
    site.until("async")
    assert call(channel, "Echo", b"still here") == b"still here"


def test_clients_that_go_cancel_their_calls(site: ThreadSite) -> None:
    with grpc.insecure_channel(site.address) as channel:
        futures = [channel.unary_unary("/test.Test/Wait").future(b"") for _ in range(10)]
        until(lambda: len(site.waiting) == 10)
    until(lambda: all(future.done() for future in futures))
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
    assert call(channel, "Echo", b"connected") == b"connected"
    with pytest.raises(grpc.RpcError) as failed:
        list(channel.stream_stream("/test.Test/Forever")(iter([]), timeout=0.5))
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
            until(lambda before=before: next(answered) >= before + 100)  # type: ignore[misc]
            asyncio.run_coroutine_threadsafe(drain(), site.loop).result(PATIENCE_S)
            site.server.draining = False
        draining.set()
        assert all(future.result(PATIENCE_S) >= 50 for future in running)


def test_closing_answers_what_runs(site: ThreadSite, channel: grpc.Channel) -> None:
    futures = [channel.unary_unary("/test.Test/Async").future(b"0.3") for _ in range(32)]
    until(lambda: site.asleep == len(futures))
    asyncio.run_coroutine_threadsafe(site.server.close(PATIENCE_S), site.loop).result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in futures] == [b"0.3"] * 32
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "Echo", b"")
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
