"""docs/runtime.md says what is: its tables are compared with the code, its commands are run."""

import os
import random
import re
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from slipway_runtime.metrics import Exposition
from slipway_runtime.settings import OPTIONS, Option
from tests.runtime.process import REPOSITORY, environment

PAGE = REPOSITORY / "docs" / "runtime.md"
OWN_BLOCKS = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def row(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        default = str(default).lower()
    shown = f"`{default}`" if default not in ("", (), {}) else ""
    return f"| `{option.flag}` | `{option.env}` | {shown} | {option.allowed} | {option.help} |"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = "\n".join(
        ["| flag | variable | default | allowed | |", "|---|---|---|---|---|", *map(row, OPTIONS.values())]
    )
    assert table in PAGE.read_text(), f"docs/runtime.md must have this table:\n{table}"


def test_every_metric_is_in_the_table_and_no_other() -> None:
    source = (REPOSITORY / "runtime" / "slipway_runtime" / "metrics.py").read_text()
    named = {*re.findall(r'"((?:nv|slipway_runtime)_\w+)"', source)}
    assert len(named) > 20
    section = PAGE.read_text().partition("## What it tells")[2].partition("\n## ")[0]
    assert {*re.findall(r"^\| `(\w+)`", section, re.MULTILINE)} == named
    assert Exposition().render([], [])


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to clients, of which one might get them before they are listened on."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(15_000, 30_000)  # noqa: S311 - no secret
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            found.add(port)
    return [*found]


def script(text: str) -> tuple[str, list[str]]:
    """All commands of the page in their order, and what each block prints, where the page tells it."""
    commands, expected = [], []
    for kind, body in OWN_BLOCKS.findall(text):
        if kind == "sh":
            lines = [line for line in body.splitlines() if not line.startswith("pip install")]
            commands += [*lines, "printf '<end of block>'"]
            expected.append("")
        else:
            expected[-1] = body
    return "\n".join(commands), expected


@pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things
def test_the_commands_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, arguments in (("python", ""), ("slipway-runtime", "-m slipway_runtime")):
        shim = tmp_path / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        shim.chmod(0o755)
    http_port, grpc_port = free_ports(2)
    commands, expected = script(PAGE.read_text())
    commands = commands.replace("localhost:8080", f"127.0.0.1:{http_port}")
    commands = commands.replace("localhost:8001", f"127.0.0.1:{grpc_port}")
    shell = environment(tmp_path / "samples") | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLIPWAY_HOST": "127.0.0.1",
        "SLIPWAY_HTTP_PORT": str(http_port),
        "SLIPWAY_GRPC_PORT": str(grpc_port),
        "SLIPWAY_THREADS": "1",
        "SLIPWAY_LOG_LEVEL": "error",
    }
    # Whatever happens, no server outlives its shell.
    commands = f"set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{commands}"
    done = subprocess.run(  # noqa: S603
        ["/bin/bash", "-c", commands], cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split("<end of block>")
    for told, shown in zip(expected, printed, strict=False):
        if told:
            assert shown.strip() == told.strip()
    assert len(printed) == len(expected) + 1
    assert (tmp_path / "config.json").exists()
