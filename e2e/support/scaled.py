"""Services whose replicas follow their load, of a model that carries a known rate: words of scenarios about scaling.

A pod works on one request at a time, `work_ms` each, so that `1000 / work_ms` a second are all that it carries.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from e2e.support.api import Manifest
from e2e.support.history import Change, History, recorded
from e2e.support.manifests import LABEL_REVISION, LABEL_SERVICE
from e2e.support.releases import CONFIG, release
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

SERIAL = CONFIG | {"max_batch_size": 1, "instance_group": [{"count": 1, "kind": "KIND_CPU"}]}
WORK_MS = 100
RATE = 1000 / WORK_MS
"""Requests per second of one replica."""
LIMIT_S = 1.0
"""What the objective leaves for waiting."""
SLEEPS = {"minReplicas": 0, "idleAfter": "5s"}
WAKE_S = 60
"""For what takes a pod's start."""


def scaled(
    name: str,
    *,
    least: int = 1,
    most: int = 4,
    version: int = 1,
    fault: str = "",
    objective: Manifest | None = None,
    rollout: Manifest | None = None,
    resources: Manifest | None = None,
    env: dict[str, str] | None = None,
    deadline: str = "",
    **scaling: Any,
) -> Manifest:
    """A service of that model; `scaling` adds to spec.scaling. Its objective is `LIMIT_S` of queue unless told."""
    told = {"WORK_MS": str(WORK_MS), "MODEL_CONFIG": json.dumps(SERIAL)} | (env or {})
    found = release(version, fault, name=name, rollout=rollout, resources=resources, env=told)
    found["spec"]["predictor"]["containerConcurrency"] = 1
    found["spec"]["scaling"] = {
        "minReplicas": least,
        "maxReplicas": most,
        "objective": objective or {"queueTime": {"p99": f"{LIMIT_S:g}s"}},
        **scaling,
    }
    if deadline:
        found["spec"].setdefault("rollout", {})["progressDeadline"] = deadline
    return found


# What is


def scaling(team: Team, name: str, variant: str = "") -> Manifest:
    """Of status.scaling, what is about the service itself or a variant; {} before there is any."""
    entries: list[Manifest] = team.status(name).get("scaling") or []
    return next((entry for entry in entries if entry.get("variant", "") == variant), {})


def asked(team: Team, name: str) -> int:
    """Replicas that its Deployments are told to have."""
    found = team.site.api.items("deployments", team.name, f"{LABEL_SERVICE}={name}")
    return sum(int(item["spec"].get("replicas", 1)) for item in found)


def ready(team: Team, name: str) -> int:
    return sum(is_ready(pod) and not pod["metadata"].get("deletionTimestamp") for pod in team.pods(name))


def launch_s(team: Team, name: str) -> float:
    """How long the slowest of its ready pods took to become so, in whole seconds, as the API server has it."""
    wait_ready(team, name, 1)
    pods = [pod for pod in team.pods(name) if is_ready(pod)]
    return max(1.0, *((_since(pod, "Ready") - _since(pod, "PodScheduled")).total_seconds() for pod in pods))


def _since(pod: Manifest, kind: str) -> datetime:
    found = next(c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == kind)
    return datetime.fromisoformat(found)


def told(team: Team, name: str) -> str:
    """For a failure: the numbers and the condition."""
    return f"{asked(team, name)} asked, {ready(team, name)} ready; {scaling(team, name)}; {team.digest(name)}"


def wait_asked(team: Team, name: str, wanted: Callable[[int], bool], what: str, *, within_s: float = WAKE_S) -> int:
    """The number of replicas, once it is as wanted."""
    until(
        f"{team.name}/{name} has {what} replicas",
        lambda: wanted(asked(team, name)),
        within_s=within_s,
        seen=lambda: told(team, name),
    )
    return asked(team, name)


def wait_ready(team: Team, name: str, count: int, *, within_s: float = WAKE_S) -> None:
    """At least so many."""
    until(
        f"{team.name}/{name} has {count} ready replicas",
        lambda: ready(team, name) >= count,
        within_s=within_s,
        seen=lambda: told(team, name),
    )


def wait_asleep(team: Team, name: str, *, within_s: float = WAKE_S) -> None:
    """No pods, and told so."""
    wait_asked(team, name, lambda count: count == 0, "no", within_s=within_s)
    until(f"{name} has no pods", lambda: not team.pods(name), within_s=90, seen=lambda: team.pods(name))
    wait_reason(team, name, "ScaledToZero")
    assert team.wait(name, "Ready", within_s=10)


def wait_reason(team: Team, name: str, reason: str, *, within_s: float = 30) -> Manifest:
    """The condition ScalingActive, once it has that reason."""

    def probe() -> Manifest | None:
        known = team.condition(name, "ScalingActive")
        return known if known.get("reason") == reason else None

    return until(f"{name} is {reason}", probe, within_s=within_s, seen=lambda: told(team, name))


# What has happened


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that happened to a namespace's services, their Deployments and pods, and what was told of it."""

    services: History
    deployments: History
    pods: History
    events: History

    def sums(self, name: str) -> list[tuple[Change, int]]:
        """Each change of the replicas asked of all its Deployments together, and how many they were then."""
        replicas: dict[str, int] = {}
        found: list[tuple[Change, int]] = []
        for change in self.deployments.changes.copy():
            if change.object["metadata"].get("labels", {}).get(LABEL_SERVICE) != name:
                continue
            replicas[change.name] = 0 if change.type == "DELETED" else int(change.object["spec"].get("replicas", 1))
            if (total := sum(replicas.values())) != (found[-1][1] if found else None):
                found.append((change, total))
        return found

    def totals(self, name: str, begin: float = 0) -> list[tuple[float, int]]:
        """The same by epoch seconds, since `begin`."""
        found = [(change.seen, total) for change, total in self.sums(name)]
        before = [entry for entry in found if entry[0] < begin][-1:]
        return before + [entry for entry in found if entry[0] >= begin]

    def statuses(self, name: str) -> list[Change]:
        """Versions of the service that have a status."""
        return [change for change in self.services.of(name) if change.object.get("status")]

    def assert_never_down(self, name: str, begin: float = 0) -> None:
        """Since `begin` replicas were only added."""
        totals = self.totals(name, begin)
        falls = [(a, b) for a, b in itertools.pairwise(totals) if b[1] < a[1]]
        assert not falls, f"{name} went down: {falls} of {totals}"

    def assert_writes(self, name: str, most: int) -> None:
        """No more changes of the number than that."""
        totals = self.totals(name)
        assert len(totals) - 1 <= most, f"{name} was scaled {len(totals) - 1} times: {totals}"

    def alive(self, name: str) -> list[int]:
        """Pods that are there and not on their way out, after each change."""
        living: set[str] = set()
        found = []
        for change in self.pods.changes.copy():
            about = change.object["metadata"]
            if about.get("labels", {}).get(LABEL_SERVICE) != name:
                continue
            is_going = change.type == "DELETED" or "deletionTimestamp" in about
            (living.discard if is_going else living.add)(about["uid"])
            found.append(len(living))
        return found

    def first_ready(self, revision: str) -> Change:
        """When a pod of the revision was ready for the first time."""
        return next(
            change
            for change in self.pods.changes
            if change.object["metadata"].get("labels", {}).get(LABEL_REVISION) == revision and is_ready(change.object)
        )


@contextmanager
def watched(team: Team) -> Iterator[Record]:
    kinds = ("inferenceservices", "deployments", "pods", "events")
    with ExitStack() as stack:
        yield Record(*(stack.enter_context(recorded(team.site.api, kind, team.name)) for kind in kinds))
