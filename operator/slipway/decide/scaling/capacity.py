"""What one replica carries, learnt while it runs: service time as a line over the number that runs at once.

S(n) = a + b n, least squares with a ridge towards b = 0 and forgetting. From that, the most that may run at once so
that the objective is kept, and how long a request then takes. Sources: Clockwork (OSDI '20: the time of an inference
can be predicted), Nexus (SOSP '19: linear in the batch).
"""

from dataclasses import dataclass

from slipway.api.scaled import Capacity
from slipway.decide.scaling.types import Wanted

ENOUGH_ANSWERS = 8
"""In a window, so that its mean says something."""
WINDOW_LOOKS = 30
FORGET = 1 - 1 / 400
RIDGE, RIDGE_SHARE = 0.25, 0.1
"""Large requests take long and pile up, so time goes with number for another reason too: only a number that varied
much (beside this share of its mean, squared) says what it costs to run more at once."""
ENOUGH_WINDOWS = 6
"""Before that the line is not trusted, only its mean."""
PRIOR_SLOTS = 8.0
"""Where neither the user nor the server says how many run at once, and none has been seen to wait."""
TAIL_PRIOR = 1.6
TAIL_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Carries:
    """One replica, loaded as far as the objective lets it be."""

    slots: float
    """Requests at once."""
    service_s: float
    """How long each then takes; 0: not known yet."""
    spare_s: float
    """How much of the objective is left for waiting."""
    slope_s: float = 0.0
    """How much longer it takes with each one more at work."""
    alone_s: float = 0.0
    """How long a request takes by itself, where the objective is shorter than that: no number of replicas keeps it."""

    @property
    def rate(self) -> float:
        return self.slots / self.service_s if self.service_s > 0 else 0.0


def learn(known: Capacity, *, answered: float, busy_s: float, running: float, waiting: float, ready: int) -> Capacity:
    """Take in what was answered since the last look. `running` and `waiting`: now, of all replicas together."""
    if ready <= 0:
        return known
    each = running / ready
    most = max(known.most, each) if waiting > 0 else known.most
    answered, busy_s = known.answered + answered, known.busy_s + busy_s
    looks, total = known.looks + 1, known.running + each
    if answered < ENOUGH_ANSWERS:
        # Too few to say anything. What trickles in over minutes is no window: it would mix loads.
        is_stale = looks >= WINDOW_LOOKS
        gathered = (0.0, 0.0, 0.0, 0) if is_stale else (answered, busy_s, total, looks)
        return known.changed(
            most=most, answered=gathered[0], busy_s=gathered[1], running=gathered[2], looks=gathered[3]
        )
    n, s = total / looks, busy_s / answered
    kept = FORGET
    return Capacity(
        windows=known.windows * kept + 1,
        n=known.n * kept + n,
        s=known.s * kept + s,
        nn=known.nn * kept + n * n,
        ns=known.ns * kept + n * s,
        tail=known.tail,
        most=most,
        # Learnt elsewhere, it is believed the more the more is seen here.
        caution=1 + (known.caution - 1) * 0.9,
    )


def with_tail(known: Capacity, tail: float | None) -> Capacity:
    if tail is None or not 1.0 <= tail <= 100.0:
        return known
    old = known.tail or tail
    return known.changed(tail=old + TAIL_RATE * (tail - old))


def line(known: Capacity) -> tuple[float, float] | None:
    """Both numbers of S(n) = a + b n; None until something was answered."""
    w = known.windows
    if w < 1:
        return None
    mean_n, mean_s = known.n / w, known.s / w
    if w < ENOUGH_WINDOWS:
        return max(1e-6, mean_s), 0.0
    spread = known.nn / w - mean_n * mean_n
    slope = max(0.0, (known.ns / w - mean_n * mean_s) / (max(0.0, spread) + RIDGE + RIDGE_SHARE * mean_n * mean_n))
    # No more than a line through the origin: at zero load a request still takes time.
    slope = min(slope, mean_s / mean_n if mean_n > 0 else 0.0)
    return max(1e-6, mean_s - slope * mean_n), slope


def carries(known: Capacity, wanted: Wanted, slots: float | None) -> Carries:
    """The most that one replica may work on at once, and what that means.

    >>> one = Capacity(windows=10, n=40, s=10, nn=160, ns=40)
    >>> carries(one, Wanted(queue_s=2.0, slots=16), None)
    Carries(slots=16.0, service_s=1.0, spare_s=2.0, slope_s=0.0, alone_s=0.0)
    """
    most = max(1.0, float(wanted.slots or slots or known.most or PRIOR_SLOTS))
    fitted = line(known)
    if fitted is None:
        spare = wanted.queue_s if wanted.queue_s is not None else (wanted.latency_s or 0.0)
        return Carries(most, 0.0, spare)
    a, b = fitted[0] * known.caution, fitted[1] * known.caution
    if wanted.latency_s is not None and fitted[0] + fitted[1] > wanted.latency_s:
        # More replicas make nobody faster: what is left to do is that nobody waits for long.
        spare = wanted.latency_s if wanted.queue_s is None else min(wanted.latency_s, wanted.queue_s)
        return Carries(most, a + b * most, spare, b, fitted[0] + fitted[1])
    if wanted.latency_s is not None:
        tail = known.tail or TAIL_PRIOR
        # The largest n with tail (a + b n) <= latency.
        room = wanted.latency_s / tail - a
        fits = room / b if b > 1e-9 else (most if room >= 0 else 1.0)
        most = max(1.0, min(most, fits))
    service = a + b * most
    spares: list[float] = []
    if wanted.latency_s is not None:
        spares.append(max(0.0, wanted.latency_s - (known.tail or TAIL_PRIOR) * service))
    if wanted.queue_s is not None:
        spares.append(wanted.queue_s)
    return Carries(most, service, min(spares, default=0.0), b)


def handed_down(known: Capacity, caution: float = 1.2) -> Capacity:
    """For a revision that has answered nothing yet: what its predecessor carries, less some."""
    return known.changed(caution=max(caution, known.caution), answered=0.0, busy_s=0.0, running=0.0, looks=0)
