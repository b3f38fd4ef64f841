"""Large blocks are kept while a model serves, and given back when one is unloaded: in a process of its own."""

import ctypes
import os
import subprocess
import sys

import pytest

from slipway_runtime import memory
from tests.runtime.process import REPOSITORY

PROGRAM = """
import resource, sys
from slipway_runtime import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def churn():
    before = faults()
    for _ in range(50):
        block = bytearray(8 << 20)
        block[:: 4096] = b"x" * len(block[:: 4096])
        del block
    return faults() - before

if sys.argv[1] == "keep":
    memory.keep_large_blocks()
    churn()
elif sys.argv[1] == "give":
    memory.keep_large_blocks()
    empty = resident()
    blocks = [bytearray(b"x" * (1 << 20)) for _ in range(64)]
    del blocks
    held = resident() - empty
    memory.give_back()
    print(held >> 20, (resident() - empty) >> 20)
    sys.exit()
print(churn())
"""


def printed(what: str) -> list[int]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "runtime")}
    command = [sys.executable, "-c", PROGRAM, what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    return [int(word) for word in done.stdout.split()]


def test_a_block_that_comes_and_goes_costs_no_page_faults_once_it_is_kept() -> None:
    assert printed("keep")[0] * 20 < printed("leave")[0]


def test_what_is_free_goes_back_to_the_kernel() -> None:
    held_mib, left_mib = printed("give")
    assert held_mib > 50
    assert left_mib < 8


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep_large_blocks()
    memory.give_back()
