"""From a request to its answer: the parts of the engine put together, and what is counted."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import uvloop

from slipway_runtime.engine.cache import Cache
from slipway_runtime.engine.endpoint import Done, Endpoint, Load, Options
from slipway_runtime.engine.ensemble import Step
from slipway_runtime.engine.job import Call
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.errors import BadConfig, Kind, RequestError
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, OutputChoice, Rows, Tensor, TensorSpec
from tests.runtime.engine import LONG_S, Model, has_begun, policy, settle

LOOPS = {"uvloop": uvloop.new_event_loop}
METADATA = Metadata(
    "test",
    inputs=(TensorSpec("x", "FP32", (-1, 1)),),
    outputs=(TensorSpec("double", "FP32", (-1, 1)), TensorSpec("square", "FP32", (-1, 1))),
    max_batch=8,
)


class Doubles(Model):
    """Twice and the square of x; what is asked for 13 fails; streams x answers."""

    outputs: Callable[[Rows], Rows] = staticmethod(lambda inputs: [inputs[0] * 2, inputs[0] ** 2])

    def answers(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [
            RequestError(Kind.INTERNAL, "thirteen") if (call.inputs[0] == 13).any() else self.outputs(call.inputs)
            for call in batch
        ]

    def stream(self, call: Call) -> Iterator[Rows]:
        assert self.gate.wait(LONG_S)
        for n in range(int(call.inputs[0][0, 0])):
            if n == 5:
                raise RequestError(Kind.INVALID, "too many")
            yield self.outputs([np.full((1, 1), n, np.float32)])


class Host:
    """Without ensembles."""

    def __init__(self) -> None:
        self.load_now = Load()

    def submit_step(self, step: Step, request: InferRequest, done: Done) -> Any:
        raise NotImplementedError


class Loaded:
    broken = ""

    def __init__(self, *runners: Model, metadata: Metadata = METADATA, decoupled: bool = False) -> None:
        self.runners, self.metadata, self.decoupled = runners, metadata, decoupled


class World:
    def __init__(self, model: Doubles, options: Options, **loaded: Any) -> None:
        self.model, host = model, Host()
        self.load = host.load_now
        self.loaded = Loaded(model, **loaded)
        self.endpoint = Endpoint("m", "1", self.loaded, options, host)

    @property
    def stats(self) -> dict[str, int]:
        stats = self.endpoint.stats
        return {"success": stats.success} | {reason: count for reason, count in stats.failure.items() if count}


@asynccontextmanager
async def world_of(
    *, closed: bool = False, cache: Cache | None = None, sequences: Sequences | None = None, **change: Any
) -> AsyncIterator[World]:
    loaded = {name: change.pop(name) for name in ("metadata", "decoupled") if name in change}
    level = change.pop("default_level", 0)
    world = World(Doubles(closed=closed), Options(policy(**change), level, cache, sequences), **loaded)
    try:
        yield world
    finally:
        world.model.gate.set()
        async with asyncio.timeout(LONG_S):
            await world.endpoint.close()
    assert (world.endpoint.in_flight, world.load.in_flight, world.endpoint.waiting) == (0, 0, 0)


def request(*values: float, **more: Any) -> InferRequest:
    return InferRequest([Tensor("x", "FP32", np.array(values, np.float32).reshape(-1, 1))], **more)


def numbers(response: InferResponse) -> dict[str, list[float]]:
    return {tensor.name: tensor.data.ravel().tolist() for tensor in response.outputs}


def later(world: World, *values: float, **more: Any) -> "asyncio.Task[InferResponse]":
    return asyncio.create_task(world.endpoint.infer(request(*values, **more)))


async def test_an_answer_has_names_types_version_and_the_id_that_was_given() -> None:
    async with world_of() as world:
        response = await world.endpoint.infer(request(3, 4, id="7"))
        assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
        assert numbers(response) == {"double": [6, 8], "square": [9, 16]}
        assert [tensor.datatype for tensor in response.outputs] == ["FP32", "FP32"]
        assert (await world.endpoint.infer(request(1))).id is None
        assert world.stats == {"success": 2}
        assert world.endpoint.stats.inferences == 3
        assert world.endpoint.stats.request_ns > world.endpoint.stats.queue_ns > 0


async def test_outputs_are_those_asked_for() -> None:
    async with world_of() as world:
        response = await world.endpoint.infer(request(3, outputs=[OutputChoice("square", binary=False)]))
        assert numbers(response) == {"square": [9]}


async def test_the_answer_comes_in_a_later_turn_and_once() -> None:
    async with world_of() as world:
        answers = list[InferResponse | RequestError]()
        ask = world.endpoint.submit(request(3), answers.append)
        assert answers == []
        assert (world.endpoint.in_flight, world.load.in_flight) == (1, 1)
        assert world.load.last_asked_s > 0
        await settle(lambda: answers)
        ask.cancel()
        assert len(answers) == 1
        assert world.stats == {"success": 1}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        pytest.param(InferRequest([]), "expected 1 inputs but got 0", id="inputs"),
        pytest.param(request(*range(9)), "batch-size must be <= 8", id="batch"),
        pytest.param(
            request(1, outputs=[OutputChoice("z", binary=True)]), "unexpected inference output 'z'", id="outputs"
        ),
    ],
)
@pytest.mark.parametrize("decoupled", [False, True])
async def test_what_does_not_fit_is_not_begun_and_counted(wrong: InferRequest, sentence: str, decoupled: bool) -> None:
    async with world_of(decoupled=decoupled) as world:
        with pytest.raises(RequestError, match=sentence):
            await (anext(world.endpoint.stream(wrong)) if decoupled else world.endpoint.infer(wrong))
        assert world.stats == {"success": 0, "OTHER": 1}


async def test_failures_are_counted_by_their_reason() -> None:
    async with world_of(closed=True, max_queue=1) as world:
        first = later(world, 13)
        await has_begun(world.model)
        late = later(world, 1, timeout_s=0.25)
        await settle(lambda: world.endpoint.waiting == 1)
        with pytest.raises(RequestError, match="Exceeds maximum queue size"):
            await world.endpoint.infer(request(1))
        with pytest.raises(RequestError, match=r"expired after 0.25 s"):
            await late
        gone = later(world, 1)
        await settle(lambda: world.endpoint.waiting == 1)
        gone.cancel()
        await settle(gone.done)
        assert world.endpoint.in_flight == 1
        world.model.gate.set()
        with pytest.raises(RequestError, match="thirteen"):
            await first
        assert world.stats == {"success": 0, "REJECTED": 2, "CANCELED": 1, "BACKEND": 1}
        assert world.endpoint.stats.failure_ns > 0


async def test_a_cancelled_request_is_not_answered() -> None:
    async with world_of(closed=True) as world:
        answers = list[InferResponse | RequestError]()
        ask = world.endpoint.submit(request(1), answers.append)
        await has_begun(world.model)
        ask.cancel()
        ask.cancel()
        assert world.endpoint.in_flight == 0
        world.model.gate.set()
        await world.endpoint.infer(request(2))
        assert answers == []
        assert world.stats == {"success": 1, "CANCELED": 1}


@pytest.mark.parametrize(("priority", "level"), [(0, 1), (1, 0), (2, 1), (3, 2), (99, 2)], ids=str)
async def test_priorities_are_levels_the_default_is_configured(priority: int, level: int) -> None:
    async with world_of(closed=True, levels=3, default_level=1) as world:
        tasks = [later(world, 0)]
        await has_begun(world.model)
        tasks.append(later(world, 1, priority=priority, tenant="t"))
        await settle(lambda: world.endpoint.waiting == 1)
        assert world.endpoint.batcher is not None
        assert world.endpoint.batcher.waiting_by_tenant() == {(level + 1, "t"): 1}
        world.model.gate.set()
        await asyncio.gather(*tasks)


async def test_a_priority_means_nothing_where_there_is_one_level() -> None:
    async with world_of() as world:
        assert numbers(await world.endpoint.infer(request(3, priority=9)))["double"] == [6]


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_config_may_rule_out_the_timeouts_of_requests_but_not_what_clients_wait(decoupled: bool) -> None:
    async with world_of(closed=True, own_timeouts=False, decoupled=decoupled) as world:

        async def ask(**more: Any) -> list[float]:
            return [numbers(each)["double"][0] async for each in world.endpoint.stream(request(1, **more))]

        patient = asyncio.create_task(ask(timeout_s=0.001))
        if not decoupled:
            await has_begun(world.model)
        for more in ({"patience_s": 0.01}, {"timeout_s": 0.001, "patience_s": 0.01}):
            with pytest.raises(RequestError, match=r"expired after 0.01 s") as caught:
                await ask(**more)
            assert caught.value.kind is Kind.DEADLINE
        assert not patient.done()
        world.model.gate.set()
        assert len(await patient) == 1


@pytest.mark.parametrize(("own_s", "patience_s"), [(0.01, 5.0), (5.0, 0.01), (0.01, None)])
async def test_of_a_timeout_and_a_clients_patience_the_shorter_counts(own_s: float, patience_s: float | None) -> None:
    async with world_of(closed=True) as world:
        with pytest.raises(RequestError, match=r"expired after 0.01 s"):
            await world.endpoint.infer(request(1, timeout_s=own_s, patience_s=patience_s))
        world.model.gate.set()


async def test_strings_count_for_the_bytes_that_wait() -> None:
    metadata = Metadata("test", (TensorSpec("s", "BYTES", (-1, 1)),), METADATA.outputs, 8)
    async with world_of(closed=True, metadata=metadata, max_queue_bytes=5000) as world:

        def strings(length: int) -> InferRequest:
            return InferRequest([Tensor("s", "BYTES", np.array([[b"0" * length]], object))])

        world.model.outputs = lambda inputs: [np.zeros((1, 1)), np.zeros((1, 1))]
        answers = list[InferResponse | RequestError]()
        world.endpoint.submit(strings(1), answers.append)
        await has_begun(world.model)
        world.endpoint.submit(strings(3000), answers.append)
        with pytest.raises(RequestError, match="bytes wait already"):
            world.endpoint.submit(strings(3000), answers.append)
        world.model.gate.set()
        await settle(lambda: len(answers) == 2)


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_model_that_breaks_its_word_is_answered_for(count: int) -> None:
    async with world_of() as world:
        world.model.outputs = lambda inputs: inputs * count
        with pytest.raises(RequestError, match=f"model 'm' gave {count} outputs, its metadata names") as caught:
            await world.endpoint.infer(request(3))
        assert caught.value.kind is Kind.INTERNAL
        assert world.stats == {"success": 0, "BACKEND": 1}


async def test_outputs_that_are_not_known_before_are_numbered_and_typed() -> None:
    async with world_of(metadata=Metadata("test", METADATA.inputs, (), 8)) as world:
        response = await world.endpoint.infer(request(3))
        assert numbers(response) == {"OUTPUT__0": [6], "OUTPUT__1": [9]}
        assert [tensor.datatype for tensor in response.outputs] == ["FP32", "FP32"]
        response = await world.endpoint.infer(request(3, outputs=[OutputChoice("OUTPUT__1", binary=False)]))
        assert numbers(response) == {"OUTPUT__1": [9]}
        with pytest.raises(RequestError, match="unexpected inference output 'z' for model 'm'") as caught:
            await world.endpoint.infer(request(3, outputs=[OutputChoice("z", binary=False)]))
        assert caught.value.kind is Kind.INVALID


async def test_a_type_that_is_not_known_before_follows_from_the_answer() -> None:
    outputs = (TensorSpec("a"), TensorSpec("b", "BF16"))
    async with world_of(metadata=Metadata("test", METADATA.inputs, outputs, 8)) as world:
        world.model.outputs = lambda inputs: [inputs[0].astype(np.int8), inputs[0].astype(np.uint16)]
        response = await world.endpoint.infer(request(3))
        assert [tensor.datatype for tensor in response.outputs] == ["INT8", "BF16"]


async def test_with_a_cache_equal_requests_are_asked_once_whatever_outputs_they_want() -> None:
    async with world_of(cache=Cache(1 << 20)) as world:
        both = await world.endpoint.infer(request(3))
        one = await world.endpoint.infer(request(3, outputs=[OutputChoice("square", binary=False)], id="x"))
        assert (numbers(both), numbers(one), one.id) == ({"double": [6], "square": [9]}, {"square": [9]}, "x")
        assert world.model.batches == [[3]]
        assert world.stats == {"success": 2}
        assert (world.endpoint.stats.cache_hits, world.endpoint.stats.cache_misses) == (1, 1)
        world.endpoint.submit(request(3), lambda _: pytest.fail("it is answered although it was cancelled")).cancel()
        await asyncio.sleep(0)
        assert world.stats == {"success": 2, "CANCELED": 1}


async def cost_us(world: World, number: int, at_once: int = 64) -> float:
    """Of a request in a round of such as no other round has."""
    requests = [request(number * at_once + each) for each in range(at_once)]
    waiting, over = at_once, asyncio.get_running_loop().create_future()

    def done(_: object) -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            over.set_result(None)

    began_s = time.perf_counter()
    for each in requests:
        world.endpoint.submit(each, done)
    await over
    return 1e6 * (time.perf_counter() - began_s) / at_once


async def test_a_cache_that_does_not_know_the_answer_costs_less_than_the_request_itself() -> None:
    """Of the best rounds, and by turns: others use this machine, for longer than all rounds of one kind take."""
    async with world_of() as plain, world_of(cache=Cache(64 << 20)) as cached:
        costs = [(await cost_us(plain, number), await cost_us(cached, number)) for number in range(60)]
        plain_us, cached_us = map(min, zip(*costs, strict=True))
        assert cached.endpoint.stats.cache_hits == 0
    assert cached_us - plain_us < plain_us, f"a request costs {plain_us:.1f} us, a miss {cached_us - plain_us:.1f} more"


async def test_sequences_are_kept_in_order() -> None:
    async with world_of(closed=True, sequences=Sequences("m", idle_s=10, most=2)) as world:
        tasks = [
            later(world, n, parameters={"sequence_id": 5, "sequence_start": n == 0, "sequence_end": n == 3})
            for n in range(4)
        ]
        await has_begun(world.model)
        assert world.endpoint.waiting == 3
        world.model.gate.set()
        await asyncio.gather(*tasks)
        assert world.model.batches == [[0], [1], [2], [3]]
        with pytest.raises(RequestError, match="correlation ID"):
            await world.endpoint.infer(request(1))


async def test_sequences_and_several_instances_are_refused() -> None:
    options = Options(policy(), sequences=Sequences("m", idle_s=10, most=2))
    with pytest.raises(BadConfig, match="model 'm' has sequences and 2 instances; give it one instance"):
        Endpoint("m", "1", Loaded(Doubles(), Doubles()), options, Host())


# --- streams


async def streamed(world: World, *values: float, **more: Any) -> list[float]:
    return [numbers(each)["double"][0] async for each in world.endpoint.stream(request(*values, **more))]


async def test_a_decoupled_model_answers_by_a_stream_only() -> None:
    async with world_of(decoupled=True) as world:
        assert world.endpoint.streams is not None
        assert await streamed(world, 3) == [0, 2, 4]
        assert world.endpoint.stats.responses == 3
        with pytest.raises(RequestError, match="use ModelStreamInfer or generate_stream") as caught:
            world.endpoint.submit(request(1), lambda _: None)
        assert caught.value.kind is Kind.UNSUPPORTED
        assert world.stats == {"success": 1, "OTHER": 1}


async def test_any_other_model_streams_its_one_answer() -> None:
    async with world_of() as world:
        assert await streamed(world, 3) == [6]
        assert world.stats == {"success": 1}


async def test_a_stream_that_fails_or_is_left_is_counted_so() -> None:
    async with world_of(decoupled=True) as world:
        with pytest.raises(RequestError, match="too many"):
            await streamed(world, 6)
        async with aclosing(world.endpoint.stream(request(3))) as stream:
            await anext(stream)
            assert world.load.in_flight == 1
        assert world.load.in_flight == 0
        assert world.endpoint.streams is not None
        running = world.endpoint.streams
        await settle(lambda: running.running == 0)
        assert world.stats == {"success": 0, "OTHER": 1, "CANCELED": 1}


async def test_a_model_that_streams_another_number_of_outputs_breaks_its_word() -> None:
    async with world_of(decoupled=True) as world:
        world.model.outputs = lambda inputs: inputs
        with pytest.raises(RequestError, match="gave 1 outputs"):
            await streamed(world, 2)
        assert world.stats == {"success": 0, "BACKEND": 1}


# --- the end


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_closed_endpoint_refuses(decoupled: bool) -> None:
    async with world_of(decoupled=decoupled) as world:
        await world.endpoint.close()
        assert world.model.is_closed
        with pytest.raises(RequestError, match="is being unloaded") as caught:
            await streamed(world, 1)
        assert caught.value.kind is Kind.UNAVAILABLE


class Steps(Host):
    """With endpoints for the steps of ensembles."""

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: dict[str, Endpoint] = {}

    def submit_step(self, step: Step, request: InferRequest, done: Done) -> Any:
        return self.endpoints[step.model].submit(request, done)

    def add(self, name: str, loaded: Loaded, options: Options) -> Endpoint:
        made = self.endpoints[name] = Endpoint(name, "1", loaded, options, self)
        return made


async def test_an_ensemble_is_answered_when_a_model_of_two_of_its_steps_is_unloaded() -> None:
    host, model = Steps(), Doubles(closed=True)
    inner = host.add("m", Loaded(model), Options(policy(max_rows=1)))
    steps = [Step("m", "", {"x": "x"}, {name: name}) for name in ("double", "square")]
    whole = host.add("e", Loaded(), Options(policy(), steps=steps))
    running = asyncio.create_task(inner.infer(request(1)))
    await has_begun(model)
    asked = asyncio.create_task(whole.infer(request(2)))
    await settle(lambda: inner.waiting == 2)
    closing = asyncio.create_task(inner.close())
    with pytest.raises(RequestError, match="in step 'm': the model is being unloaded"):
        await asyncio.wait_for(asked, LONG_S)
    model.gate.set()
    await asyncio.gather(running, closing)
    await whole.close()
    assert (host.load_now.in_flight, whole.in_flight, inner.in_flight) == (0, 0, 0)


async def test_an_ensemble_that_leads_back_to_itself_is_refused() -> None:
    host = Steps()
    whole = host.add("e", Loaded(), Options(policy(), steps=[Step("e", "", {"x": "x"}, {"double": "double"})]))
    with pytest.raises(RequestError, match="does one lead back to itself") as caught:
        await asyncio.wait_for(whole.infer(request(1)), LONG_S)
    assert (caught.value.kind, host.load_now.in_flight) == (Kind.INVALID, 0)
    await whole.close()


@pytest.mark.parametrize("priority", [0, 1, 3])
async def test_the_steps_of_an_ensemble_have_the_priority_of_the_request(priority: int) -> None:
    class Noted(Steps):
        def submit_step(self, step: Step, request: InferRequest, done: Done) -> Any:
            assert request.priority == priority
            return super().submit_step(step, request, done)

    host = Noted()
    inner = host.add("m", Loaded(Doubles()), Options(policy()))
    steps = [Step("m", "", {"x": "x"}, {name: name for name in ("double", "square")})]
    whole = host.add("e", Loaded(), Options(policy(), steps=steps))
    assert numbers(await asyncio.wait_for(whole.infer(request(2, priority=priority)), LONG_S))["double"] == [4]
    await asyncio.gather(whole.close(), inner.close())


async def test_outputs_that_the_model_learns_with_its_first_answer_are_told_from_then_on() -> None:
    async with world_of(metadata=Metadata("t", METADATA.inputs, (), 8)) as world:
        learned = Metadata("t", METADATA.inputs, (TensorSpec("score", "BF16", (-1, 1)),), 8)

        def outputs(inputs: Rows) -> Rows:
            world.loaded.metadata = learned
            return [inputs[0].astype(np.uint16)]

        world.model.outputs = outputs
        for _ in range(2):
            (output,) = (await world.endpoint.infer(request(1))).outputs
            assert (output.name, output.datatype) == ("score", "BF16")
        chosen = await world.endpoint.infer(request(1, outputs=[OutputChoice("score", True)]))
        assert [output.name for output in chosen.outputs] == ["score"]
