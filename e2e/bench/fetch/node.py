"""The node's cache for the benchmark, in a process of its own: `python -m e2e.bench.fetch.node FOLDER PORT`.

Everything is as on a node but the API server: every token is true.
"""

import asyncio
import sys
from pathlib import Path

from slipway.api.manifest import Manifest
from slipway.decide.fetching import AUDIENCE
from slipway.nodecache.server import Cache, serve
from slipway.nodecache.store import Store
from slipway.nodecache.tokens import Tokens

ROOM = 64 << 30


async def _review(_: Manifest) -> Manifest:
    user = {"username": "system:serviceaccount:bench:default", "uid": "be"}
    return {"status": {"authenticated": True, "audiences": [AUDIENCE], "user": user}}


async def run(store: Store, port: int) -> None:
    async with serve(Cache(store, Tokens(_review)), port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(Store(Path(sys.argv[1]), ROOM, "bench"), int(sys.argv[2])))
