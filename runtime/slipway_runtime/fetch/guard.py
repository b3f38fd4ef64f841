"""A proxy on loopback for libraries that open connections themselves: all of theirs go through the dialer.

It knows the hosts that a library has business with; whatever a store redirects to is no other. Requests are few and
small (lists, credentials): the files themselves take no such detour.
"""

import base64
import secrets
import socket
import threading
from urllib.parse import urlsplit

from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.dial import Dialer
from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.uri import host_port

_HEAD_MAX = 1 << 16
_IDLE_S = 30.0
_METADATA_NAMES = {"metadata": "169.254.169.254", "metadata.google.internal": "169.254.169.254"}


class Guard:
    """Runs until closed. `refused` has the first reason for which a connection was not made."""

    def __init__(self, dialer: Dialer, hosts: tuple[str, ...]) -> None:
        self._dialer, self._hosts = dialer, hosts
        self.refused: FetchError | None = None
        # Other processes of the pod's network are no business of ours.
        user, password = "slipway", secrets.token_hex(16)
        self._key = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://{user}:{password}@127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        # Closing alone does not wake a thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            client.settimeout(_IDLE_S)
            try:
                self._lead(client)
            except FetchError as error:
                if self.refused is None or error.why is Why.REFUSED:
                    self.refused = error
                _refuse(client, b"403 Forbidden" if error.why is Why.REFUSED else b"502 Bad Gateway")
            except (OSError, ValueError):
                return  # either side went: the other one sees it

    def _lead(self, client: socket.socket) -> None:
        head, rest = _read_head(client)
        line, *headers = head.split(b"\r\n")
        method, target, _ = line.split(b" ")
        given = [
            value.strip()
            for name, _, value in (h.partition(b":") for h in headers)
            if name.lower() == b"proxy-authorization"
        ]
        if not given or not secrets.compare_digest(given[0], self._key):
            return _refuse(client, b"407 Proxy Authentication Required")
        if method == b"CONNECT":
            host, port = host_port(f"https://{target.decode()}", target.decode(), 443)
            with self._dial(host, port, tls=True) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                server.sendall(rest)
                _relay(client, server)
            return None
        parts = urlsplit(target.decode())
        host, port = host_port(target.decode(), parts.netloc, 80)
        if parts.scheme != "http":
            raise FetchError(Why.REFUSED, f"host '{host}' is asked by a protocol that is not HTTP")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        kept = [
            h
            for h in headers
            if h.partition(b":")[0].lower() not in (b"proxy-authorization", b"connection", b"proxy-connection")
        ]
        with self._dial(host, port, tls=False) as server:
            # One request each: what would come after it on the connection might be for another host.
            lines = [method + b" " + path.encode() + b" HTTP/1.1", *kept, b"Connection: close"]
            server.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + rest)
            _relay(client, server)
        return None

    def _dial(self, host: str, port: int, *, tls: bool) -> socket.socket:
        address = _METADATA_NAMES.get(host, host)
        if self._dialer.policy.cloud_credentials and rules.literal(address) in rules.METADATA:
            return self._dialer.metadata(address)
        if not rules.matches(self._hosts, host, port):
            raise FetchError(Why.REFUSED, f"the store sends its requests to another host, '{host}'")
        return self._dialer.connect(host, port, tls=tls)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    found = b""
    while b"\r\n\r\n" not in found:
        data = client.recv(1 << 14)
        if not data or len(found) > _HEAD_MAX:
            raise OSError("no request")
        found += data
    head, _, rest = found.partition(b"\r\n\r\n")
    return head, rest


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Both ways, until both are done."""
    server.settimeout(_IDLE_S)
    back = threading.Thread(target=_pump, args=(server, client), daemon=True)
    back.start()
    _pump(client, server)
    back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # Its silence or its end is the end of both directions.
        for each in (source, target):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _refuse(client: socket.socket, status: bytes) -> None:
    client.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
