"""Releases of a model of one's own, and what can be seen of them: the words of the scenarios about rollouts."""

import itertools
import json
import math
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.support.api import Manifest
from e2e.support.history import Change, History, recorded
from e2e.support.manifests import GROUP
from e2e.support.site import RUNTIME_IMAGE
from e2e.support.team import Team
from e2e.support.wait import until

WHOLE = 10_000
MODEL = Path(__file__).with_name("release_model.py")
RUNTIME = "own-code"
COMMAND, ABORT = "slipway.dev/command", "slipway.dev/abort"
SIZE = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "400Mi"}}
TENSOR = {"data_type": "TYPE_FP32", "dims": [4]}
CONFIG = {
    "max_batch_size": 64,
    "input": [TENSOR | {"name": "x"}],
    "output": [TENSOR | {"name": "y"}],
    # So many that hardly a request waits for another: an answer takes as long as its version does.
    "instance_group": [{"count": 24, "kind": "KIND_CPU"}],
    "parameters": {"instances": {"string_value": "threads"}},
}
START = """\
mkdir -p /tmp/model && cd /tmp/model &&
printf %s "$MODEL_PY" > model.py && printf %s "$MODEL_CONFIG" > config.json &&
case "$FAULT" in rejects) sed -i 's/"name": "x"/"name": "z"/' config.json;; esac &&
exec slipway-runtime serve --allow-code true"""
GATE = {"hold": "0s", "gate": True}
SOON_S = 120
"""For what takes a pod's start or end and a few holds, also where other programs have the machine for a while."""


def runtime() -> Manifest:
    """A ServingRuntime that runs `release_model.py`, as somebody writes it whose models are Python code."""
    env = {"MODEL_PY": MODEL.read_text(), "MODEL_CONFIG": json.dumps(CONFIG)}
    container = {
        "image": RUNTIME_IMAGE,
        "command": ["sh", "-c", START],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "maxQueue": 1000,
        "idleTimeout": "75s",
    }
    return {
        "apiVersion": GROUP,
        "kind": "ServingRuntime",
        "metadata": {"name": RUNTIME},
        "spec": {"supportedModelFormats": [{"name": "python"}], "container": container},
    }


def release(
    version: int = 1,
    fault: str = "",
    *,
    name: str = "hello",
    replicas: int = 1,
    rollout: Manifest | None = None,
    resources: Manifest | None = None,
    env: Mapping[str, str] | None = None,
) -> Manifest:
    """Version N of the service, which answers y = 2x + 1, 2x + 101, 2x + 201, ... and has a fault of release_model."""
    told = {"OFFSET": str(offset(version)), "FAULT": fault} | dict(env or {})
    model = {
        "modelFormat": {"name": "python"},
        "storageUri": "file:///tmp/model",
        "resources": resources or SIZE,
        "env": [{"name": key, "value": value} for key, value in told.items() if value],
    }
    spec: Manifest = {"predictor": {"model": model}, "scaling": {"minReplicas": replicas}}
    if rollout is not None:
        spec["rollout"] = rollout
    return {"apiVersion": GROUP, "kind": "InferenceService", "metadata": {"name": name}, "spec": spec}


def offset(version: int) -> int:
    return 100 * version - 99


def canary(*steps: int | Manifest, hold: str = "2s", **more: Any) -> Manifest:
    """A short canary; a number is a weight in percent. `more` adds to spec.rollout or replaces of it."""
    written = [step if isinstance(step, dict) else {"weight": f"{step}%", "hold": hold} for step in steps]
    analysis = {"minRequests": 20}
    return {"strategy": "Canary", "steps": written, "analysis": analysis, "scaleDownDelay": "2s"} | more


# Doing


def begin(team: Team, name: str = "hello", version: int = 1, fault: str = "", **more: Any) -> str:
    """Serve the first version; the revision."""
    team.apply(release(version, fault, name=name, **more))
    return str(team.wait_settled(name)["stable"])


def end(team: Team, *names: str) -> None:
    """Make room for the next scenario."""
    for name in names:
        team.delete_service(name)


def command(team: Team, verb: str, name: str = "hello", *, number: str = "") -> str:
    """Annotate the service, as people do it; the command's id."""
    chosen = number or secrets.token_hex(4)
    what = f"{ABORT}={chosen}" if verb == "abort" else f"{COMMAND}={verb} {chosen}"
    team.kubectl("annotate", "infsvc", name, "--overwrite", what)
    return chosen


# What is


def candidate_of(team: Team, name: str = "hello") -> str:
    """Once there is one."""
    return str(until(f"{name} has a candidate", lambda: state(team, name).get("candidate"), within_s=SOON_S))


def wait_obeyed(team: Team, verb: str, number: str, name: str = "hello") -> None:
    """Until a command was obeyed or refused: what is changed from then on, it is not about."""
    until(
        f"{verb} {number} was heard",
        lambda: f"{verb} {number}" in state(team, name).get("obeyed", []),
        within_s=SOON_S,
        seen=lambda: team.digest(name),
    )


def state(team: Team, name: str = "hello") -> Manifest:
    """status.rollout; {} before there is one."""
    found: Manifest = team.status(name).get("rollout") or {}
    return found


def weight_of(status: Manifest, revision: str) -> int:
    """What the routing in a status gives to a revision."""
    targets = status.get("routing", {}).get("targets", [])
    return sum(target["weight"] for target in targets if target["revision"] == revision)


def wait_state(team: Team, name: str = "hello", *, within_s: float = SOON_S, **wanted: Any) -> Manifest:
    """status.rollout once all these fields are so; `pause` and `abort` are compared by their reason."""

    def probe() -> Manifest | None:
        found = state(team, name)
        return found if all(_told(found, key) == value for key, value in wanted.items()) else None

    what = f"the release of {team.name}/{name} has {wanted}"
    return until(what, probe, within_s=within_s, seen=lambda: team.digest(name))


def _told(found: Manifest, key: str) -> Any:
    value = found.get(key, "" if key in ("pause", "abort", "stage") else 0)
    return value.get("reason") if isinstance(value, dict) else value


def wait_promoted(team: Team, name: str = "hello", *, after: str, within_s: float = SOON_S) -> str:
    """The revision that answers in place of `after`, once it does so alone and nothing is left to do."""
    until(
        f"{team.name}/{name} has another revision than {after}",
        lambda: team.status(name).get("stable") != after,
        within_s=within_s,
        seen=lambda: team.digest(name),
    )
    return str(team.wait_settled(name)["stable"])


def wait_rolled_back(team: Team, name: str = "hello", *, within_s: float = SOON_S) -> Manifest:
    """status.rollout once everything went back, and the conditions say so."""
    found = wait_state(team, name, phase="RolledBack", within_s=within_s)
    assert team.wait(name, "RolloutHealthy", "False", reason="RolledBack", within_s=10)
    assert team.wait(name, "Stalled", "True", within_s=10)
    assert team.wait(name, "Ready", "True", within_s=10)
    return found


# What has happened


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that happened to one namespace's services and to what they are made of."""

    services: History
    slices: History
    pods: History
    deployments: History
    events: History

    def statuses(self, name: str = "hello") -> list[Change]:
        """Versions of the service that have a status."""
        return [change for change in self.services.of(name) if change.object.get("status")]

    def path(self, name: str = "hello") -> list[str]:
        """Where its release has been, in order: `Progressing 10 %`, `RolledBack`, ..."""
        found = [_place(change.object["status"].get("rollout") or {}) for change in self.statuses(name)]
        return [place for place, _ in itertools.groupby(found) if place]

    def weights(self, revision: str, name: str = "hello") -> list[int]:
        """The weights that a revision was given one after the other."""
        found = [weight_of(change.object["status"], revision) for change in self.statuses(name)]
        return [weight for weight, _ in itertools.groupby(found)]

    def told(self, reason: str, name: str = "hello") -> list[str]:
        """Notes of all Events about the service with that reason, each as often as it was sent."""
        found: dict[str, Manifest] = {change.name: change.object for change in self.events.changes.copy()}
        about = [event for event in found.values() if event["regarding"].get("name") == name]
        several = [
            [event.get("note", "")] * (event.get("series") or {"count": 1})["count"]
            for event in about
            if event["reason"] == reason
        ]
        return list(itertools.chain(*several))

    def wait_told(self, reason: str, name: str, about: str = "") -> list[str]:
        """The notes with these words, once there are any: Events are posted beside the writes that they are about."""
        return until(
            f"{reason} of {name} is told",
            lambda: [note for note in self.told(reason, name) if about in note],
            within_s=SOON_S,
        )

    def largest(self, name: str = "hello") -> int:
        """Most bytes that status.rollout ever had, as JSON."""
        found = [change.object["status"].get("rollout") or {} for change in self.statuses(name)]
        return max(len(json.dumps(one, separators=(",", ":"))) for one in found)


def _place(rollout: Manifest) -> str:
    phase = str(rollout.get("phase", ""))
    return f"{phase} {rollout.get('weight', 0) / 100:g} %" if phase == "Progressing" else phase


@contextmanager
def watched(team: Team) -> Iterator[Record]:
    """A record from now on, until the context ends."""
    kinds = ("inferenceservices", "endpointslices", "pods", "deployments", "events")
    with ExitStack() as stack:
        yield Record(*(stack.enter_context(recorded(team.site.api, kind, team.name)) for kind in kinds))


def share_needs(replicas: int, weight: int) -> int:
    """Replicas that a share of the traffic needs."""
    return math.ceil(replicas * weight / WHOLE)
