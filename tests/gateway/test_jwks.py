"""Issuers' keys: from https only, bounded, and never from an address that a user has no business at."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from slipway.gateway.jwks import PER_NAMESPACE, Fetcher, Policy
from slipway.gateway.keyset import KEYS_MAX, Unfit, compact
from tests.gateway.certificates import certificate
from tests.gateway.waiting import until

HALF = "A" * 43
"""32 bytes."""
EC = {"kty": "EC", "crv": "P-256", "x": HALF, "y": HALF, "kid": "1"}
RSA = {"kty": "RSA", "n": "_" * 342, "e": "AQAB", "alg": "RS256"}
ED = {"kty": "OKP", "crv": "Ed25519", "x": HALF}


def key_set(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys}, separators=(",", ":"), sort_keys=True)


KEYS = key_set(EC)


Handler = Callable[[web.Request], Awaitable[web.Response]]


class _Local(Policy):
    """Lets a test's own server through."""

    def check(self, host: str, address: str) -> None:
        if address != "127.0.0.1":
            super().check(host, address)


class Issuer:
    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self.url, self.tls = url, tls
        self.asked = 0
        self.slow: Handler = self.handle
        self.text, self.status, self.headers = KEYS, 200, {"X-Some": "thing"}

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        if "slow" in request.query:
            return await self.slow(request)
        return web.Response(text=self.text, status=self.status, headers=self.headers)


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Issuer]:
    certificate(tmp_path / "crt.pem", tmp_path / "key.pem", "localhost")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "crt.pem", tmp_path / "key.pem")
    app = web.Application()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    found = Issuer("", ssl.create_default_context(cafile=str(tmp_path / "crt.pem")))
    app.router.add_get("/keys", found.handle)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving).start()
    found.url = f"https://localhost:{runner.addresses[0][1]}/keys"
    try:
        yield found
    finally:
        await runner.cleanup()


def fetcher(issuer: Issuer, heard: list[str], *, refresh_s: float = 300.0) -> Fetcher:
    found = Fetcher(lambda _, text: heard.append(text), tls=issuer.tls, refresh_s=refresh_s)
    found._policy = _Local(allows_private=False)
    return found


async def test_keys_are_fetched_refreshed_and_kept_when_the_issuer_is_silent(issuer: Issuer) -> None:
    heard: list[str] = []
    found = fetcher(issuer, heard, refresh_s=0.05)
    found.want({"ns": [issuer.url]})
    async with asyncio.timeout(10):
        while issuer.asked < 3:
            await asyncio.sleep(0.01)
        issuer.status = 500
        asked = issuer.asked
        while issuer.asked == asked:
            await asyncio.sleep(0.01)
    assert set(heard) == {KEYS}
    await found.close()


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        pytest.param("{}", 200, "Key Set", id="no keys"),
        pytest.param("[" * 100_000, 200, "more than", id="too large"),
        pytest.param(KEYS, 302, "HTTP 302", id="redirect"),
        pytest.param("<html>", 200, "Key Set", id="no JSON"),
    ],
)
async def test_answers_that_are_no_key_set_are_refused(issuer: Issuer, text: str, status: int, words: str) -> None:
    issuer.text, issuer.status = text, status
    issuer.headers = {"Location": issuer.url}
    found = fetcher(issuer, [])
    with pytest.raises(Unfit, match=words):
        await found.fetch(issuer.url)
    assert issuer.asked == 1


def test_a_key_set_has_a_bounded_number_of_keys() -> None:
    many = ",".join(["{}"] * (KEYS_MAX + 1))
    with pytest.raises(Unfit, match="at most"):
        compact(f'{{"keys":[{many}]}}'.encode())


USABLE = [
    pytest.param(EC, id="P-256"),
    pytest.param(EC | {"crv": "P-384", "x": "A" * 64, "y": "A" * 64, "alg": "ES384", "use": "sig"}, id="P-384"),
    pytest.param(RSA, id="RSA"),
    pytest.param(ED, id="Ed25519"),
]
USELESS = [
    pytest.param({}, id="nothing"),
    pytest.param({"kty": "oct", "k": HALF}, id="symmetric"),
    pytest.param({"kty": ["RSA"], "n": RSA["n"], "e": "AQAB"}, id="a kind that is no text"),
    pytest.param(EC | {"use": "enc"}, id="for secrecy"),
    pytest.param(EC | {"kid": 1}, id="a number for a name"),
    pytest.param(EC | {"y": "A" * 42}, id="half a point"),
    pytest.param(EC | {"crv": "secp256k1"}, id="another curve"),
    pytest.param(EC | {"alg": "RS256"}, id="another algorithm"),
    pytest.param(RSA | {"n": "_" * 170}, id="a short modulus"),
    pytest.param(RSA | {"e": "AQAA"}, id="an even exponent"),
    pytest.param(RSA | {"n": "not base64!"}, id="no number"),
    pytest.param(ED | {"x": 7}, id="no text"),
    pytest.param({"kty": "EC", "crv": "P-256"}, id="no point at all"),
]


@pytest.mark.parametrize("key", USABLE)
def test_public_keys_for_signatures_are_kept_and_the_rest_of_a_set_is_dropped(key: dict[str, Any]) -> None:
    assert compact(key_set({"kty": "new"}, key, {"kty": "oct", "k": HALF}).encode()) == key_set(key)


@pytest.mark.parametrize("key", USELESS)
def test_a_set_without_a_key_that_can_check_a_token_is_refused(key: dict[str, Any]) -> None:
    with pytest.raises(Unfit, match="no key in it can check a token"):
        compact(key_set(key).encode())


async def test_a_set_of_no_use_leaves_the_last_good_one(issuer: Issuer) -> None:
    heard: list[str] = []
    found = fetcher(issuer, heard, refresh_s=0.02)
    found.want({"ns": [issuer.url]})
    async with asyncio.timeout(10):
        await found.tried()
        issuer.text = '{"keys":[]}'
        asked = issuer.asked
        while issuer.asked < asked + 1:
            await asyncio.sleep(0.01)
    await found.close()
    assert set(heard) == {KEYS}


async def test_an_answer_nested_too_deep_does_not_end_the_asking(issuer: Issuer) -> None:
    found = fetcher(issuer, [])
    issuer.text = '{"keys":' + "[" * 60_000
    found.want({"ns": [issuer.url]})
    async with asyncio.timeout(10):
        await found.tried()
    assert not found._tasks[issuer.url].done()
    await found.close()


async def test_asking_that_has_died_is_begun_anew(issuer: Issuer) -> None:
    def fail(_: str, text: str) -> None:
        heard.append(text)
        if len(heard) == 1:
            raise RuntimeError("the receiver is broken")

    heard: list[str] = []
    found = Fetcher(fail, tls=issuer.tls)
    found._policy = _Local(allows_private=False)
    found.want({"ns": [issuer.url]})
    await asyncio.wait([found._tasks[issuer.url]], timeout=10)
    found.want({"ns": [issuer.url]})
    await until(lambda: len(heard) == 2, "they are asked for anew")
    await found.close()
    assert heard == [KEYS, KEYS]


async def test_a_namespace_with_many_slow_issuers_does_not_hold_up_another(issuer: Issuer) -> None:
    heard: list[str] = []
    found = fetcher(issuer, heard)
    asleep, waiting = asyncio.Event(), 0

    async def slow(_: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        await asleep.wait()
        return web.Response(text=KEYS)

    issuer.slow = slow
    many = [f"{issuer.url}?slow={number}" for number in range(PER_NAMESPACE + 5)]
    found.want({"a-greedy": many, "ns": [issuer.url]})
    async with asyncio.timeout(10):
        while not heard or waiting < 2:
            await asyncio.sleep(0.01)
    assert (len(heard), waiting, len(found._tasks)) == (1, 2, PER_NAMESPACE + 1)
    asleep.set()
    await found.close()


async def test_only_https_is_asked(issuer: Issuer) -> None:
    with pytest.raises(Unfit, match="not https"):
        await Fetcher(lambda *_: None).fetch(issuer.url.replace("https", "http"))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "169.254.169.254",
        "10.96.0.1",
        "[::1]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "localhost",
        pytest.param("[64:ff9b::a9fe:a9fe]", id="169.254.169.254 behind NAT64"),
        pytest.param("[2002:a9fe:a9fe::1]", id="169.254.169.254 by 6to4"),
        pytest.param("[64:ff9b:1::a00:1]", id="a local NAT64 prefix"),
    ],
)
async def test_addresses_inside_are_never_asked(host: str) -> None:
    with pytest.raises(Unfit, match="may not be fetched from"):
        await Fetcher(lambda *_: None).fetch(f"https://{host}/keys")


@pytest.mark.parametrize(
    ("address", "is_allowed"), [("10.96.0.1", True), ("127.0.0.1", False), ("169.254.169.254", False)]
)
async def test_an_installation_may_allow_private_addresses_but_not_its_own_machine(
    address: str, *, is_allowed: bool
) -> None:
    policy = Policy(allows_private=True)
    if is_allowed:
        policy.check("issuer", address)
    else:
        with pytest.raises(Unfit):
            policy.check("issuer", address)


class SilentNames:
    """Name servers of which some never answer: a lookup of theirs keeps its thread until the test ends."""

    def __init__(self) -> None:
        self.awake = threading.Event()
        self.stuck: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        if host.endswith("silent.example"):
            self.stuck.append(host)
            self.awake.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def test_names_that_nobody_answers_hold_no_more_threads_than_their_namespace_may_ask_at_once(
    issuer: Issuer,
) -> None:
    heard, names = list[str](), SilentNames()
    found = Fetcher(lambda _, text: heard.append(text), tls=issuer.tls, timeout_s=0.5)
    found._policy = _Local(allows_private=False, look=names)
    many = [f"https://n{number}.silent.example/keys" for number in range(PER_NAMESPACE)]
    try:
        found.want({"a-greedy": many})
        async with asyncio.timeout(20):
            await asyncio.gather(*(event.wait() for event in list(found._tried.values())[:2]))
            found.want({"a-greedy": many, "ns": [issuer.url]})
            while not heard:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1)  # longer than they are waited for
        assert len(names.stuck) == 2
        names.awake.set()
        async with asyncio.timeout(10):
            while len(set(names.stuck)) < PER_NAMESPACE:
                await asyncio.sleep(0.01)
    finally:
        names.awake.set()
        await found.close()


async def test_a_name_that_is_still_being_looked_up_is_not_looked_up_twice() -> None:
    names = SilentNames()
    policy = Policy(allows_private=False, look=names)
    waiting = [asyncio.create_task(policy.resolve("silent.example", 443)) for _ in range(3)]
    async with asyncio.timeout(10):
        while not names.stuck:
            await asyncio.sleep(0.01)
    waiting[0].cancel()
    names.awake.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, Unfit, Unfit], (
        "127.0.0.1 is not to be asked"
    )
    assert names.stuck == ["silent.example"]
    await policy.close()
