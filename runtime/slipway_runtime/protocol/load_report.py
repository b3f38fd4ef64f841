"""How busy the server is, as the response header `endpoint-load-metrics` that gateways read (ORCA). Pure.

TEXT application_utilization=0.5, named_metrics.queue=3
JSON {"application_utilization": 0.5, "named_metrics": {"queue": 3.0}}
"""

import json
from collections.abc import Mapping

REQUEST_HEADER = b"endpoint-load-metrics-format"
RESPONSE_HEADER = "endpoint-load-metrics"


def rendered(form: bytes, values: Mapping[str, float]) -> str | None:
    """The header's value in the form asked for; None for a form that does not exist, as others answer it too."""
    match form.strip().lower():
        case b"text":
            return "TEXT " + ", ".join(f"{name}={value:g}" for name, value in values.items())
        case b"json":
            return "JSON " + json.dumps(_nested(values))
        case _:
            return None


def _nested(values: Mapping[str, float]) -> dict[str, float | dict[str, float]]:
    nested: dict[str, float | dict[str, float]] = {}
    maps: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        outer, dot, inner = name.partition(".")
        if dot:
            maps.setdefault(outer, {})[inner] = value
        else:
            nested[name] = value
    return nested | maps
