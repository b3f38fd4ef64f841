"""Options of every test: how many examples hypothesis tries, and no event loop that nobody closes."""

import asyncio
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

# Asyncio makes a loop for whoever asks first outside of one, and nobody closes it: pytest-asyncio asks. With none set
# on purpose it is told that there is none; else an "unclosed event loop" fails some later test.
asyncio.set_event_loop(None)
