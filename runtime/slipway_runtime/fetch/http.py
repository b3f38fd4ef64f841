"""HTTP over connections of the dialer, kept open per thread: plain requests, and ranges of files into a buffer.

Redirects are judged one by one; credentials go to the host that they are for, and to no other.
"""

import json
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.answers import Answer, BrokenAnswer
from slipway_runtime.fetch.dial import Dialer
from slipway_runtime.fetch.failures import FetchError, Transient, Why
from slipway_runtime.fetch.uri import host_port

AGENT = "slipway-fetch"
_TARGET = re.compile(r"/[!-~]*")
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
    """Connections of one thread, one answer at a time."""

    def __init__(self, dialer: Dialer, tls: ssl.SSLContext) -> None:
        self._dialer, self._tls = dialer, tls
        self._open: dict[tuple[str, str, int], socket.socket] = {}

    def get(self, request: Request, more: Mapping[str, str] | None = None) -> tuple[Answer, Request]:
        """The answer, whatever its status but a redirect, with its body unread; and the request that it is to.

        Raises:
            FetchError: the policy forbids it.  Transient: no answer.
        """
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._send(request, more or {})
            if answer.status not in (301, 302, 303, 307, 308):
                return answer, request
            request = self._moved(request, answer.headers.get("location", ""))
            self.drop(answer)
        raise FetchError(Why.REFUSED, f"{_site(request.url)} answers with one redirect after another")

    def drop(self, answer: Answer) -> None:
        """Be done with an answer; its connection is kept where little is left of it."""
        try:
            if answer.length is not None and answer.length <= 1 << 16:
                answer.read(1 << 16)
        except (OSError, BrokenAnswer):
            self.close()
        if not answer.leaves_connection:
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

    def _send(self, request: Request, more: Mapping[str, str]) -> Answer:
        key, head = _written(request, more)
        for is_last in (False, True):
            known = self._open.get(key)
            try:
                connected = known or self._connect(*key)
                connected.sendall(head)
                answer = Answer(connected)
            except (OSError, BrokenAnswer) as error:
                self._forget(key)
                # A kept connection may have been closed meanwhile, which says nothing about the store.
                if known is None or is_last:
                    raise Transient(f"host '{key[1]}' does not answer: {describe(error)}") from error
                continue
            return answer
        raise AssertionError

    def _connect(self, scheme: str, host: str, port: int) -> socket.socket:
        connected = self._dialer.connect(host, port, tls=scheme == "https")
        if scheme == "https":
            plain = connected
            try:
                connected = self._tls.wrap_socket(plain, server_hostname=host)
            except ssl.SSLCertVerificationError as error:
                plain.close()
                words = f"host '{host}' has no certificate to trust: {error.verify_message}"
                raise FetchError(Why.STORE, words) from error
            except OSError as error:
                plain.close()
                raise Transient(f"host '{host}' does not answer: {describe(error)}") from error
        self._open[scheme, host, port] = connected
        return connected

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
            body = answer.read(limit)
        except (OSError, BrokenAnswer) as error:
            self.close()
            raise Transient(f"{_site(request.url)} broke off: {describe(error)}") from error
        finally:
            self.drop(answer)
        if len(body) > limit:
            raise FetchError(Why.LIMIT, f"{_site(request.url)} answers with more than anything needs")
        return answer.status, answer.headers, body

    def json(self, request: Request) -> Any:
        """Raises FetchError for every status but 200."""
        status, _, body = self.fetch(request)
        check(status, request.url)
        try:
            return json.loads(body)
        except ValueError as error:
            raise FetchError(Why.STORE, f"{_site(request.url)} answers with something that is not JSON") from error


def _written(request: Request, more: Mapping[str, str]) -> tuple[tuple[str, str, int], bytes]:
    """Where a request goes, and its bytes."""
    parts = urlsplit(request.url)
    host, port = _authority(parts.scheme, parts.netloc)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        target = quote(target, safe="/%?=&!$'()*+,;:@~")
    shown = f"[{host}]" if ":" in host else host
    usual = 443 if parts.scheme == "https" else 80
    headers = {
        "Host": shown if port == usual else f"{shown}:{port}",
        "User-Agent": AGENT,
        "Accept-Encoding": "identity",
    }
    headers |= {**request.headers, **request.secret, **more}
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise FetchError(Why.DENIED, "the credentials have a line break in them")
    return (parts.scheme, host, port), "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def check_up(answer: Answer, url: str) -> None:
    """Raises Transient when the store has failed or asks to wait."""
    if answer.status in (408, 425, 429) or answer.status >= 500:
        after_s = _seconds(answer.headers.get("retry-after"))
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
    return _authority(parts.scheme, parts.netloc)


@lru_cache(maxsize=64)
def _authority(scheme: str, netloc: str) -> tuple[str, int]:
    return host_port(f"{scheme}://{netloc}", netloc, 443 if scheme == "https" else 80)


def describe(error: BaseException) -> str:
    """A few words of a foreign error; never the request, which may carry what is secret."""
    if isinstance(error, TimeoutError):
        return "it is silent"
    if isinstance(error, BrokenAnswer):
        return str(error)
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
