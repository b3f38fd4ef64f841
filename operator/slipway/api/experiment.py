"""A/B experiments: `spec.traffic.experiment`. What they find out is in `standing.py`."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.schema import PROMQL_MAX, DnsLabel, Percent, Schema, list_map, rule, rules

BUILT_IN = ("errorRate", "p50", "p95")
"""Objectives that need no Prometheus."""
CONTROL = "stable"
"""What reports call the revision that variants are compared with."""
METRICS_MAX = 4


class ExperimentMetric(Schema):
    """A number from Prometheus, asked for each revision by itself."""

    name: DnsLabel = Field(description="Name in the report.")
    promql: Annotated[str, Field(min_length=1, max_length=PROMQL_MAX)] = Field(
        description="Expression with one number; $revision, $namespace and $service stand for label values."
    )
    goal: Literal["Higher", "Lower"] = Field(default="Higher", description="Which is better.")


class Experiment(Schema):
    """Compares variants with stable and with each other, and tells in `status.experiment`. Changes no weight."""

    objective: Annotated[str, Field(max_length=63)] = Field(
        default="errorRate", description="What decides who leads: errorRate, p50, p95, or the name of one of metrics."
    )
    min_effect: Percent = Field(
        default="0%", description="Differences up to this, relative to stable's value, do not matter."
    )
    metrics: Annotated[list[ExperimentMetric], Field(max_length=METRICS_MAX, json_schema_extra=list_map("name"))] = (
        Field(default=[], description="Numbers from Prometheus.")
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "self.objective in ['errorRate', 'p50', 'p95'] || self.metrics.exists(m, m.name == self.objective)",
                "objective must be errorRate, p50, p95 or the name of one of metrics",
            ),
            rule(
                "!self.metrics.exists(m, m.name in ['p50', 'p95'])", "p50 and p95 are no names for metrics of your own"
            ),
        )
    }
