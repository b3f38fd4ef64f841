"""What gateways are to serve for one service: `status.routing`, the contract between operator and agents.

Complete and literal: an agent needs nothing else of the service, so a gateway started while the operator is down serves
the same. Written by `slipway.decide.traffic`, read by `slipway.gateway.render`. No secrets: clients by name only.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from slipway.api.access import Jwt, RateLimit
from slipway.api.schema import ATOMIC, Schema
from slipway.api.traffic import MATCHES_MAX, VARIANTS_MAX, WHOLE, Match, StickyCookie

RevisionName = Annotated[str, Field(max_length=63)]
Weight = Annotated[int, Field(ge=0, le=WHOLE)]


_NEW = ("holdMs", "hold_ms")


class Target(Schema):
    """A revision that this routing may lead to. Its endpoints are those of the headless Service of its name."""

    revision: RevisionName = Field(description="Name of the revision and of its Service.")
    variant: str = Field(default="", max_length=20, description="Name of the variant; empty for stable and candidate.")
    weight: Weight = Field(description="Share of the requests that no rule takes, out of 10 000.")
    slots: int = Field(
        default=0, ge=0, description="Requests that one ready replica may hold, running and queued; 0: not known."
    )
    idle_timeout_ms: int = Field(
        default=0,
        ge=0,
        le=3_600_000,
        description="Pods close connections without requests after this; 0: not known.",
    )
    judged: bool = Field(
        default=False, description="Under judgement: its failing pods are not hidden by ejecting them."
    )
    hold_ms: int = Field(
        default=0,
        ge=0,
        le=3_600_000,
        description="How long a request waits for a first pod where there is none; 0: it is answered 503 at once.",
    )

    @model_serializer(mode="wrap")
    def _as_before(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what the version before does not know and refuses, as long as it is of no effect."""
        found: dict[str, Any] = written(self)
        return found if self.hold_ms else {name: value for name, value in found.items() if name not in _NEW}


class RoutedMatch(Schema):
    """Requests that match any of these go to one revision, whatever the weights say. The first rule that fits wins."""

    revision: RevisionName = Field(description="Where they go.")
    match: Annotated[list[Match], Field(min_length=1, max_length=MATCHES_MAX, json_schema_extra=ATOMIC)] = Field(
        description="Any of these."
    )


class RoutedMirror(Schema):
    revision: RevisionName = Field(description="Gets the copies.")
    share: Weight = Field(description="Copied out of 10 000 of the requests that no rule takes.")


class Sticky(Schema):
    """Where the number that chooses a target comes from."""

    by: Literal["header", "cookie", "clientAddress"] = Field(description="What names a user.")
    header: str = Field(default="", max_length=128, description="For header: its name.")
    cookie: StickyCookie | None = Field(default=None, description="For cookie.")


class RoutedAccess(Schema):
    clients: Annotated[list[str], Field(max_length=64, json_schema_extra=ATOMIC)] | None = Field(
        default=None,
        description="Clients of the Secret slipway-api-keys that may call; no key is needed when absent.",
    )
    jwt: Jwt | None = Field(default=None, description="Callers need a token.")
    rate_limit: RateLimit | None = Field(default=None, description="How often they may call.")
    max_concurrency: int = Field(default=0, ge=0, description="Requests in flight over all gateways; 0: no limit.")
    max_body_bytes: int = Field(default=0, ge=0, description="Largest body; 0: the gateway's own limit.")


class Routing(Schema):
    """One table. Order of `targets` is stable over a rollout: candidate, stable, variants by name.

    The gateway picks a target by position, so a growing candidate takes users from stable only, and nobody goes back.
    """

    version: Annotated[str, Field(min_length=1, max_length=32)] = Field(
        description="Names this very content; gateways say by it what they serve."
    )
    targets: Annotated[list[Target], Field(max_length=2 * (VARIANTS_MAX + 1), json_schema_extra=ATOMIC)] = Field(
        description="Revisions with their weights, which sum to 10 000; empty: answered 503."
    )
    rules: Annotated[list[RoutedMatch], Field(max_length=VARIANTS_MAX, json_schema_extra=ATOMIC)] = Field(
        default=[], description="What goes to one revision by its looks; the first that fits wins."
    )
    mirror: RoutedMirror | None = Field(default=None, description="Copies.")
    preview: Annotated[str, Field(max_length=63)] = Field(
        default="", description="Revision that alone answers at NAME-preview, one of the targets; empty: nothing does."
    )
    sticky: Sticky | None = Field(default=None, description="Users keep to one revision; by chance when absent.")
    timeout_ms: int = Field(ge=1, le=3_600_000, description="The longest a request may take.")
    access: RoutedAccess = Field(default=RoutedAccess(), description="Who may call, and how much.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        total = sum(target.weight for target in self.targets)
        if self.targets and total != WHOLE:
            raise ValueError(f"weights sum to {total}, must be {WHOLE}")
        known = {target.revision for target in self.targets}
        used = {rule.revision for rule in self.rules} | ({self.mirror.revision} if self.mirror else set())
        used |= {self.preview} if self.preview else set()
        if strangers := used - known:
            raise ValueError(f"leads to {', '.join(sorted(strangers))}, which is no target")
        return self
