"""What the protocols ask of the server behind them, whichever protocol asks.

Everything here may be called from the event loop only, and returns at once unless it is a coroutine. Every refusal is a
`RequestError`, whose kind each protocol maps to its own code.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from slipway_runtime import __version__
from slipway_runtime.engine.endpoint import awaited
from slipway_runtime.errors import RequestError
from slipway_runtime.tensors import BINARY_ONLY, InferRequest, InferResponse, Metadata, TensorSpec, plain_values

Done = Callable[[InferResponse | RequestError], None]
JsonObject = dict[str, Any]
T = TypeVar("T")

# Advertised is what is served, by the names that Triton gave them; clients look for these.
EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


class Ticket(Protocol):
    """A request that was accepted."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more. Without effect once it was given."""


class Entry(Protocol):
    """One loaded version of a model."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def metadata(self) -> Metadata: ...
    @property
    def config_json(self) -> JsonObject:
        """Triton's ModelConfig as JSON, with the names of the proto."""

    @property
    def decoupled(self) -> bool:
        """Whether a request may have any number of answers."""

    def labels(self, output: str) -> list[str] | None:
        """The names of the classes of an output, by index."""


class Settings(Protocol):
    """Of tracing or of logging; `model` "" = of the server."""

    def get(self, model: str) -> JsonObject: ...
    def update(self, model: str, changes: Mapping[str, Any]) -> JsonObject:
        """Everything or nothing of `changes`; None clears a setting. Returns what `get` would.

        Raises:
            RequestError: INVALID or UNSUPPORTED, naming the setting.
        """


class Api(Protocol):
    @property
    def state(self) -> str: ...
    @property
    def trace_settings(self) -> Settings: ...
    @property
    def log_settings(self) -> Settings: ...

    def is_ready(self) -> bool: ...

    def entry(self, name: str, version: str) -> Entry:
        """A loaded version; "" = the latest that is served. Raises RequestError NOT_FOUND or UNAVAILABLE."""

    def model_ready(self, name: str, version: str) -> bool:
        """Raises RequestError NOT_FOUND."""

    def versions(self, name: str) -> list[str]:
        """The versions that are served."""

    # The entry is one that `entry` gave, of whatever class the server has for it.
    def submit(self, entry: Any, request: InferRequest, done: Done) -> Ticket:
        """Have one request answered: `done` is called exactly once, on the event loop, perhaps before this returns.

        After `cancel` it need not be called. Raises RequestError when the request does not fit the model.
        """

    def stream(self, entry: Any, request: InferRequest) -> AsyncIterator[InferResponse]:
        """The answers one by one; a model that is not decoupled gives one. Raises RequestError while iterating."""

    async def statistics(self, name: str, version: str) -> list[JsonObject]:
        """Triton's ModelStatistics, of every version unless one is named, of every model if `name` is ""."""

    def index(self, ready_only: bool) -> list[JsonObject]:
        """{"name", "version", "state", "reason"} of every version there is."""

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load or load anew. `parameters`: "config" (JSON text) overrides the model's own configuration."""

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None: ...
    async def everywhere(self, what: str, arguments: Sequence[Any], here: Callable[..., T]) -> T:
        """Make a change, `here(*arguments)`, in every process that answers for this server. Raises what `here` raises.

        Its name, its arguments and its result are things that JSON has.
        """

    async def metrics(self) -> bytes: ...
    def load_report(self) -> dict[str, float]:
        """How busy the server is, by the names of an ORCA report: application_utilization, named_metrics.x."""


def server_metadata() -> JsonObject:
    return {"name": "slipway-runtime", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(api: Api, name: str, version: str) -> JsonObject:
    entry = api.entry(name, version)
    metadata = entry.metadata
    return {
        "name": entry.name,
        "versions": [entry.version] if version else api.versions(name),
        "platform": metadata.platform,
        "inputs": [_tensor_metadata(spec) for spec in metadata.inputs],
        "outputs": [_tensor_metadata(spec) for spec in metadata.outputs],
    }


def example_request(metadata: Metadata) -> JsonObject | None:
    """The body of a request that the model was made for, where somebody gave one and JSON can have it."""
    if not metadata.example or any(spec.datatype in BINARY_ONLY for spec in metadata.inputs):
        return None
    inputs = []
    for spec, array in zip(metadata.inputs, metadata.example, strict=True):
        inputs.append(
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": list(array.shape),
                "data": plain_values(array.reshape(-1)),
            }
        )
    return {"inputs": inputs}


def _tensor_metadata(spec: TensorSpec) -> JsonObject:
    shape = [-1] if spec.shape is None else list(spec.shape)
    return {"name": spec.name, "datatype": spec.datatype or "UNKNOWN", "shape": shape}


async def close(responses: AsyncIterator[InferResponse]) -> None:
    """Say that nobody wants the rest of a stream."""
    if isinstance(responses, AsyncGenerator):
        await responses.aclose()


async def submitted(api: Api, entry: Entry, request: InferRequest) -> InferResponse:
    """Wait for one answer. Cancelling cancels the request."""
    return await awaited(lambda done: api.submit(entry, request, done))
