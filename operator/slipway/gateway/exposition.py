"""The gateway's numbers for people, in Prometheus' form. Pure. Series are bounded: services times two protocols.

They are made when they are asked for, from the counts that are there anyway; no client library holds them twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from slipway.gateway.asks import SECONDS, Tally
from slipway.gateway.counters import Counters, Counts, Place

LATENCY_MS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1300, 2600, 5100, 10_000, 20_000, 30_000, 60_000, 300_000)
"""Of the edges in which Envoy counts: at 1,000 services each one more is 150 kB for every scrape."""
_CODES = ("1xx", "2xx", "3xx", "4xx", "5xx")
_COUNTS = {
    "timeouts": "Requests that took longer than the service's timeout",
    "retries": "Requests sent once more because no pod can have begun with them",
    "resets": "Requests that a pod broke off",
    "overflows": "Requests refused because too many were under way",
    "connect_failures": "Connections to pods that failed",
    "held_lost": "Requests answered 503 because no pod of a service at zero was ready in time",
}


@dataclass(frozen=True, slots=True)
class Whose:
    namespace: str
    service: str
    revision: str
    variant: str


def exposition(counters: Counters, owners: Mapping[str, Whose], own: Mapping[str, tuple[str, float]]) -> str:
    """`owners`: NAMESPACE/REVISION -> whose; counts of nobody are left out. `own`: name -> (help, value)."""
    lines = list(_own(own))
    known = [
        (place, counts, owners[place.revision]) for place, counts in counters.places.items() if place.revision in owners
    ]
    lines += _requests(known)
    for name, text in _COUNTS.items():
        lines += _head(f"slipway_gateway_{name}_total", "counter", text)
        lines += [
            f"slipway_gateway_{name}_total{{{_labels(place, whose)}}} {counts[name]}"
            for place, counts, whose in known
            if name in counts
        ]
    lines += _head("slipway_gateway_requests_active", "gauge", "Requests under way")
    lines += [
        f"slipway_gateway_requests_active{{{_labels(place, whose)}}} {counts['active']}"
        for place, counts, whose in known
        if "active" in counts
    ]
    lines += _latency(known)
    return "\n".join(lines) + "\n"


def waits(tally: Tally, held: Mapping[str, int], owners: Mapping[str, Whose]) -> str:
    """Of requests that wait for a first pod; `held`: NAMESPACE/REVISION -> how many do now."""
    lines = list(_head("slipway_gateway_held", "gauge", "Requests that wait for a first pod"))
    lines += [
        f"slipway_gateway_held{{{_whose(owners[name])}}} {count}" for name, count in held.items() if name in owners
    ]
    lines += _head("slipway_gateway_held_total", "counter", "Requests to services at zero, by what became of them")
    lines += [f'slipway_gateway_held_total{{result="{result}"}} {count}' for result, count in tally.results.items()]
    name = "slipway_gateway_hold_seconds"
    lines += _head(name, "histogram", "From a request's coming to a service at zero until it went on or was refused")
    below = 0
    for edge in SECONDS:
        below += tally.buckets[edge]
        lines.append(f'{name}_bucket{{le="{edge:g}"}} {below}')
    total = tally.buckets.total()
    lines += [f'{name}_bucket{{le="+Inf"}} {total}', f"{name}_sum {tally.seconds:.6f}", f"{name}_count {total}"]
    return "\n".join(lines) + "\n"


def _requests(known: Iterable[tuple[Place, Counts, Whose]]) -> Iterator[str]:
    yield from _head("slipway_gateway_requests_total", "counter", "Requests answered, by class of the HTTP code")
    grpc = list(_head("slipway_gateway_grpc_requests_total", "counter", "gRPC calls answered, by gRPC code"))
    for place, counts, whose in known:
        labels = _labels(place, whose)
        for code in _CODES:
            if code in counts:
                yield f'slipway_gateway_requests_total{{{labels},code="{code}"}} {counts[code]}'
        for code, value in counts.get("grpc", {}).items():
            if code.isdigit():
                grpc.append(f'slipway_gateway_grpc_requests_total{{{labels},code="{code}"}} {value}')
    yield from grpc


def _latency(known: Iterable[tuple[Place, Counts, Whose]]) -> Iterator[str]:
    name = "slipway_gateway_request_duration_seconds"
    yield from _head(name, "histogram", "From the request's end to the answer's, of the pod and the network")
    for place, counts, whose in known:
        if not (buckets := counts.get("latency_ms")):
            continue
        labels, counted = _labels(place, whose), sorted((float(edge), count) for edge, count in buckets.items())
        for edge in LATENCY_MS:
            below = sum(count for upper, count in counted if upper <= edge)
            yield f'{name}_bucket{{{labels},le="{edge / 1000:g}"}} {below}'
        total = sum(count for _, count in counted)
        yield f'{name}_bucket{{{labels},le="+Inf"}} {total}'
        yield f"{name}_count{{{labels}}} {total}"


def _own(own: Mapping[str, tuple[str, float]]) -> Iterator[str]:
    for name, (text, value) in own.items():
        yield from _head(name, "counter" if name.endswith("_total") else "gauge", text)
        yield f"{name} {value:g}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}."
    yield f"# TYPE {name} {kind}"


def _labels(place: Place, whose: Whose) -> str:
    protocol = f"{place.protocol}{'-shadow' if place.is_shadow else ''}"
    return f'{_whose(whose)},protocol="{protocol}"'


def _whose(whose: Whose) -> str:
    return (
        f'namespace="{whose.namespace}",service="{whose.service}",revision="{whose.revision}",variant="{whose.variant}"'
    )
