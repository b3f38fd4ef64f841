"""How the requests of a model are queued and batched, as numbers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_rows` of one batch, 1 for a model that does not batch; `max_jobs` that all instances have at once.

    The limits of the queue are of what waits in it. `preferred` are numbers of rows, none larger than `max_rows`.
    Without `own_timeouts` the `timeout` of a request counts for nothing; how long its client waits always counts.
    """

    max_rows: int
    max_jobs: int
    max_queue: int
    max_queue_bytes: int
    timeout_s: float
    delay_s: float = 0.0
    levels: int = 1
    weights: Mapping[str, int] = field(default_factory=dict)
    preferred: tuple[int, ...] = ()
    own_timeouts: bool = True

    def rows_of_next(self, waiting: int) -> int:
        """At most so many for the next batch: the largest preferred size that waits, if any does.

        preferred (4, 8), max_rows 16: of 3 that wait 3 are taken, of 5 or 7 four, of 12 eight.
        """
        return max((size for size in self.preferred if size <= waiting), default=self.max_rows)

    def may_grow(self, waiting: int) -> bool:
        """Whether a batch of what waits would be better with more: it has no preferred size and is not full."""
        return waiting < min(self.preferred, default=self.max_rows)

    def timeout_s_of(self, own_s: float | None, patience_s: float | None) -> float | None:
        """Of a request, by what it says itself and how long its client waits; None: there is but the model's."""
        if own_s is None or not self.own_timeouts:
            return patience_s
        return own_s if patience_s is None else min(own_s, patience_s)
