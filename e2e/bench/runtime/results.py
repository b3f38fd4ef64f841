"""From the figures of all rounds to medians, tables and the RESULT line."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import fields

from e2e.bench import report
from e2e.bench.runtime.cells import ECHO, PROTOCOLS, Cell, Figures, Subject
from e2e.bench.runtime.servers import OURS

COLUMNS = "  clients  server                     req/s   p50 ms   p99 ms   CPU µs  RSS MiB  gen %"
FLOORS = {
    "json_tiny_c8_vs_triton": 3.0,
    "json_tiny_c64_vs_triton": 3.0,
    "json_tiny_c8_vs_kserve": 10.0,
    "json_tiny_c64_vs_kserve": 10.0,
    "json_tiny_c8_vs_best": 1.5,
    "json_tiny_c64_vs_best": 1.5,
    "bin_tiny_c8_vs_triton": 3.0,
    "bin_tiny_c64_vs_triton": 3.0,
    "grpc_tiny_c8_vs_triton": 1.5,
    "grpc_tiny_c64_vs_triton": 1.5,
    "grpc_tiny_c64_vs_kserve": 8.0,
    "bin_img_c8_vs_triton": 1.3,
    "mlp512_c64_vs_best_min": 1.1,
}
CEILINGS = {
    "json_tiny_c1_p50_vs_best": 1.0,
    "cpu_us_rest_c8": 60.0,
    "cpu_us_grpc_c8": 80.0,
    "rss_over_python_mib": 60.0,
    "idle_cpu_pct": 0.5,  # 0 %, of which 20 s show no more than this
}
KEYS = (*FLOORS, *CEILINGS)


class Results:
    def __init__(self) -> None:
        self._rounds: dict[tuple[Subject, Cell], list[Figures]] = {}

    def add(self, subject: Subject, cell: Cell, figures: Figures) -> None:
        self._rounds.setdefault((subject, cell), []).append(figures)

    def medians(self, cell: Cell) -> dict[Subject, Figures]:
        """Of every server that was measured, each column by itself."""
        return {subject: _median(rounds) for (subject, at), rounds in self._rounds.items() if at == cell}

    def rounds(self, subject: Subject) -> list[Figures]:
        """Everything measured of it, in all cells."""
        return [figures for (of, _), rounds in self._rounds.items() if of == subject for figures in rounds]

    def best(self, cell: Cell) -> dict[str, tuple[Subject, Figures]]:
        """Of every server the variant that does most."""
        found: dict[str, tuple[Subject, Figures]] = {}
        for subject, figures in self.medians(cell).items():
            if subject.name not in found or figures.per_s > found[subject.name][1].per_s:
                found[subject.name] = subject, figures
        return found

    def is_worth_more(self, subject: Subject, cell: Cell) -> bool:
        """Whether this was not measured yet, or no other variant was better: one that is not is measured once.

        Of our own all are shown, so all are measured alike.
        """
        return (
            subject.name == OURS or (subject, cell) not in self._rounds or self.best(cell)[subject.name][0] == subject
        )

    def cells(self) -> list[Cell]:
        return list(dict.fromkeys(cell for _, cell in self._rounds))

    def others_pct(self) -> list[float]:
        return [figures.others_pct for rounds in self._rounds.values() for figures in rounds]


def ratios(results: Results) -> dict[str, float | None]:
    """Of RESULT, what compares servers and what a request costs: throughput ours / theirs, and p50 likewise."""
    found: dict[str, float | None] = dict.fromkeys(KEYS)
    for key in KEYS:
        protocol, _, rest = key.partition("_")
        if protocol in PROTOCOLS and "_p50_" not in key:
            model, clients, _, peer = rest.split("_")
            found[key] = _times(results, Cell(model, protocol, int(clients[1:])), "" if peer == "best" else peer)
    mlp = [_times(results, Cell("mlp512", protocol, 64)) for protocol in PROTOCOLS]
    found["mlp512_c64_vs_best_min"] = min(_known(mlp)) if None not in mlp else None
    found["json_tiny_c1_p50_vs_best"] = _p50(results, Cell("tiny", "json", 1))
    for key, protocol in (("cpu_us_rest_c8", PROTOCOLS[0]), ("cpu_us_grpc_c8", PROTOCOLS[2])):
        ours = results.medians(Cell("tiny", protocol, 8)).get(Subject(OURS))
        found[key] = ours.cpu_us if ours else None
    return found


def line(figures: Mapping[str, float | None]) -> str:
    return report.line_of(figures, KEYS)


def verdicts(figures: Mapping[str, float | None]) -> str:
    return report.verdicts(figures, KEYS, FLOORS, CEILINGS)


def table(results: Results, absent: Mapping[str, str]) -> str:
    """A part for each model and protocol, the fastest first. `absent`: what has no figures, and why."""
    parts: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells():
        parts.setdefault((cell.model, cell.protocol), []).append(cell)
    lines = []
    for (model, protocol), cells in parts.items():
        lines += ["", f"{model}, {protocol}", COLUMNS]
        for cell in sorted(cells, key=lambda cell: cell.clients or 999):
            lines += _rows(cell, results)
    if absent:
        lines += ["", *(f"absent: {name}: {why}" for name, why in absent.items())]
    return "\n".join(lines)


def _rows(cell: Cell, results: Results) -> Iterator[str]:
    shown = dict(results.best(cell).values()) | {
        subject: figures for subject, figures in results.medians(cell).items() if subject.name == OURS
    }
    ordered = sorted(shown.items(), key=lambda one: one[1].per_s, reverse=True)
    for number, (subject, of) in enumerate(ordered):
        clients = "" if number else cell.clients or "open"
        title = f"{subject.name} {subject.variant}".strip()
        times = f"{of.per_s:>8,.0f} {_ms(of.p50_ms)} {_ms(of.p99_ms)}"
        yield f"  {clients:>7}  {title:<22}  {times} {of.cpu_us:8,.0f} {of.rss_mib:8,.0f} {of.generator_pct:6.0f}"


def _ms(value: float) -> str:
    return f"{value:8.2f}" if value < 100 else f"{value:8,.0f}"


def _peers(results: Results, cell: Cell) -> dict[str, Figures]:
    return {name: figures for name, (_, figures) in results.best(cell).items() if name not in (OURS, ECHO)}


def _times(results: Results, cell: Cell, peer: str = "") -> float | None:
    """How many times the throughput of a peer, or of the best of them, is ours."""
    ours, peers = results.best(cell).get(OURS), _peers(results, cell)
    theirs = [figures.per_s for name, figures in peers.items() if peer in ("", name)]
    return ours[1].per_s / max(theirs) if ours and theirs else None


def _p50(results: Results, cell: Cell) -> float | None:
    ours = results.best(cell).get(OURS)
    theirs = [of.p50_ms for subject, of in results.medians(cell).items() if subject.name not in (OURS, ECHO)]
    return ours[1].p50_ms / min(theirs) if ours and theirs else None


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median(rounds: list[Figures]) -> Figures:
    return Figures(*(statistics.median(getattr(one, field.name) for one in rounds) for field in fields(Figures)))
