"""Where a release stands: `status.rollout`. All that the next step needs: a restart at any instant changes nothing."""

from typing import Annotated, Any, Literal

from pydantic import Field

from slipway.api.conditions import Phase
from slipway.api.schema import ATOMIC, WHOLE_MAP, Message, Schema, Time
from slipway.api.traffic import WHOLE

ObjectName = Annotated[str, Field(max_length=253)]
Word = Annotated[str, Field(max_length=64)]

Outcome = Literal["Pass", "Fail", "Inconclusive", "NoData", "Error", "Cancelled"]


class Verdict(Schema):
    """What one metric says of the candidate."""

    metric: Word = Field(description="errorRate, p50 to p99, restarts, or the name of a metric of the spec.")
    verdict: Outcome = Field(description="Pass, Fail, Inconclusive, NoData, Error or Cancelled.")
    message: Annotated[str, Field(max_length=512)] = Field(description="The numbers, as a sentence.")
    evidence: float = Field(default=1, ge=0, description="Odds against an equal candidate (e-value); 100 is a failure.")


class Pause(Schema):
    reason: Word = Field(
        description="Manual, StepGate, Inconclusive, LowTraffic, MetricsUnavailable, CapacityBlocked or"
        " GatewayNotVerified."
    )
    message: Message = Field(default="", description="What it waits for.")
    since: Time = Field(description="When it began.")


class Abort(Schema):
    reason: Word = Field(description="Why all traffic went back, in a word.")
    message: Message = Field(description="The numbers.")
    at: Time = Field(description="When it was decided.")


class RolloutStatus(Schema):
    """One release, from the first pod of its candidate to the last of its predecessor."""

    phase: Phase = Field(
        description="Healthy, Provisioning, Shadowing, Progressing, Promoting, Draining, RollingBack or RolledBack."
    )
    stage: Literal["", "Scaling", "Shifting", "Verifying", "Soaking"] = Field(
        default="", description="Within a step: pods, weights, acknowledgement, then its hold."
    )
    since: Time = Field(description="When this phase began.")
    until: Time | None = Field(default=None, description="When the present hold, delay or drain ends at the latest.")
    candidate: ObjectName = Field(default="", description="The revision that this release is about.")
    attempt: int = Field(default=0, ge=0, description="1 at first, one more with every retry.")
    step: int = Field(default=0, ge=0, description="Of the steps, from 0; their number when all are done.")
    steps_hash: Annotated[str, Field(max_length=16)] = Field(default="", description="Tells that steps were edited.")
    started: Time | None = Field(default=None, description="When this release began.")
    soaking_since: Time | None = Field(default=None, description="When every gateway served this step.")
    weight: int = Field(default=0, ge=0, le=WHOLE, description="The candidate's wanted share of what stable would get.")
    mirror: int = Field(default=0, ge=0, le=WHOLE, description="Share that is copied to the candidate.")
    requests: int = Field(default=0, ge=0, description="The candidate's requests in this step.")
    pause: Pause | None = Field(default=None, description="Why it does not go on, and since when.")
    told: Annotated[dict[Word, Time], Field(max_length=8)] | None = Field(
        default=None,
        description="Reasons to pause that history has of this step, and since when; absent: none.",
        json_schema_extra=WHOLE_MAP,
    )
    abort: Abort | None = Field(default=None, description="Why it went back.")
    skip_analysis: bool = Field(default=False, description="By command: nothing is judged any more in this release.")
    best_ready: int = Field(default=0, ge=0, description="The most replicas of the candidate that were ready at once.")
    best_ready_at: Time | None = Field(
        default=None, description="When that was reached, or more was asked for; moves on while nothing is missing."
    )
    lead_seconds: int = Field(default=0, ge=0, description="How long its first replica took to get ready.")
    restarts: int = Field(default=0, ge=0, description="Restarts of the candidate's containers at `restartsAt`.")
    restarts_of_stable: int = Field(default=0, ge=0, description="The same of stable.")
    restarts_at: Time | None = Field(default=None, description="Since when they are counted: a step, or an hour of it.")
    next: Message = Field(default="", description="What happens next, and when.")
    verdicts: Annotated[list[Verdict], Field(max_length=16, json_schema_extra=ATOMIC)] = Field(
        default=[], description="What the metrics say, the gravest first."
    )
    evidence: dict[str, Any] | None = Field(
        default=None,
        description="The judge's own memory of this candidate.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    obeyed: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=4, json_schema_extra=ATOMIC)] = (
        Field(default=[], description="Ids of the commands that were last obeyed or refused.")
    )
