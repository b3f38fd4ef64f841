"""Time, trouble and crowds: deadlines, streams, second tries, ejection, queues, slow callers, TLS."""

import asyncio
import contextlib
import json
import ssl
import time
from pathlib import Path

import aiohttp
import grpc
import pytest
from aiohttp import web
from hpack import Encoder

from slipway.api.routing import RoutedAccess
from slipway.gateway import render
from slipway.gateway.views import Endpoint, Tls
from tests.gateway import clients, envoy, pods
from tests.gateway.services import service
from tests.gateway.waiting import first, until
from tests.runtime.http2_peer import PREFACE, frame, settings

pytestmark = pytest.mark.timeout(120)
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED


LONG_S = 30.0
"""What is broken off before that was broken off on purpose, on a busy machine too."""


async def _slowly(_: object) -> web.StreamResponse:
    await asyncio.sleep(LONG_S)
    return web.Response()


async def _fail(_: object) -> web.StreamResponse:
    return web.Response(status=500)


async def test_a_request_ends_at_the_services_time_limit_or_the_callers(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        one.behaviour, one.grpc_delay_s = _slowly, LONG_S
        views = (
            service({"old": 10_000}, {"old": [one]}, timeout_ms=700),
            service({"x": 10_000}, {"x": [one]}, name="patient", timeout_ms=20_000),
        )
        async with envoy.serving(tmp_path, *views) as gateway, clients.rest(gateway) as ask:
            begun = time.monotonic()
            late = await ask.infer()
            assert 0.6 < time.monotonic() - begun < LONG_S
            assert late.status == 504
            assert "did not answer in the time" in json.loads(late.text)["error"]
            for host, theirs in ((clients.HOST, ""), (clients.HOST, "12S"), ("patient.vision", "200m")):
                async with clients.channel(gateway, host) as channel:
                    begun = time.monotonic()
                    header = {"grpc_timeout": theirs} if theirs else {}
                    code, message, _ = await clients.call(channel, deadline_s=None, metadata=header)
                    assert code is DEADLINE, (theirs, message)
                    assert time.monotonic() - begun < 10, theirs
            stats = await gateway.stats("cluster.vision")
        assert one.seen[0].headers.get("x-slipway-timeout-ms") is None
    assert stats["cluster.vision/old.upstream_rq_timeout"] == 1
    assert (stats["cluster.vision/old/grpc.grpc.4"], stats["cluster.vision/x/grpc.grpc.4"]) == (2, 1)
    assert stats["cluster.vision/old.upstream_rq_total"] == 1, "a time limit is no reason to ask another pod"


async def test_a_rest_callers_own_limit_reaches_the_pod(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            await ask.infer({"x-slipway-timeout-ms": "250", "x-envoy-upstream-rq-timeout-ms": "1"})
        assert one.seen[0].headers["x-slipway-timeout-ms"] == "250"


PIECES = 16
"""Of a stream, a quarter of a second apart: together they take longer than it may be silent."""


async def test_a_stream_lives_as_long_as_it_says_something(tmp_path: Path) -> None:
    async def tokens(request: object) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(PIECES):
            await asyncio.sleep(0.25)
            await answer.write(f"data: {number}\n\n".encode())
        if request.headers.get("x-hang"):
            await asyncio.sleep(LONG_S)
        return answer

    async def whole(ask: clients.Rest) -> None:
        answer = await ask("POST", "/v2/models/resnet/generate_stream", data=b"{}")
        assert (answer.status, answer.text.count("data:")) == (200, PIECES)

    async def silent_in_the_end(ask: clients.Rest) -> None:
        begun = time.monotonic()
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask("POST", "/v2/models/resnet/generate_stream", {"x-hang": "1"}, data=b"{}")
        assert time.monotonic() - begun < LONG_S

    async def by_grpc(channel: grpc.aio.Channel) -> None:
        stream = channel.stream_stream(clients.STREAM)()
        for _ in range(PIECES):
            await stream.write(b"x")
            assert await stream.read() == b"x"
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK

    async def with_a_deadline(channel: grpc.aio.Channel) -> None:
        short = channel.stream_stream(clients.STREAM)(timeout=0.4)
        with contextlib.suppress(grpc.aio.AioRpcError):
            for _ in range(PIECES):
                await short.write(b"x")
                await short.read()
        assert await short.code() is DEADLINE

    async with pods.pod("a", with_grpc=True) as one:
        one.behaviour, one.stream_gap_s = tokens, 0.25
        view = service({"old": 10_000}, {"old": [one]}, timeout_ms=3000)
        async with (
            envoy.serving(tmp_path, view) as gateway,
            clients.rest(gateway) as ask,
            clients.channel(gateway) as channel,
        ):
            await asyncio.gather(whole(ask), silent_in_the_end(ask), by_grpc(channel), with_a_deadline(channel))


async def test_a_watch_of_health_may_be_silent_for_longer_than_a_request_may_take(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000}, {"old": [one]}, timeout_ms=300)
        async with envoy.serving(tmp_path, view) as gateway, clients.channel(gateway) as channel:
            watch = channel.stream_stream("/grpc.health.v1.Health/Watch")()
            await watch.write(b"x")
            assert await watch.read() == b"x"
            await asyncio.sleep(0.8)
            await watch.write(b"y")
            assert await watch.read() == b"y"
            watch.cancel()


async def _breaking() -> tuple[asyncio.Server, list[bytes]]:
    """A pod that reads a request and closes."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(65536))
        writer.transport.abort()

    return await asyncio.start_server(serve, "127.0.0.1", 0), got


async def test_only_a_request_that_no_pod_has_seen_is_tried_again(tmp_path: Path) -> None:
    closed = Endpoint("127.0.0.1", envoy.free_port(), envoy.free_port())
    server, got = await _breaking()
    breaking = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    async with pods.pod("a", with_grpc=True) as one, server:
        views = (
            service({"old": 10_000}, {"old": [one, closed]}, targets={"old": {"judged": True}}),
            service({"x": 10_000}, {"x": [breaking]}, name="bert"),
        )
        async with envoy.serving(tmp_path, *views) as gateway, clients.rest(gateway) as ask:
            assert {(await ask.infer(data=b"{}")).status for _ in range(40)} == {200}
            async with clients.channel(gateway) as channel:
                assert {(await clients.call(channel))[0] for _ in range(20)} == {grpc.StatusCode.OK}
            broken = await ask.infer(host="bert.vision", data=b"{}")
            stats = await gateway.stats("cluster.vision")
    assert broken.status == 503
    assert "broke before it answered" in json.loads(broken.text)["error"]
    assert len(got) == 1
    assert stats["cluster.vision/old.upstream_rq_retry"] > 0
    assert stats["cluster.vision/x.upstream_rq_retry"] == 0


async def _set_aside(gateway: envoy.Envoy) -> int:
    name = "cluster.vision/old.outlier_detection.ejections_active"
    return (await gateway.stats(name)).get(name, 0)


async def _crowd(ask: clients.Rest) -> None:
    """For three pods: Envoy judges only those that it saw answer 20 times between two looks."""
    await asyncio.gather(*(ask.infer() for _ in range(120)))


async def _crowds(ask: clients.Rest, looks: int) -> None:
    """For so many of Envoy's looks at its pods, one a second."""
    end = time.monotonic() + looks
    while time.monotonic() < end:
        await _crowd(ask)


@pytest.mark.parametrize("judged", [False, True])
async def test_a_failing_pod_is_set_aside_unless_its_revision_is_judged(tmp_path: Path, judged: bool) -> None:
    async with pods.pod("a") as good, pods.pod("b") as also, pods.pod("c") as bad:
        bad.behaviour = _fail
        view = service({"old": 10_000}, {"old": [good, also, bad]}, targets={"old": {"judged": judged}})
        options = envoy.settings_in(tmp_path, ejection_interval_s=1.0)
        async with envoy.serving(tmp_path, view, settings=options) as gateway, clients.rest(gateway) as ask:
            if judged:
                await _crowds(ask, 4)
                assert 500 in {(await ask.infer()).status for _ in range(60)}
                return
            async with asyncio.timeout(50):
                found = {0}
                while not await _set_aside(gateway):  # it comes back after a while: perhaps before all are answered
                    while not await _set_aside(gateway):
                        await _crowd(ask)
                    found = {(await ask.infer()).status for _ in range(30)}
    assert found == {200}


async def test_when_all_fail_none_is_set_aside(tmp_path: Path) -> None:
    async with pods.pod("a") as one, pods.pod("b") as two, pods.pod("c") as three:
        one.behaviour = two.behaviour = three.behaviour = _fail
        view = service({"old": 10_000}, {"old": [one, two, three]})
        options = envoy.settings_in(tmp_path, ejection_interval_s=1.0)
        async with envoy.serving(tmp_path, view, settings=options) as gateway, clients.rest(gateway) as ask:
            await _crowds(ask, 4)
            found = {(await ask.infer()).status for _ in range(30)}
            assert await _set_aside(gateway) <= 1
    assert found == {500}, "answered by the pods, not by the gateway"


async def test_more_at_once_than_allowed_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with pods.pod("a", with_grpc=True) as one:
        one.behaviour, one.grpc_delay_s = _slowly, LONG_S
        view = service({"old": 10_000}, {"old": [one]}, access=RoutedAccess(max_concurrency=2))
        async with (
            envoy.serving(tmp_path, view) as gateway,
            clients.rest(gateway) as ask,
            clients.channel(gateway) as channel,
        ):
            answers, served = await first(4, (ask.infer() for _ in range(6)))
            calls, heard = await first(4, (clients.call(channel) for _ in range(6)))
            await until(lambda: len(one.seen) == len(one.calls) == 2, "two of each are at the pod")
            for each in (*served, *heard):
                each.cancel()
            await asyncio.gather(*served, *heard, return_exceptions=True)
    assert [answer.status for answer in answers] == [503] * 4
    assert answers[0].headers["retry-after"] == "1"
    assert "in flight" in json.loads(answers[0].text)["error"]
    assert [code for code, _, _ in calls] == [grpc.StatusCode.UNAVAILABLE] * 4
    assert any("in flight" in message for _, message, _ in calls)


async def test_a_revision_without_pods_is_answered_503_with_retry_after(tmp_path: Path) -> None:
    views = service({"old": 10_000}), service({}, name="empty")
    async with envoy.serving(tmp_path, *views) as gateway, clients.rest(gateway) as ask:
        for host in ("resnet.vision", "empty.vision"):
            answer = await ask.infer(host=host)
            assert (answer.status, answer.headers.get("retry-after")) == (503, "1"), host
            assert "try again" in json.loads(answer.text)["error"]
            async with clients.channel(gateway, host) as channel:
                assert (await clients.call(channel))[0] is grpc.StatusCode.UNAVAILABLE


async def test_half_open_and_slow_callers_do_not_hold_up_others(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        options = envoy.settings_in(tmp_path, headers_timeout_s=1.0)
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view, settings=options) as gateway, clients.rest(gateway) as ask:
            slow = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(200)]
            for _, writer in slow:
                writer.write(b"POST /v2/models/resnet/infer HTTP/1.1\r\nhost: resnet.vision\r\nx-a")
            assert {(await ask.infer(data=b"{}")).status for _ in range(50)} == {200}
            async with asyncio.timeout(40):
                ends = await asyncio.gather(*(reader.read() for reader, _ in slow))
            for _, writer in slow:
                writer.close()
    assert all(b" 408 " in end for end in ends)
    assert len(one.seen) == 50


async def test_a_caller_that_opens_and_resets_streams_loses_its_connection(tmp_path: Path) -> None:
    """Rapid reset: work is begun and thrown away faster than it can be refused."""
    fields = ((":method", "GET"), (":scheme", "http"), (":path", "/v2"), (":authority", "resnet.vision"))
    encoder = Encoder()
    streams = range(1, 4001, 2)
    flood = b"".join(
        frame(1, 5, stream, encoder.encode(fields)) + frame(3, 0, stream, (8).to_bytes(4, "big")) for stream in streams
    )
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(PREFACE + settings({}) + flood)
            async with asyncio.timeout(40):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(65536):
                        pass
            writer.close()
            assert (await ask.infer()).status == 200
        assert len(one.seen) < 1500


async def test_connections_above_the_limit_are_closed_and_the_others_served(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        options = envoy.settings_in(tmp_path, max_connections=5)
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view, settings=options) as gateway, clients.rest(gateway) as ask:
            assert (await ask.infer()).status == 200
            many = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(10)]
            ends = [asyncio.ensure_future(one.read(1)) for one, _ in many]
            await until(lambda: sum(end.done() for end in ends) >= 5, "half of them are closed")
            assert (await ask.infer()).status == 200
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            for _, writer in many:
                writer.close()


async def test_the_same_is_served_with_tls_and_a_new_certificate_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()

    async def certify(name: str) -> None:
        """As the kubelet does: the new files appear by one rename."""
        data = folder / f"..{name}"
        data.mkdir()
        command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", data / "tls.key", "-out", data / "tls.crt")
        made = await asyncio.create_subprocess_exec(
            *command, *files, "-subj", f"/CN={name}", "-days", "2", stderr=asyncio.subprocess.DEVNULL
        )
        assert await made.wait() == 0
        (folder / "..next").symlink_to(data.name)
        (folder / "..next").rename(folder / "..data")
        for file in ("tls.crt", "tls.key"):
            if not (folder / file).is_symlink():
                (folder / file).symlink_to(f"..data/{file}")

    async def presented() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", options.https_port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return bytes(shown)

    await certify("first")
    tls = Tls(folder=str(folder), secret_file=str(tmp_path / "tls.json"))
    Path(tls.secret_file).write_text(json.dumps(render.tls_secret(tls)))
    options = envoy.settings_in(tmp_path, https_port=envoy.free_port(), tls=tls)
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]})
        async with envoy.serving(tmp_path, view, settings=options):
            for version, option in (("2", "--http2"), ("1.1", "--http1.1")):
                curl = await asyncio.create_subprocess_exec(
                    *("curl", "--silent", "--insecure", option, "--write-out", "%{http_version} %{http_code}"),
                    *("--header", "host: resnet.vision", f"https://127.0.0.1:{options.https_port}/v2"),
                    stdout=asyncio.subprocess.PIPE,
                )
                assert (await curl.communicate())[0].decode().endswith(f"{version} 200")
            before = await presented()
            await certify("second")
            async with asyncio.timeout(40):
                while await presented() == before:
                    await asyncio.sleep(0.05)
        assert one.seen[0].headers["x-forwarded-proto"] == "https"


async def test_the_log_says_who_answered_and_passes_the_trace_on(tmp_path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"b1": 10_000}, {"b1": [one]}, targets={"b1": {"variant": "b"}})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            await ask("GET", "/v2?x-api-key=secret", {"traceparent": trace, "tracestate": "a=b"})
            await ask("GET", "/v2/logging")
            async with clients.channel(gateway) as channel:
                one.grpc_error = grpc.StatusCode.INTERNAL
                await clients.call(channel, traceparent=trace)
            page, refused, failed = await gateway.logged(3)
    known = {"namespace": "vision", "service": "resnet", "revision": "b1", "variant": "b", "trace": trace}
    assert known.items() <= page.items()
    assert (page["code"], page["route"], page["path"], page["flags"]) == (200, "page", "/v2", "-")
    assert one.seen[0].headers["traceparent"] == trace
    assert one.seen[0].headers["tracestate"] == "a=b"
    assert one.seen[0].headers["x-request-id"] == page["request_id"]
    assert (refused["code"], refused["route"], "revision" in refused) == (404, "none", False)
    assert (failed["grpc_status"], failed["trace"]) == (13, trace)
    assert known.items() <= failed.items()
