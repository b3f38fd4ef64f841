"""HTTP over connections of the dialer, kept open per thread: plain requests, and ranges of files into a buffer.

Redirects are judged one by one; credentials go to the host that they are for, and to no other.
"""

import http.client
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.dial import Dialer
from slipway_runtime.fetch.failures import FetchError, Transient, Why
from slipway_runtime.fetch.uri import host_port

AGENT = "slipway-fetch"
REDIRECTS_MAX = 5
ANSWER_MAX = 64 << 20
"""Of an answer that is kept in memory."""
PATIENCE_S = 8.0
"""Tries without progress: the reason must be in status fifteen seconds after the fault."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET. `secret` headers go to the URL's own host only."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: Mapping[str, str] = field(default_factory=dict)


class Session:
    """Connections of one thread."""

    def __init__(self, dialer: Dialer, tls: ssl.SSLContext) -> None:
        self._dialer, self._tls = dialer, tls
        self._open: dict[tuple[str, str, int], http.client.HTTPConnection] = {}

    def get(self, request: Request, more: Mapping[str, str] | None = None) -> tuple[http.client.HTTPResponse, Request]:
        """The answer, whatever its status but a redirect, with its body unread; and the request that it is to.

        Raises:
            FetchError: the policy forbids it.  Transient: no answer.
        """
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._send(request, more or {})
            if answer.status not in (301, 302, 303, 307, 308):
                return answer, request
            request = self._moved(request, answer.getheader("Location") or "")
            self.drop(answer)
        raise FetchError(Why.REFUSED, f"{_site(request.url)} answers with one redirect after another")

    def drop(self, answer: http.client.HTTPResponse) -> None:
        """Be done with an answer; its connection is kept where little is left of it."""
        if answer.length is not None and answer.length <= 1 << 16:
            try:
                answer.read()
            except (OSError, http.client.HTTPException):
                self.leave(answer)
        elif not answer.isclosed():
            self.leave(answer)

    def leave(self, answer: http.client.HTTPResponse) -> None:
        """Close an answer in its middle, and with it all connections."""
        answer.close()  # one that ends with its connection is not known to it any more
        self.close()

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def _moved(self, request: Request, location: str) -> Request:
        target = urljoin(request.url, location)
        here, there = urlsplit(request.url), urlsplit(target)
        if there.scheme not in ("http", "https") or (here.scheme, there.scheme) == ("https", "http"):
            raise FetchError(Why.REFUSED, f"{_site(request.url)} sends the download away from https")
        host, port = authority(target)
        if rules.allow_redirect(self._dialer.policy, *authority(request.url), host, port):
            return Request(target, request.headers)
        return replace(request, url=target)

    def _send(self, request: Request, more: Mapping[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(request.url)
        host, port = authority(request.url)
        key = (parts.scheme, host, port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not re.fullmatch(r"/[!-~]*", target):
            target = quote(target, safe="/%?=&!$'()*+,;:@~")
        headers = {"User-Agent": AGENT, **request.headers, **request.secret, **more}
        for is_last in (False, True):
            fresh = key not in self._open
            connection = self._open.get(key) or self._connect(*key)
            try:
                connection.request("GET", target, headers=headers)
                return connection.getresponse()
            except ssl.SSLCertVerificationError as error:
                self._forget(key)
                raise FetchError(
                    Why.STORE, f"host '{host}' has no certificate to trust: {error.verify_message}"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self._forget(key)
                # A kept connection may have been closed meanwhile, which says nothing about the store.
                if fresh or is_last:
                    raise Transient(f"host '{host}' does not answer: {describe(error)}") from error
        raise AssertionError

    def _connect(self, scheme: str, host: str, port: int) -> http.client.HTTPConnection:
        connected = self._dialer.connect(host, port, tls=scheme == "https")
        shown = f"[{host}]" if ":" in host else host
        connection = http.client.HTTPConnection(shown, port)
        if scheme == "https":
            try:
                connected = self._tls.wrap_socket(connected, server_hostname=host)
            except ssl.SSLCertVerificationError as error:
                connected.close()
                raise FetchError(
                    Why.STORE, f"host '{host}' has no certificate to trust: {error.verify_message}"
                ) from error
            except OSError as error:
                connected.close()
                raise Transient(f"host '{host}' does not answer: {describe(error)}") from error
            connection.default_port = 443  # so that Host is without the usual port
        connection.sock = connected
        self._open[scheme, host, port] = connection
        return connection

    def _forget(self, key: tuple[str, str, int]) -> None:
        if (connection := self._open.pop(key, None)) is not None:
            connection.close()

    def fetch(self, request: Request, limit: int = ANSWER_MAX) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of a small answer; tried again while the store has only just failed."""
        return patiently(lambda: self._fetch(request, limit))

    def _fetch(self, request: Request, limit: int) -> tuple[int, Mapping[str, str], bytes]:
        answer, _ = self.get(request)
        try:
            check_up(answer, request.url)
            body = answer.read(limit + 1)
        except Transient:
            self.leave(answer)
            raise
        except (OSError, http.client.HTTPException) as error:
            self.leave(answer)
            raise Transient(f"{_site(request.url)} broke off: {describe(error)}") from error
        if len(body) > limit:
            self.leave(answer)
            raise FetchError(Why.LIMIT, f"{_site(request.url)} answers with more than anything needs")
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def json(self, request: Request) -> Any:
        """Raises FetchError for every status but 200."""
        status, _, body = self.fetch(request)
        check(status, request.url)
        try:
            return json.loads(body)
        except ValueError as error:
            raise FetchError(Why.STORE, f"{_site(request.url)} answers with something that is not JSON") from error


def check_up(answer: http.client.HTTPResponse, url: str) -> None:
    """Raises Transient when the store has failed or asks to wait."""
    if answer.status in (408, 425, 429) or answer.status >= 500:
        after_s = _seconds(answer.getheader("Retry-After"))
        raise Transient(f"{_site(url)} answers {answer.status} {answer.reason}", after_s)


def check(status: int, url: str) -> None:
    """Raises FetchError for a status that is no answer to a GET."""
    if status in (401, 403, 407):
        raise FetchError(Why.DENIED, f"{_site(url)} denies access ({status}): check the credentials and their rights")
    if status in (404, 410):
        raise FetchError(Why.MISSING, f"{_site(url)} has nothing there ({status}): check the path in storageUri")
    if status not in (200, 206):
        raise FetchError(Why.STORE, f"{_site(url)} answers {status}")


_T = TypeVar("_T")


def patiently(work: Callable[[], _T]) -> _T:
    """Do it again while it fails for a moment, for `PATIENCE_S` at most."""
    patience = Patience()
    while True:
        try:
            return work()
        except Transient as error:
            patience.wait(error)


class Patience:
    """Pauses between tries: each up to twice the last, at random, so that many pods do not come back together."""

    def __init__(self) -> None:
        self._tries, self._since = 0, time.monotonic()

    def renew(self) -> None:
        """There was progress."""
        self._tries, self._since = 0, time.monotonic()

    def wait(self, error: Transient) -> None:
        """Raises the error when there is no more patience."""
        self._tries += 1
        pause_s = max(error.after_s, random.uniform(0.5, 1.0) * min(3.0, 0.1 * 2**self._tries))  # noqa: S311
        if time.monotonic() + pause_s - self._since > PATIENCE_S:
            raise error
        time.sleep(pause_s)


def authority(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return host_port(f"{parts.scheme}://{parts.netloc}", parts.netloc, 443 if parts.scheme == "https" else 80)


def describe(error: BaseException) -> str:
    """A few words of a foreign error; never the request, which may carry what is secret."""
    if isinstance(error, TimeoutError):
        return "it is silent"
    if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
        return "the connection was cut"
    return (getattr(error, "strerror", None) or type(error).__name__)[:100]


def _seconds(text: str | None) -> float:
    """Of a Retry-After."""
    if text is None:
        return 0.0
    if text.isdecimal():
        return float(text[:6])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _site(url: str) -> str:
    """What of a URL may be told: a signature is in its query."""
    parts = urlsplit(url)
    return f"'{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}'"
