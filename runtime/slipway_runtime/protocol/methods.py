"""The RPCs of Triton's `inference.GRPCInferenceService`, without a gRPC library: messages in, messages out.

Refusals are raised as RequestError, which the server around this maps with `grpc_codes`. ModelInfer is also there as a
callback, without a coroutine: that is the hot path. ModelStreamInfer is in `infer_stream`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from google.protobuf import json_format

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import protos, repository
from slipway_runtime.protocol.api import Api, Entry, Ticket, model_metadata, server_metadata, submitted
from slipway_runtime.protocol.infer_stream import InferStream, rendered
from slipway_runtime.protocol.schema import pb
from slipway_runtime.protocol.shared_memory import SharedMemory, cuda_unsupported
from slipway_runtime.tensors import InferRequest, InferResponse

SERVICE = "inference.GRPCInferenceService"
UNARY = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)
DEFAULT_TENANT_HEADER = b"x-slipway-tenant"


class Context(Protocol):
    """What a server knows of a call beside its message."""

    @property
    def timeout_s(self) -> float | None:
        """How long the client will wait from now."""

    def header(self, name: bytes) -> bytes | None:
        """By its name in lower case."""


Sent = Callable[[Any | RequestError], None]


class Methods:
    """One coroutine per RPC, named as in the proto."""

    def __init__(self, api: Api, memory: SharedMemory, tenant_header: bytes = DEFAULT_TENANT_HEADER) -> None:
        self._api = api
        self._memory = memory
        self._tenant_header = tenant_header

    # --- inference

    def infer(self, message: Any, context: Context, done: Sent) -> Ticket:
        """ModelInfer. `done` gets a ModelInferResponse or a refusal, on the event loop, perhaps before this returns.

        Raises:
            RequestError: `done` is not called then.
        """
        entry = self._api.entry(message.model_name, message.model_version)
        if entry.decoupled:
            raise RequestError(
                Kind.UNSUPPORTED,
                f"model '{entry.name}' is decoupled: it may give any number of answers, use ModelStreamInfer",
            )
        request = self._request(message, entry, context)

        def answered(result: InferResponse | RequestError) -> None:
            done(rendered(result, request, entry, self._memory))

        return self._api.submit(entry, request, answered)

    def _request(self, message: Any, entry: Entry, context: Context) -> InferRequest:
        request = protos.parse(message, self._memory, entry.metadata)
        request.patience_s = context.timeout_s
        if (tenant := context.header(self._tenant_header)) is not None:
            request.tenant = tenant.decode("latin-1")
        return request

    async def ModelInfer(self, message: Any, context: Context) -> Any:
        entry = self._api.entry(message.model_name, message.model_version)
        if entry.decoupled:
            self.infer(message, context, lambda result: None)  # which says why not
        request = self._request(message, entry, context)
        return protos.render(await submitted(self._api, entry, request), request, entry, self._memory)

    def ModelStreamInfer(self, messages: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        return InferStream(self._api, self._memory, partial(self._request, context=context)).answers(messages)

    # --- health and metadata

    async def ServerLive(self, message: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=self._api.state != "failed")

    async def ServerReady(self, message: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=self._api.is_ready())

    async def ModelReady(self, message: Any, context: Context) -> Any:
        """Of a model that there is not it is false, as Triton has it: clients ask by this whether it was loaded yet."""
        try:
            ready = self._api.model_ready(message.name, message.version)
        except RequestError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, message: Any, context: Context) -> Any:
        return pb.ServerMetadataResponse(**server_metadata())

    async def ModelMetadata(self, message: Any, context: Context) -> Any:
        return pb.ModelMetadataResponse(**model_metadata(self._api, message.name, message.version))

    async def ModelConfig(self, message: Any, context: Context) -> Any:
        config = self._api.entry(message.name, message.version).config_json
        # Fields of ours that the proto lacks are for those who read the configuration as JSON.
        return json_format.ParseDict({"config": config}, pb.ModelConfigResponse(), ignore_unknown_fields=True)

    async def ModelStatistics(self, message: Any, context: Context) -> Any:
        rows = await self._api.statistics(message.name, message.version)
        return json_format.ParseDict({"model_stats": rows}, pb.ModelStatisticsResponse())

    # --- repository

    async def RepositoryIndex(self, message: Any, context: Context) -> Any:
        return json_format.ParseDict({"models": self._api.index(message.ready)}, pb.RepositoryIndexResponse())

    async def RepositoryModelLoad(self, message: Any, context: Context) -> Any:
        given = protos.values_of(message.parameters)
        await self._api.load(message.model_name, repository.load_parameters(given))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, message: Any, context: Context) -> Any:
        given = protos.values_of(message.parameters)
        await self._api.unload(message.model_name, repository.unload_parameters(given))
        return pb.RepositoryModelUnloadResponse()

    # --- shared memory

    async def SystemSharedMemoryStatus(self, message: Any, context: Context) -> Any:
        answer = pb.SystemSharedMemoryStatusResponse()
        for row in self._memory.status(message.name):
            region = answer.regions[row["name"]]
            region.name, region.key = row["name"], row["key"]
            region.offset, region.byte_size = row["offset"], row["byte_size"]
        return answer

    async def SystemSharedMemoryRegister(self, message: Any, context: Context) -> Any:
        region = [message.name, message.key, message.offset, message.byte_size]
        await self._api.everywhere("register", region, self._memory.register)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, message: Any, context: Context) -> Any:
        await self._api.everywhere("unregister", [message.name], self._memory.unregister)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(self, message: Any, context: Context) -> Any:
        if message.name:
            raise cuda_unsupported()
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(self, message: Any, context: Context) -> Any:
        raise cuda_unsupported()

    async def CudaSharedMemoryUnregister(self, message: Any, context: Context) -> Any:
        # Clients clear both kinds before they use one: there is nothing to clear, so that is no error.
        return pb.CudaSharedMemoryUnregisterResponse()

    # --- settings

    async def TraceSetting(self, message: Any, context: Context) -> Any:
        settings, model = self._api.trace_settings, message.model_name
        changes = {key: _trace_value(key, list(value.value)) for key, value in message.settings.items()}
        values = settings.update(model, changes) if changes else settings.get(model)
        answer = pb.TraceSettingResponse()
        for key, value in values.items():
            # Also a setting without a value is there.
            answer.settings[key].value.extend([str(each) for each in (value if isinstance(value, list) else [value])])
        return answer

    async def LogSettings(self, message: Any, context: Context) -> Any:
        settings = self._api.log_settings
        changes = {key: _log_value(value) for key, value in message.settings.items()}
        if not changes:
            return _log_answer(settings.get(""))
        return _log_answer(await self._api.everywhere("log", ["", changes], settings.update))


def _trace_value(key: str, values: list[str]) -> list[str] | str | None:
    """As REST has it: the levels are a list, all others one value; none = clear the setting."""
    if not values:
        return None
    return values if key == "trace_level" or len(values) > 1 else values[0]


def _log_value(value: Any) -> bool | int | str | None:
    """None = clear the setting, as null in REST."""
    choice = value.WhichOneof("parameter_choice")
    given: bool | int | str | None = getattr(value, choice) if choice is not None else None
    return given


def _log_answer(values: Mapping[str, Any]) -> Any:
    answer = pb.LogSettingsResponse()
    for key, value in values.items():
        if type(value) is bool:
            answer.settings[key].bool_param = value
        elif type(value) is int:
            answer.settings[key].uint32_param = value
        else:
            answer.settings[key].string_param = str(value)
    return answer
