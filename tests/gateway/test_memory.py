"""What an agent keeps of memory that it needed once."""

import subprocess
import sys

STORY = """
import sys
from slipway.gateway import memory

def rss_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

if sys.argv[1] == "keep_little":
    memory.keep_little()
del [bytes(1 << 20)][0]  # glibc takes such blocks from its heap after the first one was freed
before = rss_mib()
blocks = [b"x" * (1 << 20) for _ in range(64)]
pins = [b"y" * 100_000 for _ in range(64)]  # above them on the heap, which can only shrink from its end
del blocks
print(rss_mib() - before)
"""


def kept_mib(how: str) -> float:
    """In a process of its own."""
    done = subprocess.run([sys.executable, "-c", STORY, how], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_memory_that_was_needed_once_goes_back_to_the_system() -> None:
    assert kept_mib("keep_little") < 16
    assert kept_mib("") > 48, "or there is nothing to mend on this system, and this test shows nothing"
