"""How many replicas: `spec.scaling`, and what of it a variant may have otherwise.

`decide.scaling.settings` makes of it what the decision reads; `scaled.py` beside it has what a decision remembers.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from slipway.api.schema import DURATION_RULE, DnsLabel, Duration, Schema, list_map, rule, rules

REPLICAS_MAX = 1000
POSITIVE_RULE = rule(
    f"{DURATION_RULE['rule']} && duration(self) > duration('0s')",
    "must be longer than 0s, such as 500ms, 10s or 1m30s",
    value="self",
)
CRON_RULE = rule(
    "self.matches('^([0-9*,/-]+ ){4}[0-9*,/-]+$')",
    "must be five fields of cron: minute, hour, day of month, month, day of week, such as 0 8 * * 1-5",
    value="self",
)
SHARE_RULE = rule(
    "type(self) == int ? self >= 0 : self.matches('^[0-9]{1,4}%$')",
    "must be a number of replicas or a share of them such as 50%",
    value="string(self)",
)
Share = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 16, "x-kubernetes-validations": [SHARE_RULE]}),
]
Cron = Annotated[str, Field(max_length=64, json_schema_extra=rules(CRON_RULE))]


def _duration(default: str | None, description: str, check: dict[str, str] = POSITIVE_RULE) -> Any:
    return Field(default=default, description=description, json_schema_extra=rules(check))


PERCENTILES = ("p50", "p90", "p95", "p99")
_GIVEN = " + ".join(f"(has(self.{name}) ? [self.{name}] : [])" for name in PERCENTILES)


class Percentiles(Schema):
    """The longest that a share of the requests may take."""

    p50: Duration | None = Field(default=None, description="Half of the requests are at most this long.")
    p90: Duration | None = Field(default=None, description="90 % of the requests are at most this long.")
    p95: Duration | None = Field(default=None, description="95 % of the requests are at most this long.")
    p99: Duration | None = Field(default=None, description="99 % of the requests are at most this long.")

    # Once for all four: said at each of them, it would be a tenth of the CRD.
    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(" || ".join(f"has(self.{name})" for name in PERCENTILES), "needs one of p50, p90, p95 and p99"),
            rule(
                f"({_GIVEN}).all(d, {POSITIVE_RULE['rule'].replace('self', 'd')})",
                "p50, p90, p95 and p99 must be longer than 0s, such as 500ms, 10s or 1m30s",
            ),
        )
    }


class PromqlObjective(Schema):
    """A number of Prometheus, and how much of it one replica carries."""

    query: str = Field(min_length=1, max_length=2048, description="PromQL that gives one number for the whole service.")
    target: float = Field(gt=0, le=1e12, description="How much of it one replica carries.")


class Objective(Schema):
    """What the replicas are there for. With several, the one that needs the most replicas wins."""

    latency: Percentiles | None = Field(default=None, description="Time from arrival to answer.")
    queue_time: Percentiles | None = Field(default=None, description="Time from arrival until a replica begins.")
    concurrency: float | None = Field(default=None, gt=0, le=10_000, description="Requests at once in one replica.")
    requests_per_second: float | None = Field(default=None, gt=0, le=1e6, description="Requests per second of one.")
    promql: PromqlObjective | None = Field(default=None, description="A number of your own.")

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "has(self.latency) || has(self.queueTime) || has(self.concurrency) || has(self.requestsPerSecond)"
                " || has(self.promql)",
                "needs one of latency, queueTime, concurrency, requestsPerSecond and promql",
            )
        )
    }


class Schedule(Schema):
    """More replicas at certain times, whatever the load."""

    name: DnsLabel = Field(description="Names it in messages.")
    start: Cron = Field(description="When it begins, as cron.")
    duration: Duration = _duration("8h", "How long it goes on from there; at most 24h.")
    time_zone: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$")] = Field(
        default="UTC", description="Time zone of the cron fields, such as Europe/Vienna."
    )
    min_replicas: int = Field(ge=0, le=REPLICAS_MAX, description="Replicas that are kept meanwhile.")


class Pace(Schema):
    """How fast replicas may come, or go."""

    replicas: Share | None = Field(default=None, description="The most per period: 4, or 50%. Absent: no limit.")
    period: Duration = _duration("60s", "Over which that is counted; at most 1h.")
    delay: Duration = _duration(
        "0s",
        "How long the need must have lasted first: of all that was needed meanwhile, the safest counts.",
        DURATION_RULE,
    )


class Behavior(Schema):
    """Limits on the way. What is needed and not allowed yet follows in the next period."""

    up: Pace = Field(default=Pace(), description="More replicas.")
    down: Pace = Field(default=Pace(), description="Fewer replicas.")


class Scaling(Schema):
    """How many replicas."""

    min_replicas: int = Field(default=1, ge=0, le=REPLICAS_MAX, description="Replicas that are kept; 0 lets it sleep.")
    max_replicas: int | None = Field(
        default=None, ge=1, le=REPLICAS_MAX, description="The most replicas. Absent: minReplicas, so no scaling."
    )
    objective: Objective = Field(
        default=Objective(queue_time=Percentiles(p99="1s")), description="What the replicas are there for."
    )
    idle_after: Duration | None = _duration(
        None, "Without requests for this long it goes to sleep. Absent: by what a cold start costs.", POSITIVE_RULE
    )
    activation_replicas: int = Field(default=1, ge=1, le=REPLICAS_MAX, description="Replicas that waking starts with.")
    schedules: Annotated[list[Schedule], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default=[], description="Times at which more are kept, of the service itself and not of its variants."
    )
    behavior: Behavior = Field(default=Behavior(), description="How fast replicas come and go.")
    paused: Literal["No", "Up", "Down", "Both"] = Field(
        default="No", description="Directions in which nothing is changed for now."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas is more than maxReplicas",
            ),
            rule(
                "!has(self.maxReplicas) || self.activationReplicas <= self.maxReplicas",
                "activationReplicas is more than maxReplicas",
            ),
        )
    }
