"""A spike while a part of the machinery is dead: replicas come, none goes because something was not heard of."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from e2e.support.api import Manifest
from e2e.support.installation import Installation, agent_processes, name, processes, send
from e2e.support.prometheus import Prometheus
from e2e.support.releases import end
from e2e.support.scaled import LIMIT_S, Record, ready, scaled, told, wait_asked, wait_ready, watched
from e2e.support.team import Team
from e2e.support.traffic import Traffic
from e2e.support.wait import until

FULL = bool(os.environ.get("SLIPWAY_FULL"))
QUIET, BUSY, MOST = 3, 28, 4
LEARN_S, CLIMB_S, AFTER_S = (60, 30, 150) if FULL else (12, 15, 15)
KILL_EACH_S = 10
BELIEVED_S = 40
"""So long what pods said before they fell silent is taken for how it is, downwards too (`decide.scaling.trust`)."""
LOCAL = "processes of this machine are paused, which is possible on `local` only"


@contextmanager
def users(team: Team, service: str, **more: Any) -> Iterator[tuple[Traffic, Record]]:
    """Of a service with two replicas that has been in use for a while; none of their requests fails."""
    team.apply(scaled(service, least=1, most=MOST, **more))
    team.wait_settled(service)
    with team.traffic(service, rate=QUIET, limit_s=LIMIT_S) as flow:
        flow.wait_answered(QUIET * LEARN_S, within_s=LEARN_S * 3 + 60)
        with watched(team) as record:
            yield flow, record
    flow.assert_unharmed()
    answered, in_time = flow.in_time()
    print(f"{in_time} of {answered} within {LIMIT_S:g} s; replicas {record.totals(service)}")
    record.assert_never_down(service)
    end(team, service)


def spike(team: Team, service: str, flow: Traffic) -> None:
    """Load for all replicas, and on with it: who has fewer then has them by the fault."""
    flow.go(BUSY, CLIMB_S)
    wait_asked(team, service, lambda count: count >= MOST - 1, "most of its", within_s=120)
    wait_ready(team, service, MOST - 1)
    flow.wait_answered(BUSY * 5)
    until("nobody waits any more", lambda: flow.recent_ms() < 1000, within_s=90, seen=lambda: told(team, service))
    ends = time.monotonic() + AFTER_S
    until("the time is over", lambda: time.monotonic() > ends, within_s=AFTER_S + 5)


def test_a_spike_with_prometheus_dead_and_half_of_the_pods_unheard(
    shop: Team, prometheus: Prometheus, shared_slipway: Installation
) -> None:
    """Of its two objectives one is Prometheus's; it goes by the other, upwards only."""
    if not shop.site.is_local:
        pytest.skip(LOCAL)
    query = f'sum(rate(nv_inference_request_success{{namespace="{shop.name}",service="blind"}}[15s]))'
    both = {"queueTime": {"p99": "1s"}, "promql": {"query": query, "target": 8}}
    with users(shop, "blind", objective=both, behavior={"down": {"delay": "5s"}}) as (flow, _):
        shop.apply(scaled("blind", least=2, most=MOST, objective=both, behavior={"down": {"delay": "5s"}}))
        wait_ready(shop, "blind", 2)
        prometheus.scale(0)
        with unheard(shop.pods("blind")[:1], by=shared_slipway.pods()):
            time.sleep(BELIEVED_S)
            spike(shop, "blind", flow)
            assert ready(shop, "blind") >= MOST - 1
    prometheus.scale(1)


@contextmanager
def unheard(pods: list[Manifest], by: list[Manifest]) -> Iterator[None]:
    """What these pods send to the others is lost: they are asked, and seem to say nothing."""
    places = [(str(processes(pod)[0]), str(other["status"]["podIP"])) for pod in pods for other in by]
    with ExitStack() as stack:
        for pid, address in places:
            _route(pid, "add", address)
            stack.callback(_route, pid, "del", address)
        yield


def _route(pid: str, verb: str, address: str) -> None:
    argv = ["nsenter", "--target", pid, "--net", "ip", "route", verb, "blackhole", address]
    subprocess.run(argv, check=verb == "add", capture_output=True)


def test_a_spike_with_a_gateway_whose_agent_hangs_and_then_dies(shop: Team, slipway: Installation) -> None:
    """Envoy beside it goes on, and what it counts is not told."""
    if not shop.site.is_local:
        pytest.skip(LOCAL)
    with users(shop, "deaf", behavior={"down": {"delay": "5s"}}) as (flow, _):
        agents = agent_processes(slipway.gateways()[0])
        send(agents, signal.SIGSTOP)
        try:
            spike(shop, "deaf", flow)
        finally:
            send(agents, signal.SIGKILL)
        flow.wait_answered(QUIET * 5)
    until("all gateways are back", slipway.is_well, within_s=90, seen=slipway.seen)


def test_a_spike_while_the_operator_is_killed_every_ten_seconds(shop: Team, slipway: Installation) -> None:
    with users(shop, "headless", behavior={"down": {"delay": "5s"}}) as (flow, _), killed(slipway) as kills:
        spike(shop, "headless", flow)
        until("three leaders were killed", lambda: len(kills) >= 3, within_s=90, seen=lambda: kills)
    print(f"killed {len(kills)} times")
    until("the operators are back", slipway.is_well, within_s=90, seen=slipway.seen)


@contextmanager
def killed(slipway: Installation) -> Iterator[list[str]]:
    """Whoever leads, by force, as a node's failure does."""
    kills: list[str] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            leader = slipway.leader()
            if leader in [name(pod) for pod in slipway.pods()]:
                slipway.kill(leader)
                kills.append(leader)
            stop.wait(KILL_EACH_S)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield kills
    finally:
        stop.set()
        thread.join(30)
