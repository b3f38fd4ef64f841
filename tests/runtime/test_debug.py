"""/debug tells what hangs, and is there only when it was switched on."""

import asyncio
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from slipway_runtime.debug import debugged
from slipway_runtime.wire.http1_messages import Answer, Cancel, Request, Response
from tests.runtime.process import ServerProcess


def handler(request: Request, answer: Answer) -> Cancel | None:
    answer(Response(200, (b"behind",)))
    return None


def ask(path: str, method: str = "GET") -> Response:
    answers: list[Response] = []
    request = Request(method, path, {}, b"", keep_alive=True)
    assert debugged(handler, lambda: {"in_flight": 3})(request, answers.append) is None
    (answer,) = answers
    return answer


def text(response: Response) -> str:
    return b"".join(map(bytes, response.body)).decode()


async def waits_for_godot(godot: asyncio.Event) -> None:
    await godot.wait()


async def test_a_task_is_shown_with_the_line_it_waits_at() -> None:
    godot = asyncio.Event()
    task = asyncio.create_task(waits_for_godot(godot), name="estragon")
    await asyncio.sleep(0)
    shown = text(ask("/debug/tasks"))
    assert "estragon" in shown
    assert "await godot.wait()" in shown
    godot.set()
    await task


WAITS = re.compile(r"^thread vladimir \(\d+\)\n( .*\n)* .*in wait\n", re.MULTILINE)


async def test_a_thread_is_shown_with_its_name_and_stack() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(20,), name="vladimir")
    thread.start()
    ends_s = time.monotonic() + 10
    while not WAITS.search(shown := text(ask("/debug/threads"))):
        assert time.monotonic() < ends_s, shown  # it has begun, but may still be on its way there
    stop.set()
    thread.join()
    assert "thread MainThread (" in shown


async def test_counts_are_json() -> None:
    answer = ask("/debug/stats")
    found = json.loads(text(answer))
    assert answer.content_type == "application/json"
    assert found["in_flight"] == 3
    assert found["tasks"] == 1
    assert found["threads"] >= 1


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        pytest.param("/debug", "GET", 404, id="no index"),
        pytest.param("/debug/else", "GET", 404, id="unknown"),
        pytest.param("/debug/stats", "POST", 405, id="method"),
        pytest.param("/debugger", "GET", 200, id="only begins alike"),
        pytest.param("/v2/models/m/infer", "POST", 200, id="all else"),
    ],
)
async def test_what_is_not_there(path: str, method: str, status: int) -> None:
    answer = ask(path, method)
    assert answer.status == status
    assert (text(answer) == "behind") is (status == 200)
    if status == 404:
        assert "/debug/tasks, /debug/threads, /debug/stats" in text(answer)


@pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things
def test_a_server_has_it_only_when_told(launch: Callable[..., ServerProcess]) -> None:
    on = launch("--model", "sample://hello", "--debug", "true")
    off = launch("--model", "sample://hello")

    def status(server: ServerProcess, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{server.http}{path}", timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    for path in ("/debug/tasks", "/debug/threads", "/debug/stats"):
        assert status(off, path)[0] == 404
        assert status(on, path)[0] == 200
    on.wait_ready()
    assert "model-0" in status(on, "/debug/threads")[1]
    found = json.loads(status(on, "/debug/stats")[1])
    assert (found["state"], found["in_flight"], found["connections"]) == ("ready", 0, 1)
