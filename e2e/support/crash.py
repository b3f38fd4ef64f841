"""An operator outside of the cluster that dies at every write: right after the API server took it, before it answers.

The state in which that leaves the cluster is the one of a death right before the next write, so that every point
between two writes is met. A proxy between operator and API server pulls the trigger; a supervisor starts the next one.
"""

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from e2e.cluster.paths import REPO
from e2e.support.installation import GATEWAY_SELECTOR, LEASE, NAMESPACE
from e2e.support.site import GATEWAY_SERVICE, RUNTIME_IMAGE, Site

QUIET = ("/leases", "/events")
"""Writes that are not about a service's state."""
LIVES_MAX = 200


class Crashing:
    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._log, self._kubeconfig = site, folder / "operator.log", folder / "kubeconfig"
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self.fatal: list[str] = []
        """The writes at which it died."""
        self.own_ends = 0
        """How often it ended by itself."""

    def kill(self, write: str) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self.fatal.append(write)

    def supervise(self, port: int) -> None:
        """Keep one running, until told to stop."""
        self._kubeconfig.write_text(_kubeconfig(port))
        while not self._stop.is_set() and len(self.fatal) + self.own_ends < LIVES_MAX:
            self.let_go()
            with self._log.open("ab") as log:
                argv = [sys.executable, "-W", "ignore", "-m", "slipway.main"]
                self._process = subprocess.Popen(argv, env=self._environment(), cwd=REPO, stdout=log, stderr=log)
            code = self._process.wait()
            self.own_ends += code != -signal.SIGKILL and not self._stop.is_set()

    def let_go(self) -> None:
        """The dead cannot lead; waiting for their Lease to expire would only take time."""
        self._site.api.merge("leases", NAMESPACE, LEASE, {"spec": None})

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": "operator:runtime",
            "KUBECONFIG": str(self._kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "SLIPWAY_FETCHER_IMAGE": RUNTIME_IMAGE,
            "SLIPWAY_HTTP_PORT": "0",
            "SLIPWAY_GATEWAY_SERVICE": GATEWAY_SERVICE,
            "SLIPWAY_GATEWAY_SELECTOR": GATEWAY_SELECTOR,
            "SLIPWAY_LOG_FORMAT": "text",
        }

    def stop(self) -> None:
        self._stop.set()
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, operator: Crashing, upstream: int, every: int) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.operator, self.upstream = operator, upstream
        self._every, self._writes = every, itertools.count(1)
        self.open: set[socket.socket] = set()

    def takes_a_life(self) -> bool:
        """Of every so many writes, the last."""
        return next(self._writes) % self._every == 0


class Relay(BaseHTTPRequestHandler):
    """One request to the API server and its answer back, unless it is the operator's last."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=900)
        connection.connect()
        upstream = connection.sock
        self.server.open.add(upstream)
        self.close_connection = True
        try:
            connection.request(self.command, self.path, body or None, headers)
            with connection.getresponse() as answer:
                if self.is_fatal(answer.status):
                    answer.read()
                    self.server.operator.kill(f"{self.command} {self.path}")
                else:
                    self.pass_on(answer)
        except (OSError, http.client.HTTPException, ValueError):
            pass  # the operator died meanwhile
        finally:
            self.server.open.discard(upstream)
            upstream.close()
            connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = relay

    def is_fatal(self, status: int) -> bool:
        is_write = self.command != "GET" and status < 300 and not any(quiet in self.path for quiet in QUIET)
        return is_write and self.server.takes_a_life()

    def pass_on(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Connection", "close")
        self.end_headers()
        while piece := answer.read1(1 << 16):
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""


@contextmanager
def crashing_operator(site: Site, every: int = 1) -> Iterator[Crashing]:
    """`every`: it dies at every so-manieth write only."""
    with tempfile.TemporaryDirectory() as folder, _served(site, Path(folder), every) as (operator, proxy):
        supervisor = threading.Thread(target=operator.supervise, args=(proxy.server_port,), daemon=True)
        supervisor.start()
        try:
            yield operator
        except BaseException:
            print(*operator.fatal, operator.log()[-5000:], sep="\n")
            raise
        finally:
            operator.stop()
            supervisor.join(10)
            operator.let_go()


@contextmanager
def _served(site: Site, folder: Path, every: int) -> Iterator[tuple[Crashing, Proxy]]:
    operator = Crashing(site, folder)
    with Proxy(operator, site.api.port, every) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield operator, proxy
        finally:
            proxy.shutdown()
            for upstream in list(proxy.open):  # watches, which would wait for the next event
                with suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _kubeconfig(port: int) -> str:
    cluster = {"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "it", "context": {"cluster": "it", "user": "it"}}
    user = {"name": "it", "user": {}}
    about = {"apiVersion": "v1", "kind": "Config", "current-context": "it"}
    return json.dumps(about | {"clusters": [cluster], "contexts": [context], "users": [user]})
