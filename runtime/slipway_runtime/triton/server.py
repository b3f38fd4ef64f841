"""Triton's process: how it is started, how it ends, and one plain sentence when it does not serve.

What nobody outside may do is answered 403 by Triton itself: a word that is known to nobody is asked for.
"""

import hashlib
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from slipway_runtime.errors import BadModel, Failure
from slipway_runtime.triton.install import Home
from slipway_runtime.triton.wishes import CACHE_BYTES, Settings

log = logging.getLogger("slipway.triton")
CLOSED = "model-repository,shared-memory,trace,logging"
"""Loading, unloading, listing; memory of the pod; files that it writes; its own log."""
HURRY_S = 5.0
"""Told to end while it loads, Triton finishes loading first: nobody waits for that."""
LINE_MAX, LINES = 1 << 16, 200
SHM = Path("/dev/shm")  # noqa: S108 - where POSIX has it
_STARTED = "Started HTTPService"


def arguments(home: Home, repository: Path, settings: Settings, *, has_cache: bool, max_batch: int) -> list[str]:
    """Everything that Triton is told. `max_batch`: for models whose config it completes."""
    word = secrets.token_urlsafe(24)
    flags = {
        "model-repository": repository,
        "backend-directory": home.path / "backends",
        "cache-directory": home.path / "caches",
        "repoagent-directory": repository.parent / "none",
        "model-control-mode": "none",
        "exit-on-error": "true",
        "strict-readiness": "true",
        "exit-timeout-secs": max(1, round(settings.drain_timeout_s)),
        "http-address": settings.host,
        "http-port": settings.http_port,
        "grpc-address": settings.host,
        "grpc-port": settings.grpc_port,
        "metrics-address": settings.host,
        "metrics-port": settings.metrics_port,
        "allow-http": "true",
        "allow-grpc": "true",
        "allow-metrics": "true",
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
        "http-restricted-api": f"{CLOSED}:slipway={word}",
        "grpc-restricted-protocol": f"{CLOSED}:slipway={word}",
        "log-format": "ISO8601",
    }
    if has_cache:
        flags["cache-config"] = f"local,size={settings.wishes.cache_bytes or CACHE_BYTES}"
    backends = (f"default-max-batch-size={max_batch}", f"python,shm-region-prefix-name={shm_prefix(settings.work)}")
    given = [*flags.items(), *(("backend-config", setting) for setting in backends)]
    return [str(home.program), *(f"--{name}={value}" for name, value in given)]


def shm_prefix(work: Path) -> str:
    """Of the names of its shared memory: one for each folder to work in, whoever works there."""
    return f"slipway-{hashlib.sha256(bytes(work.absolute())).hexdigest()[:12]}-"


def clear_shm(work: Path, place: Path = SHM) -> None:
    """Give back what a Triton that was killed has left; /dev/shm of a pod outlives its containers."""
    for region in place.glob(f"{shm_prefix(work)}*"):
        region.unlink(missing_ok=True)


def environment(home: Home, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Triton's libraries, and this Python for its Python backend, which takes the first that it finds."""
    own = {"PATH": f"{Path(sys.executable).parent}:{env.get('PATH', os.defpath)}", "VIRTUAL_ENV": sys.prefix}
    if (home.path / "lib").is_dir():
        own["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(home.path / "lib"), env.get("LD_LIBRARY_PATH", "")]))
    return {**env, **own}


def run(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Until Triton ends, or this process is told to. On the main thread, for the signals.

    Raises:
        BadModel: it did not come to serve.  Failure: it ended by itself later.
    """
    ending = _Ending()
    before = {number: signal.signal(number, ending) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # The program is the image's own, the arguments are those above.
        process = subprocess.Popen(  # noqa: S603
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        watch = ending.watch(process)
        code = process.wait()
        with suppress(ProcessLookupError):
            # The processes of the Python backend outlive a Triton that was killed, and have its output open.
            os.killpg(process.pid, signal.SIGKILL)
        watch.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if ending.told:
        return
    if not watch.has_started:
        raise BadModel(explain(watch.lines))
    raise Failure(f"Triton ended by itself with {_code(code)}; the log before has more")


class _Ending:
    """Hands signals on to Triton, also those that came before it was there."""

    def __init__(self) -> None:
        self.told = False
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: _Watch | None = None

    def watch(self, process: "subprocess.Popen[bytes]") -> "_Watch":
        assert process.stdout is not None  # noqa: S101 - as asked for
        watch = self._watch = _Watch(process.stdout)
        self._process = process
        if self.told:
            process.kill()
        return watch

    def __call__(self, number: int, _frame: object) -> None:
        self.told = True
        if self._process is None or self._watch is None:
            return
        self._process.send_signal(number)
        if not self._watch.has_started:
            hurry = threading.Timer(HURRY_S, self._process.kill)
            hurry.daemon = True
            hurry.start()


class _Watch(threading.Thread):
    """Hands Triton's lines on, and keeps the last of them."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.lines: deque[str] = deque(maxlen=LINES)
        self.has_started = False
        self.start()

    def run(self) -> None:
        while line := self._stream.readline(LINE_MAX):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            if not self.has_started:
                text = line.decode(errors="replace").rstrip()
                self.lines.append(text)
                self.has_started = _STARTED in text


_FAILED = re.compile(r"failed to load (?:model )?'(?P<model>[^']*)'(?: version (?P<version>\S+))?: (?P<why>.*)")
_INVALID = re.compile(r"(?:Poll failed for model directory|failed to poll) '(?P<model>[^']*)': (?P<why>.*)")
_ERROR = re.compile(r"^(?:E\d{4} |\S+ E |error: ).*")
_NOISE = re.compile(
    r"^(?:Internal|Invalid argument|Not found|Unavailable|Unsupported): |^[A-Za-z_]+(?:Error|Model|Config): "
)


def explain(lines: Sequence[str]) -> str:
    """Why Triton did not come to serve, from what it wrote.

    Example:
        ["... failed to load 'hello' version 1: Internal: ValueError: no weights"]
        -> "Triton could not load model 'hello': no weights"
    """
    for pattern in (_FAILED, _INVALID):
        for line in lines:
            if found := pattern.search(line):
                return f"Triton could not load model '{found['model']}': {_plain(found['why'])}"
    errors = [line for line in lines if _ERROR.match(line)]
    last = next((line for line in reversed(errors or list(lines)) if line.strip()), "it wrote nothing")
    return f"Triton did not start: {_plain(last)}"


def _plain(words: str) -> str:
    # Triton writes a sentence in quotes, with what would break its line escaped; a traceback of Python's comes last.
    words = words.strip().strip('"').replace('\\"', '"').partition("\\n\\nAt:")[0].replace("\\n", " ")
    while cut := _NOISE.match(words):
        words = words[cut.end() :]
    if "shared memory pool" in words:
        return f"{words[:200]} (raise container.sharedMemory of the runtime)"
    return words[:400] or "it does not say why"


def _code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
