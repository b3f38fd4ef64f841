"""Wrong, careless and hostile specs: each is refused with a sentence that helps, or accepted and right.

Refused means at `kubectl apply`, by the API server. `words` are what the sentence must have: where the mistake is, and
what would be allowed. The operator meets all of it and goes on as if nothing had been.
"""

import json

import pytest

from e2e.support.api import Manifest
from e2e.support.hostile import REFUSED, TOLD, changed
from e2e.support.installation import Installation
from e2e.support.manifests import LABEL_MANAGED_BY, LABEL_REVISION, LABEL_SERVICE, service
from e2e.support.site import documents
from e2e.support.team import Team
from e2e.support.wait import until


@pytest.fixture(scope="module")
def operators(shared_slipway: Installation) -> dict[str, int]:
    return shared_slipway.lives()


@pytest.mark.parametrize(("manifest", "words"), REFUSED)
def test_refused_at_apply_with_a_sentence_that_helps(
    operators: dict[str, int], shared_team: Team, manifest: Manifest, words: tuple[str, ...]
) -> None:
    assert operators
    text = documents(manifest)
    # Client-side apply keeps a copy in an annotation, of a megabyte too, and would speak of that first.
    how = ("--server-side",) if len(text) > 200_000 else ()
    where = ("apply", *how, "--namespace", shared_team.name, "--filename", "-")
    done = shared_team.site.try_kubectl(*where, stdin=text)
    told = done.stderr
    assert done.returncode != 0, f"accepted: {done.stdout}"
    assert len(told) < 3000, f"{len(told)} characters are no sentence: {told[:300]} ..."
    assert [word for word in words if word not in told] == [], told


# Accepted, and right


def test_the_longest_name_serves(operators: dict[str, int], shared_team: Team) -> None:
    assert operators
    name = "a" * 48
    shared_team.apply(service(name))
    shared_team.wait_settled(name)
    assert shared_team.answers(name, 1)


def test_strange_but_harmless_values_reach_the_pod_as_they_are(operators: dict[str, int], shared_team: Team) -> None:
    assert operators
    values = {
        "QUOTE": '"; rm -rf / #',
        "UNICODE": "žluťoučký 🐎\u202e",
        "DOLLAR": "$(HOME) ${HOME} `id`",
        "LINES": "a\nb\n",
    }
    env = [{"name": name, "value": value} for name, value in values.items()]
    # The kubelet replaces $(NAME) of an earlier variable, as documented for `args`; $$(NAME) escapes it.
    env += [
        {"name": "ESCAPED", "value": "$$(HOME)"},
        {"name": "EMPTY", "value": ""},
        {"name": "BIG", "value": "é" * 8192},
    ]
    shared_team.apply(service("strange", env=env))
    shared_team.wait_settled("strange")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    pod = shared_team.pods("strange")[0]["metadata"]["name"]
    seen = json.loads(shared_team.kubectl("exec", pod, "--container", "model", "--", "python", "-c", script))
    home = "/tmp/home ${HOME} `id`"  # noqa: S108 - the pod's own
    wanted = values | {"DOLLAR": home, "ESCAPED": "$(HOME)", "EMPTY": "", "BIG": "é" * 8192}
    assert {name: seen.get(name) for name in wanted} == wanted


def test_labels_and_annotations_of_a_user_stay_the_users(operators: dict[str, int], shared_team: Team) -> None:
    """Ours on somebody's InferenceService mean nothing, and go nowhere."""
    assert operators
    made = service("labelled")
    made["metadata"] |= {
        "labels": {LABEL_MANAGED_BY: "slipway", LABEL_SERVICE: "other", LABEL_REVISION: "other-1", "kopf": "x"},
        "annotations": {"kopf.zalando.org/last-handled-configuration": "{}", "slipway.dev/replicas": "9"},
    }
    shared_team.apply(made)
    shared_team.wait_settled("labelled")
    assert len(shared_team.pods("labelled")) == 1
    assert shared_team.pods("other") == []


def test_a_spec_stored_without_validation_is_told_and_harms_nobody(
    operators: dict[str, int], shared_team: Team
) -> None:
    """`--validate=false` drops unknown fields with a warning; what is left is served."""
    assert operators
    done = shared_team.site.try_kubectl(
        *("apply", "--validate=warn", "--namespace", shared_team.name, "--filename", "-"),
        stdin=documents(changed(("spec.predictor.podSpec", {"hostNetwork": True}), name="loose")),
    )
    assert done.returncode == 0, done.stderr
    assert 'unknown field "spec.predictor.podSpec"' in done.stderr
    shared_team.wait_settled("loose")
    assert "podSpec" not in shared_team.must_get("inferenceservices", "loose")["spec"]["predictor"]
    assert not shared_team.pods("loose")[0]["spec"].get("hostNetwork")


@pytest.mark.parametrize(("manifest", "reason", "words"), TOLD)
def test_what_no_schema_can_tell_is_told_by_condition(
    operators: dict[str, int], shared_team: Team, manifest: Manifest, reason: str, words: str
) -> None:
    assert operators
    name = manifest["metadata"]["name"]
    shared_team.apply(manifest)
    told = shared_team.wait(name, "Accepted", "False", reason=reason, within_s=10)
    assert words in told["message"]
    assert shared_team.condition(name, "Stalled")["status"] == "True"
    assert shared_team.condition(name, "Ready")["reason"] == reason
    assert shared_team.pods(name) == []
    shared_team.delete_service(name)


def test_there_are_150_of_them_and_no_two_are_alike() -> None:
    manifests = [json.dumps(case.values[0]) for case in (*REFUSED, *TOLD)]
    assert len(set(manifests)) == len(manifests) >= 150
    assert len({case.id for case in (*REFUSED, *TOLD)}) == len(manifests)


def test_a_flood_of_wrong_changes_does_not_hold_up_others(operators: dict[str, int], shared_team: Team) -> None:
    """Twenty changes of one service in a few seconds; a neighbour becomes Ready meanwhile."""
    assert operators
    api = shared_team.site.api
    shared_team.apply(service("noisy"))
    shared_team.apply(service("neighbour"))
    for turn in range(20):
        body = {
            "spec": {"predictor": {"model": {"runtime": "nope" if turn % 2 else None, "args": [f"--threads={turn}"]}}}
        }
        api.merge("inferenceservices", shared_team.name, "noisy", body)
    shared_team.wait_settled("neighbour")
    api.merge(
        "inferenceservices",
        shared_team.name,
        "noisy",
        {"spec": {"predictor": {"model": {"runtime": None, "args": []}}}},
    )
    shared_team.wait_settled("noisy")
    assert shared_team.answers("noisy", 1)
    until("one revision is left", lambda: len(shared_team.pods("noisy")) == 1, within_s=60)


def test_the_operator_took_no_notice(operators: dict[str, int], slipway: Installation, shared_team: Team) -> None:
    """Last of this file: after all of the above the same operators run, and serve the next in seconds."""
    assert slipway.lives() == operators
    shared_team.apply(service("good"))
    shared_team.wait_settled("good", within_s=45)
    assert shared_team.answers("good", 1)
