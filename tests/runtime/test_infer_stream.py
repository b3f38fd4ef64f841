"""The order of answers on one gRPC stream, and how much of it may wait. Without any gRPC library."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import infer_stream
from slipway_runtime.protocol.methods import Methods
from slipway_runtime.protocol.shared_memory import SharedMemory
from tests.runtime.fake_api import FakeApi


class Context:
    timeout_s: float | None = None

    def header(self, name: bytes) -> bytes | None:
        return b"blue" if name == b"x-slipway-tenant" else None


class World:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: Any = Methods(self.api, SharedMemory()).ModelStreamInfer(self._messages(), Context())

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.asked.get()) is not None:
            yield message

    def ask(self, *messages: Any) -> None:
        for message in messages:
            self.asked.put_nowait(message)

    async def next(self) -> Any:
        return await asyncio.wait_for(anext(self.answers), 10)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.answers.aclose()


def plain(request_id: str) -> Any:
    message = pb.ModelInferRequest(model_name="identity_fp32", id=request_id, raw_input_contents=[bytes(4)])
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
    return message


def counting(count: int, request_id: str, **parameters: bool) -> Any:
    raw = np.array([count], np.int32).tobytes()
    message = pb.ModelInferRequest(model_name="count", id=request_id, raw_input_contents=[raw])
    message.inputs.add(name="IN", datatype="INT32", shape=[1])
    for key, value in parameters.items():
        message.parameters[key].bool_param = value
    return message


async def test_a_later_request_that_is_done_first_waits_for_its_turn(world: World) -> None:
    world.api.hold = {"a", "b"}
    world.ask(plain("a"), plain("b"), plain("c"), None)
    await_first = asyncio.create_task(world.next())
    while len(world.api.seen) < 3:  # noqa: ASYNC110 - until the stream has read them
        await asyncio.sleep(0)
    world.api.release("b")
    assert not await_first.done()
    world.api.release("a")
    first = await await_first
    ids = [first.infer_response.id, *[(await world.next()).infer_response.id for _ in range(2)]]
    assert ids == ["a", "b", "c"]
    with pytest.raises(StopAsyncIteration):
        await world.next()


async def test_a_decoupled_model_does_not_wait_for_others(world: World) -> None:
    world.api.hold = {"a"}
    world.ask(plain("a"), counting(2, "c", triton_enable_empty_final_response=True))
    finals = []
    for _ in range(3):
        answer = (await world.next()).infer_response
        finals.append((answer.id, answer.parameters["triton_final_response"].bool_param))
    assert finals == [("c", False), ("c", False), ("c", True)]
    world.api.release("a")
    assert (await world.next()).infer_response.id == "a"


async def test_refusals_come_in_order_with_the_id(world: World) -> None:
    world.api.hold = {"a"}
    wrong = plain("b")
    wrong.inputs[0].shape[0] = 2
    world.ask(plain("a"), wrong, None)
    first = asyncio.create_task(world.next())
    await asyncio.wait_for(world.api.holding.wait(), 10)
    world.api.release("a")
    assert (await first).error_message == ""
    second = await world.next()
    assert "has 4 bytes, its shape" in second.error_message
    assert second.infer_response.id == "b"


async def test_a_request_refused_by_the_queue_is_an_answer_too(world: World) -> None:
    world.api.fail_next = RequestError(Kind.FULL, "Exceeds maximum queue size")
    world.ask(plain("a"), plain("b"))
    assert (await world.next()).error_message == "Exceeds maximum queue size"
    assert (await world.next()).infer_response.id == "b"


async def test_the_tenant_of_the_stream_is_that_of_its_requests(world: World) -> None:
    world.ask(plain("a"))
    await world.next()
    assert world.api.seen[0].tenant == "blue"


async def test_no_more_requests_are_read_than_may_be_in_flight(world: World) -> None:
    world.api.hold = {str(index) for index in range(1000)}
    world.ask(*(plain(str(index)) for index in range(1000)))
    first = asyncio.create_task(world.next())
    for _ in range(3000):
        await asyncio.sleep(0)
    assert len(world.api.seen) == infer_stream.MAX_IN_FLIGHT
    world.api.release("0")
    await first
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(world.api.seen) == infer_stream.MAX_IN_FLIGHT + 1


async def test_no_more_requests_are_read_than_the_client_takes_answers(world: World) -> None:
    world.ask(*(plain(str(index)) for index in range(3000)))
    await world.next()
    for _ in range(3000):
        await asyncio.sleep(0)
    assert len(world.api.seen) <= infer_stream.MAX_IN_FLIGHT + infer_stream.MAX_UNSENT
    for _ in range(2999):
        await world.next()
    assert len(world.api.seen) == 3000


async def test_a_decoupled_model_is_not_asked_for_more_than_the_client_takes(world: World) -> None:
    world.ask(counting(1_000_000, "c"))
    await world.next()
    for _ in range(2000):
        await asyncio.sleep(0)
    assert world.api.produced <= infer_stream.MAX_UNSENT + 2
    for _ in range(100):
        await world.next()
    assert world.api.produced > 100


async def test_closing_the_stream_cancels_all_of_it(world: World) -> None:
    world.api.hold = {"a", "b"}
    world.ask(plain("a"), plain("b"), counting(1_000_000, "c"))
    await world.next()
    await world.answers.aclose()
    assert [ticket.gone.is_set() for ticket in world.api.tickets] == [True, True]
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.api.closed_streams == 1
