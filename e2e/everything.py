"""All tests in one run: unit, control, contract and runtime tests, then the scenarios. `make test`

Contract tests and scenarios use the cluster, which is made for them and taken away again if it was not up before.
"""

import os
import subprocess
import sys

from e2e.cluster import Busy, ClusterError, choose, hold
from e2e.cluster.lock import BUSY


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
        env = os.environ | {"SLIPWAY_TEST_KUBECONFIG": str(provider.cluster().kubeconfig)}
        return subprocess.run([sys.executable, "-m", "pytest", "tests", "e2e"], env=env, check=False).returncode
    finally:
        if not was_up:
            provider.down()


if __name__ == "__main__":
    sys.exit(main())
