"""How long the model takes and how often requests come, learnt while it runs: two decisions hang on it. Pure.

Run on the loop's own thread? A hand-over to another thread and back costs some 50 µs, and two threads that both run
Python hinder each other; a model that is done sooner is run where the request is. One that is not would keep every
other connection waiting.

Wait for another request although the model is idle? Only within the delay that the model's config allows, and only
while it pays: waiting a gap costs every request that waits that gap, and saves one more run its fixed cost.
"""

from dataclasses import dataclass, field

INLINE_NS = 300_000
INLINE_AGAIN_NS = 200_000
TOO_LONG_NS = 5_000_000
_TRIALS = 3
_TRIALS_MOST = 10_000
_FORGET = 0.05


@dataclass(slots=True)
class InlineRule:
    """Whether the next run may be on the loop's thread. Begins with no, until the model has shown to be quick."""

    inline: bool = False
    _mean_ns: float = 0.0
    _quick: int = 0
    _trials: int = _TRIALS

    def ran(self, took_ns: int) -> None:
        self._mean_ns += 0.2 * (took_ns - self._mean_ns) if self._mean_ns else took_ns
        if self.inline:
            if took_ns > TOO_LONG_NS or self._mean_ns > INLINE_NS:
                self.inline, self._quick = False, 0
                # Somebody who is quick now and then is believed less each time.
                self._trials = min(_TRIALS_MOST, self._trials * 2)
            return
        self._quick = self._quick + 1 if took_ns < INLINE_AGAIN_NS else 0
        self.inline = self._quick >= self._trials


@dataclass(slots=True)
class Line:
    """Least squares of y = fixed + each * x over what came last, older points counting less and less."""

    _n: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        keep = 1 - _FORGET
        self._n = self._n * keep + 1
        self._x = self._x * keep + x
        self._y = self._y * keep + y
        self._xx = self._xx * keep + x * x
        self._xy = self._xy * keep + x * y

    @property
    def fixed(self) -> float:
        """Of the line, at least 0. While all points have the same x, the whole of y: what is known of one run."""
        spread = self._n * self._xx - self._x * self._x
        if self._n == 0:
            return 0.0
        if spread <= 1e-9 * self._n * self._xx:
            return self._y / self._n
        each = (self._n * self._xy - self._x * self._y) / spread
        return max(0.0, (self._y - each * self._x) / self._n)


@dataclass(slots=True)
class DelayRule:
    """`hold_s` says how long a batch that could begin should wait for one more request."""

    most_s: float
    _last_s: float = 0.0
    _gap_s: float = 0.0
    _fit: Line = field(default_factory=Line)

    def arrived(self, now_s: float) -> None:
        if self._last_s:
            gap_s = now_s - self._last_s
            self._gap_s += _FORGET * (gap_s - self._gap_s) if self._gap_s else gap_s
        self._last_s = now_s

    def ran(self, rows: int, took_s: float) -> None:
        self._fit.add(rows, took_s)

    def hold_s(self, requests: int, oldest_s: float, now_s: float) -> float:
        """Seconds to wait from now, 0 = begin. `requests` wait, the oldest since `oldest_s`."""
        left_s, gap_s = oldest_s + self.most_s - now_s, self._gap_s
        if not gap_s or gap_s >= left_s or gap_s * requests >= self._fit.fixed:
            return 0.0
        # Who has not come after two gaps is not expected any more.
        return max(0.0, min(left_s, self._last_s + 2 * gap_s - now_s))
