"""Which pods leave when a revision gets fewer replicas: those with the least to do.

Kubernetes takes pods that are not ready first, then those of the lowest pod-deletion-cost. Who stays needs no mark.
"""

import re
from collections.abc import Iterator

from slipway.api.manifest import Manifest
from slipway.api.names import DELETION_COST
from slipway.decide import pods
from slipway.decide.ground import Ground
from slipway.decide.types import Cost

FIRST, USUAL = -1, 0
MARKS_MAX = 50
"""Writes before one change of replicas: more of them would hold it up for longer than the order is worth."""


def costs(ground: Ground, name: str, replicas: int) -> Iterator[Cost]:
    """Marks to be set, or taken away, before a revision goes down to so many replicas.

    Nothing is marked where all go, or where it is not known what they do.
    """
    loads = ground.observed.loads
    own = [pod for pod in ground.pods_of(name) if not pod["metadata"].get("deletionTimestamp")]
    ready = sorted((pod for pod in own if pods.is_ready(pod)), key=lambda pod: pod["metadata"]["name"])
    leaving = len(ready) - replicas
    if not 0 < leaving < len(ready) or not any(pod["metadata"]["name"] in loads for pod in ready):
        return
    # One that says nothing of itself is taken for busy.
    by_load = sorted(ready, key=lambda pod: loads.get(pod["metadata"]["name"], float("inf")))
    first = {pod["metadata"]["name"] for pod in by_load[:leaving]}
    changed = [
        Cost(pod, FIRST if pod["metadata"]["name"] in first else USUAL)
        for pod in by_load
        if (cost(pod) < USUAL) != (pod["metadata"]["name"] in first)
    ]
    yield from changed[:MARKS_MAX]


def cost(pod: Manifest) -> int:
    """What a pod is marked with; 0 where it is not, or not with a number."""
    text = (pod["metadata"].get("annotations") or {}).get(DELETION_COST, "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else USUAL
