"""The pure parts of the runtime's benchmark: what generators print, medians, tables, ratios."""

import array
import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.bench.api import CannotMeasureError
from e2e.bench.runtime import open_loop, results
from e2e.bench.runtime.cells import ECHO, Cell, Choice, Figures, Subject
from e2e.bench.runtime.load import Target, percentile, read_h2load, read_wrk
from e2e.bench.runtime.messages import Sample, WrongAnswerError, check, message
from e2e.bench.runtime.results import Results

C8 = Cell("tiny", "json", 8)
SAMPLE = Sample("tiny", [1, 2], array.array("f", [0.5, 0.25]), array.array("f", [1.0, 2.0]))
H2LOAD = (
    "finished in 2.00s\ntraffic: 1.00KB (1024) total, 8B (8) headers (space savings 94.92%), {data}B ({data}) data\n"
)


def figures(per_s: float, p50_ms: float = 1.0, cpu_us: float = 50.0) -> Figures:
    return Figures(per_s, p50_ms, 3.0, cpu_us, 100.0, 10.0, 2.0)


def measured(cell: Cell, **per_s: float) -> Results:
    found = Results()
    for name, value in per_s.items():
        found.add(Subject(name), cell, figures(value))
    return found


def test_the_last_line_of_wrk_is_its_figures() -> None:
    line = {"requests": 300, "seconds": 2.0, "p50_ms": 0.5, "p99_ms": 2.0, "errors": 1}
    load = read_wrk(f"Running 2s test\n  Latency 1ms\n{json.dumps(line)}\n")
    assert (load.per_s, load.p50_ms, load.p99_ms, load.errors) == (150, 0.5, 2.0, 1)


def test_h2load_tells_latencies_by_its_log() -> None:
    log = "".join(f"1700000000\t200\t{took}\n" for took in (3000, 1000, 2000, 9000))
    load = read_h2load(H2LOAD.format(data=4 * 25), log, 2, answer_bytes=20)
    assert (load.per_s, load.errors, load.p50_ms, load.p99_ms) == (2, 0, 2, 9)


@pytest.mark.parametrize(
    ("log", "data", "errors"),
    [
        pytest.param("0\t200\t5\n0\t500\t5\n", 25, 1, id="a status"),
        pytest.param("0\t200\t5\n0\t200\t5\n0\t200\t5\n", 25, 2, id="a gRPC status in trailers, without data"),
    ],
)
def test_h2loads_failed_calls_are_errors(log: str, data: int, errors: int) -> None:
    assert read_h2load(H2LOAD.format(data=data), log, 1, answer_bytes=20).errors == errors


def test_without_an_answer_there_is_no_figure() -> None:
    with pytest.raises(CannotMeasureError, match="h2load had no answer"):
        read_h2load("finished in 2.00s", "0\t500\t5\n", 1, answer_bytes=20)


def test_an_open_loop_counts_the_time_since_a_request_was_due() -> None:
    """The server answers nobody before everybody has asked: the first then has waited for all the others."""
    requests, per_s = 20, 100
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:
        port = listening.getsockname()[1]
        serving = thread.submit(_answer_when_all_have_asked, listening, requests)
        target = Target(message(SAMPLE, "own", "json"), port, 0, Path())
        load = open_loop.apply(target, per_s, requests / per_s)
        serving.result()
    assert (load.requests, load.errors) == (requests, 0)
    assert load.p99_ms >= (requests - 1) / per_s * 1000
    assert load.p50_ms >= (requests / 2 - 1) / per_s * 1000


def _answer_when_all_have_asked(listening: socket.socket, requests: int) -> None:
    connections = [listening.accept()[0] for _ in range(open_loop.CONNECTIONS)]
    asked: list[socket.socket] = []
    while len(asked) < requests:
        for one in select.select(connections, (), ())[0]:
            one.recv(65536)
            asked.append(one)
    for one in asked:
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    for one in connections:
        one.recv(1)  # until it is closed
        one.close()


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (99, 4), (75, 3), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, value: int) -> None:
    assert percentile([1, 2, 3, 4], percent) == value


def test_figures_are_medians_of_each_column() -> None:
    found = Results()
    for per_s, p50_ms in ((100, 9), (300, 1), (200, 5)):
        found.add(Subject("triton"), C8, figures(per_s, p50_ms))
    assert found.medians(C8) == {Subject("triton"): figures(200, 5)}


def test_of_a_servers_variants_the_better_one_is_taken_and_measured_again() -> None:
    found = Results()
    slow, fast, new = (Subject("mosec", name) for name in ("batch 1", "batch 64", "batch 8"))
    found.add(slow, C8, figures(100))
    found.add(fast, C8, figures(200))
    assert found.best(C8) == {"mosec": (fast, figures(200))}
    assert [found.is_worth_more(one, C8) for one in (slow, fast, new)] == [False, True, True]


def test_ratios_compare_with_each_peer_and_the_best_but_not_with_the_calibration() -> None:
    found = measured(C8, slipway=600, triton=200, kserve=50, mosec=300)
    found.add(Subject(ECHO), C8, figures(9000))
    of = results.ratios(found)
    assert of["json_tiny_c8_vs_triton"] == 3
    assert of["json_tiny_c8_vs_kserve"] == 12
    assert of["json_tiny_c8_vs_best"] == 2
    assert of["cpu_us_rest_c8"] == 50


def test_what_was_not_measured_is_null() -> None:
    of = results.ratios(measured(C8, slipway=600, triton=200))
    assert of["json_tiny_c8_vs_kserve"] is None
    assert of["json_tiny_c64_vs_triton"] is None
    assert of["mlp512_c64_vs_best_min"] is None
    line = results.line(of)
    assert list(json.loads(line.removeprefix("RESULT "))) == list(results.KEYS)
    assert '"json_tiny_c8_vs_kserve": null' in line


def test_every_figure_is_judged_by_its_floor_or_ceiling() -> None:
    of = dict.fromkeys(results.KEYS) | {"json_tiny_c8_vs_triton": 2.9, "cpu_us_rest_c8": 60.0, "idle_cpu_pct": 1.0}
    verdicts = {line.split()[0]: line.split()[2:] for line in results.verdicts(of).splitlines()}
    assert verdicts["json_tiny_c8_vs_triton"] == [">=", "3", "NO"]
    assert verdicts["cpu_us_rest_c8"] == ["<=", "60", "yes"]
    assert verdicts["idle_cpu_pct"] == ["<=", "0.5", "NO"]
    assert verdicts["grpc_tiny_c8_vs_triton"] == [">=", "1.5", "not", "measured"]


def test_the_worst_protocol_counts_of_the_large_mlp() -> None:
    found = Results()
    for protocol, ours in (("json", 300), ("bin", 220), ("grpc", 400)):
        cell = Cell("mlp512", protocol, 64)  # type: ignore[arg-type]
        found.add(Subject("slipway"), cell, figures(ours))
        found.add(Subject("triton"), cell, figures(200))
    assert results.ratios(found)["mlp512_c64_vs_best_min"] == pytest.approx(1.1)


def test_one_client_is_compared_by_the_time_it_waits() -> None:
    cell, found = Cell("tiny", "json", 1), Results()
    for name, p50_ms in (("slipway", 0.2), ("triton", 0.8), ("fastapi", 0.4)):
        found.add(Subject(name), cell, figures(1, p50_ms))
    assert results.ratios(found)["json_tiny_c1_p50_vs_best"] == pytest.approx(0.5)


def test_the_table_is_narrow_and_its_fastest_come_first() -> None:
    found = measured(C8, slipway=123_456.7, triton=200)
    found.add(Subject("mlserver", "in process"), C8, Figures(50, 4321, 12345, 99999, 12345, 100, 0))
    text = results.table(found, {"ray": "could not be installed"})
    assert max(map(len, text.splitlines())) <= 88
    assert [text.index(name) for name in ("slipway", "triton", "mlserver in process", "absent: ray")] == sorted(
        text.index(name) for name in ("slipway", "triton", "mlserver in process", "absent: ray")
    )
    assert "123,457" in text


def test_words_of_one_kind_are_alternatives() -> None:
    choice = Choice.read("tiny json,c8 slipway triton")
    assert {server.name for server in choice.servers()} == {"slipway", "triton"}
    assert [cell for model in choice.models() for cell in choice.cells(model)] == [C8]
    assert len(Choice.read("").servers()) > 8


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="ONLY has tritn, may have: slipway triton"):
        Choice.read("tritn")


@pytest.mark.parametrize(
    ("style", "protocol"), [("v2", "json"), ("v2", "bin"), ("v2", "grpc"), ("own", "json"), ("own", "bin")]
)
def test_every_request_carries_the_sample(style: str, protocol: str) -> None:
    request = message(SAMPLE, style, protocol)  # type: ignore[arg-type]
    carried = b"[0.5, 0.25]" if protocol == "json" else SAMPLE.x.tobytes()
    assert carried in request.body


@pytest.mark.parametrize(
    ("style", "body"),
    [
        pytest.param("v2", b'{"outputs": [{"data": [1, 2]}]}', id="flat"),
        pytest.param("v2", b'{"outputs": [{"data": [[1.0, 2.0]]}]}', id="nested"),
        pytest.param("own", b'{"y": [1, 2]}', id="of its own"),
    ],
)
def test_answers_are_read(style: str, body: bytes) -> None:
    check(SAMPLE, message(SAMPLE, style, "json").read(body, {}))  # type: ignore[arg-type]


def test_a_binary_answer_is_read_behind_its_header() -> None:
    body = b"{}" + SAMPLE.y.tobytes()
    check(SAMPLE, message(SAMPLE, "v2", "bin").read(body, {"inference-header-content-length": "2"}))


@pytest.mark.parametrize(
    ("answer", "why"),
    [([1.0], "1 numbers instead of 2"), ([1.0, 2.1], "number 1 is"), ([1.0, float("nan")], "number 1 is nan")],
)
def test_a_wrong_answer_is_not_measured(answer: list[float], why: str) -> None:
    with pytest.raises(WrongAnswerError, match=why):
        check(SAMPLE, array.array("f", answer))
