"""Lets those who wait for a first pod go no faster than the pods that came take them.

Envoy says how many are under way, twenty times a second while anybody is left waiting, and nobody is asked else: a look
at a few clusters costs it microseconds, not the milliseconds of all its numbers.
"""

import asyncio
import contextlib
import json
import re
from collections import Counter

from slipway.gateway import render
from slipway.gateway.admin import Admin, Silent
from slipway.gateway.holds import Holds

_LOOK_S = 0.05


async def pace(holds: Holds, admin: Admin) -> None:
    """Until cancelled."""
    while True:
        await holds.crowd.wait()
        holds.crowd.clear()
        while ways := list(holds.crowded()):
            names = {name for (namespace, _), _, way in ways for name in render.endpoints_of(namespace, way)}
            with contextlib.suppress(Silent):
                text = await admin.pods(f"^({'|'.join(map(re.escape, sorted(names)))})$")
                active, begun = of_pods(text, "rq_active"), of_pods(text, "rq_total")
                for key, revision, way in ways:
                    both = render.endpoints_of(key[0], way)
                    holds.seen(key, revision, sum(map(active.__getitem__, both)), sum(map(begun.__getitem__, both)))
            await asyncio.sleep(_LOOK_S)


def of_pods(text: bytes, stat: str) -> Counter[str]:
    """Cluster -> sum of a number over its pods, of Envoy's page of clusters."""
    found = Counter[str]()
    for cluster in json.loads(text).get("cluster_statuses", ()):
        for pod in cluster.get("host_statuses", ()):
            found[cluster["name"]] += sum(int(each.get("value", 0)) for each in pod["stats"] if each["name"] == stat)
    return found
