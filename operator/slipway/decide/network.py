"""Who may reach the pods of models, and what they may reach: the administrator's rules, the same for every service.

They are rules of a NetworkPolicy as they stand in its spec, written by the chart, which knows gateways, operator and
stores. What is in them is the API server's to judge.
"""

import json
from dataclasses import dataclass

from slipway.api.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Network:
    ingress: tuple[Manifest, ...] = ()
    egress: tuple[Manifest, ...] = ()


def parse(text: str) -> Network | None:
    """Of the operator's own variable; None: there is to be no policy.

    Raises:
        ValueError, KeyError, TypeError: it is not what the chart writes.
    """
    if not text:
        return None
    given = json.loads(text)
    return Network(tuple(map(dict, given["ingress"])), tuple(map(dict, given["egress"])))
