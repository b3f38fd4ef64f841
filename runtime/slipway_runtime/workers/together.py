"""The service of one worker, which answers for all of them: ready when all are, figures of all, changes in all."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from slipway_runtime.errors import Failure
from slipway_runtime.metrics import text
from slipway_runtime.service import Service, ServiceOptions, State
from slipway_runtime.versions import Source
from slipway_runtime.workers.crew import Crew
from slipway_runtime.workers.journal import Models
from slipway_runtime.workers.page import Seat
from slipway_runtime.workers.totals import with_value

T = TypeVar("T")


class Together(Service):
    def __init__(self, source: Source, options: ServiceOptions, crew: Crew) -> None:
        super().__init__(source, options)
        self._crew, self._seated = crew, False
        self.load_now = crew.load_now
        crew.load_now.share = self.share

    async def connect(self, made: Mapping[str, Callable[..., Any]]) -> None:
        """`made`: changes that others than the service make."""
        own: dict[str, Callable[..., Any]] = {
            "load": self.load_here,
            "unload": self.unload_here,
            "log": self.log_settings.update,
        }
        asked: dict[str, Callable[[], Any]] = {
            "metrics": self.families,
            "statistics": lambda: self.own_statistics("", ""),
            "models": self._have,
            "ping": lambda: None,
        }
        await self._crew.connect(asked, {**own, **made})

    async def start(self) -> None:
        await super().start()
        await self._crew.join()

    async def _initial(self) -> tuple[list[str], Mapping[str, str | None]]:
        """What the others have by now, when there are any: what lies in the files may be gone, or be new."""
        past = await self._crew.past()
        if past is None:
            return await super()._initial()
        with suppress(Failure):  # of --model the name is learned thereby
            await super()._initial()
        for name, reason in past.models.gone.items():
            self._set_gone(name, reason)
        return past.models.wanted, {name: past.configs.get(name) for name in past.models.loaded}

    def _have(self) -> Models:
        loaded, gone = self._holdings()
        return Models(self._wanted, loaded, gone)

    async def arrive(self) -> None:
        """Take the seat, after `start` and whatever else would hold up requests."""
        self._seated = True
        self._sit()
        await self._crew.loaded()

    # --- what others than we know

    @property
    def state(self) -> State:
        own, seats = super().state, self._crew.seats()
        if Seat.LOST in seats:
            return State.FAILED
        if own is State.READY and (Seat.LOADING in seats or Seat.DRAINING in seats):
            return State.LOADING
        return own

    def is_ready(self) -> bool:
        return super().is_ready() and Seat.PARTLY not in self._crew.seats()

    async def statistics(self, name: str, version: str) -> list[dict[str, Any]]:
        own = self.own_statistics(name, version)
        of_all = {(row["name"], row["version"]): row for row in await self._crew.statistics()}
        return [of_all.get((row["name"], row["version"]), row) for row in own]

    async def metrics(self) -> bytes:
        # Readiness is that of all: who is started again does not say it, and /v2/health/ready must not differ.
        return text(with_value(await self._crew.metrics(), "slipway_runtime_ready", float(self.is_ready())))

    def load_report(self) -> dict[str, float]:
        return self._crew.load_report(self.share()).report()

    # --- changes

    async def everywhere(self, what: str, arguments: Sequence[Any], here: Callable[..., T]) -> T:
        result: T = await self._crew.change(what, arguments)
        return result

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._check_control(f"load '{name}'")
        await self._crew.change("load", [name, parameters.get("config")])

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._check_control(f"unload '{name}'")
        await self._crew.change("unload", [name])

    async def load_here(self, name: str, config: str | None) -> None:
        await super().load_here(name, config)
        self._sit()

    async def unload_here(self, name: str) -> None:
        await super().unload_here(name)
        self._sit()

    def _sit(self) -> None:
        """Say whether all that was asked for at the start is there."""
        if self._seated and self._state is State.READY:
            self._crew.sit(ready=self._has_all())
