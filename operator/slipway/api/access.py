"""Who may call a service and how much: `spec.access`. Checked in the gateway before anything else happens."""

from typing import Annotated, Literal

from pydantic import Field

from slipway.api.schema import ATOMIC, LabelValue, Schema, Size, rule, rules

SECRET = "slipway-api-keys"  # noqa: S105 - the name of the object
"""The one Secret of a namespace that gateways may read: client name -> its keys, one per line (two while rotating)."""

ClientName = Annotated[LabelValue, Field(min_length=1)]
Url = Annotated[str, Field(max_length=1024, pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/=?&-]*)?$")]


class ApiKeys(Schema):
    """Callers show a key of the Secret `slipway-api-keys`: `authorization: Bearer KEY` or `x-api-key: KEY`."""

    clients: Annotated[list[ClientName], Field(min_length=1, max_length=64, json_schema_extra=ATOMIC)] = Field(
        description="Clients that may call; their keys stand under these names in the Secret slipway-api-keys."
    )


class Jwt(Schema):
    """Callers show a signed token: `authorization: Bearer TOKEN`."""

    issuer: Annotated[str, Field(min_length=1, max_length=512)] = Field(description="The token's iss.")
    audiences: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(max_length=8, json_schema_extra=ATOMIC),
    ] = Field(default=[], description="One of these must be in the token's aud; any when empty.")
    jwks_uri: Url | None = Field(default=None, description="Where the issuer publishes its keys.")
    jwks: Annotated[str, Field(max_length=16384)] | None = Field(
        default=None, description="The issuer's public keys themselves, a JSON Web Key Set."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(rule("has(self.jwksUri) != has(self.jwks)", "give one of jwksUri and jwks"))
    }


class RateLimit(Schema):
    """More than this is answered 429 (gRPC: RESOURCE_EXHAUSTED), with the standard headers."""

    requests_per_second: int = Field(ge=1, le=1_000_000, description="Mean rate, over all gateways together.")
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Most requests at once; as many as requestsPerSecond when absent."
    )
    per: Literal["client", "service"] = Field(
        default="client",
        description="Whose rate: each client's own (by key or token, else by address), or all clients' together.",
    )


class Access(Schema):
    """Who may call, and how much."""

    api_keys: ApiKeys | None = Field(default=None, description="Callers need a key.")
    jwt: Jwt | None = Field(default=None, description="Callers need a token.")
    rate_limit: RateLimit | None = Field(default=None, description="How often they may call.")
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Requests in flight, over all gateways together; more are answered 503."
    )
    max_body: Size | None = Field(
        default=None, description="Largest request body in bytes, such as 8Mi; more is answered 413."
    )

    model_config = Schema.model_config | {
        "json_schema_extra": rules(rule("!(has(self.apiKeys) && has(self.jwt))", "give apiKeys or jwt, not both"))
    }
