"""What share of the requests each revision had, and when a newly measured share is worth a write."""

import math
from collections.abc import Mapping

from slipway.api.status import Measured
from slipway.api.traffic import WHOLE

_Z = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""
_REQUESTS_MIN = 100
_MORE = 16
"""A share that may be the one written is written again on so many times the requests: the interval is a quarter."""


def wilson(hits: float, total: float) -> tuple[float, float]:
    """95 % interval of a share of which `hits` of `total` were seen; total > 0.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Example:
        wilson(10, 100) -> (0.055, 0.174)
    """
    share, z2 = hits / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


Shares = Mapping[str, Measured]
"""Revision -> its share."""


def measure(counts: Mapping[str, int]) -> Shares:
    """Revision -> its share; none on fewer requests than say anything, or where there is nothing to share."""
    total = sum(counts.values())
    if total < _REQUESTS_MIN or len(counts) < 2:
        return {}
    return {name: _measured(hits, total) for name, hits in counts.items()}


def _measured(hits: int, total: int) -> Measured:
    low, high = wilson(hits, total)
    return Measured(
        share=round(hits / total * WHOLE), low=math.floor(low * WHOLE), high=math.ceil(high * WHOLE), requests=total
    )


def is_news(old: Measured | None, new: Measured) -> bool:
    """Whether a share is worth writing over the one written: it has left that interval, or is known far better.

    Fewer requests must say more, that both cannot be true: the first hundred after a restart of the operator say
    nothing against what was measured on many.
    """
    if old is None or new.requests >= _MORE * old.requests:
        return True
    if new.requests < old.requests:
        return new.high < old.low or old.high < new.low
    return not old.low <= new.share <= old.high
