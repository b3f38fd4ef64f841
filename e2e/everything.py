"""All tests: unit, control, contract and runtime tests, then the scenarios. `make test`

Contract tests and scenarios use the cluster, which is made for them and taken away again if it was not up before.
Contract tests mostly wait for it, so what only computes runs beside them; all else has the machine to itself.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from e2e.cluster import Busy, ClusterError, choose, hold
from e2e.cluster.lock import BUSY

COMPUTING = ("tests/unit", "tests/sim", "tests/chart", "tests/control")
WAITING = "tests/contract"


def main() -> int:
    try:
        with hold("make test"):
            return _run()
    except Busy as busy:
        print(busy, file=sys.stderr)
        return BUSY
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


def _run() -> int:
    provider = choose()
    was_up = provider.is_up()
    provider.up()
    try:
        return _tests(os.environ | {"SLIPWAY_TEST_KUBECONFIG": str(provider.cluster().kubeconfig)})
    finally:
        if not was_up:
            provider.down()


def _tests(env: Mapping[str, str]) -> int:
    folders = sorted(str(path.parent) for path in Path("tests").glob("*/test_*.py"))
    rest = [folder for folder in dict.fromkeys(folders) if folder not in (*COMPUTING, WAITING)]
    with tempfile.TemporaryFile() as said, subprocess.Popen(_pytest(*COMPUTING), env=env, stdout=said) as beside:
        codes = [subprocess.run(_pytest(WAITING), env=env, check=False).returncode, beside.wait()]
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    codes.append(subprocess.run(_pytest(*rest, "e2e"), env=env, check=False).returncode)
    return next(filter(None, codes), 0)


def _pytest(*folders: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *folders]


if __name__ == "__main__":
    sys.exit(main())
