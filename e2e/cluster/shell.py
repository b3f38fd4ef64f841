"""Running other programs, and telling the person who waits what takes so long."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class ClusterError(Exception):
    """Something a person has to know or do; the text says what."""


def run(*argv: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """What the program printed; `ClusterError` with its last words if it failed."""
    done = subprocess.run(argv, input=stdin, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(_failure(argv, done.returncode, done.stderr or done.stdout))
    return done.stdout


def logged(log: Path, *argv: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run something talkative: its output goes to a file, of which a failure shows the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        code = subprocess.run(argv, cwd=cwd, env=env, stdout=output, stderr=output, check=False).returncode
    if code:
        raise ClusterError(_failure(argv, code, log.read_text(errors="replace")) + f"\n(all of it: {log})")


def _failure(argv: tuple[str | Path, ...], code: int, output: str) -> str:
    tail = "\n".join(f"    {line}" for line in output.rstrip().splitlines()[-25:])
    return f"`{' '.join(map(str, argv))}` ended with {code}:\n{tail}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """One line on stderr: what is going on, and when it is over how long it took."""
    print(f"{title} ...", end="", file=sys.stderr, flush=True)
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(" failed")
        raise
    say(f" {time.monotonic() - begin:.1f} s")
