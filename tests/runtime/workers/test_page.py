"""The memory that workers share, and which of them takes the next connection."""

import asyncio
import os
import socket
from collections.abc import Callable

import uvloop

from slipway_runtime.share import Share
from slipway_runtime.wire.shared_listener import SharedListener
from slipway_runtime.workers.crew import Crew, Place, SharedLoad
from slipway_runtime.workers.page import Page, Seat

LOOPS = {"uvloop": uvloop.new_event_loop}


def test_the_next_connection_is_for_who_has_the_fewest_of_those_that_answer() -> None:
    page = Page(3)
    for worker, count in enumerate((2, 1, 0)):
        page.sit(worker, Seat.READY)
        page.connected(worker, count)
    assert [page.has_fewest(worker) for worker in range(3)] == [False, False, True]
    page.leave(2, Seat.AWAY)
    assert [page.has_fewest(worker) for worker in range(2)] == [False, True]
    page.connected(0, 1)
    assert [page.has_fewest(worker) for worker in range(2)] == [True, True]


def test_another_process_sees_what_was_written() -> None:
    page = Page(2)
    other = Page(2, os.dup(page.fd))
    page.sit(1, Seat.LOST)
    page.busy(1, Share(3, 4, 1.5))
    assert other.seats() == [Seat.LOADING, Seat.LOST]
    assert other.shares() == [Share(), Share(3, 4, 1.5)]


def test_the_others_learn_of_load_at_most_once_in_a_while_and_at_once_when_it_is_over() -> None:
    told: list[Share] = []
    load = SharedLoad(told.append)
    load.share = lambda: Share(0, load.in_flight, 1.0)

    def now(in_flight: int, at_s: float) -> None:
        load.in_flight = in_flight
        load.last_asked_s = at_s

    now(1, 10.0)
    now(2, 10.001)
    now(3, 10.02)
    now(0, 10.021)
    now(0, 10.05)
    assert told == [Share(0, 1, 1.0), Share(0, 3, 1.0), Share()]


async def test_the_load_report_adds_up_what_all_have_to_do_and_tells_the_share_of_all_instances() -> None:
    page = Page(3)
    for worker, seat in enumerate((Seat.READY, Seat.READY, Seat.AWAY)):
        page.sit(worker, seat)
    page.busy(0, Share(9, 9, 9.0))  # of a while ago
    page.busy(1, Share(2, 3, 1.5))
    crew = Crew(Place(0, 3, False, page.fd, -1, ()))
    assert crew.load_report(Share(0, 1, 0.5)) == Share(2, 4, 1.0)


class Taken(asyncio.Protocol):
    """Counts itself; `enough` is called with all there are."""

    def __init__(self, page: Page, worker: int, counts: list[int], enough: Callable[[int], None]) -> None:
        self._page, self._worker, self._counts, self._enough = page, worker, counts, enough

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._counts[self._worker] += 1
        self._page.connected(self._worker, self._counts[self._worker])
        self._enough(sum(self._counts))


async def test_connections_are_shared_evenly_however_they_come() -> None:
    page, counts, taken = Page(2), [0, 0], asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listeners: list[SharedListener] = []
        listeners += [
            SharedListener(
                server.dup(),
                lambda worker=worker: Taken(page, worker, counts, lambda count: taken.set() if count == 8 else None),  # type: ignore[misc]
                lambda worker=worker: page.has_fewest(worker),  # type: ignore[misc]
                lambda worker=worker: page.connected(worker, counts[worker] + listeners[worker].taken),  # type: ignore[misc]
            )
            for worker in range(2)
        ]
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        await taken.wait()
        for listener in listeners:
            listener.close()
        for _, writer in clients:
            writer.close()
    assert counts == [4, 4]


async def test_a_connection_is_taken_though_who_has_fewer_is_busy() -> None:
    page, counts, taken = Page(2), [0, 0], asyncio.Event()
    page.connected(0, 5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = SharedListener(
            server.dup(),
            lambda: Taken(page, 0, counts, lambda _: taken.set()),
            lambda: page.has_fewest(0),
            lambda: None,
        )
        _, writer = await asyncio.open_connection("127.0.0.1", server.getsockname()[1])
        await taken.wait()
        listener.close()
        writer.close()
