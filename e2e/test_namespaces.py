"""Two teams, one name: neither sees, changes or ends what the other has."""

import secrets

from e2e.support import team as teams
from e2e.support.installation import Installation
from e2e.support.manifests import service
from e2e.support.team import Team


def test_services_of_one_name_in_two_namespaces_are_strangers(slipway: Installation, team: Team) -> None:
    assert slipway
    other = teams.make(team.site, f"other-{secrets.token_hex(2)}")
    try:
        team.apply(service("hello", "sample://hello"))
        other.apply(service("hello", "sample://hello-v2"))
        team.wait_settled("hello")
        other.wait_settled("hello")
        assert team.predict("hello") == [3, 5, 7, 9]
        assert other.predict("hello") == [103, 105, 107, 109]
        lives = other.lives("hello")
        team.delete_service("hello")
        team.wait_gone("hello")
        assert other.lives("hello") == lives
        assert other.answers("hello", 101)
    finally:
        teams.clear(other)


def test_a_runtime_of_one_namespace_serves_no_other(slipway: Installation, team: Team) -> None:
    assert slipway
    other = teams.make(team.site, f"other-{secrets.token_hex(2)}")
    try:
        ours = {"name": "coreml"}
        runtime = {
            "apiVersion": "slipway.dev/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": {"name": "ours"},
            "spec": {"supportedModelFormats": [ours], "container": {"image": "somewhere/coreml:1"}},
        }
        team.apply(runtime)
        other.apply(service("hello", modelFormat=ours))
        words = other.wait("hello", "Accepted", "False", reason="NoSupportingRuntime", within_s=10)["message"]
        assert words.startswith("no runtime supports model format 'coreml'; formats that have one: ensemble, lightgbm")
        other.apply(service("hello", runtime="ours"))
        words = other.wait("hello", "Accepted", "False", reason="RuntimeNotFound", within_s=10)["message"]
        there = "slipway-pytorch, slipway-sklearn-xgboost, slipway-triton"
        assert words == f"spec.predictor.model.runtime: no runtime 'ours'; there are: {there}"
    finally:
        teams.clear(other)
