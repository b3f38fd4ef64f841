"""`python -m slipway_runtime.fetch URI DEST`: settings, the fetch, its exit code and its last words."""

import argparse
import errno
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from slipway_runtime.errors import Failure
from slipway_runtime.fetch import local
from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.board import Board
from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.last_words import tell
from slipway_runtime.fetch.progress import say
from slipway_runtime.fetch.settings import read
from slipway_runtime.fetch.uri import parse
from slipway_runtime.settings import Parser


def main(argv: list[str] | None = None, env: Mapping[str, str] | None = None) -> int:
    started_s = time.monotonic()
    given = os.environ if env is None else env
    try:
        words = _fetched(_arguments(argv, given), given)
    except Failure as failure:
        return tell(failure)
    except OSError as error:
        return tell(_of_disk(error))
    except Exception as error:  # the end of the process: one sentence all the same
        traceback.print_exc()
        return tell(Failure(f"the fetcher failed: {type(error).__name__}"))
    say(f"{words} in {time.monotonic() - started_s:.1f} s")
    return 0


def _fetched(args: argparse.Namespace, env: Mapping[str, str]) -> str:
    settings, uri = read(env), args.uri
    if args.max_bytes is not None:
        settings = replace(settings, limits=replace(settings.limits, max_bytes=args.max_bytes))
    source = parse(uri)
    if source is None:
        rules.allow_scheme(settings.policy, uri.partition(":")[0])
        count = local.fetch(uri, args.dest, settings.limits.max_bytes)
        return f"{uri}: {size(count)} copied to {args.dest}"
    # obstore and ssl take their time: what is here already needs neither.
    from slipway_runtime.fetch.credentials import Credentials  # noqa: PLC0415
    from slipway_runtime.fetch.nodecache import opened  # noqa: PLC0415
    from slipway_runtime.fetch.remote import fetch  # noqa: PLC0415

    board = Board()
    with board.at(args.progress_port) if args.progress_port is not None else nullcontext():
        done = fetch(uri, source, args.dest, settings, Credentials(env), board=board, cache=opened(env))
    if done.was_there:
        return f"{uri}: is in {args.dest} already"
    whence = " from the node's cache" if done.from_cache else ""
    return f"{uri}: {size(done.bytes)} fetched{whence} to {args.dest}"


def _of_disk(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(Why.DISK, "the disk became full while the model was fetched: give the pod more disk")
    return Failure(f"the model could not be written: {error.strerror or error}")


def _arguments(argv: list[str] | None, env: Mapping[str, str]) -> argparse.Namespace:
    parser = Parser(prog="python -m slipway_runtime.fetch", description="Bring a model into a folder.")
    parser.add_argument("uri", metavar="URI")
    parser.add_argument("dest", metavar="DEST", type=Path)
    limit = env.get("SLIPWAY_FETCH_MAX_BYTES")
    parser.add_argument("--max-bytes", type=int, default=limit, help="[SLIPWAY_FETCH_MAX_BYTES, default: 500 GiB]")
    port, words = env.get("SLIPWAY_FETCH_PROGRESS_PORT"), "where to tell how far it is [SLIPWAY_FETCH_PROGRESS_PORT]"
    parser.add_argument("--progress-port", type=int, default=port, help=words)
    return parser.parse_args(argv)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads that wait for a store that is silent would hold the exit for as long.
    os._exit(code)
