"""All tests in one run: unit, control, contract and runtime tests, then the scenarios. `make test`

Contract tests and scenarios use the cluster, which is made for them and taken away again if it was not up before.
"""

import os
import subprocess
import sys

from e2e.cluster import ClusterError, choose


def main() -> int:
    provider = choose()
    was_up = provider.is_up()
    try:
        provider.up()
        env = os.environ | {"SLIPWAY_TEST_KUBECONFIG": str(provider.cluster().kubeconfig)}
        return subprocess.run([sys.executable, "-m", "pytest", "tests", "e2e"], env=env, check=False).returncode
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not was_up:
            provider.down()


if __name__ == "__main__":
    sys.exit(main())
