"""One message of a model config, read field by field: wrong types and unknown fields become sentences. Pure.

The messages come from JSON or from protobuf text by way of JSON, so 64-bit numbers may be decimal strings, and a
field that is missing has its default.
"""

from collections.abc import Iterable, Mapping
from typing import Any

LARGEST = (1 << 63) - 1


class Fields:
    """`where` is the message's place in the config, "" at the top. A field that was never asked for is unknown."""

    def __init__(self, raw: Any, where: str = "") -> None:
        if not isinstance(raw, dict):
            raise TypeError(f"{where or 'the config'} is a {type(raw).__name__}, must be an object with named fields")
        self._raw: dict[str, Any] = raw
        self._known: set[str] = set()
        self.where = where

    def path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str) -> Any:
        self._known.add(key)
        return self._raw.get(key)

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise TypeError(f"{self.path(key)} must be a string")
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if value not in (None, True, False) or isinstance(value, int | float) is not isinstance(value, bool):
            raise TypeError(f"{self.path(key)} is {value!r}, must be true or false")
        return bool(value)

    def whole(self, key: str, *, low: int = 0, high: int = LARGEST, default: int = 0) -> int:
        value = self.get(key)
        return default if value is None else whole(value, self.path(key), low=low, high=high)

    def wholes(self, key: str, *, low: int = 0) -> tuple[int, ...]:
        value = self.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise TypeError(f"{self.path(key)} must be a list of numbers")
        return tuple(whole(item, self.path(key), low=low) for item in value)

    def choice(self, key: str, words: Iterable[str], default: str) -> str:
        value = self.get(key)
        if value is None:
            return default
        if value not in (allowed := tuple(words)):
            raise ValueError(f"{self.path(key)} is {value!r}, must be one of {', '.join(allowed)}")
        return str(value)

    def child(self, key: str) -> "Fields | None":
        value = self.get(key)
        return None if value is None else Fields(value, self.path(key))

    def children(self, key: str) -> "list[Fields]":
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise TypeError(f"{self.path(key)} must be a list")
        return [Fields(item, f"{self.path(key)}[{index}]") for index, item in enumerate(value)]

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise TypeError(f"{self.path(key)} must be an object with named fields")
        return value

    def texts(self, key: str) -> dict[str, str]:
        value = self.mapping(key)
        if not all(isinstance(item, str) for item in value.values()):
            raise TypeError(f"{self.path(key)} must map names to names")
        return dict(value)

    def refuse(self, *keys: str, why: str = "which is not supported") -> None:
        """Fields that would change answers if they were ignored. Set to their defaults they change nothing."""
        given = [key for key in keys if self.get(key) not in (None, False, 0, "", [], {})]
        if given:
            raise ValueError(f"{self.where or 'it'} has {', '.join(given)}, {why}")

    def ignore(self, *keys: str) -> tuple[str, ...]:
        """Those of `keys` that are set, by their paths; they make no difference to answers."""
        return tuple(self.path(key) for key in keys if self.get(key) not in (None, False, 0, "", [], {}))

    def end(self, of: str = "model config") -> None:
        """No field is left that nobody asked for. `of` is what they are fields of."""
        if unknown := sorted(map(str, self._raw.keys() - self._known)):
            raise ValueError(f"{self.where or 'it'} has {', '.join(map(repr, unknown))}, which no {of} has")


def whole(value: Any, where: str, *, low: int, high: int = LARGEST) -> int:
    number = int(value) if isinstance(value, str) and value.removeprefix("-").isdecimal() else value
    if type(number) is not int or number < low:
        raise TypeError(f"{where} is {value!r}, must be a whole number >= {low}")
    if number > high:
        raise ValueError(f"{where} is {value!r}, must be at most {high}")
    return number
