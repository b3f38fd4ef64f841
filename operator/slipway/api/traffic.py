"""How requests are shared out: `spec.traffic`. What a schema can tell is refused here, the rest by `decide.traffic`.

Shares are percent with at most two decimals; inside, weights are integers out of 10 000.
"""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from slipway.api.experiment import Experiment
from slipway.api.model import Model
from slipway.api.scaling import REPLICAS_MAX
from slipway.api.schema import ATOMIC, DURATION_RULE, DnsLabel, Duration, Percent, Schema, list_map, rule, rules

WHOLE = 10_000
"""Weights of a route always sum to this: the gateway picks by `hash % sum`, so another sum would move users."""
VARIANTS_MAX, MATCHES_MAX = 8, 8


def weight(percent: int | str) -> int:
    """A share as an integer out of 10 000: `33.33%` -> 3333, `5` -> 500.

    Raises:
        ValueError: not a share of 0 to 100 with at most two decimals.
    """
    try:
        hundredths = Decimal(str(percent).removesuffix("%")) * 100
    except ArithmeticError:
        raise ValueError(f"must be a share such as 5% or 33.33%, not {percent!r}") from None
    if hundredths != int(hundredths) or not 0 <= hundredths <= WHOLE:
        raise ValueError(f"must be a share such as 5% or 33.33%, not {percent!r}")
    return int(hundredths)


def _one_of(*fields: str) -> str:
    return " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields) + " == 1"


HeaderName = Annotated[
    str,
    Field(
        max_length=128,
        json_schema_extra=rules(
            rule("self.matches('^[a-z0-9][a-z0-9-]*$')", "must be a lower-case header name", value="self"),
            rule(
                "!self.startsWith('x-envoy-') && !self.startsWith('x-slipway-') && "
                "!self.startsWith('x-forwarded-') && !(self in ['host', 'connection', 'cookie', 'authorization', "
                "'content-length', 'transfer-encoding', 'forwarded', 'x-real-ip', 'x-request-id', 'x-api-key'])",
                "must be a header that carries no other meaning",
                value="self",
            ),
        ),
    ),
]
TokenName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
MatchText = Annotated[str, Field(min_length=1, max_length=256)]
PlainText = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""No value of a header has control characters, so a match of them could never win."""


class Match(Schema):
    """One property of a request, and what it must be."""

    header: HeaderName | None = Field(default=None, description="Name of a request header (gRPC: of metadata).")
    cookie: TokenName | None = Field(default=None, description="Name of a cookie.")
    query: TokenName | None = Field(default=None, description="Name of a query parameter.")
    exact: PlainText | None = Field(default=None, description="The whole value.")
    prefix: PlainText | None = Field(default=None, description="How the value starts.")
    regex: MatchText | None = Field(
        default=None, description="RE2 expression that the whole value matches; values beyond 256 bytes match none."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(_one_of("header", "cookie", "query"), "give one of header, cookie and query"),
            rule(_one_of("exact", "prefix", "regex"), "give one of exact, prefix and regex"),
        )
    }


class Variant(Schema):
    """A revision that stays beside stable, with a share of the traffic, a group of users, or both."""

    name: Annotated[DnsLabel, Field(max_length=20)] = Field(description="Name of the variant, such as b.")
    model: Model = Field(description="The model of this variant.")
    weight: Percent = Field(default=0, description="Share of the requests that no match has sent elsewhere.")
    match: Annotated[list[Match], Field(max_length=MATCHES_MAX, json_schema_extra=ATOMIC)] = Field(
        default=[], description="Requests that match any of these go to this variant, whatever the weights say."
    )
    min_replicas: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] | None = Field(
        default=None, description="Replicas that are kept; as many as scaling.minReplicas when absent."
    )
    max_replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] | None = Field(
        default=None, description="The most replicas; as many as scaling.maxReplicas when absent."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas is more than maxReplicas",
            )
        )
    }


class StickyCookie(Schema):
    """A cookie that the gateway mints for those who come without one."""

    name: TokenName = Field(default="slipway-affinity", description="Name of the cookie.")
    max_age: Duration = Field(
        default="24h", description="How long a client keeps it.", json_schema_extra=rules(DURATION_RULE)
    )


class Stickiness(Schema):
    """What makes two requests one user's. A user keeps to a revision as long as weights only grow towards another."""

    header: HeaderName | None = Field(default=None, description="Header whose value names the user.")
    cookie: StickyCookie | None = Field(default=None, description="Cookie, minted on the first answer.")
    client_address: bool | None = Field(
        default=None,
        description="The address the request comes from.",
        json_schema_extra=rules(rule("self", "must be true, or left away")),
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(_one_of("header", "cookie", "clientAddress"), "give one of header, cookie and clientAddress")
        )
    }


class Mirror(Schema):
    """Copies of requests whose answers nobody waits for."""

    variant: DnsLabel = Field(description="The variant that gets the copies.")
    percent: Percent = Field(description="Share of the requests that no match takes, that is copied.")


class Traffic(Schema):
    """How requests are shared out between the stable revision and variants."""

    variants: Annotated[list[Variant], Field(max_length=VARIANTS_MAX, json_schema_extra=list_map("name"))] = Field(
        default=[], description="Revisions that stay beside stable."
    )
    stickiness: Stickiness | None = Field(default=None, description="Users keep to one revision.")
    mirror: Mirror | None = Field(default=None, description="A share of the requests is copied to a variant.")
    experiment: Experiment | None = Field(
        default=None, description="Compares variants with stable and tells in status.experiment; changes no weight."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.mirror) || (has(self.variants) && self.variants.exists(v, v.name == self.mirror.variant))",
                "mirror.variant must be one of variants",
            ),
            rule(
                "!has(self.variants) || "
                "!self.variants.all(v, string(v.weight).matches('^[0-9]+([.][0-9]+)?%?$')) || "
                "self.variants.map(v, double(string(v.weight).replace('%', ''))).sum() <= 100.001",
                "the weights of the variants must sum to at most 100%",
            ),
            rule("!has(self.experiment) || size(self.variants) > 0", "an experiment needs variants"),
        )
    }
