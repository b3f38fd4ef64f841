"""The top classes of an output as texts: "value:index" or "value:index:label". Pure.

    [0.1, 0.7, 0.2], 2 classes, labels cat, dog, bird      →  b"0.700000:1:dog", b"0.200000:2:bird"

Values are written with six digits after the point, as Triton writes them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from slipway_runtime.errors import invalid
from slipway_runtime.protocol.api import Entry
from slipway_runtime.tensors import Array, OutputChoice, Tensor, numbers_of, texts_array


def as_classes(tensor: Tensor, choice: OutputChoice, entry: Entry | None) -> Tensor:
    labels = entry.labels(tensor.name) if entry is not None else None
    return classified(tensor, choice.classes, labels, batched=entry is not None and entry.metadata.max_batch > 0)


def classified(tensor: Tensor, classes: int, labels: Sequence[str] | None, *, batched: bool) -> Tensor:
    """The tensor [k] of the top `classes`, or [batch, k] for a model that batches. The first of equals comes first.

    Raises:
        RequestError: INVALID, when the output's datatype has no order.
    """
    data = _ordered(tensor)
    batch = data.shape[0] if batched and data.ndim else 1
    rows = data.reshape(batch, -1)
    # Of the reversed values, because a stable sort that is then turned round would put the last of equals first.
    order = rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    top = order[:, :classes]
    texts = [_text(row[index], int(index), labels) for row, best in zip(rows, top, strict=True) for index in best]
    return Tensor(tensor.name, "BYTES", texts_array(texts, top.shape if batched else (top.shape[1],)))


def _ordered(tensor: Tensor) -> Array:
    if tensor.datatype in ("BOOL", "BYTES"):
        raise invalid(f"output '{tensor.name}' is {tensor.datatype}, which has no classes; ask for its values")
    return numbers_of(tensor)


def _text(value: Any, index: int, labels: Sequence[str] | None) -> bytes:
    number = f"{value:.6f}" if isinstance(value, np.floating) else str(value)
    label = f":{labels[index]}" if labels and index < len(labels) else ""
    return f"{number}:{index}{label}".encode()
