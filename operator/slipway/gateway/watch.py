"""What the API server says of services, pods and keys, into `Facts`: list and watch, with nothing of kopf.

A feed follows one kind in one place. After a gap that no watch can bridge it lists again, page by page, and what is not
in the list is dropped; until the first list is complete nothing is dropped, so that a gateway that starts from its disk
loses nothing to an API server that is not there.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from slipway.api.access import SECRET
from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_REVISION
from slipway.gateway.facts import Facts, Keys
from slipway.kube.client import KubeClient
from slipway.kube.errors import Forbidden, Gone, KubeError
from slipway.kube.kinds import ENDPOINT_SLICE, INFERENCE_SERVICE, SECRET_KIND, Kind

log = logging.getLogger(__name__)

_BACKOFF_S = (0.1, 5.0)
"""Short: a gateway behind the API server leads requests to pods that are gone."""
_BREATH_S = 0.05
"""Between watches; a server that ends each at once is not asked in a tight loop."""

Affected = Callable[[Keys], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A kind as this program reads it."""

    kind: Kind
    of: str
    """What `Facts.known` calls it."""
    take: Callable[[Facts, Manifest], Keys]
    drop: Callable[[Facts, Key], Keys]
    labels: str = ""
    fields: str = ""
    is_essential: bool = True
    """Nothing is applied before it was read once."""
    blind: Callable[[Facts, str | None, str], Keys] | None = None
    """Told why it may not be read, or with no words that it may."""


SOURCES = (
    Source(INFERENCE_SERVICE, "service", Facts.take_service, Facts.drop_service),
    Source(ENDPOINT_SLICE, "slice", Facts.take_slice, Facts.drop_slice, labels=LABEL_REVISION),
    # By this one name, which is all that the gateway's rights allow.
    Source(
        SECRET_KIND,
        "secret",
        Facts.take_secret,
        Facts.drop_secret,
        fields=f"metadata.name={SECRET}",
        is_essential=False,
        blind=Facts.blind,
    ),
)


class Feed:
    def __init__(
        self, kube: KubeClient, source: Source, namespace: str | None, facts: Facts, affected: Affected
    ) -> None:
        self._kube, self._source, self._namespace = kube, source, namespace
        self._facts, self._affected = facts, affected
        self._version = ""
        self.name = f"{source.kind.plural} of {namespace or 'all namespaces'}"
        self.is_essential = source.is_essential
        self.synced = asyncio.Event()
        """The list was complete once."""
        self.answered = asyncio.Event()
        """So it was, or the API server said that it is none of this process's business."""

    async def run(self) -> None:
        """Until cancelled. After an error again a little later, and ever less often."""
        delay_s = _BACKOFF_S[0]
        while True:
            try:
                if not self._version:
                    await self._list()
                    delay_s = _BACKOFF_S[0]
                async for type_, manifest in self._kube.watch(
                    self._source.kind,
                    self._namespace,
                    selector=self._source.labels,
                    fields=self._source.fields,
                    version=self._version,
                ):
                    self._take(type_, manifest)
                    delay_s = _BACKOFF_S[0]
                await asyncio.sleep(_BREATH_S)
            except Gone:
                self._version = ""
            except KubeError as error:
                if isinstance(error, Forbidden):
                    self._tell(str(error))
                log.info("watch of %s broken, again in %.1f s: %s", self._source.kind.plural, delay_s, error)
                await asyncio.sleep(max(delay_s * random.uniform(0.8, 1.2), error.retry_after_s))  # noqa: S311
                delay_s = min(delay_s * 2, _BACKOFF_S[1])

    async def _list(self) -> None:
        source, seen, affected, version = self._source, set(), set[Key](), ""
        async for items, version in self._kube.pages(  # noqa: B007 (the last one counts)
            source.kind, self._namespace, selector=source.labels, fields=source.fields
        ):
            for manifest in items:
                seen.add(_key(source, manifest))
                affected |= source.take(self._facts, manifest)
        for key in self._facts.known(source.of) - seen:
            if self._namespace in (None, key[0]):
                affected |= source.drop(self._facts, key)
        self._version = version
        self.synced.set()
        self._affected(frozenset(affected))
        self._tell("")

    def _tell(self, words: str) -> None:
        """The right to read it was found missing, or is there."""
        if self._source.blind:
            self._affected(self._source.blind(self._facts, self._namespace, words))
        self.answered.set()

    def _take(self, type_: str, manifest: Manifest) -> None:
        self._version = str(manifest["metadata"]["resourceVersion"])
        if type_ == "BOOKMARK":
            return
        source = self._source
        affected = (
            source.drop(self._facts, _key(source, manifest))
            if type_ == "DELETED"
            else source.take(self._facts, manifest)
        )
        if affected:
            self._affected(affected)


def feeds(kube: KubeClient, namespaces: tuple[str, ...], facts: Facts, affected: Affected) -> list[Feed]:
    places: tuple[str | None, ...] = namespaces or (None,)
    return [Feed(kube, source, place, facts, affected) for source in SOURCES for place in places]


def _key(source: Source, manifest: Manifest) -> Key:
    meta = manifest["metadata"]
    return meta["namespace"], "" if source.of == "secret" else meta["name"]
