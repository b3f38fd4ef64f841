"""Classes as texts, the way Triton writes them."""

from typing import Any

import numpy as np
import pytest

from slipway_runtime.errors import RequestError
from slipway_runtime.protocol.classification import classified
from slipway_runtime.tensors import DTYPES, Tensor


def classes(data: Any, datatype: str, count: int, labels: list[str] | None = None, *, batched: bool = False) -> Any:
    return classified(
        Tensor("y", datatype, np.array(data, DTYPES[datatype])), count, labels, batched=batched
    ).data.tolist()


def test_the_best_come_first_and_equals_in_their_order() -> None:
    assert classes([1, 3, 3, 2], "INT32", 3) == [b"3:1", b"3:2", b"2:3"]


def test_floats_have_six_digits() -> None:
    assert classes([0.1, 2.5e-7], "FP32", 1) == [b"0.100000:0"]
    assert classes([1e10], "FP64", 1) == [b"10000000000.000000:0"]


def test_labels_are_added_where_there_are_any() -> None:
    assert classes([1, 2, 3], "UINT8", 2, ["a", "b"]) == [b"3:2", b"2:1:b"]


def test_each_row_of_a_batch_has_its_own() -> None:
    assert classes([[1, 2], [4, 3]], "INT8", 1, batched=True) == [[b"2:1"], [b"4:0"]]
    assert classes([[1, 2], [4, 3]], "INT8", 1) == [b"4:2"]


def test_more_classes_than_there_are_is_all_of_them() -> None:
    assert classes([1, 2], "INT64", 9) == [b"2:1", b"1:0"]
    assert classes([], "FP32", 9) == []


def test_bf16_is_ordered_by_value_not_by_bits() -> None:
    bits = (np.array([-1, 2, -3], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert classes(bits, "BF16", 2) == [b"2.000000:1", b"-1.000000:0"]


@pytest.mark.parametrize("datatype", ["BOOL"])
def test_what_has_no_order_has_no_classes(datatype: str) -> None:
    with pytest.raises(RequestError, match="BOOL, which has no classes"):
        classes([True], datatype, 1)
