"""What the operator tells about itself: metrics under well-known names, logs that machines can read."""

import json

from e2e.support.installation import NAMESPACE, Installation, name
from e2e.support.manifests import service
from e2e.support.team import Team
from e2e.support.wait import until

METRICS = (
    "workqueue_depth",
    "workqueue_adds_total",
    "workqueue_queue_duration_seconds",
    "controller_runtime_reconcile_total",
    "slipway_reconcile_seconds",
    "slipway_api_calls_total",
    "slipway_loop_lag_seconds",
    "slipway_leader",
)


def test_metrics_and_logs_tell_of_a_service(slipway: Installation, team: Team) -> None:
    team.apply(service())
    team.wait_settled("hello")
    leader = slipway.leader()
    text = slipway.site.api.text(f"/api/v1/namespaces/{NAMESPACE}/pods/{leader}:8080/proxy/metrics")
    assert [metric for metric in METRICS if f"\n{metric}" not in text] == []
    lines = [json.loads(line) for line in slipway.log(tail=3000).splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("namespace") == team.name and line.get("name") == "hello"]
    uid = team.must_get("inferenceservices", "hello")["metadata"]["uid"]
    assert about, "no line of the log is about the service"
    assert {line["uid"] for line in about} == {uid}
    assert all("generation" in line and "reconcile_id" in line for line in about), about[0]


def test_gateways_tell_what_they_serve_and_how_often(slipway: Installation, team: Team) -> None:
    team.apply(service())
    revision = team.wait_settled("hello")["stable"]
    for _ in range(5):
        assert team.answers("hello", 1)
    about = f'namespace="{team.name}"', 'service="hello"', f'revision="{revision}"', 'code="2xx"'
    until(
        "the requests are counted",
        lambda: sum(map(int, map(float, counted(slipway, about)))) >= 5,
        within_s=10,
        seen=lambda: slipway.gateway_text(name(slipway.gateways()[0]), "metrics")[:3000],
    )


def counted(slipway: Installation, labels: tuple[str, ...]) -> list[str]:
    """Values of the counters of requests that bear all of these labels, of every gateway."""
    texts = [slipway.gateway_text(name(pod), "metrics") for pod in slipway.gateways()]
    return [
        line.split()[-1]
        for text in texts
        for line in text.splitlines()
        if line.startswith("slipway_gateway_requests_total{") and all(label in line for label in labels)
    ]


def test_every_replica_is_alive_and_ready(slipway: Installation) -> None:
    for pod in slipway.pods():
        for path in ("healthz", "readyz"):
            assert slipway.site.api.text(f"/api/v1/namespaces/{NAMESPACE}/pods/{name(pod)}:8080/proxy/{path}") == "ok\n"
