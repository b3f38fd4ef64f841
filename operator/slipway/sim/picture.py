"""Pictures as SVG: load and replicas over time, and what was in time over what it cost. No library draws them."""

from collections.abc import Mapping, Sequence
from html import escape

from slipway.sim.outcome import Outcome
from slipway.sim.sweep import OURS, Point
from slipway.sim.traces import Trace

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 420, 64, 36, 24, 52
COLOURS = {OURS: "#0b6e4f", "keda": "#2f6fde", "hpa": "#7a5cc4", "kpa": "#d1495b", "ray": "#c98a00"}
TICKS = 5
COLUMNS = 240
"""Of the load: each as wide as the time it is the mean of."""
LOAD, ASKED, READY = "#c9d6e2", "#888888", COLOURS[OURS]


def course(title: str, trace: Trace, outcome: Outcome) -> str:
    """Requests per second as a surface; replicas that were asked for, and those that were ready, as lines."""
    end = max(1.0, trace.times[-1])
    rates = _rates(trace.times, end)
    highest = max(rates)
    most = max([1, *(max(asked, ready) for _, asked, ready in outcome.replicas)])
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT

    def x(second: float) -> float:
        return LEFT + second / end * (right - LEFT)

    def y(share: float) -> float:
        return bottom - share * (bottom - TOP)

    surface = "".join(
        f"L{x(end * at / COLUMNS):.1f} {y(rate / highest):.1f}H{x(end * (at + 1) / COLUMNS):.1f}"
        for at, rate in enumerate(rates)
    )
    parts = [f'<path d="M{LEFT} {bottom}{surface}V{bottom}Z" fill="{LOAD}"/>']
    for place, colour in ((1, ASKED), (2, READY)):
        line = "".join(
            f"{'H' if at else 'M'}{x(change[0]):.1f}{'V' if at else ' '}{y(change[place] / most):.1f}"
            for at, change in enumerate(outcome.replicas)
        )
        parts.append(f'<path d="{line}H{right}" fill="none" stroke="{colour}" stroke-width="{place}"/>')
    names = ((LOAD, f"requests/s, up to {highest:.3g}"), (ASKED, "replicas asked for"), (READY, "replicas ready"))
    for number, (colour, name) in enumerate(names):
        parts.append(f'<rect x="{LEFT + 150 * number}" y="{TOP - 12}" width="8" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 12 + 150 * number}" y="{TOP - 4}">{escape(name)}</text>')
    words = (f"{title}: {outcome.attainment_pct:.2f} % in time", "minutes", "replicas")
    return _svg([*_axes(words, end / 60, (0.0, float(most))), *parts])


def _rates(times: Sequence[float], end: float) -> list[float]:
    counts = [0] * COLUMNS
    for moment in times:
        counts[min(COLUMNS - 1, int(moment / end * COLUMNS))] += 1
    return [count * COLUMNS / end for count in counts]


def pareto(title: str, points: Sequence[Point]) -> str:
    """One picture: a mark per setting, a line per rival in the order of cost, ours large."""
    most = max(point.gpu_hours for point in points) * 1.05
    # Half of all settings are nowhere near: what is worth a look is the upper part.
    least = max(0.0, min(point.attainment_pct for point in points))

    def x(point: Point) -> float:
        return LEFT + point.gpu_hours / most * (WIDTH - LEFT - RIGHT)

    def y(point: Point) -> float:
        share = (point.attainment_pct - least) / max(1e-9, 100.0 - least)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [*_axes((title, "GPU hours", "in time, %"), most, (least, 100.0))]
    for number, (policy, found) in enumerate(_by_policy(points).items()):
        colour = COLOURS.get(policy, "#555555")
        line = " ".join(f"{x(point):.1f},{y(point):.1f}" for point in found)
        if len(found) > 1:
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity="0.35"/>')
        size = 7 if policy == OURS else 3
        parts += [
            f'<circle cx="{x(point):.1f}" cy="{y(point):.1f}" r="{size}" fill="{colour}">'
            f"<title>{escape(f'{policy}, {point.words}: {point.attainment_pct:.2f} % at {point.gpu_hours:.2f} h')}"
            "</title></circle>"
            for point in found
        ]
        top = HEIGHT - BOTTOM - 14 * (number + 1)
        parts.append(f'<circle cx="{WIDTH - 96}" cy="{top - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - 86}" y="{top}">{escape(policy)}</text>')
    return _svg(parts)


def _by_policy(points: Sequence[Point]) -> Mapping[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.gpu_hours):
        found.setdefault(point.policy, []).append(point)
    return found


def _axes(words: tuple[str, str, str], most: float, span: tuple[float, float]) -> list[str]:
    """Title, what goes across and what goes up; `most` across, and from where to where up."""
    title, across_is, up_is = words
    least, top = span
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    middle = (TOP + bottom) // 2
    parts = [
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{across_is}</text>',
        f'<text x="14" y="{middle}" transform="rotate(-90 14 {middle})" text-anchor="middle">{up_is}</text>',
    ]
    for tick in range(TICKS + 1):
        share = tick / TICKS
        across, up = LEFT + share * (right - LEFT), bottom - share * (bottom - TOP)
        parts.append(f'<text x="{across:.0f}" y="{bottom + 16}" text-anchor="middle">{most * share:.1f}</text>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{up + 4:.0f}" text-anchor="end">{least + (top - least) * share:.1f}</text>'
        )
        parts.append(f'<path d="M{LEFT} {up:.0f}H{right}" stroke="#ddd"/>')
    return parts


def _svg(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        f' font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
