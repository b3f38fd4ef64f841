"""Options of a model, typed, over what its own config says. Absent: the config decides, or else the server.

A runtime names those that its server takes (`RuntimeOption`); `decide.options` refuses the others with a sentence.
"""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.schema import ATOMIC, Schema

BATCH_MAX = 65536
Size = Annotated[int, Field(ge=1, le=BATCH_MAX)]
Sizes = Annotated[list[Size], Field(max_length=32, json_schema_extra=ATOMIC)]
Dimensions = Annotated[
    list[Annotated[int, Field(ge=-1, le=999_999_999)]], Field(max_length=32, json_schema_extra=ATOMIC)
]
Datatype = Annotated[str, Field(max_length=32, pattern=r"^(BOOL|U?INT(8|16|32|64)|FP(16|32|64)|BF16|BYTES)$")]


class Tensor(Schema):
    name: str = Field(min_length=1, max_length=200, description="As the model calls it.")
    datatype: Datatype = Field(description="Of its values.")
    shape: Dimensions = Field(description="Without the batch; -1 is any size.")


Tensors = Annotated[list[Tensor], Field(max_length=64, json_schema_extra=ATOMIC)]


class Options(Schema):
    max_batch_size: Annotated[int, Field(ge=0, le=BATCH_MAX)] | None = Field(
        default=None, description="Rows of a batch; 0: the model does not batch."
    )
    preferred_batch_sizes: Sizes = Field(default=[], description="Sizes that batches shall have.")
    max_queue_delay_microseconds: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None, description="How long a batch waits for more requests."
    )
    instances: Annotated[int, Field(ge=1, le=256)] | None = Field(default=None, description="Copies of the model.")
    device: Literal["cpu", "gpu"] | None = Field(default=None, description="Absent: a GPU where the pod has one.")
    inputs: Tensors = Field(default=[], description="All inputs.")
    outputs: Tensors = Field(default=[], description="All outputs.")
    versions: (
        Annotated[str, Field(max_length=128, pattern=r"^(all|latest:[1-9]\d{0,3}|[1-9]\d*(,[1-9]\d*)*)$")] | None
    ) = Field(default=None, description="Which are served: all, latest:N or 1,3.")
    response_cache: bool | None = Field(default=None, description="Keep answers.")
    warm_up: bool | None = Field(default=None, description="Ask for zeros before ready.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="Of weights and arithmetic."
    )
    quantization: Literal["none", "dynamic-int8", "static-int8"] | None = Field(default=None, description="Of weights.")
    compile: bool | None = Field(default=None, description="By torch.compile, once per bucket.")
    batch_buckets: Sizes = Field(default=[], description="Sizes that compiled batches are filled up to.")


OptionName = Literal[
    "maxBatchSize",
    "preferredBatchSizes",
    "maxQueueDelayMicroseconds",
    "instances",
    "device",
    "inputs",
    "outputs",
    "versions",
    "responseCache",
    "warmUp",
    "dtype",
    "quantization",
    "compile",
    "batchBuckets",
]
"""The fields of Options."""


class RuntimeOption(Schema):
    """An option of models that the server reads from SLIPWAY_MODEL_OPTIONS."""

    name: OptionName = Field(description="As in spec.predictor.model.options.")
    arg: Annotated[str, Field(max_length=64, pattern=r"^-[-A-Za-z0-9_]+$")] | None = Field(
        default=None, description="Argument of the server that says the same; a service gives one of the two."
    )
