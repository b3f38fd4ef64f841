"""Workers that are a link and what is said over it, and the hub that they join."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.metrics import Family
from slipway_runtime.workers.hub import Hub, Member, Patience
from slipway_runtime.workers.journal import Past
from slipway_runtime.workers.link import Link

ONE = {"model": "m", "version": "1"}
MADE: list[tuple[str, list[Any]]] = [
    ("load", ["m", None]),
    ("register", ["r", "/k", 0, 8]),
    ("register", ["s", "/k", 0, 8]),
    ("unload", ["m"]),
    ("unregister", ["r"]),
    ("log", ["", {"log_verbose_level": 1}]),
    ("log", ["", {"log_verbose_level": 0}]),
]


def counted(value: float, **more: str) -> Family:
    return "nv_inference_count", "counter", "Rows", [("", {**ONE, **more}, value)]


def of(families: list[Family], name: str) -> list[float]:
    return [value for each, _, _, samples in families for _, _, value in samples if each == name]


def statistic(count: int, **batches: int) -> dict[str, Any]:
    return {
        "name": "m",
        "version": "1",
        "last_inference": 100 * count,
        "inference_count": count,
        "inference_stats": {"success": {"count": count, "ns": 10 * count}},
        "batch_stats": [
            {"batch_size": int(size[1:]), "compute_infer": {"count": runs, "ns": runs}}
            for size, runs in batches.items()
        ],
        "memory_usage": [],
        "response_stats": {},
    }


async def linked(answer: Callable[[str, Any], Awaitable[Any]]) -> tuple[Link, Link]:
    """Both ends; `answer` is that of the second."""

    async def nobody(what: str, about: Any) -> Any:
        raise RequestError(Kind.UNSUPPORTED, what)

    ours, theirs = socket.socketpair()
    return await Link.over(ours, nobody), await Link.over(theirs, answer)


class Worker:
    """What a worker says and does when it is asked."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.made: list[str] = []
        self.refuses = ""
        self.wanted = ["first"]
        self.loaded: dict[str, None] = {"first": None}
        self.gone: dict[str, str] = {}
        self.brings: dict[str, list[str]] = {}
        self.hears = asyncio.Event()
        self.hears.set()

    async def answer(self, what: str, about: Any) -> Any:
        if what == "metrics":
            return [counted(self.rows), ("slipway_runtime_running_requests", "gauge", "", [("", ONE, 1)])]
        if what == "statistics":
            return [statistic(self.rows)]
        if what == "models":
            return {"wanted": self.wanted, "loaded": list(self.loaded), "gone": self.gone}
        if what == "change":
            await self.hears.wait()
            return self._change(about["what"], about["arguments"])
        return None  # a ping

    def _change(self, what: str, arguments: list[Any]) -> int:
        if what == "load":
            self.loaded |= dict.fromkeys(self.brings.get(arguments[0], []))
        if self.refuses:
            raise RequestError(Kind.INVALID, self.refuses)
        self.made.append(" ".join(map(str, [what, *arguments])))
        if what == "load":
            self.loaded[arguments[0]] = None
        if what == "unload":
            self.loaded.pop(arguments[0], None)
            self.gone[arguments[0]] = "unloaded"
        return self.rows

    def brought_up(self, past: Past | None) -> "Worker":
        """As it loads at the start."""
        if past is not None:
            self.loaded = dict.fromkeys(past.models.loaded)
        return self


class Members:
    def __init__(self, patience: Patience | None = None) -> None:
        self.hub = Hub(patience)
        self.links: list[Link] = []
        self.members: dict[int, Member] = {}
        self.killed: list[int] = []
        self.away: list[bool] = []

    async def connect(self, number: int, worker: Worker) -> Member:
        ours, theirs = await linked(worker.answer)
        self.links += [ours, theirs]

        def kill() -> None:
            self.killed.append(number)
            ours.abort()

        member = self.members[number] = Member(number, ours, kill, self.away.append)
        self.hub.connect(member)
        return member

    async def join(self, number: int, worker: Worker) -> Worker:
        member = await self.connect(number, worker)
        worker.brought_up(self.hub.past(member))
        await self.hub.join(member)
        return worker

    def leave(self, number: int) -> None:
        self.hub.leave(self.members.pop(number))

    async def rows(self) -> list[float]:
        return of(list(await self.hub.metrics()), "nv_inference_count")

    async def close(self) -> None:
        for link in self.links:
            await link.close()
