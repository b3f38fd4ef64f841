"""What is kept, what is the same request, and that it never takes more than it may."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slipway_runtime.engine.cache import Cache
from slipway_runtime.tensors import Array, Parameter, Rows

MIB = 1 << 20


def rows(*values: object) -> Rows:
    return [value if isinstance(value, np.ndarray) else np.array(value) for value in values]


def strings(*values: bytes) -> Array:
    return np.array(values, dtype=object)


X = np.arange(6, dtype=np.float32)
DIFFERENT: list[tuple[str, Rows, dict[str, Parameter]]] = [
    ("itself", rows(X), {}),
    ("another value", rows(X + 1), {}),
    ("another type with the same bytes", rows(X.view(np.int32)), {}),
    ("bytes", rows(X.view(np.uint8)), {}),
    ("another shape", rows(X.reshape(2, 3)), {}),
    ("yet another shape", rows(X.reshape(3, 2)), {}),
    ("two inputs", rows(X[:3], X[3:]), {}),
    ("two inputs, cut elsewhere", rows(X[:2], X[2:]), {}),
    ("the other way round", rows(X[3:], X[:3]), {}),
    ("transposed", rows(X.reshape(2, 3).T), {}),
    ("a parameter", rows(X), {"p": 1}),
    ("another parameter", rows(X), {"p": 2}),
    ("a parameter of another type", rows(X), {"p": "1"}),
    ("strings", rows(strings(b"ab", b"c")), {}),
    ("strings, cut elsewhere", rows(strings(b"a", b"bc")), {}),
    ("one string", rows(strings(b"abc")), {}),
    ("nothing", rows(X[:0]), {}),
    ("nothing, of another shape", rows(X[:0].reshape(0, 3)), {}),
    ("a scalar", rows(np.float32(1)), {}),
]


def test_different_requests_have_different_keys() -> None:
    cache = Cache(MIB)
    keys = {cache.key(inputs, parameters): what for what, inputs, parameters in DIFFERENT}
    assert list(keys.values()) == [what for what, _, _ in DIFFERENT]


@pytest.mark.parametrize(("inputs", "parameters"), [(i, p) for _, i, p in DIFFERENT], ids=[w for w, _, _ in DIFFERENT])
def test_equal_requests_have_the_same_key(inputs: Rows, parameters: dict[str, Parameter]) -> None:
    cache = Cache(MIB)
    again = [data.copy(order="F") for data in inputs]
    assert cache.key(inputs, parameters) == cache.key(again, dict(reversed(parameters.items())))


def test_the_order_of_parameters_does_not_matter() -> None:
    cache = Cache(MIB)
    assert cache.key(rows(X), {"a": 1, "b": 2}) == cache.key(rows(X), {"b": 2, "a": 1})


def test_each_cache_hashes_in_its_own_way() -> None:
    assert Cache(MIB).key(rows(X), {}) != Cache(MIB).key(rows(X), {})


@given(arrays.arrays(np.int16, arrays.array_shapes(max_dims=3, max_side=4)), st.data())
def test_one_changed_element_changes_the_key(data: Array, choose: st.DataObject) -> None:
    cache, other = Cache(MIB), data.copy()
    other.flat[choose.draw(st.integers(0, data.size - 1))] ^= 1
    assert cache.key([data], {}) != cache.key([other], {})


def test_what_is_kept_is_a_copy_and_not_the_whole_batch() -> None:
    cache, batch = Cache(MIB), np.zeros((64, 1000))
    cache.put(b"k", [batch[3:4]])
    batch[:] = 1
    (kept,) = cache.get(b"k") or []
    assert (kept == 0).all()
    assert kept.base is None
    assert cache.get(b"other") is None


def test_the_one_not_asked_for_longest_goes_first() -> None:
    cache = Cache(5000)
    for key in (b"a", b"b", b"c"):
        cache.put(key, rows(np.zeros(120)))
    assert len(cache) == 3
    cache.get(b"a")
    cache.put(b"d", rows(np.zeros(120)))
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert (len(cache), cache.evictions) == (3, 1)
    cache.clear()
    assert (len(cache), cache.size_bytes, cache.get(b"a")) == (0, 0, None)


def test_what_is_larger_than_the_cache_is_not_kept_and_throws_nothing_out() -> None:
    cache = Cache(5000)
    cache.put(b"a", rows(X))
    cache.put(b"large", rows(np.zeros(1000)))
    cache.put(b"long", rows(strings(b"x" * 5000)))
    assert (len(cache), cache.evictions) == (1, 0)


def test_a_second_answer_for_the_same_key_is_not_counted_twice() -> None:
    cache = Cache(5000)
    cache.put(b"a", rows(X))
    before = cache.size_bytes
    cache.put(b"a", rows(X))
    assert cache.size_bytes == before


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(lambda: rows(np.zeros(1)), id="small"),
        pytest.param(lambda: rows(*[np.zeros((1, 4, 4)) for _ in range(8)]), id="many arrays"),
        pytest.param(lambda: rows(np.zeros(3000)), id="large"),
        pytest.param(lambda: rows(np.array([bytes([n]) * 50 for n in range(20)], object)), id="strings"),
    ],
)
def test_the_bound_is_of_real_memory(outputs: object) -> None:
    assert callable(outputs)
    cache, most = Cache(MIB), MIB
    tracemalloc.start()
    try:
        for n in range(4000):
            cache.put(n.to_bytes(16, "little"), outputs())
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.evictions > 0
    assert cache.size_bytes <= most
    assert 0.5 * most < used < 1.2 * most
