"""What the process is doing right now, for whoever looks for the reason that it hangs: with --debug true only.

GET /debug/tasks      every asyncio task and where it waits
GET /debug/threads    every thread and its stack; torch's own threads run no Python and are not among them
GET /debug/stats      counts, as JSON: what waits, what runs, what Python holds

Nobody is asked who they are, and stacks tell paths: switch it on for the time it is needed.
"""

import asyncio
import gc
import io
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from slipway_runtime.wire.http1_messages import Answer, Cancel, Handler, Request, Response, refusal

TEXT = "text/plain; charset=utf-8"
PREFIX = "/debug"


def debugged(handler: Handler, counts: Callable[[], Mapping[str, Any]]) -> Handler:
    """`counts` adds what the server knows of itself to /debug/stats. All else goes to `handler`."""
    pages: dict[str, Callable[[], Response]] = {
        f"{PREFIX}/tasks": lambda: _text(tasks()),
        f"{PREFIX}/threads": lambda: _text(threads()),
        f"{PREFIX}/stats": lambda: Response(200, (orjson.dumps({**counts(), **stats()}, option=orjson.OPT_INDENT_2),)),
    }

    def handle(request: Request, answer: Answer) -> Cancel | None:
        path = request.path.rstrip("/")
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            return handler(request, answer)
        page = pages.get(path)
        if page is None:
            answer(refusal(404, f"there is nothing at '{request.path[:200]}'; there are {', '.join(pages)}"))
        elif request.method not in ("GET", "HEAD"):
            answer(refusal(405, f"{request.method} is not allowed here, use GET, HEAD", (("allow", "GET, HEAD"),)))
        else:
            answer(page())
        return None

    return handle


def tasks() -> str:
    """On the event loop."""
    text = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        task.print_stack(file=text)
        text.write("\n")
    return text.getvalue() or "there are no tasks\n"


def threads() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        parts.append(f"thread {names.get(ident, 'not of Python')} ({ident})\n{stack}")
    return "\n".join(sorted(parts))


def stats() -> dict[str, Any]:
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "gc_counts": gc.get_count(),
        "gc_collections": [generation["collections"] for generation in gc.get_stats()],
    }


def _text(text: str) -> Response:
    return Response(200, (text.encode(),), TEXT)
