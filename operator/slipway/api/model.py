"""What is served: a model, its format, where it is, and what its container gets. Shared by predictors and variants."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.options import Options
from slipway.api.schema import (
    ATOMIC,
    DnsLabel,
    LabelValue,
    Quantity,
    Schema,
    list_map,
    rule,
    rules,
)
from slipway.api.storage import REMOTE_RULES, Storage, StorageUri

Protocol = Literal["v1", "v2"]
"""Of KServe's names; REST and gRPC are both there."""
Argument = Annotated[str, Field(max_length=2048)]
NO_NUL, NUL_WORDS = "!{}.contains('\\u0000')", "has a NUL byte, which no program can be given"
Arguments = Annotated[
    list[Argument],
    Field(max_length=64, json_schema_extra=ATOMIC | rules(rule(f"self.all(w, {NO_NUL.format('w')})", NUL_WORDS))),
]

RESOURCE_NAMES = rule(
    "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage']"
    " || k.matches('^[a-z0-9][-a-z0-9.]*/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
    "resource names are cpu, memory, ephemeral-storage or DOMAIN/NAME such as nvidia.com/gpu",
)
BYTES = rule(
    "['memory', 'ephemeral-storage'].all(k, !(k in self) || !string(self[k]).endsWith('m'))",
    "memory and ephemeral-storage are in bytes, and m is a thousandth of one: write 512Mi, not 512m",
)
Quantities = Annotated[
    dict[Annotated[str, Field(max_length=253)], Quantity],
    Field(max_length=16, json_schema_extra=rules(RESOURCE_NAMES, BYTES)),
]


def _amount(of: str) -> str:
    return f"(type({of}) == int ? quantity(string({of})) : isQuantity({of}) ? quantity({of}) : quantity('0'))"


class Resources(Schema):
    """Compute resources of the model container."""

    requests: Quantities = Field(default={}, description="What the scheduler sets aside, by resource name.")
    limits: Quantities = Field(default={}, description="The most a pod may use, by resource name.")

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || "
                f"{_amount('self.requests[k]')}.compareTo({_amount('self.limits[k]')}) <= 0)",
                "requests may not be larger than limits",
            ),
            rule(
                "!has(self.requests) || self.requests.all(k, !k.contains('/') || "
                f"(has(self.limits) && k in self.limits && "
                f"{_amount('self.requests[k]')}.compareTo({_amount('self.limits[k]')}) == 0))",
                "a device such as nvidia.com/gpu cannot be overcommitted: set it in limits (requests then follow)",
            ),
            rule(
                f"!has(self.limits) || self.limits.all(k, !k.contains('/') || {_amount('self.limits[k]')}.isInteger())",
                "devices such as nvidia.com/gpu are counted in whole numbers",
            ),
        )
    }


class KeyRef(Schema):
    """One key of a Secret or ConfigMap of the service's own namespace."""

    name: str = Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Name of the object.")
    key: str = Field(max_length=253, min_length=1, pattern=r"^[-._A-Za-z0-9]+$", description="Key in its data.")
    optional: bool = Field(default=False, description="Start without the variable when the key does not exist.")


class EnvSource(Schema):
    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap.")

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "has(self.secretKeyRef) != has(self.configMapKeyRef)",
                "give one of secretKeyRef and configMapKeyRef",
            )
        )
    }


class EnvVar(Schema):
    """An environment variable of the model container."""

    name: str = Field(
        min_length=1,
        max_length=253,
        description="Name of the variable; names that start with SLIPWAY_ belong to the operator.",
        json_schema_extra=rules(
            rule(
                "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
                "must be letters, digits and _, not starting with a digit",
                value="self",
            ),
            rule("!self.startsWith('SLIPWAY_')", "names that start with SLIPWAY_ are reserved", value="self"),
        ),
    )
    value: str | None = Field(
        default=None,
        max_length=8192,
        description="The value itself.",
        json_schema_extra=rules(rule(NO_NUL.format("self"), NUL_WORDS)),
    )
    value_from: EnvSource | None = Field(default=None, description="Where the value comes from.")

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule("!has(self.value) || !has(self.valueFrom)", "give value or valueFrom, not both")
        )
    }


Env = Annotated[list[EnvVar], Field(max_length=64, json_schema_extra=list_map("name"))]


class ModelFormat(Schema):
    name: DnsLabel = Field(description="Format of the model's files, such as torchscript or torch-export.")
    version: LabelValue | None = Field(default=None, description="Version of the format; any when absent.")


class Model(Schema):
    """What is served: a model, its format and the runtime that serves it."""

    model_format: ModelFormat = Field(description="Format of the model; chooses the runtime.")
    storage_uri: StorageUri = Field(
        description="Where the model is: s3://, gs://, az://, https://, hf://, oci://, sample://NAME, pvc://CLAIM/PATH"
        " or file:///PATH in the runtime's image (docs/storage.md).",
    )
    storage: Storage | None = Field(default=None, description="Credentials, digest and address of the store.")
    runtime: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = Field(
        default=None,
        description="Name of the ServingRuntime or ClusterServingRuntime; chosen by format and priority when absent.",
    )
    runtime_version: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] | None = Field(
        default=None, description="Tag of the runtime's image, in place of the one the runtime names."
    )
    protocol_version: Protocol | None = Field(default=None, description="What the runtime has to speak.")
    args: Arguments = Field(
        default=[],
        description="Arguments after the runtime's own; $(NAME) is replaced by the environment variable NAME.",
    )
    env: Env = Field(default=[], description="Environment of the model container.")
    resources: Resources = Field(default=Resources(), description="Compute resources; the runtime's own when absent.")
    options: Options | None = Field(default=None, description="How it is served: docs/options.md.")

    model_config = Schema.model_config | {"json_schema_extra": rules(*REMOTE_RULES)}
