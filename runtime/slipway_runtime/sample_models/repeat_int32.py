"""A stream: every number of IN as OUT with its place as IDX, each after DELAY milliseconds; it ends WAIT later."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from slipway_runtime.models.python_model import Batch


class Model:
    async def infer(self, batch: Batch) -> AsyncIterator[dict[str, Any]]:
        for index, (number, delay) in enumerate(zip(batch["IN"], batch["DELAY"], strict=True)):
            await asyncio.sleep(float(delay) / 1000)
            yield {"OUT": [number], "IDX": [index]}
        await asyncio.sleep(float(batch["WAIT"][0]) / 1000)
