"""How many examples hypothesis tries: few in every run, many when SLIPWAY_FULL=1 asks for the full counts."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

FULL = os.environ.get("SLIPWAY_FULL") == "1"


def examples(full: int) -> Callable[[Any], Any]:
    """As many as hypothesis does by default, or `full`."""
    if not FULL:
        return settings()
    many = settings(max_examples=full, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    return lambda test: pytest.mark.timeout(1800)(many(test))
