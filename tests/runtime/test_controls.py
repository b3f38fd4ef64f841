"""Control inputs of sequences are filled in by a runner around the model's own."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from slipway_runtime.engine.job import Call
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.models.call import OwnCall, WithControls
from slipway_runtime.models.config import Control
from slipway_runtime.tensors import Parameter, Rows


class Echo:
    """As a GPU's runner: with all that a runner may have."""

    may_run_inline = False
    broken = "the GPU is lost"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [list(call.inputs) for call in batch]

    def stream(self, call: Call) -> Iterator[Rows]:
        yield list(call.inputs)

    def attach(self) -> None:
        self.told.append("attach")

    def probe(self, call: OwnCall) -> None:
        self.told.append(call)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("datatype", "wrong"), [("INT32", 1 << 40), ("UINT64", (1 << 64) + 1), ("INT64", 1 << 63), ("BYTES", "\ud800")]
)
def test_a_sequence_id_that_does_not_fit_fails_its_own_request_only(datatype: str, wrong: Parameter) -> None:
    runner = WithControls(Echo(), [Control("c", "CORRID", datatype)], batched=True)
    good, bad, last = runner.run([OwnCall([], 1, {"sequence_id": number}) for number in (7, wrong, 8)])
    assert isinstance(bad, RequestError)
    assert (bad.kind, "sequence_id" in bad.message) == (Kind.INVALID, True)
    values = [answer[0].reshape(-1).tolist() for answer in (good, last) if not isinstance(answer, RequestError)]
    assert values == ([[b"7"], [b"8"]] if datatype == "BYTES" else [[7], [8]])
    (alone,) = runner.run([OwnCall([], 1, {"sequence_id": wrong})])
    assert isinstance(alone, RequestError)


def test_a_runner_with_control_inputs_passes_on_what_its_own_may_do() -> None:
    echo = Echo()
    runner = WithControls(echo, [Control("ready", "READY", "INT32", off=0, on=1)], batched=True)
    runner.attach()
    runner.probe(OwnCall([]))
    attached, probed = echo.told
    assert (attached, probed.inputs, runner.broken) == ("attach", [np.full((1, 1), 1)], "the GPU is lost")
    assert not hasattr(runner, "pid")
