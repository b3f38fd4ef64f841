"""Entry point `slipway-cache`: one process on each node, told by its environment, which the chart sets."""

import asyncio
import os
import signal
import sys
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
"""Of the volume: it is ended with its pod when it has more than it may."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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
    size = quantity(text := os.environ.get("SLIPWAY_CACHE_SIZE", "10Gi"))
    if size is None or size < 1:
        sys.exit(f"SLIPWAY_CACHE_SIZE is {text!r}, which is not a size")
    logs.configure(logs.Form(os.environ.get("SLIPWAY_LOG_FORMAT", "json")), os.environ.get("SLIPWAY_LOG_LEVEL", "INFO"))
    folder = Path(os.environ.get("SLIPWAY_CACHE_DIR", "/var/cache/slipway"))
    # Not uvloop: it has no sendfile, which is what this is quick by.
    store = Store(folder, int(float(size) * _ROOM), _BOOT_ID.read_text().strip())
    asyncio.run(run(store, int(os.environ.get("SLIPWAY_CACHE_PORT", "8097"))))


if __name__ == "__main__":
    main()
