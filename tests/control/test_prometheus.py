"""One question to Prometheus: what becomes a number, and the words for everything that does not."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway.signals.answer import Answer, read
from slipway.signals.prometheus import Place, Prometheus, Unreachable, nobody
from tests.gateway import certificates

NOW = 1_700_000_000.0


def vector(*values: str, at: float = NOW, **more: Any) -> bytes:
    result = [{"metric": {"i": str(i)}, "value": [at, value]} for i, value in enumerate(values)]
    return body({"resultType": "vector", "result": result}, **more)


def body(data: Any, **more: Any) -> bytes:
    return json.dumps({"status": "success", "data": data} | more).encode()


def refusal(kind: str, words: str) -> bytes:
    return json.dumps({"status": "error", "errorType": kind, "error": words}).encode()


@pytest.mark.parametrize(
    ("answer", "value", "age_s"),
    [
        pytest.param(vector("0.25"), 0.25, 0, id="one series"),
        pytest.param(vector("1e-3", at=NOW - 100), 0.001, 100, id="of a while ago"),
        pytest.param(vector("7", at=NOW + 120), 7, 0, id="its clock is two minutes ahead"),
        pytest.param(body({"resultType": "scalar", "result": [NOW, "3"]}), 3, 0, id="scalar"),
        pytest.param(vector("4", infos=["PromQL info: a hint"]), 4, 0, id="hint"),
    ],
)
def test_one_number_is_a_number(answer: bytes, value: float, age_s: float) -> None:
    assert read(200, answer, NOW) == Answer(value, "", age_s)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(vector(), "no series: nothing was measured", id="no series"),
        pytest.param(vector("NaN"), "NaN: nothing was measured to divide by", id="0/0"),
        pytest.param(vector("+Inf"), "+Inf: nothing was measured to divide by", id="1/0"),
        pytest.param(vector("-Inf"), "-Inf: nothing was measured to divide by", id="-1/0"),
    ],
)
def test_nothing_measured_is_neither_a_number_nor_a_failure(answer: bytes, says: str) -> None:
    assert read(200, answer, NOW) == Answer(None, says, failed=False)


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        pytest.param(200, vector("1", "2", "3"), "3 series: make one number of them", id="several series"),
        pytest.param(200, vector("1", at=NOW - 301), "of 301 s ago", id="stale"),
        pytest.param(200, vector("1", at=NOW + 301), "is a clock wrong?", id="of the future"),
        pytest.param(200, vector("one"), "one is not a number", id="no number"),
        pytest.param(200, vector("1", warnings=["partial response"]), "warns of its answer: partial", id="warning"),
        pytest.param(200, body({"resultType": "string", "result": [NOW, "x"]}), "a string", id="string"),
        pytest.param(200, body({"resultType": "matrix", "result": []}), "a matrix", id="matrix"),
        pytest.param(
            200,
            body({"resultType": "vector", "result": [{"metric": {}, "histogram": [NOW, {}]}]}),
            "a histogram",
            id="native histogram",
        ),
        pytest.param(200, b"<html>Sign in</html>", "is not Prometheus (code 200)", id="a page"),
        pytest.param(200, b"", "is not Prometheus (code 200)", id="nothing"),
        pytest.param(200, body(None), "no data", id="no data"),
        pytest.param(200, b"[" * 50_000, "is not Prometheus", id="deep"),
        pytest.param(404, b"not found", "is not Prometheus (code 404)", id="another server"),
        pytest.param(400, refusal("bad_data", "parse error"), "cannot answer: parse error", id="refused"),
        pytest.param(422, refusal("execution", "many-to-many"), "cannot answer: many-to-many", id="not executed"),
        pytest.param(400, refusal("bad_data", "x" * 5000), "x…", id="long words"),
        pytest.param(503, refusal("timeout", "too slow"), "answers with code 503", id="overloaded"),
        pytest.param(502, b"Bad Gateway", "answers with code 502", id="nobody behind"),
        pytest.param(429, b"", "answers with code 429", id="too many"),
        pytest.param(401, b"", "does not let Slipway in (code 401)", id="no token"),
        pytest.param(302, b"", "is elsewhere (code 302)", id="redirect"),
    ],
)
def test_everything_else_failed_and_says_why(status: int, answer: bytes, says: str) -> None:
    found = read(status, answer, NOW)
    assert found.value is None
    assert found.failed
    assert says in found.words
    assert len(found.words) < 300


@dataclass
class Server:
    """Answers whatever it is told to, and keeps what it was asked."""

    answer: bytes = field(default_factory=lambda: vector("1"))
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        self.tokens.append(request.headers.get("Authorization"))
        if self.hang:
            await asyncio.Event().wait()
        return web.Response(body=self.answer, status=self.status, headers=self.headers)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    behaviour = Server()
    app = web.Application()
    app.router.add_post("/prom/api/v1/query", behaviour.serve)
    async with TestServer(app) as running:
        yield behaviour, str(running.make_url("/prom/"))


async def ask(place: Place, query: str = "up", *, answer_s: float = 30) -> Answer:
    async with aiohttp.ClientSession() as session:
        return await Prometheus(session, place, wall=lambda: NOW, answer_s=answer_s)(query)


async def test_a_question_arrives_whole_below_the_path_of_the_address(server: tuple[Server, str]) -> None:
    behaviour, url = server
    query = 'sum(a{b="&x=1 +\\"é"})'
    assert await ask(Place(url), query) == Answer(1, "", 0)
    assert behaviour.asked == [{"query": query, "timeout": "30s"}]
    assert behaviour.tokens == [None]


async def test_the_token_of_the_secret_is_shown_and_read_anew(server: tuple[Server, str], tmp_path: Path) -> None:
    behaviour, url = server
    place, token = Place(url, tmp_path), tmp_path / "token"
    token.write_text("first\n")
    await ask(place)
    assert behaviour.tokens == ["Bearer first"]
    token.write_text("second")
    place.look(time.monotonic())
    assert place.headers() == {"Authorization": "Bearer first"}
    place.look(time.monotonic() + 60)
    assert place.headers() == {"Authorization": "Bearer second"}


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff\xfe", b"a\r\nX-Other: b"])
async def test_what_is_no_token_is_not_shown(server: tuple[Server, str], tmp_path: Path, content: bytes | None) -> None:
    behaviour, url = server
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    assert (await ask(Place(url, tmp_path))).value == 1
    assert behaviour.tokens == [None]


async def test_a_redirect_is_not_followed_with_the_token(server: tuple[Server, str]) -> None:
    behaviour, url = server
    behaviour.status, behaviour.headers = 307, {"Location": url + "api/v1/query"}
    assert "is elsewhere (code 307)" in (await ask(Place(url))).words
    assert len(behaviour.asked) == 1


async def test_an_answer_that_does_not_come_is_not_waited_for(server: tuple[Server, str]) -> None:
    server[0].hang = True
    found = await ask(Place(server[1]), answer_s=0.3)
    assert found == Answer(None, "Prometheus does not answer within 0.3 s", failed=True)


async def test_a_very_large_answer_is_not_read_to_its_end(server: tuple[Server, str]) -> None:
    server[0].answer = vector(*["1"] * 100_000)
    assert "a very large answer" in (await ask(Place(server[1]))).words


async def test_an_answer_that_breaks_off_is_no_reason_to_think_that_prometheus_is_gone(
    server: tuple[Server, str],
) -> None:
    server[0].headers = {"Content-Encoding": "gzip"}
    answer = await ask(Place(server[1]))
    assert answer.failed
    assert "breaks off" in answer.words


async def test_nobody_there_is_told_apart_from_a_question_that_failed() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="cannot be reached"):
            await ask(Place(f"http://127.0.0.1:{bound.getsockname()[1]}"))


async def test_without_a_prometheus_the_words_say_what_to_set() -> None:
    with pytest.raises(Unreachable, match=r"set prometheus\.url in the values of Slipway's chart"):
        await nobody("up")


def test_the_authority_of_the_secret_is_the_only_one_trusted_and_may_change(tmp_path: Path) -> None:
    place, authority = Place("https://prometheus", tmp_path), tmp_path / "ca.crt"
    place.look(0)
    first = place.tls()
    assert isinstance(first, ssl.SSLContext)
    assert first.verify_mode is ssl.CERT_REQUIRED
    certificates.certificate(authority, tmp_path / "key", "prometheus")
    place.look(60)
    second = place.tls()
    assert isinstance(second, ssl.SSLContext)
    assert len(second.get_ca_certs()) == 1
    place.look(120)
    assert place.tls() is second
    authority.write_text("no certificate")
    place.look(180)
    with pytest.raises(Unreachable, match=r"ca\.crt for Prometheus holds no certificate"):
        place.tls()


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://x", "http://", "http://u:p@x", "http://x?a=b", "http://x:0", "http://x:y"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Place.parse(url)
