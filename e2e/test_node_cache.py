"""A node's cache of models: the second pod does without the store, also while that is down, and nobody else does."""

import secrets as random
from collections.abc import Iterator

import pytest

from e2e.support import store as stores
from e2e.support import team as teams
from e2e.support.api import Manifest
from e2e.support.installation import NAMESPACE, Installation
from e2e.support.manifests import secret, service
from e2e.support.store import Store
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

NAME, FROM_CACHE = "cached", "from the node's cache"


@pytest.fixture(scope="module")
def store(shared_slipway: Installation, shared_team: Team) -> Iterator[Store]:
    values = ("cache.enabled=true", "cache.size=1Gi", f"fetch.policy.insideHosts={{{stores.INSIDE}}}")
    shared_slipway.upgrade(*(argument for value in values for argument in ("--set", value)))
    until("the cache of the node is ready", lambda: is_ready(cache(shared_team) or {}), within_s=60)
    yield stores.start(shared_team)
    shared_slipway.upgrade()


def cache(team: Team) -> Manifest | None:
    """Its pod, on the one node that there is."""
    found = team.site.api.items("pods", NAMESPACE, "app.kubernetes.io/component=cache")
    return found[0] if found else None


def of(store: Store, replicas: int) -> Manifest:
    access = {"endpoint": store.endpoint, "secretName": "reader"}
    return service(NAME, "s3://models/hello", replicas=replicas, storage=access)


def fetched(team: Team) -> dict[str, bool]:
    """Pod -> whether its model came from the node's cache."""
    logs = {
        pod["metadata"]["name"]: team.kubectl("logs", pod["metadata"]["name"], "--container", "fetch")
        for pod in team.pods(NAME)
    }
    return {pod: FROM_CACHE in log for pod, log in logs.items()}


def test_the_second_pod_takes_the_model_from_its_node(store: Store) -> None:
    team = store.team
    team.apply(of(store, 1))
    team.wait_settled(NAME)
    [first] = fetched(team).items()
    assert first[1] is False
    team.apply(of(store, 2))
    team.wait_settled(NAME)
    assert sorted(fetched(team).values()) == [False, True], fetched(team)
    team.start_client()
    assert team.answers(NAME, 1)


def test_a_pod_starts_while_the_store_is_down(store: Store) -> None:
    team = store.team
    team.kubectl("delete", "pod", stores.NAME, "--wait=true")
    team.apply(of(store, 3))
    team.wait_settled(NAME)
    assert sorted(fetched(team).values()) == [False, True, True]


def test_another_namespace_has_nothing_of_it(store: Store) -> None:
    other = teams.make(store.team.site, f"other-{random.token_hex(2)}")
    try:
        other.apply(secret("reader", AWS_ACCESS_KEY_ID=store.key, AWS_SECRET_ACCESS_KEY=store.password), of(store, 1))
        other.wait(NAME, "ModelLoaded", "False", reason="StoreUnavailable", within_s=120)
        until("its fetcher has said why", lambda: not any(fetched(other).values()), within_s=10)
    finally:
        teams.clear(other)


def test_the_cache_keeps_to_its_own_namespace_and_rights(store: Store) -> None:
    """Restricted, as all of Slipway, and with the one right to ask whose a token is."""
    site, pod = store.team.site, cache(store.team)
    assert pod
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    account = f"system:serviceaccount:{NAMESPACE}:{pod['spec']['serviceAccountName']}"
    may = {
        right: site.try_kubectl("auth", "can-i", *right.split(), "--as", account).stdout.strip()
        for right in ("create tokenreviews.authentication.k8s.io", "get secrets", "list pods")
    }
    assert list(may.values()) == ["yes", "no", "no"], may
