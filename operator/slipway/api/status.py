"""What the operator writes back into an InferenceService. Users read it; nothing but `decide` writes it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from slipway.api.progress import ObjectName, RolloutStatus
from slipway.api.routing import Routing
from slipway.api.schema import ATOMIC, ConditionStatus, Message, Schema, Time, list_map
from slipway.api.shifting import ShiftStatus
from slipway.api.standing import ExperimentStatus
from slipway.api.traffic import VARIANTS_MAX, WHOLE


class Condition(Schema):
    type: Annotated[str, Field(max_length=64)] = Field(description="What the condition is about.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="One word why.")
    message: Message = Field(default="", description="A sentence for people.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec this was decided from.")
    last_transition_time: Time = Field(description="When status last changed.")


class Acknowledged(Schema):
    """How far the gateways are with the routing that has this revision."""

    gateways: int = Field(ge=0, description="Gateways that serve it.")
    of: int = Field(ge=0, description="Gateways that take traffic.")


class Measured(Schema):
    """What share of all requests a revision had since the routing was acknowledged, out of 10 000."""

    share: int = Field(ge=0, le=WHOLE, description="Measured share.")
    low: int = Field(ge=0, le=WHOLE, description="Lower end of its 95 % interval.")
    high: int = Field(ge=0, le=WHOLE, description="Upper end of its 95 % interval.")
    requests: int = Field(ge=0, description="Requests that it was measured on, of all revisions.")


class Download(Schema):
    """How far the fetch of a model is, of the replica that is furthest."""

    percent: int | None = Field(default=None, ge=0, le=100, description="Absent: the size is not known.")
    mib_per_second: float = Field(ge=0, description="Speed.")
    done_at: Time | None = Field(default=None, description="When it is expected to be there.")


class RevisionStatus(Schema):
    """One revision that has pods."""

    name: ObjectName = Field(description="Name of its Deployment.")
    role: Literal["Stable", "Candidate", "Variant", "Previous"] = Field(description="What it is for.")
    variant: Annotated[str, Field(max_length=20)] = Field(default="", description="Name of its variant, if of one.")
    storage_uri: Annotated[str, Field(max_length=1024)] = Field(default="", description="The model it serves.")
    replicas: int = Field(default=0, ge=0, description="Replicas it should have.")
    ready: int = Field(default=0, ge=0, description="Replicas that passed the model's readiness check.")
    failed: int = Field(default=0, ge=0, description="Replicas whose last start failed.")
    reason: Annotated[str, Field(max_length=64)] = Field(default="", description="State of its model, in a word.")
    message: Message = Field(default="", description="State of its model, in a sentence.")
    download: Download | None = Field(default=None, description="While its model is fetched.")
    weight: int = Field(
        default=0, ge=0, le=WHOLE, description="Wanted share, out of 10 000; see routing for the present."
    )
    acknowledged: Acknowledged | None = Field(default=None, description="Gateways that serve its weight.")
    measured: Measured | None = Field(default=None, description="Its share as counted.")
    drain_until: Time | None = Field(
        default=None, description="Its pods leave then; set once no gateway leads there any more."
    )


class LeadTime(Schema):
    """How long a replica takes until it is ready, in seconds; the parts are of late, on average."""

    seconds: float = Field(ge=0, description="What is reckoned with: four of five launches took no longer.")
    schedule: float = Field(default=0, ge=0, description="Until it had a node.")
    pull: float = Field(default=0, ge=0, description="Until its images were there.")
    fetch: float = Field(default=0, ge=0, description="Until its model was there.")
    load: float = Field(default=0, ge=0, description="Until its server answered.")
    warm_up: float = Field(default=0, ge=0, description="From there until it was ready.")


class ScalingStatus(Schema):
    """Replicas of the service itself, or of one variant, as scaling has decided. None where they are fixed."""

    variant: Annotated[str, Field(max_length=20)] = Field(description="Name of the variant; empty: the service itself.")
    revision: ObjectName = Field(description="Revision that it was decided for.")
    desired: int = Field(ge=0, description="Replicas that the whole traffic needs.")
    ready: int = Field(default=0, ge=0, description="Of that revision's replicas, ready.")
    loading: int = Field(default=0, ge=0, description="Of that revision's replicas, on their way.")
    ready_at: Time | None = Field(default=None, description="When the next one of those is expected to be ready.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="Why so many, in a word.")
    message: Message = Field(default="", description="Why so many, with the numbers.")
    lead_time: LeadTime | None = Field(default=None, description="What a launch takes; absent: none was seen yet.")
    state: dict[str, Any] | None = Field(
        default=None,
        description="The decision's own memory.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class HistoryEntry(Schema):
    time: Time = Field(description="When it was decided.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="What was decided, in a word.")
    message: Message = Field(default="", description="What was seen, and why.")
    warning: bool = Field(default=False, description="Whether somebody should look at it.")


HISTORY_MAX = 20


class InferenceServiceStatus(Schema):
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that was last decided on.")
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))] = Field(
        default=[], description="Ready, Accepted and the rest; see docs/status.md."
    )
    url: Annotated[str, Field(max_length=512)] | None = Field(default=None, description="Address inside the cluster.")
    external_url: Annotated[str, Field(max_length=512)] | None = Field(default=None, description="Address outside.")
    runtime: Annotated[str, Field(max_length=320)] | None = Field(
        default=None, description="Kind/name of the runtime that the newest revision uses."
    )
    runtime_reason: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Why that one was chosen."
    )
    stable: ObjectName | None = Field(default=None, description="Revision that answers users.")
    candidate: ObjectName | None = Field(default=None, description="Revision being rolled out.")
    previous: ObjectName | None = Field(default=None, description="Revision that answered before stable.")
    release: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Where the release stands, in a few words."
    )
    revisions: Annotated[list[RevisionStatus], Field(max_length=32, json_schema_extra=list_map("name"))] = Field(
        default=[], description="Every revision that has pods."
    )
    routing: Routing | None = Field(
        default=None,
        description="What gateways serve: version, targets with weights, rules, mirror, sticky, timeoutMs, access.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    rollout: RolloutStatus | None = Field(default=None, description="Where the release stands.")
    shift: ShiftStatus | None = Field(
        default=None, description="Weights of spec.traffic that wait for replicas, or have just moved."
    )
    experiment: ExperimentStatus | None = Field(default=None, description="What the A/B experiment has found out.")
    scaling: Annotated[
        list[ScalingStatus], Field(max_length=VARIANTS_MAX + 1, json_schema_extra=list_map("variant"))
    ] = Field(default=[], description="Where replicas follow the load: how many, and why.")
    history: Annotated[list[HistoryEntry], Field(max_length=HISTORY_MAX, json_schema_extra=ATOMIC)] = Field(
        default=[], description="The last decisions, newest first."
    )
