"""The cluster that scenarios and people work on: `python -m e2e.cluster up`, or from a test

with hold("my test"):
    provider = choose()
    provider.up()
    provider.load(ALL)
    subprocess.run([provider.cluster().kubectl, "--kubeconfig", provider.cluster().kubeconfig, "get", "nodes"])
"""

from .cluster import Cluster, Provider
from .images import ALL, GATEWAY, OPERATOR, PROMETHEUS, RUNTIME, SKLEARN, TRITON, Image, chart_values
from .lock import Busy, hold
from .providers import choose
from .shell import ClusterError

__all__ = [
    "ALL",
    "GATEWAY",
    "OPERATOR",
    "PROMETHEUS",
    "RUNTIME",
    "SKLEARN",
    "TRITON",
    "Busy",
    "Cluster",
    "ClusterError",
    "Image",
    "Provider",
    "chart_values",
    "choose",
    "hold",
]
