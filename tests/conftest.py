"""Options of every test: how many examples hypothesis tries."""

import os

from hypothesis import HealthCheck, settings

FULL = bool(os.environ.get("SLIPWAY_FULL"))

settings.register_profile(
    "slipway",
    max_examples=1000 if FULL else 25,
    deadline=None,
    derandomize=not FULL,  # the gate gives the same answer twice; the full run looks further
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("slipway")
