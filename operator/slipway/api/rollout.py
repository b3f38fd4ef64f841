"""How a new revision takes over from the one that answers: `spec.rollout`."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.schema import (
    ATOMIC,
    DURATION_RULE,
    PROMQL_MAX,
    DnsLabel,
    Duration,
    Percent,
    Schema,
    list_map,
    rule,
    rules,
)

STEPS_MAX, METRICS_MAX = 16, 8


def _duration(default: str, description: str) -> str:
    """A duration field."""
    field: str = Field(default=default, description=description, json_schema_extra=rules(DURATION_RULE))
    return field


class Step(Schema):
    """One stop on the way. Left when its hold is over and the analysis has enough requests and finds no fault."""

    weight: Percent | None = Field(default=None, description="The candidate's share of what stable would get.")
    mirror: Percent | None = Field(
        default=None, description="Share of the requests that is copied to the candidate; its answers go nowhere."
    )
    hold: Duration = _duration("0s", "How long it lasts at least, from when every gateway serves it.")
    gate: bool = Field(default=False, description="Waits for the command promote, however long.")

    model_config = Schema.model_config | {
        "json_schema_extra": rules(rule("has(self.weight) != has(self.mirror)", "give one of weight and mirror"))
    }


class ErrorRate(Schema):
    """Answers 5xx, gRPC failures, resets and timeouts; not 429, and not what a client broke off."""

    max_ratio_to_stable: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        default=2, description="The candidate's odds of an error against stable's at the same time."
    )
    max: Percent | None = Field(default=None, description="Absolute limit, whatever stable does.")


class Rejected(Schema):
    """Answers 4xx but 401, 403, 408 and 429; of gRPC INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED and their like.

    They are the caller's doing, unless only the candidate gives them.
    """

    max_ratio_to_stable: float = Field(
        default=2,
        ge=0,
        le=1000,
        description="The candidate's odds of a rejection against stable's at the same time; 0: not compared.",
        json_schema_extra=rules(rule("self == 0.0 || self >= 1.0", "must be 0 or at least 1")),
    )
    max: Percent | None = Field(default=None, description="Absolute limit, whatever stable does.")


class LatencyLimit(Schema):
    max_ratio_to_stable: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        default=None, description="The candidate's quantile against stable's at the same time."
    )
    max: Annotated[str, Field(max_length=32, json_schema_extra=rules(DURATION_RULE))] | None = Field(
        default=None, description="Absolute limit, whatever stable does."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule("has(self.maxRatioToStable) || has(self.max)", "give maxRatioToStable, max or both")
        )
    }


class Latency(Schema):
    """Limits of quantiles of the time from a request's arrival at the pod to the end of its answer."""

    p50: LatencyLimit | None = Field(default=None, description="Median.")
    p90: LatencyLimit | None = Field(default=None, description="90 % are faster.")
    p95: LatencyLimit | None = Field(default=None, description="95 % are faster.")
    p99: LatencyLimit | None = Field(default=None, description="99 % are faster.")


class Metric(Schema):
    """A number from Prometheus, and what it may be. Aborts only on a number; none is a pause, never a verdict."""

    name: DnsLabel = Field(description="Name in verdicts and events.")
    promql: Annotated[str, Field(min_length=1, max_length=PROMQL_MAX)] = Field(
        description="Expression with one number; $stable, $candidate, $namespace and $service stand for label values."
    )
    max: float | None = Field(default=None, description="Not more than this.")
    min: float | None = Field(default=None, description="Not less than this.")
    for_: Duration = Field(
        default="30s",
        alias="for",
        description="A limit is broken when it is so for this long.",
        json_schema_extra=rules(DURATION_RULE),
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(rule("has(self.max) || has(self.min)", "give max, min or both"))
    }


class Analysis(Schema):
    """What the candidate is judged by, against the revision that answers beside it."""

    error_rate: ErrorRate = Field(default=ErrorRate(), description="Failed requests.")
    rejected: Rejected = Field(default=Rejected(), description="Requests that stable would have taken.")
    latency: Latency = Field(
        default=Latency(p95=LatencyLimit(max_ratio_to_stable=2)), description="How long answers take."
    )
    metrics: Annotated[list[Metric], Field(max_length=METRICS_MAX, json_schema_extra=list_map("name"))] = Field(
        default=[], description="Numbers from Prometheus."
    )
    min_requests: int = Field(
        default=100, ge=1, le=10_000_000, description="Requests that the candidate must have answered in each step."
    )
    on_no_data: Literal["Hold", "Promote", "Abort"] = Field(
        default="Hold", description="What becomes of a step that does not get its requests within noDataAfter."
    )
    no_data_after: Duration = _duration("10m", "How long beyond its hold a step waits for its requests.")


class Preview(Schema):
    """BlueGreen: the candidate at the address NAME-preview before it gets any traffic."""

    hold: Duration = _duration("0s", "How long it is looked at, at least.")
    gate: bool = Field(default=False, description="Waits for the command promote, however long.")


class Rollout(Schema):
    """How a new revision takes over."""

    strategy: Literal["Canary", "BlueGreen", "None"] = Field(
        default="Canary",
        description="Canary: by steps, judged. BlueGreen: at once, after a look at it. None: at once when it is ready.",
    )
    steps: Annotated[list[Step], Field(max_length=STEPS_MAX, json_schema_extra=ATOMIC)] = Field(
        default=[Step(weight="5%", hold="2m"), Step(weight="25%", hold="2m"), Step(weight="50%", hold="2m")],
        description="Canary: where it stops on the way.",
    )
    preview: Preview = Field(default=Preview(), description="BlueGreen: before the switch.")
    analysis: Analysis = Field(default=Analysis(), description="What the candidate is judged by.")
    progress_deadline: Duration = _duration(
        "10m", "The candidate goes when no further replica of it becomes ready for this long."
    )
    scale_down_delay: Duration = _duration("30s", "How long the previous revision keeps its pods, to go back to.")
    capacity: Literal["Surge", "Borrow"] = Field(
        default="Surge",
        description="Surge: the candidate's pods come on top. Borrow: where there is no room, they take the place of"
        " stable's, one after the other.",
    )
