"""The three kinds of `slipway.dev/v1alpha1`, as users write them. Defaults live here and nowhere else.

A field stands here only when the operator honours it. The CRDs in `crds/` are generated from these models
(`python -m slipway.crdgen`); `status.py` has what the operator writes back.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from slipway.api.access import Access
from slipway.api.model import Arguments, Env, Model, Protocol, Resources
from slipway.api.names import NAME_MAX
from slipway.api.options import RuntimeOption
from slipway.api.rollout import Rollout
from slipway.api.scaling import Scaling
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
from slipway.api.traffic import Traffic


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
    service_account_name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = (
        Field(default=None, description="ServiceAccount of the pods; one that the administrator allows.")
    )
    runtime_updates: Literal["Pinned", "Follow"] = Field(
        default="Pinned",
        description="Follow makes a new revision when the runtime or Slipway itself would render the pods differently;"
        " Pinned keeps running pods as they were made and tells by condition UpdateAvailable.",
    )


class InferenceServiceSpec(Schema):
    """What a user wants: a model answering predictions."""

    predictor: Predictor = Field(description="What is served, and by which pods.")
    scaling: Scaling = Field(default=Scaling(), description="How many replicas.")
    rollout: Rollout = Field(
        default=Rollout(strategy="None", scale_down_delay="0s"), description="How a new revision takes over."
    )
    traffic: Traffic = Field(default=Traffic(), description="How requests are shared out.")
    access: Access = Field(default=Access(), description="Who may call, and how much.")


class SupportedModelFormat(Schema):
    name: DnsLabel = Field(description="Format that the runtime can serve.")
    version: LabelValue | None = Field(default=None, description="The only version served; every version when absent.")
    priority: int = Field(default=0, ge=0, le=1000, description="The highest wins when several runtimes fit.")


Flag = Annotated[str, Field(max_length=128, pattern=r"^-[^=\s]+$")]


class RuntimeContainer(Schema):
    """The container that serves the model. Its security settings are Slipway's: restricted, read-only root."""

    image: Image = Field(description="Image of the server.")
    command: Arguments = Field(default=[], description="Command; the image's own when absent.")
    args: Arguments = Field(
        default=[],
        description="Arguments; $(SLIPWAY_MODEL_NAME), $(SLIPWAY_MODEL_PATH) and the like are replaced.",
    )
    allowed_args: Annotated[list[Flag], Field(max_length=128, json_schema_extra=ATOMIC)] | None = Field(
        default=None, description="Arguments that a service may give, such as --max-queue; any when absent."
    )
    env: Env = Field(default=[], description="Environment; the service's own variables win.")
    resources: Resources = Field(default=Resources(), description="Resources for services that name none.")
    http_port: int = Field(default=8080, ge=1024, le=65535, description="Port that answers REST.")
    grpc_port: int = Field(default=8001, ge=1024, le=65535, description="Port that answers gRPC.")
    metrics_port: int | None = Field(
        default=None, ge=1024, le=65535, description="Port that answers /metrics, where it is not that of REST."
    )
    shared_memory: Quantity | None = Field(
        default=None,
        description="Size of /dev/shm, which counts as memory of the container; what the node gives when absent.",
    )
    max_queue: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Requests that may wait in one pod, which the server reads from SLIPWAY_MAX_QUEUE; gateways send no"
        " more than fit. 0: not known.",
    )
    idle_timeout: Duration | None = Field(
        default=None,
        description="How long the server keeps a connection without requests, which it reads from"
        " SLIPWAY_IDLE_TIMEOUT_S; gateways close theirs earlier. Absent: not known, taken for 5s.",
        json_schema_extra=rules(DURATION_RULE, TIMEOUT_RULE),
    )
    readiness_path: HttpPath = Field(
        default="/v2/models/{name}/ready",
        description="Path on the REST port that answers 200 when the model can predict; {name} is the service.",
    )
    liveness_path: HttpPath = Field(
        default="/v2/health/live",
        description="Path on the REST port that answers 200 while the server is well.",
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "self.httpPort != self.grpcPort && (!has(self.metricsPort) || "
                "!(self.metricsPort in [self.httpPort, self.grpcPort]))",
                "httpPort, grpcPort and metricsPort must differ; leave metricsPort out where REST answers /metrics",
            ),
            rule(
                "!has(self.args) || !self.args.exists(word, word.contains('{{.'))",
                "args: {{...}} is not replaced; write $(SLIPWAY_MODEL_NAME) and the like (docs/runtimes.md)",
            ),
        )
    }


DevicePattern = Annotated[
    str, Field(max_length=317, pattern=r"^(cpu|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-A-Za-z0-9_.]*[*]?)$")
]


class ServingRuntimeSpec(Schema):
    """How models of some formats are served."""

    supported_model_formats: Annotated[
        list[SupportedModelFormat], Field(min_length=1, max_length=32, json_schema_extra=ATOMIC)
    ] = Field(description="Formats that this runtime can serve.")
    protocol_versions: Annotated[list[Protocol], Field(min_length=1, max_length=2, json_schema_extra=ATOMIC)] = Field(
        default=["v2"], description="Versions of the inference protocol that the server speaks."
    )
    accelerators: Annotated[list[DevicePattern], Field(max_length=32, json_schema_extra=ATOMIC)] = Field(
        default=[],
        description="Devices that the server can use, by resource name; a last * is any rest. Empty: all; cpu: none.",
    )
    accelerator_required: bool = Field(default=False, description="Serve only models that ask for a device.")
    options: Annotated[list[RuntimeOption], Field(max_length=32, json_schema_extra=list_map("name"))] = Field(
        default=[], description="Options of models that the server takes."
    )
    disabled: bool = Field(default=False, description="Not chosen for anything new; what runs goes on.")
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
