"""The models of this server: which there are, in which state, loading and unloading them. No sockets, no torch.

server   LOADING ──▶ READY ──▶ DRAINING     live in all of them; ready in READY, while every model that was
            └──▶ FAILED (the process ends)  asked for at the start is; requests are answered in READY and DRAINING
version  LOADING ──▶ READY ──▶ UNLOADING ──▶ UNAVAILABLE      Triton's words for the repository index
            └──▶ UNAVAILABLE (why stands in its reason)
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from slipway_runtime.engine.endpoint import Ask, Done, Endpoint, Load
from slipway_runtime.engine.ensemble import Step
from slipway_runtime.engine.statistics import statistics
from slipway_runtime.errors import Failure, Kind, RequestError, invalid
from slipway_runtime.gpus import gpus
from slipway_runtime.metrics import Exposition, Family, text
from slipway_runtime.share import Share
from slipway_runtime.switches import LogSettings, TraceSettings
from slipway_runtime.tensors import InferRequest, InferResponse
from slipway_runtime.versions import LoadedVersion, Source, Version

log = logging.getLogger("slipway.service")
T = TypeVar("T")
UNLOAD_S = 30.0
"""For what runs and waits when a model is unloaded."""


class State(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(slots=True)
class _Model:
    versions: dict[str, Version] = field(default_factory=dict)
    state: str = "LOADING"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """`explicit`: clients may load and unload."""

    explicit: bool = False
    tracing: bool = False
    log_format: str = "json"


class Service:
    """Must be made inside a running event loop; all methods belong to it."""

    def __init__(self, source: Source, options: ServiceOptions) -> None:
        self._source, self._explicit = source, options.explicit
        self.trace_settings = TraceSettings(enabled=options.tracing)
        self.log_settings = LogSettings(logging.getLogger(), options.log_format)
        self._state = State.LOADING
        self.load_now = Load()
        self.exposition = Exposition()
        self._models: dict[str, _Model] = {}
        self._ready: dict[tuple[str, str], Version] = {}
        self._wanted: list[str] = []
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._changing: dict[str, asyncio.Lock] = {}
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> State:
        if any(entry.endpoint.broken for entry in self._ready.values()):
            return State.FAILED  # a GPU that is lost comes back with a new process only
        return self._state

    # --- the server's side

    async def start(self) -> None:
        """Load what the source wants; one that fails does not take the others down.

        Raises:
            Failure: why none could be loaded.
        """
        failures: list[Failure] = []
        try:
            self._wanted, configs = await self._initial()
            for name in dict.fromkeys([*self._wanted, *configs]):
                if name not in self._models or not self._models[name].versions:  # an ensemble has brought it along
                    failed = await self._try_to_load(name, configs.get(name))
                    failures += failed if name in self._wanted else []
        except Failure as failure:
            failures.append(failure)
        if failures and len(failures) >= len(self._wanted):
            self._state = State.FAILED
            raise failures[0]
        self._state = State.READY
        self.exposition.ready = self.is_ready()

    async def _initial(self) -> tuple[list[str], Mapping[str, str | None]]:
        """What is wanted from the start; and configs that are given for models, also others. Raises Failure."""
        return await self._on_loader(self._source.initial), {}

    async def _try_to_load(self, name: str, config: str | None) -> list[Failure]:
        try:
            await self._load(name, config)
        except Failure as failure:
            log.error("a model could not be loaded", extra={"f": {"model": name, "reason": str(failure)}})  # noqa: TRY400
            return [failure]
        return []

    def set_draining(self) -> None:
        self._state = State.DRAINING
        self.exposition.ready = False

    @property
    def in_flight(self) -> int:
        return self.load_now.in_flight

    async def close(self) -> None:
        while self._ready or self._changes:
            entries = set(self._ready.values())
            self._ready.clear()
            # Side by side: one that does not end is not to keep the others.
            await asyncio.gather(*(entry.endpoint.close() for entry in entries))
            if self._changes:
                await asyncio.wait(self._changes)
        self._loader.shutdown(wait=False, cancel_futures=True)

    # --- the protocols' side

    def is_ready(self) -> bool:
        return self.state is State.READY and self._has_all()

    def entry(self, name: str, version: str) -> Version:
        """The version asked for; "" is the latest.

        Raises:
            RequestError: NOT_FOUND or UNAVAILABLE.
        """
        if (found := self._ready.get((name, version))) is None:
            raise self._absent(name, version)
        return found

    def model_ready(self, name: str, version: str) -> bool:
        if name not in self._models:
            raise self._absent(name, version)
        if version and self._models[name].versions and version not in self._models[name].versions:
            raise self._absent(name, version)
        return self.state is State.READY and (name, version) in self._ready

    def versions(self, name: str) -> list[str]:
        return sorted(self._models[name].versions, key=_number) if name in self._models else []

    def submit(self, entry: Any, request: InferRequest, done: Done) -> Ask:
        ask: Ask = entry.endpoint.submit(request, done)
        return ask

    def stream(self, entry: Any, request: InferRequest) -> AsyncIterator[InferResponse]:
        answers: AsyncIterator[InferResponse] = entry.endpoint.stream(request)
        return answers

    def submit_step(self, step: Step, request: InferRequest, done: Done) -> Ask:
        """For an ensemble."""
        return self.entry(step.model, step.version).endpoint.submit(request, done)

    async def statistics(self, name: str, version: str) -> list[dict[str, Any]]:
        return self.own_statistics(name, version)

    def own_statistics(self, name: str, version: str) -> list[dict[str, Any]]:
        if name:
            found = [self.entry(name, version)] if version else [self.entry(name, v) for v in self.versions(name)]
            if not found:
                raise self._absent(name, version)
        else:
            found = self._all()
        return [statistics(entry.endpoint) for entry in found]

    def index(self, ready_only: bool) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for name in sorted({*self._models, *self._source.names()}):
            model = self._models.get(name)
            if model is not None and model.versions and (model.state == "READY" or not ready_only):
                rows += [{"name": name, "version": v, "state": model.state, "reason": ""} for v in self.versions(name)]
            elif not ready_only:
                state, reason = (model.state, model.reason) if model is not None else ("UNAVAILABLE", "")
                row = {"name": name, "version": "", "state": state, "reason": reason}
                rows.append({key: value for key, value in row.items() if value or key in ("name", "reason")})
        return rows

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load or reload; what serves now goes on until the new one is ready, and if that fails.

        Raises:
            RequestError: why it cannot be loaded.
        """
        self._check_control(f"load '{name}'")
        await self.load_here(name, parameters.get("config"))

    async def load_here(self, name: str, config: str | None) -> None:
        if name not in await self._on_loader(self._source.names):
            raise invalid(f"failed to load '{name}', failed to poll from model repository: there is no such model")
        try:
            await self._through(self._load(name, config))
        except Failure as failure:
            raise invalid(f"failed to load '{name}', {failure}") from failure

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Take no more requests, finish what there is, give the memory back. Raises RequestError."""
        self._check_control(f"unload '{name}'")
        await self.unload_here(name)

    async def unload_here(self, name: str) -> None:
        if name not in self._models:
            raise invalid(f"failed to unload '{name}': there is no such model")
        await self._through(self._unload(name))

    async def everywhere(self, what: str, arguments: Sequence[Any], here: Callable[..., T]) -> T:
        """Make a change, `here(*arguments)`, wherever this server answers: here only."""
        return here(*arguments)

    async def metrics(self) -> bytes:
        return text(self.families())

    def families(self) -> list[Family]:
        self.exposition.ready = self.is_ready()
        return self.exposition.families([entry.endpoint for entry in self._all()], gpus())

    def share(self) -> Share:
        """What there is to do: 0.5 = half of the instances have work, above 1 = requests wait."""
        endpoints = [entry.endpoint for entry in self._all()]
        waiting = sum(endpoint.waiting for endpoint in endpoints)
        utilization = max((endpoint.utilization for endpoint in endpoints), default=0.0)
        return Share(waiting, self.in_flight - waiting, utilization)

    def load_report(self) -> dict[str, float]:
        """For a load balancer that asks (ORCA)."""
        return self.share().report()

    # --- ours

    def _has_all(self) -> bool:
        return all(self._models[name].versions for name in self._wanted)

    def _holdings(self) -> tuple[list[str], dict[str, str]]:
        """The models that are loaded, and why each other that was asked for is not."""
        loaded = [name for name, model in self._models.items() if model.versions]
        return loaded, {name: model.reason for name, model in self._models.items() if not model.versions}

    def _set_gone(self, name: str, reason: str) -> None:
        self._models[name] = _Model(state="UNAVAILABLE", reason=reason)

    def _check_control(self, what: str) -> None:
        if not self._explicit:
            raise RequestError(
                Kind.UNAVAILABLE,
                f"failed to {what}: explicit model load / unload is not allowed; start the server with "
                "--model-control explicit",
            )

    def _all(self) -> list[Version]:
        return [entry for name in sorted(self._models) for entry in self._models[name].versions.values()]

    def _absent(self, name: str, version: str) -> RequestError:
        model = self._models.get(name)
        if model is None or (version and model.versions and version not in model.versions):
            suffix = f" version {version}" if version else ""
            return RequestError(Kind.NOT_FOUND, f"Request for unknown model: '{name}'{suffix} is not found")
        why = f": {model.reason}" if model.reason else ""
        return RequestError(Kind.UNAVAILABLE, f"model '{name}' is {model.state.lower()}{why}, try again shortly")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._changing.setdefault(name, asyncio.Lock())

    async def _on_loader(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    async def _through(self, change: Coroutine[Any, Any, None]) -> None:
        """Who asked may go: half a change would leave a model in memory that nobody closes."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _unload(self, name: str) -> None:
        model = self._models[name]
        async with self._lock(name):
            await self._retire(name, model.versions, "UNLOADING")
            model.versions, model.state, model.reason = {}, "UNAVAILABLE", "unloaded"
            self._wanted = [wanted for wanted in self._wanted if wanted != name]

    async def _load(self, name: str, config: str | None, within: frozenset[str] = frozenset()) -> None:
        """`within` are the ensembles that it is loaded for: one that leads back to itself is not waited for."""
        model = self._models.setdefault(name, _Model())
        within |= {name}
        try:
            while missing := await self._try(name, config, within):
                for needed in missing:  # without the lock: of two that need each other both may be asked for at once
                    await self._load(needed, None, within)
                within |= missing
        except Exception as failure:
            if not model.versions:
                model.state, model.reason = "UNAVAILABLE", str(failure)
            raise

    async def _try(self, name: str, config: str | None, within: frozenset[str]) -> frozenset[str]:
        """Load it, unless models have to be loaded before: which."""
        model = self._models[name]
        async with self._lock(name):
            began_s = time.monotonic()
            if not model.versions:
                model.state, model.reason = "LOADING", ""
            loaded = await self._on_loader(lambda: self._source.load(name, config))
            needs = {needed for item in loaded for needed in item.needs} - within
            if missing := frozenset(needed for needed in needs if not self.versions(needed)):
                return missing  # only ensembles need others, and have nothing to close
            made = await self._made(name, loaded)
            before, model.versions = model.versions, made
            model.state, model.reason = "READY", ""
            self._publish(name, model)
            self.exposition.load_seconds[name] = time.monotonic() - began_s
            await self._retire(name, before, "READY")
        return frozenset()

    async def _made(self, name: str, loaded: list[LoadedVersion]) -> dict[str, Version]:
        """All of them, or none is left in memory."""
        made: dict[str, Version] = {}
        try:
            for item in loaded:
                made[item.version] = self._version(name, item)
        except Exception:
            for entry in made.values():
                await entry.endpoint.close()
            for item in loaded:
                await self._on_loader(item.close)
            raise
        return made

    def _version(self, name: str, item: LoadedVersion) -> Version:
        endpoint = Endpoint(name, item.version, item.model, item.options(), self)
        return Version(endpoint, item.config, item.labels, item.close)

    def _publish(self, name: str, model: _Model) -> None:
        for key in [key for key in self._ready if key[0] == name]:
            del self._ready[key]
        for version, entry in model.versions.items():
            self._ready[name, version] = entry
        if model.versions:
            self._ready[name, ""] = model.versions[max(model.versions, key=_number)]

    async def _retire(self, name: str, versions: Mapping[str, Version], state: str) -> None:
        """These get no more requests; those they have are finished."""
        model = self._models[name]
        model.state = state
        for key in [key for key, entry in self._ready.items() if entry in versions.values()]:
            del self._ready[key]
        ends_s = time.monotonic() + UNLOAD_S
        for entry in versions.values():
            while entry.endpoint.in_flight and time.monotonic() < ends_s:  # noqa: ASYNC110 - no event per endpoint
                await asyncio.sleep(0.01)
            await entry.endpoint.close()
            await self._on_loader(entry.release)


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
