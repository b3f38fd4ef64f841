"""One cold start through Slipway, and one of the same pod by Kubernetes alone, with the moments on the way.

    request ---> wake ---> schedule ---> start ---> load ---> ready seen ---> first byte
         Deployment told   pod bound   server      server    kubelet and
         to have one       to a node   listens     ready     API server say so

All on one clock: requests are timed in their pod, the rest when a watcher hears of it, or by the server's own log.
"""

import copy
import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from e2e.support.api import Manifest
from e2e.support.history import Change, History
from e2e.support.manifests import LABEL_SERVICE
from e2e.support.scaled import asked
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

CALLERS = Path(__file__).with_name("callers.py").read_text()
PLAIN = "plain"
LABELS = {"app": PLAIN}
PARTS = ("wake", "schedule", "start", "load", "ready seen", "first byte")


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds; `first_byte` and `lost` are of Slipway's."""

    ready: float
    parts: dict[str, float]
    first_byte: float = 0.0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Moments:
    """Epoch seconds."""

    told: float
    bound: float
    listens: float
    loaded: float
    ready: float

    def parts(self, begin: float, end: float) -> dict[str, float]:
        """What each part took; a later moment that came before an earlier one took nothing."""
        parts, at = {}, begin
        for part, moment in zip(
            PARTS, (self.told, self.bound, self.listens, self.loaded, self.ready, end), strict=True
        ):
            now = min(max(at, moment), end)
            parts[part], at = now - at, now
        return parts


def woken(team: Team, name: str, deployments: History, pods: History, count: int) -> Start:
    """Asleep until a request comes, and more behind it."""
    until(
        f"{name} sleeps",
        lambda: asked(team, name) == 0 and not team.pods(name),
        within_s=180,
        seen=lambda: team.digest(name),
    )
    marks = len(deployments.changes), len(pods.changes)
    answers = json.loads(team.run_inside(CALLERS, f"{name}.{team.name}", name, str(count)))
    sent, first, status = answers[0]
    assert status, f"the first request was not answered: {answers}\n{team.digest(name)}"
    until("its pod is ready", lambda: _ready(pods, marks[1], name), within_s=30)
    found = _moments(team, name, deployments.changes[marks[0] :], pods.changes[marks[1] :], sent)
    lost = sum(code != 200 for _, _, code in answers)
    return Start(found.ready - sent, found.parts(sent, first), first - sent, lost)


def plainly(team: Team, deployments: History, pods: History) -> Start:
    """The copy's Deployment from none to one, until the pod is Ready."""
    until("the copy has no pods", lambda: not team.site.api.items("pods", team.name, f"app={PLAIN}"), within_s=120)
    marks = len(deployments.changes), len(pods.changes)
    begin = time.time()
    team.site.api.merge("deployments", team.name, PLAIN, {"spec": {"replicas": 1}})
    until("the copy is ready", lambda: _ready(pods, marks[1], PLAIN), within_s=120)
    found = _moments(team, PLAIN, deployments.changes[marks[0] :], pods.changes[marks[1] :], begin)
    team.site.api.merge("deployments", team.name, PLAIN, {"spec": {"replicas": 0}})
    return Start(found.ready - begin, found.parts(begin, found.ready))


def copy_of(deployment: Manifest) -> Manifest:
    """A Deployment of the same pods that is nobody's but the benchmark's: under another label, owned by none."""
    template = copy.deepcopy(deployment["spec"]["template"])
    template["metadata"] = {"labels": LABELS}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": PLAIN, "labels": LABELS},
        "spec": {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": template},
    }


def _ready(pods: History, mark: int, name: str) -> Change | None:
    found = (change for change in pods.changes[mark:] if _label(change) == name and is_ready(change.object))
    return next(found, None)


def _label(change: Change) -> str:
    labels = change.object["metadata"].get("labels", {})
    return str(labels.get(LABEL_SERVICE) or labels.get("app", ""))


def _moments(team: Team, name: str, deployments: list[Change], pods: list[Change], begin: float) -> Moments:
    told = next(
        change.seen
        for change in deployments
        if _label(change) == name and change.object["spec"]["replicas"] and change.seen >= begin - 0.05
    )
    own = [change for change in pods if _label(change) == name and change.seen >= begin - 0.05]
    bound = next(change.seen for change in own if change.object["spec"].get("nodeName"))
    ready = next(change for change in own if is_ready(change.object))
    log = team.kubectl("logs", ready.name).splitlines()
    return Moments(told, bound, _logged(log, "listening"), _logged(log, "ready"), ready.seen)


def _logged(log: list[str], message: str) -> float:
    """When the server wrote that."""
    lines = (json.loads(line) for line in log if line.startswith("{"))
    return datetime.fromisoformat(next(line["time"] for line in lines if line["message"] == message)).timestamp()
