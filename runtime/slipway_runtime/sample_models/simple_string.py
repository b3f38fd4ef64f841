"""OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1, of whole numbers written as text."""

from typing import Any

import numpy as np

from slipway_runtime.models.python_model import Batch


class Model:
    def infer(self, batch: Batch) -> dict[str, Any]:
        a, b = batch["INPUT0"].astype(int), batch["INPUT1"].astype(int)
        return {"OUTPUT0": np.char.mod("%d", a + b), "OUTPUT1": np.char.mod("%d", a - b)}
