"""Calls that the server makes itself: to warm a model up, and with the control inputs of a sequence added."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slipway_runtime.engine.job import Call, Runner
from slipway_runtime.errors import RequestError, invalid
from slipway_runtime.models.config import Control
from slipway_runtime.tensors import DTYPES, Array, Parameter, Rows


@dataclass(slots=True)
class OwnCall:
    inputs: Rows
    rows: int = 1
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


class WithControls:
    """A runner whose model takes control inputs, which follow its own: they are filled from the parameters here.

    `sequence_start` and `sequence_end` tell START and END, READY is always on since empty places are not sent, CORRID
    is `sequence_id`.
    """

    may_run_inline = False

    def __init__(self, runner: Runner, controls: Sequence[Control], *, batched: bool) -> None:
        self._runner = runner
        self._controls = tuple(controls)
        self._batched = batched

    def __getattr__(self, name: str) -> Any:
        if name not in ("attach", "probe", "broken", "spent"):  # what a runner may have and this one has not
            raise AttributeError(name)
        own = getattr(self._runner, name)
        return own if name != "probe" else lambda call: own(self._with(call))

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        given: list[Call] = []
        answers: list[Rows | RequestError | None] = []
        for call in batch:
            try:
                given.append(self._with(call))
            except RequestError as error:
                answers.append(error)
            else:
                answers.append(None)
        ran = iter(self._runner.run(given) if given else ())
        return [next(ran) if answer is None else answer for answer in answers]

    def stream(self, call: Call) -> Iterator[Rows]:
        return self._runner.stream(self._with(call))

    def forget(self, sequence: Parameter) -> None:
        if forget := getattr(self._runner, "forget", None):
            forget(sequence)

    def close(self) -> None:
        self._runner.close()

    def _with(self, call: Call) -> Call:
        shape = (call.rows, 1) if self._batched else (1,)
        extra = [_control(control, call.parameters, shape) for control in self._controls]
        return OwnCall([*call.inputs, *extra], call.rows, call.parameters)


def _control(control: Control, parameters: Mapping[str, Parameter], shape: tuple[int, ...]) -> Array:
    if control.kind == "CORRID":
        identity = parameters.get("sequence_id", 0)
        try:
            if control.datatype == "BYTES":
                return np.full(shape, str(identity).encode(), object)
            # A name where the model wants a number: 0, as Triton has it for a request outside of any sequence.
            return np.full(shape, identity if isinstance(identity, int) else 0, DTYPES[control.datatype])
        except (OverflowError, UnicodeEncodeError) as error:
            raise invalid(f"sequence_id {identity!r} does not fit into {control.datatype}, send another") from error
    flags = {"START": "sequence_start", "END": "sequence_end"}
    on = control.kind == "READY" or bool(parameters.get(flags[control.kind]))
    return np.full(shape, control.on if on else control.off, DTYPES[control.datatype])
