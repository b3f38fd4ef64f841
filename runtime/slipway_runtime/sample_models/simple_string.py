"""OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1, of whole numbers written as text."""

from typing import Any

import numpy as np

from slipway_runtime.models.python_model import Batch

number = np.vectorize(lambda text: int(text or 0), otypes=[np.int64])  # the warm-up sends empty strings


class Model:
    def infer(self, batch: Batch) -> dict[str, Any]:
        a, b = number(batch["INPUT0"]), number(batch["INPUT1"])
        return {"OUTPUT0": np.char.mod("%d", a + b), "OUTPUT1": np.char.mod("%d", a - b)}
