"""What several workers say, as what one server says: counters add up, other figures by what they mean. Pure.

A worker that is gone still counts for what it had counted, and so does a model that was loaded again, or counters would
fall, which every reader of them takes for a restart of all. Gauges are gone with who had them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from slipway_runtime.metrics import Family

JsonObject = dict[str, Any]

# These do not add up.
_LEAST = ("process_start_time_seconds",)
_MOST = ("slipway_runtime_load_seconds",)
_OF_THE_MACHINE = "nv_gpu_"  # every worker tells the same
_GROWING = ("counter", "histogram")


def families(said: Iterable[Sequence[Family]]) -> list[Family]:
    """Metrics of all together, in the order of the first that has each."""
    heads: dict[str, tuple[str, str]] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for name, kind, about, samples in (family for one in said for family in one):
        heads.setdefault(name, (kind, about))
        found = values.setdefault(name, {})
        for suffix, labels, value in samples:
            key = suffix, tuple(labels.items())
            found[key] = _together(name, found[key], value) if key in found else value
    return [
        (name, kind, about, [(suffix, dict(labels), value) for (suffix, labels), value in values[name].items()])
        for name, (kind, about) in heads.items()
    ]


def _together(name: str, one: float, other: float) -> float:
    if name in _LEAST:
        return min(one, other)
    if name in _MOST or name.startswith(_OF_THE_MACHINE):
        return max(one, other)
    return one + other


def growing(said: Sequence[Family]) -> list[Family]:
    """What is left of a worker that is gone."""
    return [family for family in said if family[1] in _GROWING]


def fallen(before: Sequence[Family], now: Sequence[Family]) -> list[Family]:
    """What a worker had counted of models that it counts anew: of each all or nothing, or buckets would not fit."""
    values = {
        (name, suffix, *labels.items()): value for name, _, _, samples in now for suffix, labels, value in samples
    }
    anew = {
        _model(labels)
        for name, _, _, samples in growing(before)
        for suffix, labels, value in samples
        if values.get((name, suffix, *labels.items()), 0) < value
    }
    return _of_models(growing(before), anew)


def with_gone(living: Sequence[Family], gone: Sequence[Family]) -> list[Family]:
    """What was counted of models that there are still."""
    known = {_model(labels) for _, _, _, samples in living for _, labels, _ in samples}
    return families([living, _of_models(gone, known)])


def _model(labels: dict[str, str]) -> tuple[str, str]:
    return labels.get("model", ""), labels.get("version", "")


def _of_models(said: Sequence[Family], models: set[tuple[str, str]]) -> list[Family]:
    return [
        (name, kind, about, [sample for sample in samples if _model(sample[1]) in models])
        for name, kind, about, samples in said
    ]


def with_value(said: Sequence[Family], name: str, value: float) -> list[Family]:
    """With another value for a figure that has no labels."""
    return [(each, kind, about, [("", {}, value)] if each == name else rows) for each, kind, about, rows in said]


def statistics(said: Iterable[Sequence[JsonObject]]) -> dict[tuple[str, str], JsonObject]:
    """Triton's ModelStatistics of all together, by model and version."""
    found: dict[tuple[str, str], JsonObject] = {}
    for row in (row for rows in said for row in rows):
        key = row["name"], row["version"]
        found[key] = _added(found[key], row) if key in found else row
    return found


def fallen_statistics(before: Sequence[JsonObject], now: Sequence[JsonObject]) -> list[JsonObject]:
    """As `fallen`."""
    rows = {(row["name"], row["version"]): row for row in now}
    return [row for row in before if _is_anew(row, rows.get((row["name"], row["version"])))]


def _is_anew(before: JsonObject, now: JsonObject | None) -> bool:
    return now is None or any(_is_less(now[name], before[name]) for name in ("inference_count", "inference_stats"))


def _is_less(one: Any, other: Any) -> bool:
    return any(_is_less(one[name], other[name]) for name in other) if isinstance(other, dict) else bool(one < other)


def _added(one: JsonObject, other: JsonObject) -> JsonObject:
    return {name: _sum(name, value, other[name]) for name, value in one.items()}


def _sum(name: str, one: Any, other: Any) -> Any:
    if name == "last_inference":
        return max(one, other)
    if name == "batch_stats":
        sizes = {row["batch_size"]: row for row in one}
        for row in other:
            size = row["batch_size"]
            sizes[size] = _added(sizes[size], row) if size in sizes else row
        return [sizes[size] for size in sorted(sizes)]
    if isinstance(one, dict):
        return _added(one, other)
    if isinstance(one, int) and name != "batch_size":
        return one + other
    return one
