"""The operator dies, is away, is replaced: models go on, and what was under way is finished the same."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.support.api import Manifest
from e2e.support.audit import Audit
from e2e.support.crash import crashing_operator
from e2e.support.installation import ACCOUNT, NAMESPACE, Installation, processes, send
from e2e.support.manifests import LABEL_SERVICE, service
from e2e.support.site import RUNTIME_IMAGE
from e2e.support.team import CHILDREN, Team, is_ready
from e2e.support.wait import until


@pytest.fixture(scope="module")
def bystander(shared_slipway: Installation, shared_team: Team) -> Team:
    """A service that nobody changes: nothing that happens to the operator reaches it. And one that will lose a pod."""
    assert shared_slipway
    shared_team.apply(service("bystander"), service("bereft"))
    shared_team.start_client()
    shared_team.wait_settled("bystander")
    shared_team.wait_settled("bereft")
    return shared_team


def end_state(team: Team, name: str) -> dict[str, Any]:
    """What a service has come to, without what differs from one to the next: names, addresses, times, uids."""
    items = {
        f"{resource} {item['metadata']['name'].removeprefix(name)}": essence(item, name)
        for resource in CHILDREN
        for item in team.site.api.items(resource, team.name, f"{LABEL_SERVICE}={name}")
    }
    conditions = [(c["type"], c["status"], c["reason"]) for c in team.status(name)["conditions"]]
    pods = [is_ready(pod) for pod in team.pods(name) if not pod["metadata"].get("deletionTimestamp")]
    return items | {"conditions": conditions, "pods": pods}


def difference(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What is not as it should be: wanted, found."""
    keys = sorted(wanted.keys() | found.keys())
    return {key: (wanted.get(key), found.get(key)) for key in keys if wanted.get(key) != found.get(key)}


def essence(item: Manifest, name: str) -> str:
    spec = {key: value for key, value in item.get("spec", {}).items() if not key.startswith("clusterIP")}
    owners = [(owner["kind"], owner.get("controller")) for owner in item["metadata"].get("ownerReferences", [])]
    return str([spec, item.get("data"), item["metadata"]["labels"], owners]).replace(name, "NAME")


def at_the_next_write(audit: Audit, namespace: str, act: Callable[[], object]) -> threading.Thread:
    """Do something the moment the operator writes in a namespace for the first time from now on."""
    mark = audit.mark()

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not any(e.is_write and e.namespace == namespace for e in audit.entries(mark, user=ACCOUNT)):
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_killed_in_the_middle_of_a_create_a_change_and_a_delete(
    slipway: Installation, bystander: Team, team: Team, audit: Audit
) -> None:
    """By force, as a node's failure does, and by SIGKILL of the process; a twin is served by an undisturbed one."""
    lives = bystander.lives("bystander")
    team.apply(service("twin", "sample://hello-v2"))
    team.wait_settled("twin")
    with bystander.traffic("bystander", rate=20) as flow:
        kill = at_the_next_write(audit, team.name, lambda: slipway.kill(slipway.leader()))
        team.apply(service("hello"))
        kill.join()
        first = team.wait_settled("hello")["stable"]
        assert team.answers("hello", 1)
        kill = at_the_next_write(audit, team.name, lambda: end_process(slipway))
        team.apply(service("hello", "sample://hello-v2"))
        kill.join()
        assert team.wait_settled("hello")["stable"] != first
        assert team.answers("hello", 101)
        until("the first version is gone", lambda: not team.pods("hello", first), within_s=60)
        team.delete_service("hello")
        slipway.kill(slipway.leader())
        team.wait_gone("hello")
    flow.assert_unharmed()
    assert bystander.lives("bystander") == lives
    assert team.answers("twin", 101)


def end_process(slipway: Installation) -> None:
    """SIGKILL to the leading process; where it is out of reach, the pod by force."""
    leader = slipway.leader()
    if slipway.site.is_local:
        send(processes(slipway.pod(leader)), signal.SIGKILL)
    else:
        slipway.kill(leader)


@pytest.fixture(scope="module")
def undisturbed(bystander: Team) -> dict[str, Any]:
    """The end state of `story`, when nobody dies on the way."""
    story(bystander, "calm")
    state = end_state(bystander, "calm")
    bystander.delete_service("calm")
    return state


@pytest.fixture(scope="module")
def absent(shared_slipway: Installation, undisturbed: dict[str, Any]) -> Iterator[Installation]:
    """No operator at all."""
    assert undisturbed
    shared_slipway.scale(0)
    yield shared_slipway
    shared_slipway.scale(2)


def story(team: Team, name: str) -> None:
    """Create, change the version and the replicas."""
    team.apply(service(name))
    team.wait_settled(name, within_s=120)
    team.apply(service(name, "sample://hello-v2", replicas=2))
    status = team.wait_settled(name, within_s=120)
    until(
        "only the new version is left",
        lambda: len(team.pods(name)) == 2 == len(team.pods(name, status["stable"])),
        within_s=60,
    )


def test_killed_at_every_single_write_it_comes_to_the_same_end(
    undisturbed: dict[str, Any], absent: Installation, bystander: Team, team: Team
) -> None:
    lives = bystander.lives("bystander")
    with crashing_operator(team.site) as operator:
        story(team, "shaken")
        # Pods may be gone before the last of their revision is: between two writes a whole operator has to start.
        until(
            "it has come to the same end",
            lambda: end_state(team, "shaken") == undisturbed,
            within_s=60,
            seen=lambda: difference(undisturbed, end_state(team, "shaken")),
        )
        pods = team.lives("shaken")
        assert [count for _, count in pods.values()] == [0, 0], "no pod was restarted on the way"
        team.delete_service("shaken")
        team.wait_gone("shaken")
        # What it still has to do when nothing is to be done: nothing.
        deaths = len(operator.fatal)
    print(*operator.fatal, sep="\n")
    assert absent
    assert len(operator.fatal) == deaths
    assert deaths >= 12, f"it died at {deaths} writes only: {operator.fatal}"
    assert operator.own_ends == 0, operator.log()[-3000:]
    assert bystander.lives("bystander") == lives


def test_services_go_on_without_an_operator(absent: Installation, bystander: Team) -> None:
    assert absent.pods() == []
    lives = bystander.lives("bystander")
    with bystander.traffic("bystander") as flow:
        flow.wait_answered(100)
    flow.assert_unharmed()
    assert bystander.lives("bystander") == lives


def test_a_lost_pod_is_replaced_without_an_operator(absent: Installation, bystander: Team) -> None:
    """By Kubernetes itself, and answers again at the same address."""
    assert absent.pods() == []
    [lost] = bystander.lives("bereft")
    bystander.kubectl("delete", "pod", lost, "--wait=false")
    until("it is replaced", lambda: has_a_new_pod(bystander, "bereft", lost), within_s=60)
    # And deleting a service needs nobody: no finalizer waits for an operator.
    bystander.delete_service("bereft")
    bystander.wait_gone("bereft")


def has_a_new_pod(team: Team, name: str, lost: str) -> bool:
    return any(is_ready(pod) for pod in team.pods(name) if pod["metadata"]["name"] != lost) and team.answers(name, 1)


def test_what_happened_while_nobody_was_there_is_made_up_for(absent: Installation, bystander: Team, team: Team) -> None:
    """New, changed, deleted and damaged, all noticed on return."""
    lives = bystander.lives("bystander")
    revision = bystander.status("bystander")["stable"]
    team.apply(service("new"))
    bystander.kubectl("delete", "service", revision)
    bystander.kubectl("label", "deployment", revision, "slipway.dev/revision-")
    absent.scale(2)
    team.wait_settled("new")
    until("the damage is mended", lambda: bystander.get("services", revision), within_s=30)
    labels = bystander.must_get("deployments", revision)["metadata"]["labels"]
    assert labels["slipway.dev/revision"] == revision
    assert bystander.lives("bystander") == lives


def test_an_upgrade_restarts_no_model_and_tells_what_it_would_change(
    slipway: Installation, bystander: Team, team: Team
) -> None:
    """The new fetcher and runtime image is the old one under another spelling, so that Follow can really follow."""
    following = service("following")
    following["spec"]["predictor"]["runtimeUpdates"] = "Follow"
    team.apply(following)
    before = team.wait_settled("following")["stable"]
    assert team.condition("following", "UpdateAvailable")["status"] == "False"
    lives, operators = bystander.lives("bystander"), slipway.lives()
    with bystander.traffic("bystander") as flow:
        slipway.upgrade("--set", "runtime.image.repository=docker.io/slipway/runtime", "--set", "log.level=debug")
        told = bystander.wait("bystander", "UpdateAvailable", "True", within_s=60)
        assert "spec.predictor.runtimeUpdates: Follow takes the change over" in told["message"]
        until("a followed runtime makes a revision", lambda: team.status("following")["stable"] != before, within_s=90)
        flow.wait_answered(50)
    flow.assert_unharmed()
    assert not slipway.lives().keys() & operators.keys(), "the operator itself was replaced"
    assert bystander.lives("bystander") == lives
    assert bystander.condition("bystander", "Ready")["status"] == "True"
    team.wait_settled("following")
    assert team.answers("following", 1)
    [image] = {
        pod["spec"]["containers"][0]["image"] for pod in team.pods("following", team.status("following")["stable"])
    }
    assert image == f"docker.io/{RUNTIME_IMAGE}"
    # A Deployment that is lost now comes back as it was recorded, not as it would be made today.
    revision = bystander.status("bystander")["stable"]
    bystander.kubectl("delete", "deployment", revision, "--wait=false")
    until("it is back", lambda: uid_of(bystander, revision) and is_answering(bystander), within_s=60)
    [image] = {pod["spec"]["containers"][0]["image"] for pod in bystander.pods("bystander")}
    assert image == RUNTIME_IMAGE


def uid_of(team: Team, deployment: str) -> str:
    live = team.get("deployments", deployment)
    return str(live["metadata"]["uid"]) if live and not live["metadata"].get("deletionTimestamp") else ""


def is_answering(team: Team) -> bool:
    return len(team.pods("bystander")) == 1 and team.answers("bystander", 1)


def test_a_downgrade_of_the_release_is_an_upgrade_too(slipway: Installation, bystander: Team) -> None:
    """The fixture has put the release back: the service of before still runs, and nothing is left to update."""
    assert slipway.site.api.get("deployments", NAMESPACE, "slipway-operator")
    bystander.wait("bystander", "UpdateAvailable", "False", within_s=60)
    assert bystander.answers("bystander", 1)
