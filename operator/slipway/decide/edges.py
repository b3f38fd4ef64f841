"""In which steps gateways measure latency and releases judge it. Apart: an agent needs no more of releases."""

EDGES_MS = (
    0.5, 1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110, 160, 220, 320, 450, 640, 900,
    1300, 1800, 2600, 3600, 5100, 7200, 10_000, 14_000, 20_000, 30_000, 60_000, 300_000,
)  # fmt: skip
"""Upper edges of the latency buckets that gateways count in; one more bucket holds what is beyond the last.

Two digits each, at which Envoy's histograms have an edge themselves: counts are exact."""
