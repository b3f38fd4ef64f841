"""How far the fetch of a revision's model is: what its pods say, in numbers for status and in words for people."""

from datetime import timedelta

from slipway.api.schema import timestamp
from slipway.api.status import Download
from slipway.decide.ground import Ground
from slipway.decide.types import Fetched

_FAR_S = 365 * 86400.0
_MIB = 1 << 20


def furthest(ground: Ground, revision: str) -> Download | None:
    """Of the pod that will be ready first; None while none fetches, or says how far it is."""
    said = [
        (fetched.done / fetched.total if fetched.total else 0.0, fetched.done, pod["metadata"]["name"], fetched)
        for pod in ground.pods_of(revision)
        if (fetched := ground.observed.downloads.get(pod["metadata"]["name"]))
    ]
    return _shown(ground, max(said)[-1]) if said else None


def _shown(ground: Ground, fetched: Fetched) -> Download:
    left_s = (fetched.total - fetched.done) / fetched.per_second if fetched.total and fetched.per_second else _FAR_S
    at = ground.now + timedelta(seconds=max(0.0, left_s - fetched.age_s)) if left_s < _FAR_S else None
    return Download(
        # All of it is there when it is checked and unpacked, too.
        percent=min(99, 100 * fetched.done // fetched.total) if fetched.total else None,
        mib_per_second=round(fetched.per_second / _MIB, 1),
        done_at=timestamp(at) if at is not None else None,
    )


def words(download: Download) -> str:
    """Behind what is said of the model anyway: `, 43 % is there, 85.2 MiB/s, all of it at about 12:34:56 UTC`."""
    share = f", {download.percent} % is there" if download.percent is not None else ""
    end = f", all of it at about {download.done_at[11:19]} UTC" if download.done_at else ""
    return f"{share}, {download.mib_per_second} MiB/s{end}"
