"""CPU limits as the kernel shows them, from files in the same places under another root."""

import os
from pathlib import Path

import pytest

from slipway_runtime.cpus import cpu_limit


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def place(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        pytest.param({}, 64, id="no cgroups"),
        pytest.param({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64, id="v2 without a limit"),
        pytest.param({"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4, id="v2 in a namespace"),
        pytest.param({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1, id="one and a half is one"),
        pytest.param({"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1, id="a tenth is still one"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/kubepods/pod1/c1\n",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000\n",
            },
            3,
            id="v2, the pod's limit binds the container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/pod1\n3:memory:/pod1\n",
                "sys/fs/cgroup/cpu,cpuacct/pod1/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/pod1/cpu.cfs_period_us": "100000\n",
            },
            2,
            id="v1",
        ),
        pytest.param(
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            64,
            id="v1 without a limit",
        ),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    assert cpu_limit(place(tmp_path, files)) == cpus


def test_affinity_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cpu_limit(place(tmp_path, {"sys/fs/cgroup/cpu.max": "400000 100000\n"})) == 2
