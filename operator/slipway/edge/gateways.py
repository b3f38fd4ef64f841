"""The gateway pods: which there are, asked once a second, and moved out of the gateway Service while they are silent.

Watches only say that something moved; the few objects are then listed again. A pod belongs to the gateways when the
installation's selector chooses it or the gateway Service leads to it.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import aiohttp

from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_SERVING, MANAGER
from slipway.control.cache import version_of
from slipway.kube.client import KubeClient
from slipway.kube.errors import Gone, KubeError
from slipway.kube.kinds import ENDPOINT_SLICE, POD, Kind
from slipway.signals.gateways import GatewayPod, Gateways
from slipway.signals.report import Report, ReportError, parse

log = logging.getLogger(__name__)

_ANSWER_S = 1.0
_REPORT_BYTES_MAX = 32 << 20
_LOOK_S = 30.0
"""Between looks that no news asked for."""
_QUICK_S, _QUICK_MAX = 0.1, 5
"""A gateway takes a new routing within some 50 ms: how soon it is asked again then, and how often in a row."""
_RETRY_S = (1.0, 3.0)
_PATIENCE = 5
"""Polls between two attempts to move a pod that could not be moved, or whose move no watch has told yet."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gateways are."""

    namespace: str
    service: str
    """The gateway Service."""
    selector: str
    """Of gateway pods, in the Service or not."""
    report_port: int = 8082


class Asker:
    """Asks gateways for their reports. The session belongs to the caller and carries no credentials."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session, self._port = session, port

    async def __call__(self, address: str, token: str) -> Report:
        host = f"[{address}]" if ":" in address else address
        query = {"since": token} if token else {}
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._session.get(
                    f"http://{host}:{self._port}/report", params=query, allow_redirects=False
                ) as response,
            ):
                body = await _bounded(response.content)
                if response.status != 200:
                    raise ReportError(f"{address} answers {response.status}")
        except TimeoutError as error:
            raise ReportError(f"{address} does not answer within {_ANSWER_S:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReportError(f"{address}: {error or type(error).__name__}") from error
        return parse(body)


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    parts, size = [], 0
    async for part in content.iter_any():
        size += len(part)
        if size > _REPORT_BYTES_MAX:
            raise ReportError(f"a report of more than {_REPORT_BYTES_MAX >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


class GatewayWatch:
    """Keeps `Gateways` up to date."""

    def __init__(
        self, kube: KubeClient, unfenced: KubeClient, place: Place, gateways: Gateways, *, period_s: float = 1.0
    ) -> None:
        self._kube, self._unfenced, self._place, self._gateways = kube, unfenced, place, gateways
        self._moved = asyncio.Event()
        self._period_s, self._rest = period_s, 0

    async def prime(self, patience_s: float = 10.0) -> None:
        """First look and first reports, so that nothing is decided blind; not for ever, should there be no rights."""
        try:
            async with asyncio.timeout(patience_s):
                await self._look_until_known()
        except TimeoutError:
            log.warning("gateways cannot be looked up; going on without knowing which there are")
            return
        await self._gateways.poll()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(POD, self._place.selector), name="watch gateway pods")
            group.create_task(self._follow(ENDPOINT_SLICE, self._slices), name="watch gateway endpoints")
            group.create_task(self._keep_looking(), name="gateways")
            group.create_task(self._keep_polling(), name="gateway reports")

    @property
    def _slices(self) -> str:
        return f"kubernetes.io/service-name={self._place.service}"

    async def _follow(self, kind: Kind, selector: str) -> None:
        """Every change asks for a look."""
        version = ""
        while True:
            try:
                version = version or await self._unfenced.version(kind, self._place.namespace)
                self._moved.set()  # what changed before this watch
                async for type_, manifest in self._unfenced.watch(
                    kind, self._place.namespace, selector=selector, version=version
                ):
                    version = str(version_of(manifest))
                    if type_ != "BOOKMARK":
                        self._moved.set()
            except Gone:
                version = ""
            except KubeError as error:
                log.info("watch of the gateways' %s broken: %s", kind.plural, error)
            await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 (spreads retries)

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._moved.wait()
            except TimeoutError:
                pass
            self._moved.clear()
            await self._look_until_known()

    async def _look_until_known(self) -> None:
        place = self._place
        for _ in itertools.count():
            try:
                pods = await self._unfenced.list(POD, place.namespace, selector=place.selector)
                slices = await self._unfenced.list(ENDPOINT_SLICE, place.namespace, selector=self._slices)
            except KubeError as error:
                log.warning("gateways of Service %s/%s: %s", place.namespace, place.service, error)
                await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 (spreads retries)
            else:
                self._gateways.look(gateway_pods(pods, slices))
                return

    async def _keep_polling(self) -> None:
        while True:
            began = time.monotonic()
            await self._gateways.poll()
            await self._mend()
            await self._pause(began + self._period_s)

    async def _pause(self, until: float) -> None:
        """To the next round; somebody who waits for an acknowledgement is answered before."""
        quick = 0
        while (left := until - time.monotonic()) > 0:
            if await self._gateways.hurried(min(left, _QUICK_S) if quick else left):
                quick = _QUICK_MAX
            elif quick:
                quick -= 1
            if quick:
                await self._gateways.poll()

    async def _mend(self) -> None:
        """Move pods into and out of the gateway Service."""
        misplaced, self._rest = self._gateways.misplaced(), max(0, self._rest - 1)
        if not misplaced or self._rest:
            return
        self._rest = _PATIENCE
        for pod, chosen in misplaced:
            meta = {"name": pod.name, "namespace": self._place.namespace, "uid": pod.uid}
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta | {"labels": {LABEL_SERVING: _word(chosen)}}}
            try:
                await self._kube.apply(POD, body, manager=MANAGER)
            except KubeError as error:
                log.warning("gateway %s: label %s=%s: %s", pod.name, LABEL_SERVING, _word(chosen), error)
                continue
            deed = "it reports again: put back behind" if chosen else "it has been silent too long: taken out of"
            log.warning("gateway %s: %s Service %s", pod.name, deed, self._place.service)


def _word(chosen: bool) -> str:
    return "true" if chosen else "false"


def gateway_pods(pods: Iterable[Manifest], slices: Iterable[Manifest]) -> list[GatewayPod]:
    """Gateway pods that run, and whether requests reach them."""
    behind = {end["targetRef"]["name"]: end for one in slices for end in _endpoints(one)}
    found = {
        pod["metadata"]["name"]: GatewayPod(
            name=pod["metadata"]["name"],
            uid=pod["metadata"]["uid"],
            address=(pod.get("status") or {}).get("podIP", ""),
            takes_traffic=pod["metadata"]["name"] in behind,
            is_chosen=(pod["metadata"].get("labels") or {}).get(LABEL_SERVING) != "false",
            is_alive=_has_envoy(pod.get("status") or {}),
        )
        for pod in pods
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    }
    for name, end in behind.items():
        if name not in found:
            found[name] = GatewayPod(name, end["targetRef"].get("uid", ""), end["addresses"][0], takes_traffic=True)
    return [found[name] for name in sorted(found)]


def _has_envoy(status: Manifest) -> bool:
    """Whether the container of that name runs, as far as is known.

    Of a node that is lost the last words stand for hours. Its pods are called not ready without a reason, by the node
    controller; a kubelet that is there gives one.
    """
    ready: Manifest = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), {})
    if ready.get("status") == "False" and not ready.get("reason"):
        return False
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    found = [one for one in containers if one["name"] == "envoy"]
    return not found or any("running" in (one.get("state") or {}) for one in found)


def _endpoints(one: Manifest) -> Iterator[Manifest]:
    """Pods that a slice leads to: ready ones, and those that end but still answer."""
    for end in one.get("endpoints") or []:
        conditions = end.get("conditions") or {}
        is_serving = conditions.get("serving", conditions.get("ready"))
        if is_serving is not False and (end.get("targetRef") or {}).get("kind") == "Pod":
            yield end
