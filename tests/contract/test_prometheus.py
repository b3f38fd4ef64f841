"""What the tests of signals take for granted of Prometheus, asked of Debian's."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import aiohttp
import pytest
import pytest_asyncio
import yaml

from e2e.cluster import apt
from e2e.support import discover
from e2e.support import prometheus as documented
from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_METRICS, LABEL_REVISION, LABEL_SERVICE
from slipway.decide.promql import Names, rewrite
from slipway.signals.answer import Answer
from slipway.signals.prometheus import Place, Prometheus, Unreachable

NAMES = Names(namespace="team", service="hello", stable="hello-a", candidate="hello-b")
METRICS = """\
requests_total{namespace="team",revision="hello-a"} 1000
requests_total{namespace="team",revision="hello-b"} 50
requests_total{namespace="team",revision="idle"} 0
errors_total{namespace="team",revision="hello-a"} 10
errors_total{namespace="team",revision="hello-b"} 5
errors_total{namespace="team",revision="idle"} 0
requests_total{namespace="other",revision="hello-b"} 7000000
took_bucket{namespace="team",revision="hello-b",le="0.1"} 90
took_bucket{namespace="team",revision="hello-b",le="1"} 100
took_bucket{namespace="team",revision="hello-b",le="+Inf"} 100
odd{namespace="team",text="\\"}) or vector(1) # \\\\"} 3
"""
TOLD = """\
slipway_gateway_requests_total{namespace="team",service="hello",revision="hello-b"} 5
nv_inference_count{model="hello",namespace="stolen",revision="stolen"} 7
"""
"""By operator, gateway and model alike; what becomes of it is the jobs' doing."""


@dataclass(frozen=True, slots=True)
class Running:
    url: str
    ask: Prometheus
    process: "subprocess.Popen[bytes]"

    async def answer(self, text: str) -> Answer:
        """Of a user's expression."""
        return await self.ask(rewrite(text, NAMES))


def program() -> Path:
    if shutil.which("apt-get") is None:
        pytest.skip("Debian's package of Prometheus comes by apt-get, which is not here")
    return apt.unpacked("prometheus", "usr/bin/prometheus")


@contextmanager
def exposing(text: str) -> Iterator[int]:
    """The port of a page of metrics, with a thread of its own: it is read while the tests' loop stands still, too.

    Of a page that is not there once the series end, and the next question has no answer.
    """

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Not among the tests' own words."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def config(folder: Path, port: int, pods: list[Manifest]) -> Path:
    """What METRICS are read from, and the documented jobs on these pods."""
    jobs = yaml.safe_load(documented.config().replace(documented.FILE, str(folder / "pods.json")))["scrape_configs"]
    own = {"job_name": "test", "honor_labels": True}
    jobs.append(own | {"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]})
    for job in jobs:
        job["scrape_interval"] = "5s"  # which is also how long a page may take on a busy machine
    (folder / "pods.json").write_text(json.dumps([each for pod in pods for each in discover.targets(pod)]))
    (folder / "config.yaml").write_text(json.dumps({"scrape_configs": jobs}))
    return folder / "config.yaml"


def pod(name: str, namespace: str, labels: dict[str, str], port: int, port_name: str) -> Manifest:
    ports = [{"name": port_name, "containerPort": port}, {"name": "other", "containerPort": 1}]
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"metadata": meta, "spec": {"containers": [{"ports": ports}]}, "status": {"podIP": "127.0.0.1"}}


def metered(port: int) -> Manifest:
    about = {LABEL_SERVICE: "other", LABEL_REVISION: "other-a", LABEL_METRICS: "metrics"}
    made = pod("other-a-1", "team", about, port, "metrics")
    made["spec"]["containers"][0]["ports"].append({"name": "http", "containerPort": port})
    return made


def pods(port: int) -> list[Manifest]:
    component = "app.kubernetes.io/component"
    return [
        pod("slipway-operator-1", "slipway-system", {component: "operator"}, port, "http"),
        pod("slipway-gateway-1", "slipway-system", {component: "gateway"}, port, "report"),
        pod("hello-b-1", "team", {LABEL_SERVICE: "hello", LABEL_REVISION: "hello-b"}, port, "http"),
        # It has a port for metrics alone: `http` is not asked, which would be counted twice here.
        metered(port),
        pod("somebody-elses", "team", {"app": "web"}, port, "http"),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One that has read METRICS, and TOLD of four pods."""
    folder = tmp_path_factory.mktemp("prometheus")
    async with aiohttp.ClientSession() as session:
        with exposing(METRICS) as target, exposing(TOLD) as site:
            file = config(folder, target, pods(site))
            address = f"127.0.0.1:{_free_port()}"
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603, ASYNC220
                    [
                        program(),
                        f"--config.file={file}",
                        f"--storage.tsdb.path={folder / 'data'}",
                        f"--web.listen-address={address}",
                    ],
                    stdout=log,
                    stderr=log,
                )
            running = Running(f"http://{address}", Prometheus(session, Place(f"http://{address}")), process)
            try:
                await _until_read(running, folder / "log")
                yield running
            finally:
                process.kill()
                process.wait()


async def _until_read(running: Running, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            found = await running.ask("count(requests_total) + on () count(slipway_gateway_requests_total)")
            if found.value == 8:
                return
        except Unreachable:
            assert running.process.poll() is None, _end(log)
        await asyncio.sleep(0.05)
    pytest.fail(f"it read nothing: {_end(log)}")


def _end(log: Path) -> str:
    return log.read_text()[-2000:]


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('sum(errors_total{revision="$candidate"}) / sum(requests_total{revision="$candidate"})', 0.1),
        ('scalar(errors_total{revision="$stable"})', 10.0),
        ("sum(requests_total)", 1050.0),
        ('sum by (service) (requests_total{namespace="$namespace",revision!="$stable"})', 50.0),
        ('histogram_quantile(0.9, sum by (le) (took_bucket{revision="$candidate"}))', 0.1),
        ('errors_total{revision="$candidate"} / on (namespace) group_left () odd', 5 / 3),
        ('errors_total{revision="$candidate"} > bool ignoring (revision) errors_total{revision="$stable"}', 0.0),
        ('-errors_total{revision="$candidate"} ^ 2 + 1e-3', -24.999),
        ("max_over_time(sum(errors_total)[1m:10s]) or vector(15)", 15.0),
        ('quantile without (revision) (0.5, requests_total{revision=~"hello-.$"})', 525.0),
        ('count_values("x", odd) unless odd{text="none"}', 1.0),
        ('odd{text="\\"}) or vector(1) # \\\\"}', 3.0),
        ('count({__name__=~"odd|took_.*"})', 4.0),
        ('max(label_replace(odd, "x", "$1", "text", "(.*)"))', 3.0),
        ("(time() - timestamp(odd)) * 0 + NaN * 0 == bool 1", 0.0),
    ],
)
async def test_it_takes_what_is_asked_and_gives_the_number(prometheus: Running, text: str, value: float) -> None:
    answer = await prometheus.answer(text)
    assert answer.value == pytest.approx(value), answer
    assert answer.age_s < 5


@pytest.mark.parametrize(
    ("text", "says", "failed"),
    [
        ('errors_total{revision="idle"} / requests_total{revision="idle"}', "NaN", False),
        (
            'errors_total{revision="$candidate"} / requests_total{revision="idle"} * on () group_left () odd',
            "no series",
            False,
        ),
        ('sum(errors_total{revision="$candidate"}) / sum(requests_total{revision="idle"})', "+Inf", False),
        ('errors_total{revision="gone"}', "no series", False),
        ("requests_total", "3 series", True),
        ("requests_total + on (namespace) errors_total", "duplicate series", True),
    ],
)
async def test_what_is_no_number_has_the_words_that_the_judge_tells(
    prometheus: Running, text: str, says: str, failed: bool
) -> None:
    answer = await prometheus.answer(text)
    assert answer.value is None
    assert answer.failed is failed
    assert says in answer.words


async def test_a_query_that_it_does_not_understand_is_refused_in_its_words(prometheus: Running) -> None:
    answer = await prometheus.ask("sum(")
    assert "cannot answer: invalid parameter" in answer.words
    elsewhere = Prometheus(prometheus.ask._session, Place(prometheus.url + "/elsewhere"))
    assert "is not Prometheus (code 404)" in (await elsewhere("up")).words


async def test_the_jobs_of_the_documentation_are_a_valid_configuration(tmp_path: Path) -> None:
    """But for the discovery by Kubernetes, which Debian's program is built without."""
    assert _complaint(documented.config(), tmp_path / "config.yaml") == ""


def _complaint(text: str, path: Path) -> str:
    path.write_text(text)
    command = [str(program().with_name("promtool")), "check", "config", "--syntax-only", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("query", "value"),
    [
        pytest.param(
            'slipway_gateway_requests_total{namespace="team",service="hello",pod=~"slipway-gateway-1"}',
            5,
            id="of a gateway",
        ),
        pytest.param(
            'nv_inference_count{namespace="team",service="hello",revision="hello-b",pod="hello-b-1"}',
            7,
            id="of a model",
        ),
        pytest.param(
            'nv_inference_count{namespace="team",service="other",revision="other-a",pod="other-a-1"}',
            7,
            id="of a model with a port for metrics",
        ),
    ],
)
async def test_the_documented_jobs_name_what_releases_go_by(prometheus: Running, query: str, value: float) -> None:
    assert (await prometheus.ask(query)).value == value


async def test_by_the_documented_jobs_no_model_speaks_for_another_namespace(prometheus: Running) -> None:
    lie = 'nv_inference_count{exported_namespace="stolen",exported_revision="stolen"}'
    assert (await prometheus.ask(f"count({lie})")).value == 2
    assert (await prometheus.ask('count(nv_inference_count{namespace="stolen",job="slipway-models"})')).value is None
    assert (await prometheus.ask('count(up{job=~"slipway.*"})')).value == 4, "a pod of somebody else's is read"


async def test_one_that_ended_cannot_be_reached(prometheus: Running) -> None:
    """The last test of this file. A connection that was kept only breaks off; then there is nobody."""
    prometheus.process.kill()
    prometheus.process.wait()
    assert "breaks off" in (await prometheus.ask("up")).words
    with pytest.raises(Unreachable):
        await prometheus.ask("up")
