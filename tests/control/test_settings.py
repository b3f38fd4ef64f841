"""What the operator process reads of its environment."""

from pathlib import Path

import pytest

from slipway.decide.hosts import Domains
from slipway.main import Settings
from slipway.signals.prometheus import Place


def test_the_address_of_a_service_leads_to_the_gateway_service_of_the_installation() -> None:
    env = {"POD_NAMESPACE": "models", "SLIPWAY_GATEWAY_SERVICE": "gw", "SLIPWAY_CLUSTER_DOMAIN": "cluster.example"}
    settings = Settings.from_env(env | {"SLIPWAY_GATEWAY_DOMAIN": "models.example.com", "SLIPWAY_GATEWAY_TLS": "true"})
    assert settings.entrance.address == "gw.models.svc.cluster.example"
    assert settings.entrance.domains == Domains("cluster.example", "models.example.com")
    assert settings.entrance.tls
    assert (settings.gateways.namespace, settings.gateways.report_port) == ("models", 8082)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLIPWAY_GATEWAY_TLS", "maybe"),
        ("SLIPWAY_GATEWAY_SILENT_S", "0"),
        ("SLIPWAY_GATEWAY_REPORT_PORT", "http"),
        ("SLIPWAY_WORKERS", "0"),
        ("SLIPWAY_PROMETHEUS_URL", "prometheus:9090"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}', which is not a valid value"):
        Settings.from_env({name: value})


def test_prometheus_is_where_the_environment_says_or_nowhere() -> None:
    assert Settings.from_env({}).prometheus is None
    env = {"SLIPWAY_PROMETHEUS_URL": "https://prometheus.monitoring/x", "SLIPWAY_PROMETHEUS_DIR": "/etc/slipway/prom"}
    assert Settings.from_env(env).prometheus == Place("https://prometheus.monitoring/x", Path("/etc/slipway/prom"))
