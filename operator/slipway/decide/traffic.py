"""From what a user wants of the traffic, and what is ready, to the one table that gateways serve.

    spec ── check ──> refusal, or ── wish ──┐
                                            ├── route ──> Routing: weights sum to 10 000, order is stable
    status ── wish_of_last (spec refused) ──┘

A revision without a ready endpoint gets nothing: its share and its group of users go to stable, until it has one;
unless it sleeps: then gateways hold its requests until the first replica is ready, which they wake.
Stable keeps its own share whatever befalls it: there is nobody to give it to who was meant to have it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slipway.api.access import Access
from slipway.api.conditions import Reason
from slipway.api.experiment import Experiment
from slipway.api.routing import RoutedAccess, RoutedMatch, RoutedMirror, Routing, Sticky, Target
from slipway.api.schema import seconds
from slipway.api.status import InferenceServiceStatus
from slipway.api.traffic import WHOLE, Match, Stickiness, Traffic, weight
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide import experiment, matches, policy
from slipway.decide.drift import quantity
from slipway.decide.scaling import spec as scaling
from slipway.decide.types import Refusal

VERSION_LENGTH = 12


@dataclass(frozen=True, slots=True)
class Wish:
    """What the last good spec wants of the traffic. Variants by name."""

    timeout_ms: int
    weights: Mapping[str, int] = field(default_factory=dict)
    rules: tuple[tuple[str, tuple[Match, ...]], ...] = ()
    mirror: tuple[str, int] | None = None
    sticky: Sticky | None = None
    access: RoutedAccess = field(default_factory=RoutedAccess)
    experiment: Experiment | None = None
    sleepers: frozenset[str] = frozenset()
    """Variants (empty: the service itself) that may be without replicas."""

    @property
    def stable(self) -> int:
        """What the variants leave to stable."""
        return WHOLE - sum(self.weights.values())


@dataclass(frozen=True, slots=True)
class Place:
    """A revision that answers for the service itself or for a variant."""

    revision: str
    variant: str = ""
    """Empty: the service itself, of which there is exactly one, and a candidate beside it at most."""
    ready: int = 0
    """Endpoints."""
    slots: int = 0
    idle_timeout_ms: int = 0
    is_candidate: bool = False
    part: int = 0
    """Of a candidate: its weight, out of 10 000 of the service's own share."""
    copies: int = 0
    """Of a candidate: what share of the requests is copied to it, out of 10 000."""
    is_judged: bool = False
    hold_ms: int = 0
    """How long its requests wait while it has no endpoint."""
    is_awaited: bool = False
    """It sleeps, or wakes: requests are led to it although it has no endpoint, and wait."""

    @property
    def answers(self) -> bool:
        return self.ready > 0 or self.is_awaited


def check(spec: InferenceServiceSpec, namespace: str) -> Refusal | None:
    """Why this cannot be honoured, in a sentence. What a schema can tell has been told before."""
    if words := _traffic_flaw(spec.traffic) or experiment.flaw(spec.traffic, namespace):
        return Refusal(Reason.INVALID_TRAFFIC, f"spec.traffic: {words}")
    if words := _access_flaw(spec.access):
        return Refusal(Reason.INVALID_ACCESS, f"spec.access: {words}")
    if words := policy.flaw(spec.rollout, namespace, copies=spec.traffic.mirror is not None):
        return Refusal(Reason.INVALID_ROLLOUT, f"spec.rollout: {words}")
    return None


def wish(spec: InferenceServiceSpec) -> Wish:
    """Of a spec without a flaw."""
    traffic = spec.traffic
    mirror = traffic.mirror
    return Wish(
        timeout_ms=max(1, round(seconds(spec.predictor.timeout) * 1000)),
        weights={variant.name: weight(variant.weight) for variant in traffic.variants},
        rules=tuple((variant.name, tuple(variant.match)) for variant in traffic.variants if variant.match),
        mirror=(mirror.variant, weight(mirror.percent)) if mirror else None,
        sticky=_sticky(traffic.stickiness),
        access=_access(spec.access),
        experiment=traffic.experiment,
        sleepers=frozenset(name for name, own in scaling.each(spec).items() if not own.min_replicas),
    )


def wish_of_last(status: InferenceServiceStatus) -> Wish | None:
    """What was wanted before a spec that is refused, as far as status tells: a group of users whose variant had no
    endpoint at the time has been forgotten, and stays with stable.
    """
    last = status.routing
    if last is None:
        return None
    variants = {target.revision: target.variant for target in last.targets}
    weights = {target.variant: 0 for target in last.targets if target.variant}
    for known in status.revisions:
        if known.variant in weights:
            weights[known.variant] = max(weights[known.variant], known.weight)
    return Wish(
        timeout_ms=last.timeout_ms,
        weights=weights if sum(weights.values()) <= WHOLE else dict.fromkeys(weights, 0),
        rules=tuple((variants[rule.revision], tuple(rule.match)) for rule in last.rules),
        mirror=(variants[last.mirror.revision], last.mirror.share) if last.mirror else None,
        sticky=last.sticky,
        access=last.access,
        sleepers=frozenset(target.variant for target in last.targets if target.hold_ms),
    )


def route(wanted: Wish, places: Sequence[Place], preview: str = "") -> Routing:
    """The table. `places` has the service itself, its candidate if it has one, and any of the variants, in any order.

    Targets are the candidate, the service itself, then variants by name: a user's place among them must not move, and a
    growing candidate takes users from the service itself only.
    """
    ordered = sorted(places, key=lambda place: (place.variant, not place.is_candidate))
    live = {place.variant: place.revision for place in ordered if place.answers and place.variant}
    rules = [RoutedMatch(revision=live[name], match=list(match)) for name, match in wanted.rules if name in live]
    weights = _weights(wanted, ordered)
    table = Routing(
        version="-",
        targets=[
            Target(
                revision=place.revision,
                variant=place.variant,
                weight=weights[place.revision],
                slots=place.slots,
                idle_timeout_ms=place.idle_timeout_ms,
                judged=place.is_judged,
                hold_ms=place.hold_ms,
            )
            for place in ordered
        ],
        rules=rules,
        mirror=_mirror(wanted, live, ordered),
        sticky=wanted.sticky,
        timeout_ms=wanted.timeout_ms,
        access=wanted.access,
        preview=preview,
    )
    return table.model_copy(update={"version": version(table)})


def _weights(wanted: Wish, places: Sequence[Place]) -> dict[str, int]:
    """Revision -> weight. Who does not answer gets nothing; what is left is the service's own revision's."""
    found = {
        place.revision: wanted.weights.get(place.variant, 0) if place.answers else 0
        for place in places
        if place.variant
    }
    own = WHOLE - sum(found.values())
    for place in places:
        if place.is_candidate:
            found[place.revision] = part(own, place.part) if place.ready else 0
            own -= found[place.revision]
    return found | {place.revision: own for place in places if not place.variant and not place.is_candidate}


def part(whole: int, weight: int) -> int:
    """A weight out of 10 000 of a share, as the table has it."""
    return round(whole * weight / WHOLE)


def version(table: Routing) -> str:
    """Hash of the content. Defaults are left out, so that a field added by a newer Slipway changes no version."""
    content = table.model_dump(by_alias=True, mode="json", exclude_defaults=True, exclude={"version"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_LENGTH]


def _mirror(wanted: Wish, live: Mapping[str, str], places: Sequence[Place]) -> RoutedMirror | None:
    for place in places:
        if place.copies and place.ready:
            return RoutedMirror(revision=place.revision, share=place.copies)
    if wanted.mirror is None or wanted.mirror[0] not in live or wanted.mirror[1] == 0:
        return None
    return RoutedMirror(revision=live[wanted.mirror[0]], share=wanted.mirror[1])


def _sticky(wanted: Stickiness | None) -> Sticky | None:
    if wanted is None:
        return None
    if wanted.header is not None:
        return Sticky(by="header", header=wanted.header)
    return Sticky(by="cookie", cookie=wanted.cookie) if wanted.cookie is not None else Sticky(by="clientAddress")


def _access(wanted: Access) -> RoutedAccess:
    return RoutedAccess(
        clients=wanted.api_keys.clients if wanted.api_keys else None,
        jwt=wanted.jwt,
        rate_limit=wanted.rate_limit,
        max_concurrency=wanted.max_concurrency or 0,
        max_body_bytes=int(quantity(wanted.max_body) or 0) if wanted.max_body is not None else 0,
    )


def _traffic_flaw(traffic: Traffic) -> str:
    names = Counter(variant.name for variant in traffic.variants)
    if twice := [name for name, count in names.items() if count > 1]:
        return f"variant {twice[0]} is there twice"
    try:
        weights = [weight(variant.weight) for variant in traffic.variants]
        copied = weight(traffic.mirror.percent) if traffic.mirror else 0
    except ValueError as error:
        return str(error)
    if sum(weights) > WHOLE:
        return f"the weights of the variants sum to {sum(weights) / 100:g}%, must be at most 100%"
    return _mirror_flaw(traffic, copied) or _match_flaw(traffic)


def _mirror_flaw(traffic: Traffic, copied: int) -> str:
    if traffic.mirror is None:
        return ""
    target = next((variant for variant in traffic.variants if variant.name == traffic.mirror.variant), None)
    if target is None:
        return f"mirror.variant {traffic.mirror.variant} is none of variants"
    if copied and weight(target.weight) == WHOLE:
        return f"variant {target.name} gets every request already, so a mirror would only send each twice"
    return ""


def _match_flaw(traffic: Traffic) -> str:
    number = sum(match.regex is not None for variant in traffic.variants for match in variant.match)
    if number > matches.EXPRESSIONS_MAX:
        return f"{number} matches have a regex, must be at most {matches.EXPRESSIONS_MAX}; use exact or prefix"
    for variant in traffic.variants:
        for match in variant.match:
            if match.regex is not None and (words := matches.flaw(match.regex)):
                return f"variant {variant.name}: regex {match.regex!r} cannot be used: {words}"
    for name, match, earlier, taker in matches.dead(traffic.variants):
        return (
            f"variant {name}: the match {matches.title(match)} can never win, "
            f"for variant {earlier} takes all of it by {matches.title(taker)}; put variant {name} first"
        )
    return ""


def _access_flaw(access: Access) -> str:
    if access.max_body is not None and not (size := quantity(access.max_body) or 0) >= 1:
        return f"maxBody is {size}, must be at least 1 byte"
    if access.api_keys and len(set(access.api_keys.clients)) < len(access.api_keys.clients):
        return "a client is in apiKeys.clients twice"
    return _jwks_flaw(access.jwt.jwks) if access.jwt and access.jwt.jwks is not None else ""


def _jwks_flaw(text: str) -> str:
    try:
        keys = json.loads(text)["keys"]
        kinds = [key["kty"] for key in keys]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "jwt.jwks must be a JSON Web Key Set: an object with a list `keys` of objects that have a `kty`"
    if not kinds:
        return "jwt.jwks has no keys, so no token could ever be valid"
    if any("d" in key or key["kty"] == "oct" for key in keys):
        return "jwt.jwks has a private or secret key: put public keys only, and replace that key, which many could read"
    return ""
