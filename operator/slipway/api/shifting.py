"""Weights of the spec on their way into force: `status.shift`. A restart at any instant goes on from here."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.schema import ATOMIC, Message, Schema, Time
from slipway.api.traffic import VARIANTS_MAX, WHOLE

Stand = Literal["Scaling", "CapacityLimited", "NoSignal", "Stopped", "Settling"]


class ShiftArm(Schema):
    """One arm that is to have more of the requests than it had."""

    variant: Annotated[str, Field(max_length=20)] = Field(description="Name of the variant; empty: the service itself.")
    weight: int = Field(ge=0, le=WHOLE, description="What it is to have, out of 10 000.")
    replicas: int = Field(ge=0, description="Replicas that this takes, within its bounds.")
    ready: int = Field(default=0, ge=0, description="The most of them that were ready at once.")
    since: Time = Field(description="When that was reached, or it got its weight.")
    stand: Stand = Field(
        description="Scaling: its replicas start. CapacityLimited: the cluster has no room for them. NoSignal: the load"
        " is not known. Stopped: they did not become ready within rollout.progressDeadline. Settling: it has its"
        " weight, and keeps its replicas until its load has been seen."
    )


class ShiftStatus(Schema):
    """There only while weights wait for replicas, or have just moved."""

    message: Message = Field(description="What waits for what.")
    arms: Annotated[list[ShiftArm], Field(max_length=2 * VARIANTS_MAX + 1, json_schema_extra=ATOMIC)] = Field(
        description="Who gets more."
    )
