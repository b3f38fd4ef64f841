"""What a fetcher says of its download. It is in a tenant's pod: whatever it says, there are sound numbers or none."""

import json
from typing import Any

from slipway.decide.types import Fetched
from slipway.signals.pods import Silent

_MOST = 1 << 60
"""Bytes that no model has."""


def parse(body: bytes) -> Fetched:
    """Raises Silent: it is not what a fetcher says."""
    try:
        said = json.loads(body)
        done, total, per_second = (said[name] for name in ("done", "total", "bytesPerSecond"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Silent("not what a fetcher says") from error
    if not _is_amount(done) or not _is_amount(per_second) or not (total is None or _is_amount(total)):
        raise Silent("not numbers of bytes")
    return Fetched(done if total is None else min(done, total), total, per_second)


def _is_amount(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST
