"""The worlds that tests of the loop share, and no event loop left behind.

Where none was ever set, pytest-asyncio's look for "the loop before" makes asyncio create one, which nobody closes:
a ResourceWarning in whatever test runs when it is collected. Saying that there is none avoids that.
"""

import asyncio
import logging

import pytest

from tests.control.world import World, service

asyncio.set_event_loop(None)


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What Slipway logged; asyncio tells of tasks that earlier tests left whenever they are collected."""
    return [record for record in caplog.records if record.name.startswith("slipway")]


@pytest.fixture
async def world() -> World:
    world = World()
    world.user_applies(service())
    return world


@pytest.fixture
async def ready(world: World) -> World:
    await world.converge()
    return world
