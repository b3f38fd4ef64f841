"""From the figures to tables, verdicts and the RESULT line."""

from collections.abc import Mapping

from e2e.bench import report
from e2e.bench.gateway.changes import Figures as ChangeFigures
from e2e.bench.gateway.requests import CELLS, DIRECT, OPEN, OURS
from e2e.bench.runtime.cells import Cell, Figures, Subject
from e2e.bench.runtime.results import Results

FEW, MANY = 10, 1000
FLOORS = {"rps_ratio_vs_haproxy": 0.6}
CEILINGS = {
    "overhead_p50_ms": 0.5,
    "weight_to_served_p95_ms": 50.0,
    "change_cost_ratio_1000_vs_10": 1.5,
    "agent_rss_mib": 90.0,
    "agent_cpu_pct_10_services": 2.0,
    "agent_cpu_pct_1000_services": 10.0,
}
KEYS = (
    "overhead_p50_ms",
    "overhead_p99_ms",
    "rps_ratio_vs_haproxy",
    "rps_ratio_vs_nginx",
    "grpc_rps_ratio_vs_direct",
    "weight_to_served_p50_ms",
    "weight_to_served_p95_ms",
    "change_cost_ratio_1000_vs_10",
    "agent_rss_mib",
    "agent_cpu_pct_10_services",
    "agent_cpu_pct_1000_services",
)
COLUMNS = "  clients  through        req/s   p50 ms   p99 ms   CPU µs  core %  RSS MiB  gen %"
_ONE, _FULL, _FULL_GRPC = Cell("split", "json", 1), Cell("split", "json", 64), Cell("split", "grpc", 64)


def of_requests(results: Results) -> dict[str, float | None]:
    """Latency added for one client, which never waits for another; throughput with 64."""
    ours = Subject(OURS)

    def ratio(cell: Cell, other: str) -> float | None:
        found = results.medians(cell)
        theirs = found.get(Subject(other))
        return found[ours].per_s / theirs.per_s if ours in found and theirs else None

    alone = results.medians(_ONE)
    both = (alone[ours], alone[Subject(DIRECT)]) if {ours, Subject(DIRECT)} <= alone.keys() else None
    return {
        "overhead_p50_ms": both[0].p50_ms - both[1].p50_ms if both else None,
        "overhead_p99_ms": both[0].p99_ms - both[1].p99_ms if both else None,
        "rps_ratio_vs_haproxy": ratio(_FULL, "haproxy"),
        "rps_ratio_vs_nginx": ratio(_FULL, "nginx"),
        "grpc_rps_ratio_vs_direct": ratio(_FULL_GRPC, DIRECT),
    }


def of_changes(few: ChangeFigures, many: ChangeFigures) -> dict[str, float | None]:
    return {
        "weight_to_served_p50_ms": many.served_at(50),
        "weight_to_served_p95_ms": many.served_at(95),
        "change_cost_ratio_1000_vs_10": many.cost.ratio(few.cost),
        "agent_rss_mib": many.agent_rss_mib,
        "agent_cpu_pct_10_services": few.agent_pct,
        "agent_cpu_pct_1000_services": many.agent_pct,
    }


def line(figures: Mapping[str, float | None]) -> str:
    return report.line_of(figures, KEYS)


def verdicts(figures: Mapping[str, float | None]) -> str:
    return report.verdicts(figures, KEYS, FLOORS, CEILINGS)


def requests_table(results: Results) -> str:
    """A part for each protocol; within it by clients, who does most first."""
    lines = []
    for protocol, title in (("json", "REST"), ("grpc", "gRPC")):
        lines += ["", title, COLUMNS]
        for cell in (cell for cell in (*CELLS, OPEN) if cell.protocol == protocol):
            ordered = sorted(results.medians(cell).items(), key=lambda one: one[1].per_s, reverse=True)
            lines += [_row(cell, subject, of, is_first=not place) for place, (subject, of) in enumerate(ordered)]
    return "\n".join(lines)


def _row(cell: Cell, subject: Subject, of: Figures, *, is_first: bool) -> str:
    clients = (cell.clients or "open") if is_first else ""
    core_pct = of.per_s * of.cpu_us / 1e4
    times = f"{of.per_s:>8,.0f} {of.p50_ms:8.3f} {of.p99_ms:8.3f} {of.cpu_us:8.1f}"
    return f"  {clients:>7}  {subject.name:<10} {times} {core_pct:7.0f} {of.rss_mib:8.0f} {of.generator_pct:6.0f}"


def changes_table(*measured: ChangeFigures) -> str:
    rows = [
        ("services", [f"{of.services}" for of in measured]),
        ("weight to served, p50, ms", [f"{of.served_at(50):.1f}" for of in measured]),
        ("weight to served, p95, ms", [f"{of.served_at(95):.1f}" for of in measured]),
        ("weight to served, most, ms", [f"{max(of.served_ms):.1f}" for of in measured]),
        (
            "of it the API server's answer, p50, ms",
            [f"{sorted(of.write_ms)[len(of.write_ms) // 2]:.1f}" for of in measured],
        ),
        ("a change: agent's CPU, ms", [f"{of.cost.agent_ms:.2f}" for of in measured]),
        ("a change: Envoy's CPU, ms", [f"{of.cost.envoy_ms:.2f}" for of in measured]),
        ("a change: bytes on the stream", [f"{of.cost.stream_bytes:,.0f}" for of in measured]),
        ("idle: agent, % of a core", [f"{of.agent_pct:.2f}" for of in measured]),
        ("idle: Envoy, % of a core", [f"{of.envoy_pct:.2f}" for of in measured]),
        ("RSS of the agent, MiB", [f"{of.agent_rss_mib:.0f}" for of in measured]),
        ("RSS of Envoy, MiB", [f"{of.envoy_rss_mib:.0f}" for of in measured]),
    ]
    return "\n".join(f"  {title:<40}" + "".join(f"{value:>10}" for value in values) for title, values in rows)
