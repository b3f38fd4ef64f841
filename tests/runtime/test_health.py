"""grpc.health.v1 without a server: what who watches is told."""

from slipway_runtime.protocol import health
from tests.runtime.fake_api import FakeApi


async def test_watching_health_tells_of_changes() -> None:
    api = FakeApi()
    watching = health.Health(api, (), watch_s=0).Watch(health.Request(), None)
    assert (await anext(watching)).status == health.SERVING
    api.state = "draining"
    assert (await anext(watching)).status == health.NOT_SERVING
    assert [answer async for answer in watching] == []
    api.state = "ready"
    unknown = health.Health(api, (), watch_s=0).Watch(health.Request(service="nope"), None)
    assert (await anext(unknown)).status == health.SERVICE_UNKNOWN
