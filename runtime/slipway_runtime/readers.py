"""Readers of settings' texts, each with the words for what it takes. They raise ValueError for anything else. Pure."""

import math
from collections.abc import Callable


def whole(low: int, high: int) -> tuple[Callable[[str], int], str]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read, f"a whole number from {low} to {high}"


def seconds(low: float, high: float) -> tuple[Callable[[str], float], str]:
    def read(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError
        return value

    return read, f"a number of seconds from {low:g} to {high:g}"


def one_of(*words: str) -> tuple[Callable[[str], str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return read, f"one of {', '.join(words)}"


def flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def weights(text: str) -> dict[str, int]:
    weights = {}
    for pair in words(text):
        name, _, weight = pair.rpartition("=")
        weights[name] = int(weight)
        if not name or not 1 <= weights[name] <= 1000:
            raise ValueError
    return weights


def name(text: str) -> str:
    if "/" in text or len(text) > 253 or not text.isprintable():
        raise ValueError
    return text
