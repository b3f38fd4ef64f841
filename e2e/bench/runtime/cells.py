"""What is measured: cells, the choice among them, and the figures of one."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from e2e.bench.runtime.messages import Protocol
from e2e.bench.runtime.servers import SERVERS, Server

MODELS = ("tiny", "mlp512", "img", "identity")
PROTOCOLS: tuple[Protocol, ...] = ("json", "bin", "grpc")
CLIENTS = (1, 8, 64)
ECHO = "(nothing)"
"""The server that does nothing: what the load generator can do."""


@dataclass(frozen=True, slots=True)
class Cell:
    model: str
    protocol: Protocol
    clients: int
    """0: open loop, at half the rate that this server does with 64 clients."""


@dataclass(frozen=True, slots=True)
class Figures:
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of the server's processes, per request."""
    rss_mib: float
    generator_pct: float
    """CPU of the load generator, of one core, more than which it cannot use."""
    others_pct: float
    """CPU of one core that neither the server nor we used."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A server in one of its variants."""

    name: str
    variant: str = ""

    @classmethod
    def of(cls, server: Server) -> "Subject":
        return cls(server.name, server.variant)


def cells(model: str, protocol: Protocol) -> Iterator[Cell]:
    # Megabytes of JSON take tens to hundreds of milliseconds of CPU: one client shows it, more would only queue.
    is_large = model in ("img", "identity") and protocol == "json"
    yield from (Cell(model, protocol, clients) for clients in ((1,) if is_large else CLIENTS))
    if model == "tiny" and protocol == "json":
        yield Cell(model, protocol, 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of it all: words of one kind are alternatives, and a kind without a word is not narrowed.

    `tiny json c8 slipway triton` is one cell of two servers.
    """

    words: frozenset[str] = frozenset()

    @classmethod
    def read(cls, text: str) -> "Choice":
        """Raises ValueError for a word that is neither a server, a model, a protocol, nor c1, c8, c64 or open."""
        words = frozenset(text.replace(",", " ").split())
        if unknown := words - {*_SERVERS, *MODELS, *PROTOCOLS, *_CLIENTS}:
            allowed = " ".join([*_SERVERS, *MODELS, *PROTOCOLS, *_CLIENTS])
            raise ValueError(f"ONLY has {' '.join(sorted(unknown))}, may have: {allowed}")
        return cls(words)

    def servers(self) -> list[Server]:
        return [server for server in SERVERS if self._has(server.name, _SERVERS)]

    def models(self) -> list[str]:
        return [model for model in MODELS if self._has(model, MODELS)]

    def cells(self, model: str, protocols: Collection[Protocol] = PROTOCOLS) -> list[Cell]:
        chosen = [protocol for protocol in protocols if self._has(protocol, PROTOCOLS)]
        every = [cell for protocol in chosen for cell in cells(model, protocol)]
        return [cell for cell in every if self._has(f"c{cell.clients}" if cell.clients else "open", _CLIENTS)]

    def _has(self, word: str, kind: Collection[str]) -> bool:
        return word in self.words or self.words.isdisjoint(kind)


_SERVERS = tuple(dict.fromkeys(server.name for server in SERVERS))
_CLIENTS = (*(f"c{clients}" for clients in CLIENTS), "open")
