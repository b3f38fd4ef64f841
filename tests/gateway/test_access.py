"""Who gets in: keys, tokens, rates, sizes; and that credentials stay in the gateway."""

import base64
import hashlib
import hmac
import json
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import pytest

from slipway.api.access import Jwt, RateLimit
from slipway.api.routing import RoutedAccess
from tests.gateway import clients, envoy, pods
from tests.gateway.services import service

KEYS = {"web": ("web-key-1", "web-key-2"), "batch": ("batch-key",), "other": ("other-key",)}
LOCKED = RoutedAccess(clients=["web", "batch"])
SHARED = b"a secret of thirty-two bytes, ok"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwks(secret: bytes = SHARED) -> str:
    return json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": "1", "k": encoded(secret)}]})


def token(secret: bytes = SHARED, **claims: Any) -> str:
    claims = {"iss": "https://id.example", "sub": "ann", "exp": int(time.time()) + 600} | claims
    claims = {name: value for name, value in claims.items() if value is not None}
    parts = ({"alg": "HS256", "kid": "1", "typ": "JWT"}, claims)
    head = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return f"{head}.{encoded(hmac.new(secret, head.encode(), hashlib.sha256).digest())}"


WITH_TOKEN = RoutedAccess(jwt=Jwt(issuer="https://id.example", audiences=["models"], jwks=jwks()))


async def test_only_a_listed_clients_key_opens_a_service_and_it_goes_no_further(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]}, keys=KEYS, access=LOCKED)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            for path in ("/v2/models/resnet/infer", "/vision/resnet/v2/models/resnet/infer", "/v2/logging", "/"):
                for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer other-key"}, {"x-api-key": ""}):
                    refused = await ask("POST", path, headers)
                    assert refused.status == 401
                    assert refused.headers["www-authenticate"] == "Bearer"
                    assert "key or a token" in json.loads(refused.text)["error"]
            assert one.seen == []
            for key, client in (("web-key-1", "web"), ("web-key-2", "web"), ("batch-key", "batch")):
                for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
                    assert (await ask.infer(headers | {"x-slipway-tenant": "forged"})).status == 200
                    assert one.seen[-1].headers["x-slipway-tenant"] == client
                    assert not {"x-api-key", "authorization"} & set(one.seen[-1].headers)
            async with clients.channel(gateway) as channel:
                assert (await clients.call(channel))[0] is grpc.StatusCode.UNAUTHENTICATED
                assert (await clients.call(channel, x_api_key="nope"))[0] is grpc.StatusCode.UNAUTHENTICATED
                assert (await clients.call(channel, authorization="Bearer batch-key"))[0] is grpc.StatusCode.OK
            assert not {"x-api-key", "authorization"} & set(one.calls[-1][1])
            lines = await gateway.logged(25)
            written = json.dumps(lines) + (tmp_path / "envoy.log").read_text()
            shown = (
                await gateway.admin("/config_dump") + await gateway.admin("/stats") + await gateway.admin("/clusters")
            )
        assert {line["client"] for line in lines if "client" in line} == {"web", "batch"}
        for key in (key for some in KEYS.values() for key in some):
            assert key not in written
            assert key not in shown


async def test_a_service_without_keys_does_not_get_those_of_another(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            await ask.infer({"x-api-key": "k", "authorization": "Bearer k", "x-slipway-tenant": "me"})
        assert not {"x-api-key", "authorization", "x-slipway-tenant"} & set(one.seen[0].headers)


@pytest.mark.parametrize(
    ("access", "keys"),
    [
        pytest.param(LOCKED, {}, id="no Secret"),
        pytest.param(LOCKED, {"web": ("",), "batch": ()}, id="empty keys"),
        pytest.param(RoutedAccess(clients=[]), KEYS, id="no client"),
        pytest.param(
            RoutedAccess(jwt=Jwt(issuer="https://id.example", jwks_uri="https://id.example/keys")), {}, id="no JWKS yet"
        ),
    ],
)
async def test_without_any_credential_known_nobody_gets_in(
    tmp_path: Path, access: RoutedAccess, keys: dict[str, tuple[str, ...]]
) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, keys=keys, access=access)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            for headers in ({}, {"x-api-key": ""}, {"authorization": "Bearer "}, {"x-api-key": "nobody"}):
                assert (await ask.infer(headers)).status == 401
            answer = await clients.raw(
                gateway.port, b"GET /v2 HTTP/1.1\r\nhost: resnet.vision\r\nconnection: close\r\nx-api-key: \n\r\n\r\n"
            )
        assert clients.statuses(answer) in ([400], [401])
        assert one.seen == []


async def test_a_key_of_two_clients_is_the_firsts(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        keys = {"web": ("same",), "batch": ("same", "own")}
        view = service({"old": 10_000}, {"old": [one]}, keys=keys, access=LOCKED)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            assert (await ask.infer({"x-api-key": "same"})).status == 200
            assert (await ask.infer({"x-api-key": "own"})).status == 200
        assert [seen.headers["x-slipway-tenant"] for seen in one.seen] == ["batch", "batch"]


def bad_tokens() -> dict[str, str]:
    """Made when they are asked for: all but one are to be refused for something else than their age."""
    return {
        "none": "",
        "no token": "x",
        "another's signature": token(b"b" * 32, aud="models"),
        "expired": token(aud="models", exp=int(time.time()) - 600),
        "for ever": token(aud="models", exp=None),
        "another issuer": token(aud="models", iss="https://evil.example"),
        "another audience": token(aud="payments"),
        "no audience": token(),
        "unsigned": ".".join((encoded(b'{"alg":"none"}'), token(aud="models").split(".")[1], "")),
    }


async def test_only_a_good_token_opens_a_service_and_it_goes_no_further(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]}, access=WITH_TOKEN)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            bad_ones = bad_tokens()
            for why, bad in bad_ones.items():
                refused = await ask.infer({"authorization": f"Bearer {bad}", "x-slipway-tenant": "ann"})
                assert refused.status in {401, 403}, why
                assert "error" in json.loads(refused.text)
                assert refused.headers.get("www-authenticate", "Bearer").startswith("Bearer")
            assert one.seen == []
            good = token(aud="models")
            assert (await ask.infer({"authorization": f"Bearer {good}"})).status == 200
            assert one.seen[-1].headers["x-slipway-tenant"] == "ann"
            assert "authorization" not in one.seen[-1].headers
            async with clients.channel(gateway) as channel:
                assert (await clients.call(channel))[0] is grpc.StatusCode.UNAUTHENTICATED
                assert (await clients.call(channel, authorization=f"Bearer {good}"))[0] is grpc.StatusCode.OK
            lines = await gateway.logged(len(bad_ones) + 3)
        assert good not in json.dumps(lines)


async def test_each_client_has_its_own_rate(tmp_path: Path) -> None:
    access = LOCKED.model_copy(update={"rate_limit": RateLimit(requests_per_second=1, burst=3)})
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]}, keys=KEYS, access=access)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            keys = cycle(("web-key-1", "web-key-2"))
            answers = [await ask.infer({"x-api-key": next(keys)}) for _ in range(3)]
            assert [answer.status for answer in answers] == [200] * 3
            assert answers[0].headers["x-ratelimit-limit"].startswith("3")
            assert answers[0].headers["x-ratelimit-remaining"] == "2"
            last = await clients.refused(lambda: ask.infer({"x-api-key": next(keys)}))
            assert last.headers["retry-after"] == "1"
            assert last.headers["x-ratelimit-remaining"] == "0"
            assert "too many requests" in json.loads(last.text)["error"]
            assert (await ask.infer({"x-api-key": "batch-key"})).status == 200
            # Strangers use up nobody's: they are refused before.
            assert (await ask.infer({"x-api-key": "wrong"})).status == 401
            async with clients.channel(gateway) as channel:
                for _ in range(50):
                    code, message, more = await clients.call(channel, x_api_key="batch-key")
                    if code is not grpc.StatusCode.OK:
                        break
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too many requests" in message
        assert more["retry-after"] == "1"


@pytest.mark.parametrize("per", ["client", "service"])
async def test_without_credentials_a_rate_is_the_addresss_or_everyones(tmp_path: Path, per: str) -> None:
    access = RoutedAccess(rate_limit=RateLimit.model_validate({"requestsPerSecond": 1, "burst": 2, "per": per}))
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, access=access)
        folder = tmp_path
        settings = envoy.settings_in(folder, trusted_hops=1)
        async with envoy.serving(folder, view, settings=settings) as gateway, clients.rest(gateway) as ask:
            mine = {"x-forwarded-for": "9.9.9.1"}
            assert [(await ask.infer(mine)).status for _ in range(2)] == [200, 200]
            others = set()
            for number in range(2, 7):
                await clients.refused(lambda: ask.infer(mine))
                others.add((await ask.infer({"x-forwarded-for": f"9.9.9.{number}"})).status)
    # Between two requests a second may go by, and one more is within everyone's rate.
    assert 429 in others if per == "service" else others == {200}


async def test_a_token_in_the_query_opens_nothing(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, access=WITH_TOKEN)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            answer = await ask("POST", f"/v2/models/resnet/infer?access_token={token(aud='models')}")
    assert (answer.status, one.seen) == (401, [])


@pytest.mark.parametrize("subject", ["a\r\nx-evil: 1", "a\nb", "a\0b"])
async def test_a_token_whose_subject_is_no_header_opens_nothing(tmp_path: Path, subject: str) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, access=WITH_TOKEN)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            answer = await ask.infer({"authorization": f"Bearer {token(aud='models', sub=subject)}"})
            plain = await ask.infer({"authorization": f"Bearer {token(aud='models', sub='Ünn, the 2nd')}"})
    assert (answer.status, plain.status, len(one.seen)) == (401, 200, 1)


async def test_tokens_without_a_subject_share_one_rate(tmp_path: Path) -> None:
    access = WITH_TOKEN.model_copy(update={"rate_limit": RateLimit(requests_per_second=1, burst=2)})
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, access=access)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            headers = {"authorization": f"Bearer {token(aud='models', sub=None)}", "x-slipway-tenant": "forged"}
            found = [(await ask.infer(headers)).status for _ in range(2)]
            await clients.refused(lambda: ask.infer(headers))
            ann = await ask.infer({"authorization": f"Bearer {token(aud='models')}"})
    assert (found, ann.status) == ([200, 200], 200)


async def test_gateways_share_a_rate(tmp_path: Path) -> None:
    """Of four, each gives out a quarter."""
    access = RoutedAccess(rate_limit=RateLimit(requests_per_second=40, burst=40))
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, access=access)
        four = [f"127.0.0.{number}" for number in range(1, 5)]
        async with envoy.serving(tmp_path, view, gateways=four) as gateway, clients.rest(gateway) as ask:
            begun = time.monotonic()
            found = [(await ask.infer()).status for _ in range(40)]
            took_s = time.monotonic() - begun
    assert 10 <= found.count(200) <= 11 + 10 * took_s


async def test_a_body_is_bounded_with_and_without_a_length_and_a_stream_is_not(tmp_path: Path) -> None:
    async def pieces(count: int) -> Any:
        for _ in range(count):
            yield b"x" * 1000

    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]}, access=RoutedAccess(max_body_bytes=4000))
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            assert (await ask.infer(data=b"x" * 4000)).status == 200
            assert (await ask.infer(data=pieces(4))).status == 200
            for large in (b"x" * 4001, pieces(6)):
                refused = await ask.infer(data=large)
                assert refused.status == 413
                assert "larger than this service takes" in json.loads(refused.text)["error"]
            assert (await ask("POST", "/v2/models/resnet/generate_stream", data=b"x" * 5000)).status == 200
            async with clients.channel(gateway) as channel:
                assert (await clients.call(channel, body=b"x" * 3000))[0] is grpc.StatusCode.OK
                code, message, _ = await clients.call(channel, body=b"x" * 6000)
                stream = channel.stream_stream(clients.STREAM)()
                for _ in range(10):
                    await stream.write(b"x" * 1000)
                    assert len(await stream.read()) == 1000
                await stream.done_writing()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than this service takes" in message


async def test_one_services_keys_and_rates_do_not_touch_another(tmp_path: Path) -> None:
    limited = LOCKED.model_copy(update={"rate_limit": RateLimit(requests_per_second=1)})
    async with pods.pod("a") as one:
        views = (
            service({"old": 10_000}, {"old": [one]}, keys=KEYS, access=limited),
            service({"x": 10_000}, {"x": [one]}, name="bert", keys=KEYS, access=RoutedAccess(clients=["other"])),
            service({"y": 10_000}, {"y": [one]}, name="open"),
            service({"z": 10_000}, {"z": [one]}, name="tokens", access=WITH_TOKEN),
        )
        async with envoy.serving(tmp_path, *views) as gateway, clients.rest(gateway) as ask:
            key = {"x-api-key": "web-key-1"}
            await clients.refused(lambda: ask.infer(key))
            assert (await ask.infer(key, host="bert.vision")).status == 401
            assert (await ask.infer({"x-api-key": "other-key"}, host="bert.vision")).status == 200
            assert (await ask.infer(host="open.vision")).status == 200
            assert (await ask.infer(key, host="tokens.vision")).status == 401
            # By the path and by the header it is the service asked for whose keys count, not the host's.
            assert (await ask("GET", "/vision/bert/v2", host="open.vision")).status == 401
            assert (await ask("GET", "/v2", {"x-slipway-service": "vision/bert"}, host="open.vision")).status == 401
