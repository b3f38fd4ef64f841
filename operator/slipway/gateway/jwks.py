"""Issuers' public keys from where they publish them, fetched here because what a user's `jwksUri` names is not to be
trusted: https only, no redirects, a bounded answer, and no address of this machine, this network or this cluster unless
the installation allows it. The last good answer is kept.

Namespaces do not wait for each other: each has a bounded number of addresses, of which few are asked at a time, and a
name that no name server answers keeps its place among these until it is given up.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from slipway.gateway.keyset import SIZE_MAX, Unfit, compact

log = logging.getLogger(__name__)

REFRESH_S = 300.0
_RETRY_S = (2.0, 60.0)
_TIMEOUT_S = 10.0
PER_NAMESPACE = 16
"""Addresses that are asked; the rest of a namespace's are not, by their order."""
_AT_ONCE = 2
"""Of one namespace."""
_THREADS = 64
"""For looking up names, which blocks: a pool of its own, so that nothing else of this process waits for it. They begin
when they are needed; of a namespace there are never more than are asked at once."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
"""Where in it the IPv4 address stands is each network's own choice, and older Pythons call it global."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Found = Sequence[tuple[Any, ...]]
Look = Callable[..., _Found]
"""As socket.getaddrinfo, which may block for as long as name servers are silent."""


def unwrapped(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for: mapped, behind NAT64, or 6to4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


class Policy(AbstractResolver):
    """Names to addresses, without those that a user has no business at."""

    def __init__(self, *, allows_private: bool, look: Look = socket.getaddrinfo) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="names")
        self._allows_private, self._look = allows_private, look
        self._looking: dict[str, Future[_Found]] = {}
        """Host -> its lookup, for as long as a thread has it, whoever still waits for it."""

    def check(self, host: str, address: str) -> None:
        """Raises Unfit. Loopback and link-local (a cloud's metadata) are never allowed."""
        found = unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        never = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
        never = never or (found.version == 6 and found in _NAT64_LOCAL)
        if never or (not found.is_global and not self._allows_private):
            raise Unfit(f"{host} is {address}, an address that keys may not be fetched from")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.shield(asyncio.wrap_future(self._lookup(host, port, family)))
        addresses = [str(place[0]) for *_, place in found]
        for address in addresses:
            self.check(host, address)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=each[0], proto=each[2], flags=flags)
            for address, each in zip(addresses, found, strict=True)
        ]

    def when_looked_up(self, host: str, then: Callable[[], None]) -> None:
        """Call when no thread looks this name up any more: at once, or from the loop."""
        if (future := self._looking.get(host)) is None:
            then()
            return
        loop = asyncio.get_running_loop()

        def later(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(then)

        future.add_done_callback(later)

    def _lookup(self, host: str, port: int, family: socket.AddressFamily) -> "Future[_Found]":
        if (running := self._looking.get(host)) is not None and not running.done():
            return running
        look = functools.partial(
            self._look, host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        future = self._looking[host] = self._pool.submit(look)
        self.when_looked_up(host, lambda: self._forget(host, future))
        return future

    def _forget(self, host: str, future: "Future[_Found]") -> None:
        if self._looking.get(host) is future:
            del self._looking[host]

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Fetcher:
    """Keeps the key sets of the wanted addresses fresh. `found` hears of every one that came."""

    def __init__(
        self,
        found: Callable[[str, str], None],
        *,
        allows_private: bool = False,
        tls: ssl.SSLContext | None = None,
        refresh_s: float = REFRESH_S,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._found, self._tls, self._refresh_s, self._timeout_s = found, tls, refresh_s, timeout_s
        self._policy = Policy(allows_private=allows_private)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, asyncio.Event] = {}
        """Wanted address -> asked once, whatever came."""
        self._slots: dict[str, asyncio.Semaphore] = {}

    def want(self, uris: Mapping[str, Iterable[str]]) -> None:
        """From now on exactly these: namespace -> addresses. One that several namespaces want is asked once."""
        wanted: dict[str, str] = {}
        for namespace, all_ in sorted(uris.items()):
            for uri in sorted(set(all_))[:PER_NAMESPACE]:
                wanted.setdefault(uri, namespace)
        for uri in self._tasks.keys() - wanted.keys():
            self._tasks.pop(uri).cancel()
            self._tried.pop(uri).set()  # who waits for it waits for nothing
        self._slots = {n: slots for n, slots in self._slots.items() if n in uris}
        for uri, namespace in wanted.items():
            if (task := self._tasks.get(uri)) is None or task.done():  # one that died of an answer is begun anew
                slots = self._slots.setdefault(namespace, asyncio.Semaphore(_AT_ONCE))
                self._tried.setdefault(uri, asyncio.Event())
                self._tasks[uri] = asyncio.create_task(self._follow(uri, slots), name=f"keys of {uri}")

    async def tried(self) -> None:
        """All that are wanted now were asked once."""
        await asyncio.gather(*(event.wait() for event in self._tried.values()))

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        self.want({})
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._policy.close()

    async def _follow(self, uri: str, slots: asyncio.Semaphore) -> None:
        retry_s = _RETRY_S[0]
        while True:
            try:
                self._found(uri, await self._fetch_in_turn(uri, slots))
                retry_s, wait_s = _RETRY_S[0], self._refresh_s
            except (Unfit, aiohttp.ClientError, OSError, ValueError) as error:
                log.warning(
                    "keys of %s cannot be had, again in %.0f s: %s", uri, retry_s, error or type(error).__name__
                )
                wait_s, retry_s = retry_s, min(retry_s * 2, _RETRY_S[1])
            finally:
                self._tell(uri)
            await asyncio.sleep(wait_s * random.uniform(0.9, 1.1))  # noqa: S311 (spreads requests)

    async def _fetch_in_turn(self, uri: str, slots: asyncio.Semaphore) -> str:
        """The place is free again when no thread of it is busy: a name may take longer than we wait for an answer."""
        host = URL(uri).raw_host or ""
        await slots.acquire()
        try:
            return await self.fetch(uri)
        finally:
            self._policy.when_looked_up(host, slots.release)

    def _tell(self, uri: str) -> None:
        if event := self._tried.get(uri):
            event.set()

    async def fetch(self, uri: str) -> str:
        """The key set as compact JSON.

        Raises:
            Unfit, aiohttp.ClientError, OSError: it cannot be had; the message says why.
        """
        url = URL(uri)
        if url.scheme != "https" or not url.host:
            raise Unfit(f"{uri} is not https")
        with contextlib.suppress(ValueError):  # a name, which the resolver checks
            self._policy.check(url.host, url.host)
        connector = aiohttp.TCPConnector(resolver=self._policy, ssl=self._tls or True, use_dns_cache=False)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                aiohttp.ClientSession(connector=connector, trust_env=False) as session,
                session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
            ):
                if response.status != 200:
                    raise Unfit(f"HTTP {response.status}")
                body = await response.content.read(SIZE_MAX + 1)
                while len(body) <= SIZE_MAX and (more := await response.content.read(SIZE_MAX)):
                    body += more
        except TimeoutError as error:
            raise Unfit(f"no answer within {self._timeout_s:g} s") from error
        return compact(body)
