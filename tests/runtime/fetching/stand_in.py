"""A store on loopback that speaks as much of S3, GCS, Azure, a hub and a registry as is asked, and fails on demand."""

import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Asked:
    method: str
    path: str
    """Decoded, without the query."""
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Of one answer with a file: what goes wrong, the first `times` times that `when` holds."""

    status: int = 0
    cut_after: int = -1
    stall_after: int = -1
    bytes_per_second: int = 0
    before: Callable[[], None] = lambda: None
    headers: dict[str, str] = field(default_factory=dict)
    when: Callable[[Asked], bool] = lambda asked: True
    times: int = 1


class Store:
    """`files` by path; `routes` are asked before them. `asked` is what came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.routes: list[Callable[[Asked], Answer | None]] = []
        self.asked: list[Asked] = []
        self.ranges = True
        self.told = True
        """Whether the length of a file is told."""
        self.headers: dict[str, str] = {}
        self.validators = True
        """Whether it tells versions apart by an ETag."""
        self.modified = "Mon, 01 Jan 2024 00:00:00 GMT"
        self.port = 0
        self.scheme = "http"
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def etag(self, path: str) -> str:
        return self.etags.get(path) or f'"{hashlib.md5(self.files[path], usedforsecurity=False).hexdigest()}"'

    def fault(self, asked: Asked) -> Fault | None:
        with self.lock:
            for each in self.faults:
                if each.times and each.when(asked):
                    each.times -= 1
                    return each
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, unquote(parts.path), query, headers)
        self.store.asked.append(asked)
        for route in self.store.routes:
            if (answer := route(asked)) is not None:
                return self._answer(answer)
        if asked.path not in self.store.files:
            return self._answer(Answer(404, b"<Error><Code>NoSuchKey</Code></Error>"))
        return self._file(asked)

    do_HEAD = do_GET
    do_POST = do_GET
    do_PUT = do_GET

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _file(self, asked: Asked) -> None:
        fault = self.store.fault(asked) or Fault()
        if fault.status:
            return self._answer(Answer(fault.status, b"<Error/>", fault.headers))
        data, etag = self.store.files[asked.path], self.store.etag(asked.path)
        wanted = asked.headers.get("if-match")
        if wanted and wanted.strip('"') != etag.strip('"'):
            return self._answer(Answer(412))
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", "")) if self.store.ranges else None
        start, end = 0, len(data)
        if found:
            start, end = int(found[1]), min(int(found[2] or end) + 1, end)
            if start >= len(data):
                return self._answer(Answer(416))
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        told = {"ETag": etag if self.store.validators else "", "Last-Modified": self.store.modified}
        for name, value in (told | self.store.headers).items():
            self.send_header(name, value)
        if self.store.told:
            self.send_header("Content-Length", str(end - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._send(data[start:end], fault)
        return None

    def _send(self, data: bytes, fault: Fault) -> None:
        fault.before()
        if fault.bytes_per_second:
            for at in range(0, len(data), step := max(1, fault.bytes_per_second // 10)):
                self.wfile.write(data[at : at + step])
                time.sleep(0.1)
            return
        kept = [at for at in (fault.cut_after, fault.stall_after) if at >= 0]
        self.wfile.write(data[: min(kept)] if kept else data)
        if fault.stall_after >= 0:
            time.sleep(8)
        if kept:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def serving(
    store: Store, certificate: tuple[Path, Path] | None = None, at: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[Store]:
    server = _Server(at, type("Handler", (_Handler,), {"store": store}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # The handshake is the connection's own thread's: one that fails is no end of the listener.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        store.scheme = "https"
    store.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
