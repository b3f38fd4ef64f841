"""A wrong value is refused by name before anything is installed."""

import pytest
import yaml

from slipway.api.manifest import Manifest
from tests.chart import helm


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": "2"}, "replicas"),
        ({"replicas": -1}, "replicas"),
        ({"workers": 0}, "workers"),
        ({"image": {"name": "x"}}, "name"),
        ({"image": {"tag": "a b"}}, "tag"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"image": {"repository": "UPPER/x"}}, "repository"),
        ({"runtime": {"image": {"pullPolicy": "Always"}}}, "pullPolicy"),
        ({"runtime": {"resources": {"limit": {}}}}, "limit"),
        ({"triton": {"allowCode": "yes"}}, "allowCode"),
        ({"triton": {"sharedMemory": "some"}}, "sharedMemory"),
        ({"sklearn": {"allowedClasses": ["a,b"]}}, "allowedClasses"),
        ({"watchNamespaces": "a,b"}, "watchNamespaces"),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
        ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
        ({"log": {"level": "verbose"}}, "level"),
        ({"log": {"format": "logfmt"}}, "format"),
        ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
        ({"crds": {"keep": True}}, "keep"),
        ({"serviceAccount": {"automount": True}}, "automount"),
        ({"tolerations": [{"keys": "x"}]}, "keys"),
        ({"fetch": {"policy": {"schemes": ["ftp"]}}}, "schemes"),
        ({"fetch": {"policy": {"hosts": ["https://h"]}}}, "hosts"),
        ({"fetch": {"policy": {"insideHosts": ["10.0.0.0/8"]}}}, "insideHosts"),
        ({"fetch": {"policy": {"redirectHosts": ["*"]}}}, "redirectHosts"),
        ({"fetch": {"policy": {"cloudCredentials": "yes"}}}, "cloudCredentials"),
        ({"fetch": {"limits": {"maxSize": "lots"}}}, "maxSize"),
        ({"fetch": {"limits": {"connections": 0}}}, "connections"),
        ({"fetch": {"proxy": "http://me:pw@proxy:3128"}}, "proxy"),
        ({"fetch": {"caConfigMap": "No Name"}}, "caConfigMap"),
        ({"fetch": {"storage": {}}}, "storage"),
        ({"gateway": {"holds": {"max": 0}}}, "max"),
        ({"gateway": {"holds": {"perService": 100_000}}}, "perService"),
        ({"networkPolicy": {"apiServerPorts": [0]}}, "apiServerPorts"),
        ({"networkPolicy": {"metricsFrom": [{}]}}, "metricsFrom"),
        ({"networkPolicy": {"models": True}}, "models"),
        ({"networkPolicy": {"models": {"egress": [{"from": []}]}}}, "from"),
        ({"networkPolicy": {"models": {"dns": [{}]}}}, "dns"),
        ({"modelServiceAccounts": ["a/b/c"]}, "modelServiceAccounts"),
        ({"metrics": {"interval": "often"}}, "interval"),
        ({"metrics": {"scrape": True}}, "scrape"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "serviceMonitor"),
        ({"prometheus": {"url": "prometheus:9090"}}, "url"),
        ({"prometheus": {"url": "http://user:password@prometheus"}}, "url"),
        ({"prometheus": {"url": "http://prometheus/?x=1"}}, "url"),
        ({"prometheus": {"secretName": "No Name"}}, "secretName"),
        ({"prometheus": {"token": "x"}}, "token"),
        ({"podAnnotations": {"a": 1}}, "podAnnotations"),
        ({"leaseDurationSeconds": 1}, "leaseDurationSeconds"),
        ({"nameOverride": "-x"}, "nameOverride"),
        ({"clusterDomain": ""}, "clusterDomain"),
        ({"gateway": {"enabled": False}}, "enabled"),
        ({"gateway": {"domain": "*.example.com"}}, "domain"),
        ({"gateway": {"replicas": -1}}, "replicas"),
        ({"gateway": {"maxBodyMiB": 0}}, "maxBodyMiB"),
        ({"gateway": {"service": {"type": "ExternalName"}}}, "type"),
        ({"gateway": {"tls": {"secret": "x"}}}, "secret"),
        ({"gateway": {"drainSeconds": "30s"}}, "drainSeconds"),
        ({"gateway": {"silentSeconds": 1}}, "silentSeconds"),
        ({"gateway": {"envoy": {"image": "x"}}}, "image"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: Manifest, says: str) -> None:
    result = helm.template(values)
    assert result.returncode != 0
    assert "values don't meet the specifications of the schema" in result.stderr
    assert says in result.stderr


def test_every_object_of_the_schema_is_closed() -> None:
    """Open ones are those with free keys, and the selectors that Kubernetes itself checks."""
    schema = yaml.safe_load((helm.CHART / "values.schema.json").read_text())
    open_ones = {path for path, node in _objects(schema, "") if node.get("additionalProperties", True) is True}
    assert open_ones == {
        "affinity.nodeAffinity",
        "affinity.podAffinity",
        "affinity.podAntiAffinity",
        "global",
        "peer.ipBlock",
        "peer.namespaceSelector",
        "peer.podSelector",
    }


def _objects(node: Manifest, path: str) -> list[tuple[str, Manifest]]:
    found = [(path.removeprefix("."), node)] if node.get("type") == "object" else []
    for name, child in [*node.get("$defs", {}).items(), *node.get("properties", {}).items()]:
        found += _objects(child, f"{path}.{name}")
    return found


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    schema = yaml.safe_load((helm.CHART / "values.schema.json").read_text())
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
