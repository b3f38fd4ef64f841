"""What the schema of `spec.traffic` and `spec.access` takes and refuses on a real API server, and in which words.

The rules are CEL, which only a server evaluates, and which only a server finds too dear: the fake has none.
Runs only where SLIPWAY_TEST_KUBECONFIG names a server.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from slipway.api.manifest import Manifest
from slipway.api.traffic import VARIANTS_MAX
from slipway.kube.errors import Invalid
from slipway.kube.kinds import Kind
from tests.contract import backends
from tests.contract.backends import Cluster, served
from tests.contract.conftest import KUBECONFIG

pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="needs SLIPWAY_TEST_KUBECONFIG"),
    pytest.mark.timeout(2 * backends.DEADLINE_S),
]
MODEL = {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://hello"}


def variant(name: str, weight: Any = 1, **more: Any) -> Manifest:
    return {"name": name, "model": MODEL, "weight": weight, **more}


def matching(**match: Any) -> Manifest:
    return {"variants": [variant("b", match=[match])]}


@pytest_asyncio.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Cluster, Kind]]:
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    async with backends.real() as cluster, served(cluster) as kind:
        yield cluster, kind


async def apply(place: tuple[Cluster, Kind], **spec: Any) -> Manifest:
    cluster, kind = place
    body = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": "hello", "namespace": cluster.namespace},
        "spec": {"predictor": {"model": MODEL}} | spec,
    }
    return await cluster.kube.create(kind, body, manager="kubectl")


async def test_everything_at_its_largest_is_taken(place: tuple[Cluster, Kind]) -> None:
    match = [{"header": "x-group", "exact": "v" * 256}, {"cookie": "a", "prefix": "b"}, {"query": "q", "regex": "r+"}]
    variants = [variant(f"v{n}", "12.5%", match=match) for n in range(VARIANTS_MAX)]
    traffic = {
        "variants": variants,
        "mirror": {"variant": "v0", "percent": "0.01%"},
        "stickiness": {"cookie": {"maxAge": "1h"}},
    }
    access = {
        "jwt": {"issuer": "https://issuer", "audiences": ["a"], "jwksUri": "https://issuer/keys"},
        "rateLimit": {"requestsPerSecond": 10, "burst": 20, "per": "service"},
        "maxConcurrency": 5,
        "maxBody": "8Mi",
    }
    made = await apply(place, traffic=traffic, access=access)
    assert made["spec"]["traffic"]["stickiness"]["cookie"]["name"] == "slipway-affinity"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("traffic", {"variants": [variant("b", "60%"), variant("c", "40.01%")]}, "must sum to at most 100%"),
        ("traffic", {"variants": [variant("b", "10.001%")]}, 'must be a share such as 5% or 33.33%, not "10.001%"'),
        ("traffic", {"variants": [variant("b", 101)]}, 'must be a share such as 5% or 33.33%, not "101"'),
        ("traffic", {"variants": [variant("b"), variant("b")]}, "Duplicate value"),
        ("traffic", {"mirror": {"variant": "b", "percent": 5}}, "mirror.variant must be one of variants"),
        ("traffic", matching(header="x-a", cookie="b", exact="c"), "give one of header, cookie and query"),
        ("traffic", matching(header="x-a"), "give one of exact, prefix and regex"),
        ("traffic", matching(header="authorization", exact="a"), "a header that carries no other meaning"),
        ("traffic", matching(header="x-forwarded-host", exact="a"), "a header that carries no other meaning"),
        ("traffic", matching(header="x-api-key", exact="a"), "a header that carries no other meaning"),
        ("traffic", {"stickiness": {"header": "x-request-id"}}, "a header that carries no other meaning"),
        ("traffic", matching(header="X-Group", exact="a"), "must be a lower-case header name"),
        ("traffic", {"stickiness": {"clientAddress": False}}, "must be true, or left away"),
        ("traffic", {"stickiness": {"clientAddress": True, "header": "x-a"}}, "give one of header, cookie and"),
        ("access", {"apiKeys": {"clients": ["a"]}, "jwt": {"issuer": "i", "jwks": "{}"}}, "apiKeys or jwt, not both"),
        ("access", {"jwt": {"issuer": "i"}}, "give one of jwksUri and jwks"),
        ("access", {"jwt": {"issuer": "i", "jwksUri": "http://plain"}}, "jwksUri"),
        ("access", {"rateLimit": {"requestsPerSecond": 0}}, "greater than or equal to 1"),
    ],
)
async def test_what_is_wrong_is_refused_with_a_sentence(
    place: tuple[Cluster, Kind], field: str, value: Manifest, words: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await apply(place, **{field: value})
    assert words in str(refused.value)
