"""What it costs to judge one service once: the gateways' counts of an interval folded in, and every verdict."""

import statistics
import time

from slipway.api.rollout import Analysis
from slipway.decide.judge import fold, overall, verdicts
from slipway.decide.release import EDGES_MS, Sample, Window

ROUNDS, INTERVALS = 40, 120
STABLE, CANDIDATE = "hello-aaaaaaaaaa", "hello-bbbbbbbbbb"


def judge_us() -> float:
    """Microseconds of CPU, the median of the rounds; ten minutes of a release at 300 requests a second each."""
    return statistics.median(_round() for _ in range(ROUNDS)) * 1e6


def _round() -> float:
    policy, evidence = Analysis(), None
    windows = [_window(number) for number in range(INTERVALS)]
    begin = time.process_time()
    for window in windows:
        evidence = fold(evidence, window, STABLE, CANDIDATE, policy, mirrored=False)
        overall(verdicts(evidence, policy, {}))
    return (time.process_time() - begin) / INTERVALS


def _window(number: int) -> Window:
    """Five seconds of 300 requests a second, a quarter of them the candidate's; both fail now and then."""
    return Window(5.0, 0.5, {STABLE: _sample(1125, number % 3), CANDIDATE: _sample(375, number % 2)})


def _sample(requests: int, errors: int) -> Sample:
    """Most of them take around 10 ms, a few much longer."""
    latency = [0] * (len(EDGES_MS) + 1)
    for place, share in ((6, 0.5), (7, 0.3), (8, 0.15), (12, 0.05)):
        latency[place] = int(requests * share)
    latency[6] += requests - sum(latency)
    return Sample(requests, errors, tuple(latency))
