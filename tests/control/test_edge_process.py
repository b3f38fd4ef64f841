"""What the environment says, and what a wrong word in it becomes."""

import pytest

from slipway.control.log import Form
from slipway.main import Settings

CHART = {
    "POD_NAME": "slipway-operator-5d9c-x7k2p",
    "POD_NAMESPACE": "slipway-system",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "SLIPWAY_WATCH_NAMESPACES": "",
    "SLIPWAY_CLUSTER_RUNTIMES": "true",
    "SLIPWAY_FETCHER_IMAGE": "slipway/runtime:1",
    "SLIPWAY_WORKERS": "4",
    "SLIPWAY_HTTP_PORT": "9090",
    "SLIPWAY_LOG_FORMAT": "text",
    "SLIPWAY_LOG_LEVEL": "debug",
    "SLIPWAY_LEASE_NAME": "slipway-operator",
    "SLIPWAY_LEASE_DURATION_S": "30",
    "SLIPWAY_RESYNC_S": "60",
}


def test_everything_the_chart_sets_is_read() -> None:
    settings = Settings.from_env(CHART)
    assert settings.fetcher_image == "slipway/runtime:1"
    assert (settings.workers, settings.http_port, settings.resync_s) == (4, 9090, 60.0)
    assert (settings.log_format, settings.log_level) == (Form.TEXT, "DEBUG")
    assert (settings.candidacy.namespace, settings.candidacy.name) == ("slipway-system", "slipway-operator")
    assert settings.candidacy.duration_s == 30.0
    assert settings.scope.namespaces == ()
    assert settings.scope.cluster_runtimes is True


def test_namespaces_are_a_list_with_commas() -> None:
    settings = Settings.from_env(
        CHART | {"SLIPWAY_WATCH_NAMESPACES": "team, lab,", "SLIPWAY_CLUSTER_RUNTIMES": "false"}
    )
    assert settings.scope.namespaces == ("team", "lab")
    assert settings.scope.cluster_runtimes is False


def test_in_a_cluster_the_pod_is_the_identity_so_that_a_restart_finds_its_own_lease() -> None:
    assert Settings.from_env(CHART).candidacy.identity == CHART["POD_NAME"]


@pytest.mark.parametrize(
    "env",
    [{"KUBECONFIG": "/etc/kubeconfig"}, {"POD_NAME": ""}],
    ids=["with a kubeconfig", "without a pod"],
)
def test_elsewhere_two_processes_never_share_an_identity(env: dict[str, str]) -> None:
    outside = {name: value for name, value in CHART.items() if name != "KUBERNETES_SERVICE_HOST"} | env
    first, second = Settings.from_env(outside), Settings.from_env(outside)
    assert first.candidacy.identity != second.candidacy.identity


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLIPWAY_WORKERS", "many"),
        ("SLIPWAY_WORKERS", "0"),
        ("SLIPWAY_RESYNC_S", "-1"),
        ("SLIPWAY_RESYNC_S", "inf"),
        ("SLIPWAY_CLUSTER_RUNTIMES", "yes"),
        ("SLIPWAY_LOG_FORMAT", "xml"),
        ("SLIPWAY_LOG_LEVEL", "loud"),
        ("SLIPWAY_LEASE_DURATION_S", "15s"),
    ],
)
def test_a_wrong_word_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        Settings.from_env(CHART | {name: value})
