"""What the operator writes back into an InferenceService. Users read it; nothing but `decide` writes it."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.conditions import Phase
from slipway.api.schema import ATOMIC, ConditionStatus, Message, Schema, Time, list_map

ObjectName = Annotated[str, Field(max_length=253)]


class Condition(Schema):
    type: Annotated[str, Field(max_length=64)] = Field(description="What the condition is about.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="One word why.")
    message: Message = Field(default="", description="A sentence for people.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec this was decided from.")
    last_transition_time: Time = Field(description="When status last changed.")


class RevisionStatus(Schema):
    """One revision that has pods."""

    name: ObjectName = Field(description="Name of its Deployment.")
    role: Literal["Stable", "Candidate", "Previous"] = Field(description="What it is for.")
    storage_uri: Annotated[str, Field(max_length=1024)] = Field(default="", description="The model it serves.")
    replicas: int = Field(default=0, ge=0, description="Replicas it should have.")
    ready: int = Field(default=0, ge=0, description="Replicas that passed the model's readiness check.")
    failed: int = Field(default=0, ge=0, description="Replicas whose last start failed.")
    reason: Annotated[str, Field(max_length=64)] = Field(default="", description="State of its model, in a word.")
    message: Message = Field(default="", description="State of its model, in a sentence.")


class RolloutStatus(Schema):
    phase: Phase = Field(description="Healthy, Provisioning or Draining.")
    since: Time = Field(description="When this phase began.")
    until: Time | None = Field(default=None, description="When it ends at the latest.")


class HistoryEntry(Schema):
    time: Time = Field(description="When it was decided.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="What was decided, in a word.")
    message: Message = Field(default="", description="What was seen, and why.")


HISTORY_MAX = 20


class InferenceServiceStatus(Schema):
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that was last decided on.")
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))] = Field(
        default=[], description="Ready, Accepted and the rest; see docs/status.md."
    )
    url: Annotated[str, Field(max_length=512)] | None = Field(default=None, description="Address inside the cluster.")
    runtime: Annotated[str, Field(max_length=320)] | None = Field(
        default=None, description="Kind/name of the runtime that the newest revision uses."
    )
    stable: ObjectName | None = Field(default=None, description="Revision that answers users.")
    candidate: ObjectName | None = Field(default=None, description="Revision being rolled out.")
    previous: ObjectName | None = Field(default=None, description="Revision that answered before stable.")
    revisions: Annotated[list[RevisionStatus], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default=[], description="Every revision that has pods."
    )
    rollout: RolloutStatus | None = Field(default=None, description="Where the release stands.")
    history: Annotated[list[HistoryEntry], Field(max_length=HISTORY_MAX, json_schema_extra=ATOMIC)] = Field(
        default=[], description="The last decisions, newest first."
    )
