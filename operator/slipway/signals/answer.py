"""What Prometheus answered: one number or why there is none. Pure.

A ratio of nothing is no number (0/0 is NaN, an empty vector is what a filter leaves), and never a good or a bad one.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

STALE_S = 300.0
"""Prometheus' own idea of stale. A cache in between, or clocks far apart, can make an answer older."""
_WORDS_MAX = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A number with its age when it came, or why there is none."""

    value: float | None
    words: str = ""
    age_s: float = 0.0
    failed: bool = False
    """As in Reading."""


class _Lax(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Series(_Lax):
    value: tuple[float, str] | None = None
    """None: a native histogram."""


class _Vector(_Lax):
    kind: Literal["vector"] = Field(alias="resultType")
    result: list[_Series]


class _Scalar(_Lax):
    kind: Literal["scalar"] = Field(alias="resultType")
    result: tuple[float, str]


class _Other(_Lax):
    kind: Literal["matrix", "string"] = Field(alias="resultType")
    result: Any = None


class _Body(_Lax):
    status: Literal["success", "error"]
    data: Annotated[_Vector | _Scalar | _Other, Field(discriminator="kind")] | None = None
    error: str = ""
    warnings: list[str] = []


def read(status: int, body: bytes, now: float) -> Answer:
    """Of the answer to an instant query; `now` is the wall clock's time in epoch seconds."""
    try:
        parsed = _Body.model_validate_json(body)
    except ValidationError:
        return _failed(_refusal(status) or f"what answers at its address is not Prometheus (code {status})")
    if parsed.status == "error":
        return _failed(_refusal(status) or f"Prometheus cannot answer: {_short(parsed.error)}")
    if status != 200 or parsed.data is None:
        return _failed(_refusal(status) or f"Prometheus answers with code {status} and no data")
    if parsed.warnings:
        return _failed(f"Prometheus warns of its answer: {_short(parsed.warnings[0])}")
    return _one(parsed.data, now)


def _one(data: _Vector | _Scalar | _Other, now: float) -> Answer:
    match data:
        case _Scalar(result=(at, text)) | _Vector(result=[_Series(value=(at, text))]):
            return _number(at, text, now)
        case _Vector(result=[]):
            return Answer(None, "no series: nothing was measured")
        case _Vector(result=[_]):
            return _failed("the answer is a histogram: take a quantile, sum or count of it")
        case _Vector(result=several):
            return _failed(f"{len(several)} series: make one number of them, by sum(...) for instance")
        case other:
            return _failed(f"the answer is a {other.kind} and not a number")


def _number(at: float, text: str, now: float) -> Answer:
    try:
        value = float(text)
    except ValueError:
        return _failed(f"{_short(text)} is not a number")
    age_s = now - at
    if not abs(age_s) <= STALE_S:
        return _failed(f"the answer is of {age_s:.0f} s ago: is a clock wrong?")
    if not math.isfinite(value):
        return Answer(None, f"{text}: nothing was measured to divide by")
    return Answer(value, "", max(0.0, age_s))


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"Prometheus does not let Slipway in (code {status}): see prometheus.secretName of the chart"
    if 300 <= status < 400:
        return f"Prometheus is elsewhere (code {status}): set prometheus.url of the chart to where it leads"
    if status == 429 or status >= 500:
        return f"Prometheus answers with code {status}"
    return ""


def _failed(words: str) -> Answer:
    return Answer(None, words, failed=True)


def _short(text: str) -> str:
    return text if len(text) <= _WORDS_MAX else f"{text[: _WORDS_MAX - 1]}…"
