"""A proxy before a real server that fails on demand: it cuts, slows, spoils, answers 500, and notes what was asked."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.runtime.fetching.stand_in import Asked, Fault

_PIECE = 1 << 16
_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding"})


@dataclass
class Spoilt(Fault):
    """The first byte of the body is another one."""


@dataclass(frozen=True, slots=True)
class Upstream:
    port: int
    host: str = ""
    """What it wants to be called; empty: what the client calls the proxy."""
    certificate: tuple[Path, Path] | None = None
    """Of both of them, where the server speaks TLS."""
    authority: Path | None = None


class Proxy:
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.failed_at: float | None = None
        """When the first fault began."""
        self.port = 0
        self.ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{'https' if self.upstream.certificate else 'http'}://127.0.0.1:{self.port}"

    def fault(self, asked: Asked) -> Fault:
        with self._lock:
            self.asked.append(asked)
            for each in self.faults:
                if each.times and each.when(asked):
                    each.times -= 1
                    self.failed_at = self.failed_at or time.monotonic()
                    return each
        return Fault()

    def connect(self) -> http.client.HTTPConnection:
        if self.upstream.authority is None:
            return http.client.HTTPConnection("127.0.0.1", self.upstream.port, timeout=30)
        context = ssl.create_default_context(cafile=str(self.upstream.authority))
        return http.client.HTTPSConnection("127.0.0.1", self.upstream.port, timeout=30, context=context)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.proxy.fault(Asked(self.command, unquote(parts.path), query, headers))
        fault.before()
        if fault.status:
            self.send_response_only(fault.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = self.proxy.connect()
        try:
            self._relay(upstream, fault)
        finally:
            upstream.close()

    do_HEAD = do_GET

    def _relay(self, upstream: http.client.HTTPConnection, fault: Fault) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP:
                upstream.putheader(name, self.proxy.upstream.host or value if name.lower() == "host" else value)
        upstream.endheaders()
        answer = upstream.getresponse()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if answer.getheader("content-length") is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self._send(answer, fault)

    def _send(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        kept = [at for at in (fault.cut_after, fault.stall_after) if at >= 0]
        left = min(kept) if kept else 1 << 62
        size = max(1, fault.bytes_per_second // 10) if fault.bytes_per_second else _PIECE
        spoils = isinstance(fault, Spoilt)
        while left and (data := answer.read(min(size, left))):
            if spoils:
                data, spoils = bytes([data[0] ^ 1]) + data[1:], False
            self.wfile.write(data)
            left -= len(data)
            if fault.bytes_per_second and self.proxy.ended.wait(0.1):
                break
        if fault.stall_after >= 0:
            self.proxy.ended.wait(60)
        if kept:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def before(upstream: Upstream) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    if upstream.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*upstream.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    proxy.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()


def part(start: int) -> Callable[[Asked], bool]:
    """Whether it is the part of a file that starts there."""
    return lambda asked: asked.headers.get("range", "").startswith(f"bytes={start}-")
