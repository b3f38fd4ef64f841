"""One version of a model, before and after it is an endpoint, and where versions come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from slipway_runtime.engine.endpoint import Endpoint, Loaded, Options
from slipway_runtime.tensors import Metadata


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One version as it comes from disk. `close` gives back what loading took, after its runners are closed."""

    version: str
    model: Loaded
    options: Callable[[], Options]
    config: Callable[[], dict[str, Any]]
    labels: Mapping[str, list[str]]
    close: Callable[[], None]
    needs: Sequence[str] = ()
    """Models that an ensemble is made of: they are loaded with it."""


class Source(Protocol):
    """Where models come from. All may block: they are called on a thread of their own."""

    def initial(self) -> list[str]:
        """Those to be loaded at the start. Raises Failure."""

    def names(self) -> list[str]:
        """All that could be loaded."""

    def load(self, name: str, config: str | None) -> list[LoadedVersion]:
        """The versions that the model's policy wants, warmed up. `config` (JSON) is taken for the one on disk.

        Raises:
            Failure: with the sentence that says why not.
        """


@dataclass(eq=False, slots=True)
class Version:
    """What the protocols call an entry: an endpoint with what is told of it."""

    endpoint: Endpoint
    config: Callable[[], dict[str, Any]]
    class_labels: Mapping[str, list[str]]
    release: Callable[[], None]

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def version(self) -> str:
        return self.endpoint.version

    @property
    def metadata(self) -> Metadata:
        return self.endpoint.metadata

    @property
    def decoupled(self) -> bool:
        return self.endpoint.streams is not None

    @property
    def config_json(self) -> dict[str, Any]:
        return self.config()

    def labels(self, output: str) -> list[str] | None:
        return self.class_labels.get(output)
