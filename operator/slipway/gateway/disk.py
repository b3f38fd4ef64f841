"""The last table that Envoy took, per service, on a disk that outlives the process but not the pod.

One small file per service, so that a change costs the same whatever the number of services. Keys of clients are in
them: the folder is the process's own and in memory. What cannot be read is left aside: the API server has it all.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from slipway.api.manifest import Key
from slipway.gateway.apply import Wanted

log = logging.getLogger(__name__)

FORMAT = 1
_FORM: TypeAdapter[Wanted] = TypeAdapter(Wanted)
PAUSE_S = 0.5
"""Between two rounds of writing: whatever happens, a service is written twice a second at most."""


class Disk:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"v{FORMAT}"
        self._dirty: dict[Key, Wanted | None] = {}
        self._news = asyncio.Event()

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)

    def load(self) -> Iterator[tuple[Key, Wanted]]:
        """What was written in an earlier life."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                wanted = _FORM.validate_json(path.read_bytes())
            except (ValidationError, OSError) as error:
                log.warning("%s cannot be read and is left aside: %s", path.name, type(error).__name__)
                continue
            yield (wanted.view.namespace, wanted.view.name), wanted

    def save(self, key: Key, wanted: Wanted | None) -> None:
        """Some time soon; None removes it."""
        self._dirty[key] = wanted
        self._news.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._news.wait()
            self.flush()
            await asyncio.sleep(PAUSE_S)

    def flush(self) -> None:
        self._news.clear()
        dirty, self._dirty = self._dirty, {}
        for key, wanted in dirty.items():
            try:
                self._write(key, wanted)
            except OSError as error:
                log.warning("state of %s cannot be written: %s", "/".join(key), error)

    def _write(self, key: Key, wanted: Wanted | None) -> None:
        # Hashed, since a name may be as long as a file's may be, and nothing is ever looked up by it.
        path = self._folder / f"{hashlib.sha256('/'.join(key).encode()).hexdigest()[:32]}.json"
        if wanted is None:
            path.unlink(missing_ok=True)
            return
        fresh = path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_FORM.dump_json(wanted, by_alias=True))
        fresh.replace(path)
