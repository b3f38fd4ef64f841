"""The part of the tour about releases: a good one that arrives by itself, a bad one that goes back, as they happen."""

import json
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.cluster import Cluster
from e2e.cluster.paths import cache
from e2e.support.api import Manifest, proxied
from e2e.support.history import recorded
from e2e.support.manifests import client_pod
from e2e.support.releases import WHOLE, canary, release, runtime
from e2e.support.site import Site
from e2e.support.team import Team
from e2e.support.traffic import Traffic
from e2e.support.wait import until

if TYPE_CHECKING:
    from e2e.demo import Tour

NAME, RATE, WITHIN_S = "scorer", 100, 90
POLICY = canary(10, 50, hold="4s", scaleDownDelay="2s")
BAR, WIDTH = 30, 100
OLD, NEW = "█", "░"


def releases(tour: "Tour", cluster: Cluster, namespace: str) -> None:
    kubectl, files = f"kubectl -n {namespace}", _files(cache() / "demo")
    with proxied(cluster.kubectl, cluster.kubeconfig) as api:
        team = Team(Site(cluster, api), namespace)
        tour.step(
            "A model that is somebody's own Python code, released by 10 % and 50 %",
            f"{kubectl} apply -f {files['runtime']} -f {files['client']} -f {files['v1']}",
        )
        tour.step("Wait until it answers", f"{kubectl} wait infsvc/{NAME} --for=condition=Ready --timeout=60s")
        tour.step("... and the client runs", f"{kubectl} wait pod/client --for=condition=Ready --timeout=60s")
        print(f"\n\033[1m{RATE} requests a second from now on, REST and gRPC\033[0m")
        with team.traffic(NAME, rate=RATE) as flow:
            flow.wait_answered(RATE)
            with _drawn(team, "Healthy"):
                tour.step("Version 2 is good", f"{kubectl} apply -f {files['v2']}")
            with _drawn(team, "RolledBack"):
                tour.step("Version 3 fails one request in five", f"{kubectl} apply -f {files['v3']}")
        _users(team, flow)
        wait = f"{kubectl} wait infsvc/{NAME} --for=condition=RolloutHealthy --timeout=1s"
        tour.step("A pipeline sees that the release failed", wait, fails=True)
        ready = f"{kubectl} wait infsvc/{NAME} --for=condition=Ready --timeout=5s"
        tour.step("... while users are served", ready)
        tour.step("Make room", f"{kubectl} delete infsvc/{NAME} pod/client --wait=false")


def _files(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    versions = {f"v{number}": release(number, name=NAME, rollout=POLICY) for number in (1, 2)}
    manifests = {
        "runtime": runtime(),
        "client": client_pod(),
        **versions,
        "v3": release(3, "errors", name=NAME, rollout=POLICY),
    }
    found = {}
    for name, manifest in manifests.items():
        found[name] = folder / f"{name}.json"
        found[name].write_text(json.dumps(manifest, indent=2))
    return found


@contextmanager
def _drawn(team: Team, phase: str) -> Iterator[None]:
    """Draw every change of the release that begins in the context, until it comes to this phase."""
    before = team.status(NAME)
    with recorded(team.site.api, "inferenceservices", team.name) as services:
        yield
        print(f"  {'':>7}  {OLD} stable  {NEW} candidate", flush=True)
        begin, drawn, seen = time.time(), "", 0

        def draw() -> bool:
            nonlocal drawn, seen
            changes = services.of(NAME)
            for change in changes[seen:]:
                status = change.object.get("status", {})
                if (line := picture(status)) != drawn and status["rollout"] != before.get("rollout"):
                    print(f"  {max(0.0, change.seen - begin):5.1f} s  {line}", flush=True)
                    drawn = line
            seen = len(changes)
            return is_over(changes[-1].object, phase)

        until(f"the release is {phase}", draw, within_s=WITHIN_S, seen=lambda: team.digest(NAME))
        for line in _reasons(team.status(NAME)):
            print(textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="  "))


def is_over(live: Manifest, phase: str) -> bool:
    """Whether the release of the newest spec came to that phase."""
    status = live.get("status", {})
    is_current = status.get("observedGeneration") == live["metadata"]["generation"]
    return bool(is_current and status.get("rollout", {}).get("phase") == phase)


def picture(status: Manifest) -> str:
    """One line: who has which share, where the release is, the gravest verdict."""
    rollout = status.get("rollout", {})
    weight = rollout.get("weight", 0)
    cells = round(weight * BAR / WHOLE)
    cells = min(max(cells, weight > 0), BAR - (weight < WHOLE))
    stage = (rollout.get("pause") or {}).get("reason") or rollout.get("stage")
    where = " ".join(filter(None, (rollout.get("phase"), stage)))
    verdict = next((f"{one['metric']} {one['verdict']}" for one in rollout.get("verdicts") or []), "")
    bar = OLD * (BAR - cells) + NEW * cells
    return f"{bar} {weight / 100:4g} %  {where:<24} {verdict}".rstrip()[: WIDTH - 11]


def _reasons(status: Manifest) -> list[str]:
    """The end of it, as history has it."""
    abort = status["rollout"].get("abort")
    return [f"{abort['reason']}: {abort['message']}"] if abort else [status["history"][0]["message"]]


def _users(team: Team, flow: Traffic) -> None:
    """Who answered and who failed, by the users' own count."""
    bad = str(team.status(NAME)["rollout"]["candidate"])
    others = flow.sums["failed"] - flow.arm(bad)["failed"]
    asked = flow.arm(bad)["answered"] + flow.arm(bad)["failed"]
    print(f"\n  {flow.sums['sent']:,} requests; version 3 was asked {asked} and failed {flow.arm(bad)['failed']},")
    print(f"  of all others {others} failed")
    if others:
        raise SystemExit(f"requests failed that version 3 is not to blame for: {flow.sums['failures']}")
