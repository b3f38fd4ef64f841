"""Traffic of a release that never was: what gateways would have counted of both revisions, every five seconds.

A run is drawn whole, for every weight it may have at each instant, so that every rule judges the same requests. Noise:

    bernoulli   requests fail independently of each other
    failing     the same, but stable fails 0.8 %, not 0.2 %
    bursts_0.5, bursts_1   each minute each revision draws its rate of errors and of very slow requests anew, gamma
                distributed, with this standard deviation in times of the mean
    diurnal     every 20 minutes traffic falls to a quarter and comes back, and errors rise threefold, for both
    outage      for three minutes every tenth request of both fails
    slow_start  the candidate begins with ten times the errors and ten times slower; that fades within 15 s
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from slipway.decide.release import EDGES_MS, Sample, Window

TICK_S = 5.0
MINUTE = 12
"""Ticks of one."""
WEIGHTS = (0.05, 0.25, 0.5)
NOISES = ("bernoulli", "failing", "bursts_0.5", "bursts_1", "diurnal", "outage", "slow_start")
STABLE, CANDIDATE = "stable", "candidate"

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]

_FIRST = 7
_USUAL = (0.06, 0.25, 0.33, 0.23, 0.1, 0.03)
"""Of the usual requests, the parts in buckets _FIRST and following: a median of 24 ms, p95 of 50 ms."""
_TAIL, _TAIL_BUCKET = 0.02, 16
"""Of all requests, those that take more than 220 ms."""
_EDGE = 1.4
"""From one bucket edge to the next."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the candidate; nothing, as it is."""

    errors: float = 1.0
    """Times stable's error rate."""
    rate: float = 0.0
    """Part of requests that fail, at least."""
    edges: int = 0
    """Slower by so many bucket edges."""


@dataclass(frozen=True, slots=True)
class Side:
    """One revision's counts by weight and tick; and its latency by bucket, moved by so many edges at each tick."""

    requests: Counts
    errors: Counts
    usual: Counts
    tail: Counts
    moved: Counts

    def sample(self, step: int, tick: int) -> Sample:
        latency = [0] * (len(EDGES_MS) + 1)
        moved = int(self.moved[tick])
        latency[_FIRST + moved : _FIRST + moved + len(_USUAL)] = self.usual[step, tick].tolist()
        latency[_TAIL_BUCKET + moved] += int(self.tail[step, tick])
        return Sample(int(self.requests[step, tick]), int(self.errors[step, tick]), tuple(latency))

    def minute(self, step: int, minute: int) -> tuple[int, int]:
        """Requests and errors."""
        ticks = slice(minute * MINUTE, (minute + 1) * MINUTE)
        return int(self.requests[step, ticks].sum()), int(self.errors[step, ticks].sum())


@dataclass(frozen=True, slots=True)
class Traffic:
    record: Window
    """Stable alone, before the candidate gets traffic."""
    candidate: Side
    stable: Side

    def window(self, step: int, tick: int) -> Window:
        sides = {CANDIDATE: self.candidate.sample(step, tick), STABLE: self.stable.sample(step, tick)}
        return Window(TICK_S, age_s=1.0, samples=sides)


@dataclass(frozen=True, slots=True)
class Setting:
    """What runs are drawn from."""

    rps: float
    noise: str
    fault: Fault
    minutes: int
    record: int = 5
    """Minutes of stable alone, before."""

    @property
    def base(self) -> float:
        """Stable's error rate."""
        return 0.008 if self.noise == "failing" else 0.002


@dataclass(frozen=True, slots=True)
class _Course:
    """How a run goes, by tick; both sides' rates in times of their usual ones."""

    load: Rates
    mine: Rates
    theirs: Rates
    shared: Rates
    """Error rate that hits both."""
    moved: Counts


def draw(random: Generator, setting: Setting) -> Traffic:
    """One run, from the candidate's first request."""
    course = _course(random, setting)
    total = random.poisson(np.broadcast_to(setting.rps * TICK_S * course.load, (len(WEIGHTS), len(course.load))))
    mine = random.binomial(total, np.array(WEIGHTS)[:, None])
    usual = np.maximum(setting.base * course.theirs, course.shared)
    worse = np.maximum(np.maximum(setting.base * setting.fault.errors * course.mine, setting.fault.rate), course.shared)
    split = setting.record * MINUTE
    before, after = slice(0, split), slice(split, None)
    still = np.zeros_like(course.moved)
    alone = _side(random, total[:1, before], usual[before], course.theirs[before], still[before])
    return Traffic(
        _summed(alone, setting.record),
        _side(random, mine[:, after], worse[after], course.mine[after], course.moved[after]),
        _side(random, (total - mine)[:, after], usual[after], course.theirs[after], still[after]),
    )


def _course(random: Generator, setting: Setting) -> _Course:
    minutes = setting.record + setting.minutes
    seconds = (np.arange(minutes * MINUTE) - setting.record * MINUTE) * TICK_S
    load, shared, moved = np.ones(len(seconds)), np.zeros(len(seconds)), np.full(len(seconds), setting.fault.edges)
    mine, theirs = (_bursts(random, setting.noise, minutes) for _ in range(2))
    if setting.noise == "diurnal":
        wave = (1 - np.cos(2 * np.pi * (seconds / 1200 + random.random()))) / 2
        load, mine, theirs = 1 - 0.75 * wave, mine * (1 + 2 * wave), theirs * (1 + 2 * wave)
    if setting.noise == "outage":
        begin = setting.record * MINUTE + int(random.integers(0, 3 * MINUTE))
        shared[begin : begin + 3 * MINUTE] = 0.1
    if setting.noise == "slow_start":
        cold = 1 + 9 * np.where(seconds >= 0, np.exp(-np.abs(seconds) / 5), 0)
        mine, moved = mine * cold, moved + np.round(np.log(cold) / np.log(_EDGE)).astype(np.int64)
    return _Course(load, mine, theirs, shared, moved)


def _side(random: Generator, requests: Counts, rate: Rates, bursts: Rates, moved: Counts) -> Side:
    errors = random.binomial(requests, np.clip(rate, 0, 1))
    tail = random.binomial(requests, np.clip(_TAIL * bursts, 0, 1))
    return Side(requests, errors, random.multinomial(requests - tail, _USUAL), tail, moved)


def _bursts(random: Generator, noise: str, minutes: int) -> Rates:
    if not noise.startswith("bursts_"):
        return np.ones(minutes * MINUTE)
    shape = float(noise.removeprefix("bursts_")) ** -2
    return np.repeat(random.gamma(shape, 1 / shape, minutes), MINUTE)


def _summed(side: Side, minutes: int) -> Window:
    """All of a time with one weight as one window."""
    latency = [0] * (len(EDGES_MS) + 1)
    latency[_FIRST : _FIRST + len(_USUAL)] = side.usual.sum(axis=(0, 1)).tolist()
    latency[_TAIL_BUCKET] = int(side.tail.sum())
    sample = Sample(int(side.requests.sum()), int(side.errors.sum()), tuple(latency))
    return Window(60.0 * minutes, age_s=1.0, samples={STABLE: sample})
