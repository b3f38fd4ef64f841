"""Bring the cluster up with this checkout's Slipway in it. `make up`"""

import os
import subprocess
import sys

from e2e.cluster import ALL, Busy, Cluster, ClusterError, chart_values, choose, hold

NAMESPACE = "slipway-system"


def install(cluster: Cluster, *more: str) -> None:
    """Install or upgrade the chart of this checkout, with the images of this checkout, and wait until it is ready."""
    command = [str(cluster.helm), "upgrade", "--install", "slipway", "charts/slipway", "--namespace", NAMESPACE]
    command += ["--create-namespace", "--wait", "--timeout", "3m"]
    command += [*chart_values(), *more]
    env = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
    done = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"helm could not install Slipway: {done.stderr.strip()}")


def main() -> int:
    try:
        with hold("make up"):
            provider = choose()
            provider.up()
            provider.load(ALL)
            install(provider.cluster())
    except (Busy, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1
    cluster = provider.cluster()
    print("Slipway runs. To use it:")
    print(f"  export KUBECONFIG={cluster.kubeconfig} PATH={cluster.kubectl.parent}:$PATH")
    return 0


if __name__ == "__main__":
    sys.exit(main())
