"""What Envoy asks of a request, and the answer that it reads."""

from typing import Any

import pytest

from slipway.gateway import xds
from slipway.gateway.asks import BUFFER_BYTES, Bounds, Result, Verdict
from slipway.gateway.authorize import answer, ask
from slipway.gateway.settings import Settings

NOW = 1_800_000_000.0


def check(headers: dict[str, str] | None = None, *, began: float = NOW) -> Any:
    message = xds.message_class("envoy.service.auth.v3.CheckRequest")()
    message.attributes.request.time.seconds = int(began)
    message.attributes.request.time.nanos = int(began % 1 * 1e9)
    message.attributes.request.http.headers.update({"x-slipway-scope": "a.ns", **(headers or {})})
    message.attributes.context_extensions.update(service="ns/a", revision="r1")
    return message


def told(verdict: Verdict) -> Any:
    return xds.message_class("envoy.service.auth.v3.CheckResponse").FromString(answer(verdict))


def test_a_question_says_whose_request_it_is_and_how_long_it_has_waited() -> None:
    found = ask(check(began=NOW - 1.5), NOW)
    assert (found.key, found.revision, found.scope) == (("ns", "a"), "r1", "a.ns")
    assert found.age_s == pytest.approx(1.5)
    assert ask(check(began=NOW + 5), NOW).age_s == 0, "clocks of two processes"


@pytest.mark.parametrize(
    ("headers", "limit_s", "is_rest"),
    [
        ({}, None, True),
        ({"x-slipway-timeout-ms": "250"}, 0.25, True),
        ({"x-slipway-timeout-ms": "soon"}, None, True),
        ({"x-slipway-timeout-ms": "9" * 30}, None, True),
        ({"grpc-timeout": "2S"}, 2.0, False),
        ({"grpc-timeout": "300m", "x-slipway-timeout-ms": "9"}, 0.3, False),
        ({"grpc-timeout": "1H"}, 3600.0, False),
        ({"grpc-timeout": "5u"}, 5e-6, False),
        ({"grpc-timeout": "-1S"}, None, False),
        ({"grpc-timeout": "123456789S"}, None, False),
    ],
)
def test_a_callers_limit_is_read_as_its_protocol_has_it(
    headers: dict[str, str], limit_s: float | None, is_rest: bool
) -> None:
    found = ask(check(headers), NOW)
    assert found.limit_s == pytest.approx(limit_s)
    assert found.is_rest is is_rest


@pytest.mark.parametrize(
    ("length", "size"),
    [("", BUFFER_BYTES), ("17", 17), ("9" * 12, BUFFER_BYTES), ("9" * 40, BUFFER_BYTES), ("-1", BUFFER_BYTES)],
)
def test_a_body_counts_as_far_as_envoy_keeps_it(length: str, size: int) -> None:
    assert ask(check({"content-length": length} if length else {}), NOW).bytes == size


def test_leave_to_go_changes_no_header_so_that_envoy_keeps_the_way_it_chose() -> None:
    found = told(Verdict(Result.SERVED))
    assert found.status.code == 0
    assert not found.ok_response.headers
    assert not found.ok_response.headers_to_remove


def test_leave_to_go_another_way_changes_a_header_that_is_not_there() -> None:
    assert list(told(Verdict(Result.SERVED, is_rerouted=True)).ok_response.headers_to_remove) == ["x-slipway-hold"]


def test_what_is_left_of_a_callers_limit_replaces_it() -> None:
    [option] = told(Verdict(Result.SERVED, left_ms=1234)).ok_response.headers
    assert (option.header.key, option.header.value) == ("x-slipway-timeout-ms", "1234")
    assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD


def test_a_no_has_a_status_a_sentence_and_when_to_try_again() -> None:
    found = told(Verdict(Result.LATE, "too late", retry_after_s=5))
    assert found.status.code != 0
    assert (found.denied_response.status.code, found.denied_response.body) == (503, "too late")
    [option] = found.denied_response.headers
    assert (option.header.key, option.header.value) == ("retry-after", "5")
    assert not told(Verdict(Result.GONE, "gone", 404)).denied_response.headers


def test_an_installation_bounds_what_waits() -> None:
    env = {"SLIPWAY_HOLDS_MAX": "9", "SLIPWAY_HOLDS_PER_SERVICE": "3", "SLIPWAY_ENVOY_MEMORY_BYTES": "1000000"}
    assert Settings.from_env(env).holds == Bounds(requests=9, per_service=3, bytes=400_000)
    with pytest.raises(ValueError, match="SLIPWAY_HOLDS_MAX is '0'"):
        Settings.from_env({"SLIPWAY_HOLDS_MAX": "0"})
