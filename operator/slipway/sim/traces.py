"""Who asks when, and how much work it is. Files are read where they lie; none of them is part of the project.

Known by their first line: the Azure LLM traces (CSV), Mooncake's (JSON lines), and plain counts per second, one a line.
"""

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

from slipway.sim.models import LANGUAGE, VISION, ServiceModel

READ_SHARE = 0.02
LONGEST_S, MOST = 60 * 86_400, 5_000_000
LIMIT = f"60 days and {MOST} requests are the most: take a part of it"


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    times: list[float]
    """Seconds from its begin, rising."""
    sizes: list[float]
    model: ServiceModel
    initial: int
    """Replicas that are ready at its begin, the same for every policy."""

    def work(self) -> float:
        """Replica-seconds of full replicas that it takes at least."""
        return sum(self.sizes) * self.model.full_s() / self.model.slots


def load(path: Path, seed: int = 0, replicas: int | None = None) -> Trace:
    """Raises ValueError: a file in none of the formats, one without a request, or one that is too much."""
    try:
        with path.open() as lines:
            first = lines.readline()
        if first.startswith("TIMESTAMP"):
            times, sizes = _azure(path)
        elif first.startswith("{"):
            times, sizes = _mooncake(path)
        else:
            return _counts(path, seed, replicas)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a trace in a known format: {_cause(error)}") from error
    if not times:
        raise ValueError(f"{path}: there is no request in it")
    begin, end = min(times), max(times)
    if not end - begin <= LONGEST_S:
        raise ValueError(f"{path}: from first to last it is {(end - begin) / 86_400:.3g} days; {LIMIT}")
    if len(times) > MOST:
        raise ValueError(f"{path}: it has {len(times)} requests; {LIMIT}")
    order = sorted(range(len(times)), key=times.__getitem__)
    times, sizes = [times[at] - begin for at in order], [sizes[at] for at in order]
    return Trace(path.stem, times, sizes, LANGUAGE, initial(times, sizes, LANGUAGE) if replicas is None else replicas)


def _cause(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    return "it is no text" if isinstance(error, UnicodeDecodeError) else str(error)


def _azure(path: Path) -> tuple[list[float], list[float]]:
    with path.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["TIMESTAMP"]]
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    return times, [_size(row["GeneratedTokens"], row["ContextTokens"]) for row in rows]


def _mooncake(path: Path) -> tuple[list[float], list[float]]:
    with path.open() as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    times = [float(row["timestamp"]) / 1000 for row in rows]
    if not all(map(math.isfinite, times)):
        raise ValueError("a timestamp is no number")
    return times, [_size(row["output_length"], row["input_length"]) for row in rows]


def _size(written: str | float, read: str | float) -> float:
    size = float(written) + READ_SHARE * float(read)
    if not 0.0 <= size <= 1e9:
        raise ValueError(f"a request of {written} tokens written and {read} read")
    return size


def _counts(path: Path, seed: int, replicas: int | None) -> Trace:
    counts = [_count(number, text) for number, text in enumerate(path.read_text().split(), 1)]
    if not sum(counts):
        raise ValueError("there is no request in it")
    if sum(counts) > MOST or len(counts) > LONGEST_S:
        raise ValueError(f"it has {sum(counts):.0f} requests in {len(counts)} s; {LIMIT}")
    trace = _drawn(path.stem, lambda second: counts[int(second)], len(counts), seed, initially=replicas)
    if not trace.times:
        raise ValueError("so few requests that none was drawn: add more seconds, or take another --seed")
    return trace


def _count(number: int, text: str) -> float:
    try:
        count = float(text)
    except ValueError:
        count = math.nan
    if not 0.0 <= count <= MOST:
        raise ValueError(f"number {number} is {text[:20]!r}, and not how many requests came in a second")
    return count


def initial(times: list[float], sizes: list[float], model: ServiceModel) -> int:
    """What the mean load of the whole takes at 60 %, at least one: a service that was there before its trace begins."""
    mean = sum(sizes) * model.full_s() / model.slots / max(1.0, times[-1])
    return max(1, math.ceil(mean / 0.6))


def _drawn(
    name: str,
    rate: Callable[[float], float],
    length: int,
    seed: int,
    *,
    model: ServiceModel = VISION,
    initially: int | None = None,
) -> Trace:
    """Poisson arrivals at a rate that may change each second; sizes of mean 1 (gamma, shape 4)."""
    random = Random(seed)  # noqa: S311 - a simulation
    times: list[float] = []
    for second in range(length):
        here = max(0.0, rate(second))
        at = random.expovariate(here) if here > 0 else 2.0
        while at < 1.0:
            times.append(second + at)
            at += random.expovariate(here)
    sizes = [random.gammavariate(4.0, 0.25) for _ in times]
    first = max(1, math.ceil(rate(0) * model.full_s() / model.slots / 0.6))
    return Trace(name, times, sizes, model, first if initially is None else initially)


def step(seed: int) -> Trace:
    """Five times the load, at once, for a quarter of an hour."""
    return _drawn("step", lambda t: 15.0 if 600 <= t < 1500 else 3.0, 2400, seed)


def ramp(seed: int) -> Trace:
    """Eight times the load in twenty minutes, and back."""

    def rate(t: float) -> float:
        if t < 300:
            return 2.0
        if t < 1500:
            return 2.0 + 14.0 * (t - 300) / 1200
        return 16.0 if t < 1800 else max(2.0, 16.0 - 14.0 * (t - 1800) / 600)

    return _drawn("ramp", rate, 2700, seed)


def on_off(seed: int) -> Trace:
    """Bursts of 30 to 120 s, pauses of 30 to 120 s."""
    random, rates = Random(1000 + seed), list[float]()  # noqa: S311
    while len(rates) < 3000:
        rates += [0.5] * random.randint(30, 120)
        rates += [12.0] * random.randint(30, 120)
    return _drawn("on-off", lambda t: rates[int(t)], 3000, seed)


def ghost(seed: int) -> Trace:
    """One minute of eight times the load, which never comes back."""
    return _drawn("ghost", lambda t: 25.0 if 900 <= t < 960 else 3.0, 2700, seed)


def spiky(seed: int) -> Trace:
    """A load that wanders, with spikes of random height that fade within a minute or two."""
    random = Random(2000 + seed)  # noqa: S311
    wander, spike, rates = 0.0, 0.0, list[float]()
    for _ in range(3600):
        wander += -wander / 600 + random.gauss(0.0, 0.02)
        spike *= math.exp(-1 / 45)
        if random.random() < 1 / 240:
            spike += 2.0 * random.paretovariate(1.8)
        rates.append(min(30.0, 3.0 * math.exp(wander) + spike))
    return _drawn("spiky", lambda t: rates[int(t)], 3600, seed)


SYNTHETIC: Mapping[str, Callable[[int], Trace]] = {
    "step": step,
    "ramp": ramp,
    "on-off": on_off,
    "ghost": ghost,
    "spiky": spiky,
}
