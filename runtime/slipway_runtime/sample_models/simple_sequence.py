"""OUTPUT = the sum of all INPUT of the same sequence so far."""

from typing import Any

from slipway_runtime.models.python_model import Batch, Context
from slipway_runtime.tensors import Parameter


class Model:
    def load(self, context: Context) -> None:
        del context
        self.sums: dict[Parameter, int] = {}

    def infer(self, batch: Batch) -> dict[str, Any]:
        sums = batch["INPUT"].copy()
        for request in batch.requests:
            sequence = request.parameters.get("sequence_id", 0)
            if batch["START"][request.rows].any():
                self.sums[sequence] = 0
            if sequence not in self.sums:
                request.fail(f"sequence {sequence} was not started, or was idle for too long")
                continue
            # Round and round, as numbers of 32 bits do: load generators send any.
            self.sums[sequence] = (self.sums[sequence] + int(sums[request.rows].sum()) + 2**31) % 2**32 - 2**31
            sums[request.rows] = self.sums[sequence]
            if request.parameters.get("sequence_end"):
                self.forget(sequence)
        return {"OUTPUT": sums}

    def forget(self, sequence: Parameter) -> None:
        self.sums.pop(sequence, None)
