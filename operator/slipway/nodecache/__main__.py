"""Entry point `slipway-cache`: one process on each node, told by its environment, which the chart sets."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway.control import log as logs
from slipway.decide.drift import quantity
from slipway.kube.auth import Server
from slipway.kube.client import KubeClient
from slipway.kube.kinds import TOKEN_REVIEW
from slipway.nodecache.server import Cache, serve
from slipway.nodecache.store import Store
from slipway.nodecache.tokens import Tokens

_ROOM = 0.9
"""Of the volume: a pod that has more than its volume may is ended."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Settings:
    folder: Path
    most_bytes: int
    port: int
    log_format: logs.Form
    log_level: str

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises ValueError, KeyError: a variable is not what it must be."""
        size = quantity(env.get("SLIPWAY_CACHE_SIZE", "10Gi"))
        if size is None or size < 1:
            raise ValueError("SLIPWAY_CACHE_SIZE is not a size")
        return cls(
            folder=Path(env.get("SLIPWAY_CACHE_DIR", "/var/cache/slipway")),
            most_bytes=int(float(size) * _ROOM),
            port=int(env.get("SLIPWAY_CACHE_PORT", "8097")),
            log_format=logs.Form(env.get("SLIPWAY_LOG_FORMAT", "json")),
            log_level=logs.level(env.get("SLIPWAY_LOG_LEVEL", "info")),
        )


async def run(store: Store, port: int) -> None:
    """Until SIGTERM."""
    server = await Server.load()
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    async with server.session() as session:
        kube = KubeClient(session, server.url, timeout_s=5.0)
        tokens = Tokens(lambda body: kube.create(TOKEN_REVIEW, body, manager="slipway-cache"))
        async with serve(Cache(store, tokens), port):
            await ending.wait()


def main() -> None:
    try:
        settings = Settings.from_env(os.environ)
    except (ValueError, KeyError) as error:
        sys.exit(f"the environment of the cache: {error}")
    logs.configure(settings.log_format, settings.log_level)
    # Not uvloop: it has no sendfile, which is what this is quick by.
    asyncio.run(run(Store(settings.folder, settings.most_bytes, _BOOT_ID.read_text().strip()), settings.port))


if __name__ == "__main__":
    main()
