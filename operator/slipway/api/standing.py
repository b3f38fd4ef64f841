"""What an A/B experiment has found out: `status.experiment`. All that the next look needs, as for releases."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.experiment import METRICS_MAX
from slipway.api.progress import ObjectName
from slipway.api.schema import ATOMIC, Message, Schema, Time

Estimate = Annotated[list[float], Field(min_length=3, max_length=3, json_schema_extra=ATOMIC)]
"""Value, lower and upper end: an interval that holds at every look at once."""


class ExperimentArm(Schema):
    """One revision of the experiment. Intervals are of 95 % each; of `gain`, of 99 % for all variants together."""

    name: Annotated[str, Field(max_length=20)] = Field(description="The variant, or stable.")
    revision: ObjectName = Field(description="What it runs.")
    requests: int = Field(default=0, ge=0, description="Requests that it answered.")
    errors: int = Field(default=0, ge=0, description="Of those, failed.")
    error_rate: Estimate | None = Field(default=None, description="Share of failed requests, 0 to 1: value, low, high.")
    p50: Estimate | None = Field(
        default=None, description="Median time in ms: value, low, high; the interval ends at edges of buckets."
    )
    p95: Estimate | None = Field(default=None, description="The same of the time that 95 % of answers stay within.")
    metrics: Annotated[dict[Annotated[str, Field(max_length=63)], Estimate], Field(max_length=METRICS_MAX)] | None = (
        Field(default=None, description="Numbers from Prometheus, mean over time: value, low, high.")
    )
    gain: Estimate | None = Field(
        default=None,
        description="Better than stable at the same times by so much of the objective: value, low, high.",
    )


class ArmMemory(Schema):
    """What one arm's part of the report is made from, and the next one goes on from."""

    blocks: int = 0
    """Stretches of time that it had requests in."""
    latency: list[int] = Field(default=[])
    """First bucket that has any, then requests by bucket."""
    spread: list[float] = Field(default=[])
    """How much errors, and requests beyond p50 and p95, vary from stretch to stretch: sums of squares."""
    gain: list[float] | None = None
    """`decide.means.Mean` of the difference from stable."""
    metrics: dict[str, list[float]] | None = None
    """The same of each metric."""


class Memory(Schema):
    edge_ms: float = 0
    """Objective p50 or p95: what slower requests are slower than."""
    arms: list[ArmMemory] = Field(default=[])
    """In the order of the report."""


class ExperimentStatus(Schema):
    """What is known of the present revisions. Begins anew with another one of them, or another objective."""

    since: Time = Field(description="When the numbers begin.")
    objective: Annotated[str, Field(max_length=63)] = Field(default="errorRate", description="What it is led by.")
    outcome: Literal["Undecided", "Leader", "NoDifference"] = Field(
        default="Undecided", description="NoDifference: none is further from stable than minEffect."
    )
    leader: Annotated[str, Field(max_length=20)] = Field(
        default="", description="The variant, or stable, that is better than all others; empty: none is known to be."
    )
    evidence: float = Field(
        default=1, ge=0, description="Odds against no difference (e-value) of the variant that differs most."
    )
    needed_requests: int | None = Field(
        default=None, ge=0, description="How many more will decide if differences stay as they are; absent: not known."
    )
    message: Message = Field(default="", description="The same as a sentence.")
    arms: Annotated[list[ExperimentArm], Field(max_length=9, json_schema_extra=ATOMIC)] = Field(
        default=[], description="Stable, then the variants by name."
    )
    memory: Memory = Field(
        default=Memory(),
        description="What the next look goes on from.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
