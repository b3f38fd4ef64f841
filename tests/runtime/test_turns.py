"""One client with a lot to say does not keep the loop from the others: it is heard in turns."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from slipway_runtime.wire.grpc_calls import GrpcServer
from slipway_runtime.wire.http1 import TURN_REQUESTS, Connection
from slipway_runtime.wire.http1_body import LargeBody
from slipway_runtime.wire.http1_messages import MAX_FIELDS, Answer, Request, Response
from slipway_runtime.wire.http1_reader import TURN_BYTES
from slipway_runtime.wire.http1_server import HttpServer, Limits
from slipway_runtime.wire.http2_reader import TURN_FRAMES
from tests.runtime.http2_peer import PING, Peer, Transport, frame

MANY = 8000
PINGS = TURN_FRAMES * 12
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Client:
    """A connection of HTTP/1.1 in this process, and what it was answered."""

    def __init__(self) -> None:
        self.answered: list[bytes] = []
        limits = Limits(body_bytes=1 << 20, held_bytes=1 << 22, connections=9, idle_timeout_s=60)
        self.server = HttpServer(self._handle, limits)
        self.transport = Transport()
        self.connection = Connection(self.server)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)
        self.stream: AsyncIterator[bytes] | None = None

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def _handle(self, request: Request, answer: Answer) -> None:
        self.answered.append(bytes(request.body))
        answer(Response(200, (b"{}",), stream=self.stream))

    @property
    def statuses(self) -> set[bytes]:
        return {part[:3] for part in bytes(self.transport.written).split(b"HTTP/1.1 ")[1:]}


async def until(condition: Callable[[], bool]) -> int:
    """Turns of the loop that it took."""
    for turns in range(100_000):
        if condition():
            return turns
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


def test_pipelined_requests_are_answered_a_few_a_turn() -> None:
    async def main() -> None:
        client = Client()
        client.send(GET * MANY)
        assert len(client.answered) <= TURN_REQUESTS
        assert not client.transport.is_reading()
        assert await until(lambda: len(client.answered) == MANY) >= MANY // TURN_REQUESTS - 1
        assert client.transport.is_reading(), "and more is read when all is answered"
        assert client.statuses == {b"200"}
        client.send(GET)
        assert len(client.answered) == MANY + 1
        await client.server.close()

    uvloop.run(main())


def test_requests_of_any_size_that_come_together_arrive_unharmed() -> None:
    async def main() -> None:
        client = Client()
        sizes = [0, 1, 300_000, TURN_BYTES, 40_000, 70_000, 5, 200_000, 3 * TURN_BYTES - 60]
        bodies = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
        chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        for cut in (TURN_BYTES + 1, 100_000, 10**9):
            client.answered.clear()
            whole = b"".join(
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(b), b) for b in bodies
            )
            whole += chunked + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
            for at in range(0, len(whole), cut):
                await until(client.transport.is_reading)
                rest = whole[at : at + cut]
                while rest and client.transport.protocol is not client.connection:  # a large body is read into place
                    room = client.transport.protocol.get_buffer(-1)
                    room[: len(rest)] = rest[: len(room)]
                    count = min(len(rest), len(room))
                    client.transport.protocol.buffer_updated(count)
                    rest = rest[count:]
                if rest:
                    client.send(rest)
            await until(lambda: len(client.answered) == len(bodies) + 1)
            assert client.answered == [*bodies, b"a" * 10_000]
        assert client.server.held.count == 0
        await client.server.close()

    uvloop.run(main())


@pytest.mark.parametrize("here", [10, TURN_BYTES, 100_000])
def test_a_large_body_is_read_into_place_however_much_came_with_its_head(here: int) -> None:
    async def main() -> None:
        client = Client()
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n" + bytes(here))
        assert isinstance(client.transport.protocol, LargeBody)
        assert client.server.held.count == here
        assert client.transport.is_reading()
        await client.server.close()

    uvloop.run(main())


def test_chunks_of_a_byte_are_read_in_turns() -> None:
    async def main() -> None:
        client = Client()
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send(b"1\r\na\r\n" * 40_000)
        assert client.server.held.count <= TURN_BYTES // 6 + 1
        assert not client.transport.is_reading()
        await until(client.transport.is_reading)
        client.send(b"0\r\n\r\n")
        assert client.answered == [b"a" * 40_000]
        await client.server.close()

    uvloop.run(main())


def test_a_head_with_too_many_fields_is_not_read_to_its_end() -> None:
    async def main() -> None:
        client = Client()
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 2000)
        assert client.connection._head.count == MAX_FIELDS + 1
        assert client.statuses == {b"431"}
        await client.server.close()

    uvloop.run(main())


def test_a_stream_whose_client_goes_before_it_began_is_closed() -> None:
    closed: list[str] = []

    class Stream:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            closed.append("closed")

    async def main() -> None:
        client = Client()
        client.stream = Stream()
        client.send(GET)
        client.connection.connection_lost(None)  # in the same turn: the stream's task has not had its first step
        await until(lambda: closed == ["closed"])

    uvloop.run(main())


def test_frames_of_one_read_are_dealt_with_in_turns() -> None:
    async def main() -> None:
        peer = Peer(GrpcServer({}, max_message_bytes=99, max_held_bytes=9999, idle_timeout_s=60))
        await peer.frames()
        read = len(peer.transport.written)
        peer.send(b"".join(frame(PING, 0, 0, number.to_bytes(8, "big")) for number in range(PINGS)))
        answered = (len(peer.transport.written) - read) // 17
        assert answered == TURN_FRAMES
        assert not peer.transport.is_reading()
        peer.send(frame(PING, 0, 0, PINGS.to_bytes(8, "big")))  # what a transport may still bring
        assert await until(peer.transport.is_reading) >= PINGS // TURN_FRAMES - 1
        answers = [int.from_bytes(got.payload, "big") for got in await peer.frames() if got.type == PING]
        assert answers == [*range(PINGS + 1)], "each one, in order"

    uvloop.run(main())


def test_a_flood_that_is_too_much_ends_at_the_turn_in_which_it_is() -> None:
    async def main() -> None:
        peer = Peer(GrpcServer({}, max_message_bytes=99, max_held_bytes=9999, idle_timeout_s=60))
        peer.send(frame(PING, 0, 0, bytes(8)) * 15_000)
        await until(lambda: peer.transport.eof)
        assert await peer.goaway() == 11
        assert len(peer.seen) < 2200
        assert peer.transport.is_reading(), "so that the peer's bytes do not reset the connection"

    uvloop.run(main())


def test_what_comes_after_the_last_words_is_read_a_piece_a_turn() -> None:
    async def main() -> None:
        peer = Peer(GrpcServer({}, max_message_bytes=99, max_held_bytes=9999, idle_timeout_s=60))
        peer.send(frame(PING, 0, 1, bytes(8)))
        assert await peer.goaway() == 1
        discard = peer.transport.protocol
        discard.buffer_updated(10)
        assert peer.transport.is_reading()
        discard.buffer_updated(len(discard.get_buffer(-1)))
        assert not peer.transport.is_reading()
        await until(peer.transport.is_reading)

    uvloop.run(main())


def test_a_peer_that_does_not_read_its_answers_has_no_turn() -> None:
    async def main() -> None:
        peer = Peer(GrpcServer({}, max_message_bytes=99, max_held_bytes=9999, idle_timeout_s=60))
        peer.transport.set_write_buffer_limits(high=1000)
        peer.transport.takes = False
        peer.send(frame(PING, 0, 0, bytes(8)) * PINGS)
        await peer.frames()
        read = len(peer.transport.written)
        await peer.frames()
        assert len(peer.transport.written) == read < PINGS * 17
        assert not peer.transport.is_reading()
        peer.transport.takes = True
        peer.transport.take()
        await until(peer.transport.is_reading)
        assert len([got for got in await peer.frames() if got.type == PING]) + read // 17 >= PINGS

    uvloop.run(main())
