"""What a new worker has to catch up with: the models that there are, and the last change of everything else. Pure.

Models are kept as a worker reports them, not as they were asked for: an ensemble brings others along, and leaves them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]
ALL = ""
"""In place of a region's name."""


@dataclass(frozen=True, slots=True)
class Models:
    """Of a worker: what was wanted from the start and not unloaded since, what is loaded, and why the rest is not."""

    wanted: list[str]
    loaded: list[str]
    gone: dict[str, str]


@dataclass(frozen=True, slots=True)
class Past:
    """What a new worker loads in place of what lies in the files: with the config that was given for each model."""

    models: Models
    configs: dict[str, str]


class Journal:
    def __init__(self) -> None:
        self.number = 0
        """Of the last change."""
        self.models: Models | None = None
        """None before anybody has loaded."""
        self._configs: dict[str, str] = {}
        self._touched: dict[str, int] = {}
        self._others: dict[tuple[str, ...], JsonObject] = {}
        self._had_regions = False

    def add(self, change: JsonObject) -> None:
        """Of other things than models."""
        self.number += 1
        what, arguments = change["what"], change["arguments"]
        match what:
            case "register":
                self._keep(("region", arguments[0]), change)
                self._had_regions = True
            case "unregister":
                gone = ("region",) if arguments[0] == ALL else ("region", arguments[0])
                self._others = {key: made for key, made in self._others.items() if key[: len(gone)] != gone}
            case _:
                self._keep((what, *sorted(arguments[1])), change)

    def _keep(self, subject: tuple[str, ...], change: JsonObject) -> None:
        self._others.pop(subject, None)
        self._others[subject] = change

    def add_models(self, change: JsonObject, now: Models, *, was_made: bool) -> None:
        """`now`: after the change, also one that was refused: models that an ensemble needs may have been loaded."""
        self.number += 1
        name, config = change["arguments"][0], [*change["arguments"], None][1]
        before = set(self.models.loaded) if self.models is not None else set[str]()
        for each in [*before.symmetric_difference(now.loaded), *([name] if was_made else [])]:
            self._touched.pop(each, None)
            self._touched[each] = self.number
        if was_made and change["what"] == "load" and config is not None:
            self._configs[name] = config
        elif was_made:
            self._configs.pop(name, None)
        self.models = now

    def past(self) -> Past | None:
        return Past(self.models, self._configs) if self.models is not None else None

    def after(self, number: int) -> list[JsonObject]:
        """For who has the models as they were at `number`; the rest is made from the beginning, which does no harm."""
        return [*self._of_models(number), *self._of_regions(), *self._others.values()]

    def _of_models(self, number: int) -> Iterator[JsonObject]:
        loaded = self.models.loaded if self.models is not None else []
        for name, touched in self._touched.items():
            if touched > number and name in loaded:
                yield {"what": "load", "arguments": [name, self._configs.get(name)]}
            elif touched > number:
                yield {"what": "unload", "arguments": [name]}

    def _of_regions(self) -> list[JsonObject]:
        return [{"what": "unregister", "arguments": [ALL]}] if self._had_regions else []
