"""The part of the tour about replicas: load goes up and they follow, nobody asks and they go, a request wakes them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.cluster import Cluster
from e2e.cluster.paths import cache
from e2e.support.api import proxied
from e2e.support.load import load
from e2e.support.manifests import client_pod
from e2e.support.releases import runtime
from e2e.support.scaled import RATE, asked, ready, scaled, scaling
from e2e.support.site import Site
from e2e.support.team import Team
from e2e.support.traffic import Traffic
from e2e.support.wait import until

if TYPE_CHECKING:
    from e2e.demo import Tour

NAME, CALLERS = "elastic", 20
QUIET, BUSY, CLIMB_S = 3, 28, 20
GOAL: dict[str, Any] = {"objective": {"requestsPerSecond": 8}, "idleAfter": "5s", "behavior": {"down": {"delay": "5s"}}}
BAR, FULL_BAR = 20, 30.0
WIDTH = 100


def replicas(tour: "Tour", cluster: Cluster, namespace: str) -> None:
    kubectl, files = f"kubectl -n {namespace}", _files(cache() / "demo")
    with proxied(cluster.kubectl, cluster.kubeconfig) as api:
        team = Team(Site(cluster, api), namespace)
        tour.step(
            f"A model that works 100 ms on each request, one at a time: {RATE:g} a second for each of 0 to 4 replicas",
            f"{kubectl} apply -f {files['runtime']} -f {files['client']} -f {files['service']}",
        )
        tour.step("Wait until it answers", f"{kubectl} wait infsvc/{NAME} --for=condition=Ready --timeout=60s")
        tour.step("... and the client runs", f"{kubectl} wait pod/client --for=condition=Ready --timeout=60s")
        with team.traffic(NAME, rate=QUIET, limit_s=1.0) as flow:
            picture = _Picture(team, flow)
            print(f"\n\033[1m{QUIET} requests a second, in {CLIMB_S} s {BUSY}, later {QUIET} again, then none\033[0m")
            print("           requests a second      replicas: # ready, + loading", flush=True)
            flow.wait_answered(QUIET * 5, within_s=60)
            flow.go(BUSY, CLIMB_S)
            picture.draw_until(lambda: ready(team, NAME) >= 4, "four replicas", within_s=120)
            flow.go(QUIET, 5)
            picture.draw_until(lambda: asked(team, NAME) == 1, "one replica", within_s=150)
            flow.go(0)
            picture.draw_until(lambda: asked(team, NAME) == 0 and not team.pods(NAME), "no replica", within_s=90)
        _users(flow)
        tour.step("Nobody asks", f"{kubectl} get infsvc/{NAME} && {kubectl} wait infsvc/{NAME} --for=condition=Ready")
        print(f"\n\033[1m{CALLERS} requests at once wake it\033[0m")
        found = load(team, NAME, CALLERS, connections=CALLERS)
        print(f"  {found.codes.get('200', 0)} of {CALLERS} answered, the last one after {found.seconds:.1f} s")
        tour.expect("'200': 20", str(found.codes))
        tour.step("Why", f"{kubectl} get infsvc/{NAME} -o jsonpath='{{.status.scaling[0].message}}'")
        tour.step("Make room", f"{kubectl} delete infsvc/{NAME} pod/client --wait=false")


def _files(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    service = scaled(NAME, least=0, most=4, **GOAL)
    found = {}
    for name, manifest in {"runtime": runtime(), "client": client_pod(), "service": service}.items():
        found[name] = folder / f"{name}.json"
        found[name].write_text(json.dumps(manifest, indent=2))
    return found


class _Picture:
    """A line for every change of the replicas, and each five seconds."""

    def __init__(self, team: Team, flow: Traffic) -> None:
        self.team, self.flow, self.begin = team, flow, time.monotonic()
        self.drawn, self.at, self.sent = (-1, -1), 0.0, (time.monotonic(), 0)
        self.rate = 0.0

    def draw_until(self, is_so: Callable[[], bool], what: str, *, within_s: float) -> None:
        def probe() -> bool:
            self.draw()
            return is_so()

        until(what, probe, within_s=within_s, seen=lambda: self.team.digest(NAME))
        self.draw(at_once=True)

    def draw(self, *, at_once: bool = False) -> None:
        now, sent = time.monotonic(), int(self.flow.sums["sent"])
        if now - self.sent[0] >= 2:
            self.rate, self.sent = (sent - self.sent[1]) / (now - self.sent[0]), (now, sent)
        told = asked(self.team, NAME)
        seen = (told, min(told, ready(self.team, NAME)))
        if seen == self.drawn and now - self.at < 5 and not at_once:
            return
        self.drawn, self.at = seen, now
        bar = "▇" * round(min(self.rate, FULL_BAR) / FULL_BAR * BAR)
        pods = "#" * seen[1] + "+" * (seen[0] - seen[1])
        why = str(scaling(self.team, NAME).get("message", ""))
        line = f"  {now - self.begin:5.1f} s  {bar:<{BAR}} {self.rate:4.0f}  {pods:<5} {why}"
        print(line[:WIDTH], flush=True)


def _users(flow: Traffic) -> None:
    answered, in_time = flow.in_time()
    failed = flow.sums["failed"]
    print(f"\n  {flow.sums['sent']:,} requests, {failed} failed; {in_time / answered:.1%} answered within 1 s")
    if failed:
        raise SystemExit(f"requests failed: {flow.sums['failures']}")
