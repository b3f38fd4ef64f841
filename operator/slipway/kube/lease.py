"""Which replica of the operator leads: a coordination.k8s.io/v1 Lease, taken, renewed and let go.

At most one leader as long as clocks run at a sane *rate*: a rival's record counts as expired when it has not
changed for its duration on our own monotonic clock; timestamps in it are for people. Every PUT carries the
resourceVersion, so two candidates cannot both take an expired Lease. The leader's own right ends earlier, at
the renew deadline counted from when its last successful renewal was *sent*; see `fence.py`.

kopf's peering is not this: equal priorities pause everybody, and nothing fences a paused process.
"""

import asyncio
import datetime as dt
import logging
import math
import random
from dataclasses import dataclass
from typing import Literal, NoReturn

from slipway.api.manifest import Manifest
from slipway.kube.client import Kube
from slipway.kube.errors import Conflict, KubeError
from slipway.kube.fence import Fence
from slipway.kube.kinds import LEASE

log = logging.getLogger(__name__)

MANAGER = "slipway-lease"


class LeaseLostError(Exception):
    """Another process may lead from now on; the fence is closed. Stop working and exit."""


@dataclass(frozen=True, slots=True)
class Candidacy:
    """Who wants which Lease, and for how long at a time, in client-go's proportions: 15 s / 10 s / 2 s."""

    namespace: str
    name: str
    identity: str
    """Never shared by two processes that can be alive at once."""
    duration_s: float = 15.0

    @property
    def renew_deadline_s(self) -> float:
        return self.duration_s * 2 / 3

    @property
    def retry_s(self) -> float:
        return self.duration_s * 2 / 15

    @property
    def attempt_s(self) -> float:
        """Long, so that a server under load can answer; short of the deadline, so that a dead connection is noticed."""
        return self.renew_deadline_s * 0.6

    @property
    def grace_s(self) -> float:
        """Between the last moment a write may leave and the first a rival may lead."""
        return self.duration_s - self.renew_deadline_s


@dataclass(frozen=True, slots=True)
class _Record:
    """What a holder changes by being alive."""

    holder: str
    renew_time: str
    transitions: int
    duration_s: float


class Elector:
    """One candidate. Opens, moves and closes `fence`, and lives by its clock."""

    def __init__(self, kube: Kube, candidacy: Candidacy, fence: Fence) -> None:
        self._kube, self._it, self._fence = kube, candidacy, fence
        self._clock = fence.clock
        self._deadline = -math.inf
        self._held: Manifest | None = None
        """Our Lease as the server last answered: renewed without reading it again. None: not certain."""
        self._seen: tuple[_Record, float] | None = None
        """A rival's record and when it was first seen like that."""

    async def acquire(self) -> None:
        """Wait, for ever if need be, until this process leads."""
        while await self._attempt() != "held":  # noqa: ASYNC110 (the news is at the API server)
            await asyncio.sleep(self._it.retry_s * random.uniform(1.0, 1.2))  # noqa: S311 (not a secret)

    async def hold(self) -> NoReturn:
        """Renew until that fails.

        Raises:
            LeaseLostError: taken by another, or not renewed before the deadline.
        """
        pause_s = self._it.retry_s
        while True:
            await asyncio.sleep(pause_s)
            # Looked at before the attempt: a process that slept past its deadline must not resume as leader.
            if self._clock() >= self._deadline:
                self._lose(f"not renewed for {self._it.renew_deadline_s:.0f} s")
            answer = await self._attempt()
            if answer == "rival":
                self._lose("was taken by another")
            pause_s = self._it.retry_s if answer == "held" else self._it.retry_s / 2

    async def release(self) -> None:
        """Let go of a Lease still held, so that a rival need not wait for it to expire. Never raises KubeError."""
        held, self._held = self._held, None
        self._fence.close()
        if held is None or self._clock() >= self._deadline:
            return
        self._deadline = -math.inf
        spec = held["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            async with asyncio.timeout(self._it.retry_s):
                await self._kube.replace(LEASE, held | {"spec": spec}, manager=MANAGER)
        except (KubeError, TimeoutError) as error:
            log.warning("the lease could not be released, a rival waits for it to expire: %s", error)

    def _lose(self, why: str) -> NoReturn:
        self._fence.close()
        self._held, self._deadline = None, -math.inf
        raise LeaseLostError(f"lease {self._it.namespace}/{self._it.name} {why}")

    async def _attempt(self) -> Literal["held", "rival", "unknown"]:
        """Take or renew once. `unknown`: no certain answer, in time or at all."""
        sent = self._clock()
        try:
            async with asyncio.timeout(self._it.attempt_s):
                self._held = await self._take()
        except Conflict as error:
            self._held = None
            log.info("the lease was written by somebody else, looking again: %s", error)
            return "unknown"
        except (KubeError, TimeoutError) as error:
            self._held = None
            log.warning("no answer about the lease: %s", error or type(error).__name__)
            return "unknown"
        if self._held is None:
            return "rival"
        self._deadline = sent + self._it.renew_deadline_s
        self._fence.allow_until(self._deadline)
        return "held"

    async def _take(self) -> Manifest | None:
        """Our Lease as written now; None if a rival's has not expired."""
        lease = self._held or await self._kube.get(LEASE, self._it.namespace, self._it.name)
        if lease is None:
            if self._seen is not None and not self._expired(self._seen[0]):
                return None  # deleted by hand: its holder may not know yet
            return await self._kube.create(LEASE, self._first(), manager=MANAGER)
        spec = lease.get("spec") or {}
        record = _record(spec)
        if record.holder not in ("", self._it.identity) and not self._expired(record):
            return None
        return await self._kube.replace(LEASE, lease | {"spec": spec | self._claim(record)}, manager=MANAGER)

    def _expired(self, record: _Record) -> bool:
        now = self._clock()
        if self._seen is None or self._seen[0] != record:
            self._seen = record, now
        return now >= self._seen[1] + record.duration_s

    def _claim(self, record: _Record | None) -> Manifest:
        now = _now()
        claim: Manifest = {
            "holderIdentity": self._it.identity,
            "leaseDurationSeconds": math.ceil(self._it.duration_s),
            "renewTime": now,
        }
        if record is None or record.holder != self._it.identity:
            claim["acquireTime"] = now
            claim["leaseTransitions"] = 0 if record is None else record.transitions + 1
        return claim

    def _first(self) -> Manifest:
        metadata = {"namespace": self._it.namespace, "name": self._it.name}
        api_version, kind = LEASE.api_version, LEASE.kind
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": self._claim(None)}


def _record(spec: Manifest) -> _Record:
    return _Record(
        holder=spec.get("holderIdentity") or "",
        renew_time=spec.get("renewTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
        duration_s=spec.get("leaseDurationSeconds") or 0,
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
