"""The three kinds of `slipway.dev/v1alpha1`, as users write them. Defaults live here and nowhere else.

A field stands here only when the operator honours it. The CRDs in `crds/` are generated from these models
(`python -m slipway.crdgen`); `status.py` has what the operator writes back.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from slipway.api.names import NAME_MAX
from slipway.api.schema import (
    ATOMIC,
    DURATION_RULE,
    DnsLabel,
    Duration,
    HttpPath,
    Image,
    LabelValue,
    QualifiedName,
    Quantity,
    Schema,
    list_map,
    rule,
    rules,
)
from slipway.api.status import InferenceServiceStatus

Argument = Annotated[str, Field(max_length=2048)]
Arguments = Annotated[list[Argument], Field(max_length=64, json_schema_extra=ATOMIC)]

RESOURCE_NAMES = rule(
    "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.contains('/'))",
    "resource names are cpu, memory, ephemeral-storage or DOMAIN/NAME such as nvidia.com/gpu",
)
Quantities = Annotated[
    dict[Annotated[str, Field(max_length=253)], Quantity],
    Field(max_length=16, json_schema_extra=rules(RESOURCE_NAMES)),
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

    name: str = Field(max_length=253, min_length=1, description="Name of the object.")
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
    value: str | None = Field(default=None, max_length=8192, description="The value itself.")
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


STORAGE_URI = (
    r"^(sample://[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._~+@=-]+)*/?"
    r"|file://(/[A-Za-z0-9._~+@=-]+)+/?)$"
)


class Model(Schema):
    """What is served: a model, its format and the runtime that serves it."""

    model_format: ModelFormat = Field(description="Format of the model; chooses the runtime.")
    storage_uri: str = Field(
        max_length=1024,
        description="Where the model is: sample://NAME, pvc://CLAIM/PATH or file:///PATH in the runtime's image.",
        json_schema_extra=rules(
            rule(
                f"self.matches('{STORAGE_URI}') && !self.contains('/../') && !self.endsWith('/..')",
                'must be sample://NAME, pvc://CLAIM/PATH or file:///PATH without ".."',
                value="(self.size() > 100 ? self.substring(0, 100) + '...' : self)",
            )
        ),
    )
    runtime: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = Field(
        default=None,
        description="Name of the ServingRuntime or ClusterServingRuntime; chosen by format and priority when absent.",
    )
    runtime_version: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] | None = Field(
        default=None, description="Tag of the runtime's image, in place of the one the runtime names."
    )
    args: Arguments = Field(
        default=[],
        description="Arguments after the runtime's own; $(NAME) is replaced by the environment variable NAME.",
    )
    env: Env = Field(default=[], description="Environment of the model container.")
    resources: Resources = Field(default=Resources(), description="Compute resources; the runtime's own when absent.")


class Toleration(Schema):
    """A taint that pods of this service put up with."""

    key: QualifiedName | None = Field(default=None, description="Key of the taint; every key when absent.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="Exists needs no value.")
    value: LabelValue | None = Field(default=None, description="Value of the taint, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; every effect when absent."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=86400, description="How long a pod stays after a NoExecute taint, in seconds."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule("self.operator == 'Equal' || !has(self.value)", "operator Exists takes no value"),
            rule(
                "has(self.key) || self.operator == 'Exists'",
                "a toleration without key needs operator: Exists",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds goes with effect: NoExecute only",
            ),
        )
    }


NODE_SELECTOR_RULE = rule(
    "self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
    "keys are label names such as kubernetes.io/arch",
)


TIMEOUT_RULE = rule(
    f"!({DURATION_RULE['rule']}) || (duration(self) > duration('0s') && duration(self) <= duration('1h'))",
    "must be longer than 0s and at most 1h",
    value="self",
)


class Predictor(Schema):
    """The pods that answer predictions."""

    model: Model = Field(description="The model to serve.")
    container_concurrency: int = Field(
        default=0,
        ge=0,
        le=10000,
        description="Requests one pod takes from its queue at once; more wait. 0: the server chooses.",
    )
    timeout: Duration = Field(
        default="60s",
        description="The longest a request may take, from arrival to answer; at most 1h.",
        json_schema_extra=rules(DURATION_RULE, TIMEOUT_RULE),
    )
    node_selector: Annotated[
        dict[Annotated[str, Field(max_length=317)], LabelValue],
        Field(max_length=32, json_schema_extra=rules(NODE_SELECTOR_RULE)),
    ] = Field(default={}, description="Labels a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=32, json_schema_extra=ATOMIC)] = Field(
        default=[], description="Taints that the pods put up with."
    )
    runtime_updates: Literal["Pinned", "Follow"] = Field(
        default="Pinned",
        description="Follow makes a new revision when the runtime or Slipway itself would render the pods differently;"
        " Pinned keeps running pods as they were made and tells by condition UpdateAvailable.",
    )


class Scaling(Schema):
    """How many replicas."""

    min_replicas: int = Field(default=1, ge=1, le=1000, description="Replicas that are kept running.")


class InferenceServiceSpec(Schema):
    """What a user wants: a model answering predictions."""

    predictor: Predictor = Field(description="What is served, and by which pods.")
    scaling: Scaling = Field(default=Scaling(), description="How many replicas.")


class SupportedModelFormat(Schema):
    name: DnsLabel = Field(description="Format that the runtime can serve.")
    version: LabelValue | None = Field(default=None, description="The only version served; every version when absent.")
    priority: int = Field(default=0, ge=0, le=1000, description="The highest wins when several runtimes fit.")


class RuntimeContainer(Schema):
    """The container that serves the model. Its security settings are Slipway's: restricted, read-only root."""

    image: Image = Field(description="Image of the server.")
    command: Arguments = Field(default=[], description="Command; the image's own when absent.")
    args: Arguments = Field(
        default=[],
        description="Arguments; $(SLIPWAY_MODEL_NAME), $(SLIPWAY_MODEL_PATH) and the like are replaced.",
    )
    env: Env = Field(default=[], description="Environment; the service's own variables win.")
    resources: Resources = Field(default=Resources(), description="Resources for services that name none.")
    http_port: int = Field(default=8080, ge=1024, le=65535, description="Port that answers REST.")
    grpc_port: int = Field(default=8001, ge=1024, le=65535, description="Port that answers gRPC.")
    readiness_path: HttpPath = Field(
        default="/v2/models/{name}/ready",
        description="Path on the REST port that answers 200 when the model can predict; {name} is the service.",
    )
    liveness_path: HttpPath = Field(
        default="/v2/health/live",
        description="Path on the REST port that answers 200 while the server is well.",
    )


class ServingRuntimeSpec(Schema):
    """How models of some formats are served."""

    supported_model_formats: Annotated[
        list[SupportedModelFormat], Field(min_length=1, max_length=32, json_schema_extra=ATOMIC)
    ] = Field(description="Formats that this runtime can serve.")
    container: RuntimeContainer = Field(description="The container that serves.")


class Resource(Schema):
    """A whole object; `metadata` is checked by the API server."""

    api_version: str = ""
    kind: str = ""
    metadata: dict[str, Any] = Field(default={})


NAME_RULE = rule(
    f"self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= {NAME_MAX}",
    f"metadata.name must be at most {NAME_MAX} lower-case letters, digits and dashes, starting with a letter",
)


class InferenceService(Resource):
    """A model that answers predictions at one address."""

    model_config = Schema.model_config | {"json_schema_extra": rules(NAME_RULE)}

    spec: InferenceServiceSpec = Field(description="What is wanted.")
    status: InferenceServiceStatus | None = Field(default=None, description="What is; written by the operator only.")


class ServingRuntime(Resource):
    """How models of some formats are served, for one namespace."""

    spec: ServingRuntimeSpec = Field(description="Formats and container.")


class ClusterServingRuntime(Resource):
    """How models of some formats are served, for every namespace."""

    spec: ServingRuntimeSpec = Field(description="Formats and container.")
