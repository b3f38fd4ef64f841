"""Connections that go where the policy has looked: a name is resolved once, and what was judged is connected to.

So a name that answers differently the next time (DNS rebinding) leads nowhere new. Behind a proxy it is the proxy that
resolves; then names are judged, and addresses that are written out.
"""

import base64
import ipaddress
import socket
import threading
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from slipway_runtime.errors import BadConfig
from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.failures import FetchError, Transient, Why
from slipway_runtime.fetch.settings import Policy

CONNECT_S = 4.0
STALL_S = 5.0
"""A connection that brings nothing for so long is given up."""


@dataclass(frozen=True, slots=True)
class Proxy:
    host: str
    port: int
    authorization: str
    """Value of the header; empty: none."""


def proxy(url: str) -> Proxy | None:
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BadConfig("the proxy must be http://HOST:PORT")
    known = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    header = "Basic " + base64.b64encode(known.encode()).decode() if known else ""
    return Proxy(parts.hostname, parts.port or 3128, header)


class Dialer:
    """Opens connections. Threads share it."""

    def __init__(self, policy: Policy, by: Proxy | None = None) -> None:
        self.policy, self._proxy = policy, by
        self._known: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def connect(self, host: str, port: int, *, tls: bool) -> socket.socket:
        """A connected socket.

        Raises:
            FetchError: the policy forbids it.  Transient: it cannot be reached now.
        """
        rules.allow_host(self.policy, host, port, tls=tls)
        if self._proxy is not None and not rules.matches(self.policy.inside_hosts, host, port):
            return self._through(self._proxy, host, port)
        return self._open(self._resolve(host, port), host, port)

    def metadata(self, host: str) -> socket.socket:
        """A connection to a cloud's metadata service, for credentials."""
        if not self.policy.cloud_credentials:
            raise FetchError(Why.REFUSED, "an administrator has not allowed to ask the cloud for credentials")
        if rules.literal(host) not in rules.METADATA:
            raise FetchError(Why.REFUSED, f"'{host}' is no metadata service that is known")
        return self._open([host], host, 80)

    def _resolve(self, host: str, port: int) -> list[str]:
        with self._lock:
            if host not in self._known:
                found = _look_up(host)
                for address in found:
                    rules.allow_address(self.policy, host, port, ipaddress.ip_address(address))
                self._known[host] = found
            return self._known[host]

    def _open(self, addresses: list[str], host: str, port: int) -> socket.socket:
        words = "no address"
        for address in addresses:
            try:
                connected = socket.create_connection((address, port), CONNECT_S)
            except OSError as error:
                words = error.strerror or str(error) or type(error).__name__
                continue
            connected.settimeout(STALL_S)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        raise Transient(f"host '{host}' cannot be reached on port {port}: {words}")

    def _through(self, by: Proxy, host: str, port: int) -> socket.socket:
        try:
            addresses = _look_up(by.host)
        except Transient as error:
            raise Transient(f"the proxy: {error}") from error
        connected = self._open(addresses, by.host, by.port)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        header = f"Proxy-Authorization: {by.authorization}\r\n" if by.authorization else ""
        try:
            connected.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{header}\r\n".encode())
            answer = _head(connected)
        except OSError as error:
            connected.close()
            raise Transient(f"the proxy does not answer: {error}") from error
        status = answer.split(b" ", 2)[1:2]
        if status != [b"200"]:
            connected.close()
            words = answer.split(b"\r\n", 1)[0].decode("latin-1")[:100]
            raise Transient(f"the proxy does not lead to '{host}': {words}")
        return connected


def _head(connected: socket.socket) -> bytes:
    """Up to the blank line and not a byte further: what follows is the server's."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        byte = connected.recv(1)
        if not byte or len(found) > 1 << 14:
            raise OSError("its answer is no HTTP")
        found += byte
    return found


def _look_up(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise Transient(f"host '{host}' is not known: {words}") from error
    return list(dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found))
