"""Scenarios on a real cluster: `make e2e`, `make e2e K=drift`. README.md here says how they are built.

The cluster is the provider's that $CLUSTER names; one that does not run is started, and stopped at the end. Slipway
is installed once, in the state that the checkout describes; a scenario that changes the installation puts it back.
"""

import os
import re
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from e2e.cluster import PROMETHEUS, SKLEARN, TRITON, choose, hold
from e2e.support import prometheus as prometheuses
from e2e.support import team as teams
from e2e.support.audit import Audit
from e2e.support.installation import Installation
from e2e.support.manifests import GPU, GPUS
from e2e.support.prometheus import Prometheus
from e2e.support.releases import runtime
from e2e.support.site import Site, started
from e2e.support.team import Team
from e2e.support.wait import until

ORDER = (
    "first_prediction",  # installs; everything after it finds that installation
    "namespaces",
    "observability",
    "steady_state",  # before anybody disturbs the operator; its idle time passes while nothing else runs
    "hostile_specs",
    "broken_model",
    "triton",
    "flavours",
    "storage",
    "node_cache",
    "drift",
    "version_change",
    "traffic_split",
    "sticky_users",
    "rollout",
    "rollout_faults",
    "rollout_strategies",
    "rollout_capacity",
    "experiment",
    "rollout_gitops",
    "rollout_metrics",
    "scaling",
    "scaling_zero",
    "scaling_limits",
    "access",
    "hostile_gateway",
    "gateway_faults",
    "scaling_faults",
    "leader",
    "operator_faults",
    "install",
)
FULL = bool(os.environ.get("SLIPWAY_FULL"))
"""The full counts, `make test-full`."""
SCENARIO_S = 300
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)  # stable: inside a file as written
    for item in items:
        # Fixtures are not timed: the first may have to build a Kubernetes.
        item.add_marker(pytest.mark.timeout(SCENARIO_S * (10 if FULL else 1), func_only=True))


def _rank(item: pytest.Item) -> int:
    if HERE not in item.path.parents:  # `make test` collects the tests beside e2e/ too
        return len(ORDER) + 1
    title = item.path.stem.removeprefix("test_")
    return ORDER.index(title) if title in ORDER else len(ORDER)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A running cluster with the images of this checkout."""
    with hold("the scenarios in e2e/"), started() as found:
        _remove_namespaces(found)
        yield found
        _remove_namespaces(found)


def _remove_namespaces(site: Site) -> None:
    """Everything that scenarios made; that it goes is itself a promise: no finalizer holds it."""
    names = teams.leftovers(site)
    if names and site.api.get("customresourcedefinitions", None, "inferenceservices.slipway.dev"):
        for name in names:
            teams.clear(Team(site, name))
        until(
            "everything of the scenarios has ended",
            lambda: not teams.busy(site),
            within_s=300,
            seen=lambda: teams.busy(site),
        )
    for name in names:
        site.api.delete("namespaces", None, name)
    until(
        "the scenarios' namespaces are gone",
        lambda: not teams.leftovers(site),
        within_s=300,
        seen=lambda: teams.leftovers(site),
    )


@pytest.fixture(scope="session")
def installation(site: Site) -> Installation:
    """Slipway in the cluster, if only as the scenario before left it."""
    return Installation(site)


@pytest.fixture
def slipway(installation: Installation) -> Installation:
    """Slipway as this checkout has it, at work."""
    installation.ensure()
    return installation


@pytest.fixture(scope="module")
def shared_slipway(installation: Installation) -> Installation:
    """The same for fixtures that live as long as a file of scenarios."""
    installation.ensure()
    return installation


@pytest.fixture
def team(site: Site, request: pytest.FixtureRequest) -> Iterator[Team]:
    """A namespace for this scenario."""
    yield from _namespace(site, request.node.name)


@pytest.fixture(scope="module")
def shared_team(site: Site, request: pytest.FixtureRequest) -> Iterator[Team]:
    """A namespace for a file of scenarios."""
    yield from _namespace(site, request.node.path.stem)


@pytest.fixture(scope="module")
def shop(shared_slipway: Installation, shared_team: Team) -> Team:
    """The namespace of a file of scenarios, with users and a runtime for one's own code."""
    assert shared_slipway
    shared_team.apply(runtime())
    shared_team.start_client()
    return shared_team


@pytest.fixture(scope="module")
def prometheus(shop: Team, shared_slipway: Installation) -> Iterator[Prometheus]:
    """A Prometheus that reads as docs/metrics.md says, and an operator that is told of it."""
    choose().load((PROMETHEUS,))
    with prometheuses.running(shop) as found:
        shared_slipway.upgrade("--set", f"prometheus.url={found.url}")
        yield found
    shared_slipway.upgrade()


@pytest.fixture(scope="module")
def triton(shop: Team) -> Team:
    """The namespace, on a cluster that has the image of Triton."""
    choose().load((TRITON,))
    return shop


@pytest.fixture(scope="module")
def sklearn(shop: Team) -> Team:
    """The namespace, on a cluster that has the image for scikit-learn, XGBoost and LightGBM."""
    choose().load((SKLEARN,))
    return shop


@pytest.fixture
def gpus(site: Site) -> Iterator[str]:
    """The node says that it has some, all that a scheduler looks at. Source: Kubernetes, extended resources."""
    if not site.is_local:
        pytest.skip("nodes are given devices on `local` only")
    [node] = site.api.items("nodes")
    where = f"{node['metadata']['name']}/status"

    def tell(number: str | None) -> None:
        site.api.merge("nodes", None, where, {"status": {"capacity": {GPU: number}, "allocatable": {GPU: number}}})

    before = node["status"]["capacity"].get(GPU)
    tell(str(GPUS))
    yield GPU
    tell(before)  # without those that it began with the node would not be well


def _namespace(site: Site, title: str) -> Iterator[Team]:
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).removeprefix("test-")[:40].strip("-")
    made = teams.make(site, f"{words}-{secrets.token_hex(2)}")
    yield made
    teams.clear(made)


@pytest.fixture(scope="session")
def session_audit(site: Site) -> Audit | None:
    log = site.cluster.audit_log
    return Audit(log, begin=log.stat().st_size) if log else None


@pytest.fixture
def audit(session_audit: Audit | None) -> Audit:
    if session_audit is None:
        pytest.skip("this cluster keeps no audit log that can be read from here")
    return session_audit


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure brings along what one would ask the cluster next."""
    report = yield
    if report.failed and report.when != "teardown":
        values = list(getattr(item, "funcargs", {}).values())
        for team in {value.name: value for value in values if isinstance(value, Team)}.values():
            report.sections.append((f"namespace {team.name}", teams.diagnose(team)))
        for installation in [value for value in values if isinstance(value, Installation)][:1]:
            report.sections.append(("operator", installation.log(tail=60)))
    return report
