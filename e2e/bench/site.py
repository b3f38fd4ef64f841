"""Where benchmarks on the cluster are run."""

import contextlib
import secrets
from collections.abc import Iterator

from e2e.bench.report import phase
from e2e.support import team as teams
from e2e.support.installation import Installation
from e2e.support.site import started
from e2e.support.team import Team


@contextlib.contextmanager
def namespace(title: str) -> Iterator[Team]:
    """A namespace with a pod that asks, on the cluster with this checkout's Slipway. Ends as it began."""
    with started() as site:
        with phase("Slipway is installed"):
            Installation(site).ensure()
        team = teams.make(site, f"{title}-{secrets.token_hex(2)}")
        try:
            team.start_client()
            yield team
        finally:
            teams.clear(team)
            site.api.delete("namespaces", None, team.name)
