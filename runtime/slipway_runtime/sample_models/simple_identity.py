"""OUTPUT0 = INPUT0, of any bytes."""

from typing import Any

from slipway_runtime.models.python_model import Batch


class Model:
    def infer(self, batch: Batch) -> dict[str, Any]:
        return {"OUTPUT0": batch["INPUT0"]}
