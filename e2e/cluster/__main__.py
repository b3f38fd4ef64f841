"""python -m e2e.cluster up|down|status|images|kubeconfig|tool [--provider local|kind|context:NAME]"""

import argparse
import sys

from . import ALL, Busy, ClusterError, Provider, choose
from .lock import BUSY

COMMANDS = {
    "up": "make the cluster run; prints the path of its kubeconfig",
    "down": "leave nothing of it but the images that were slow to load",
    "status": "what runs, on one screen",
    "images": "build the project's images and bring them to the cluster; prints their names",
    "kubeconfig": "print the path of the kubeconfig",
    "tool": "print the path of a program that fits the cluster: kubectl or helm",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description="The cluster that scenarios run on.")
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
    )
    parser.add_argument("name", nargs="?", choices=["kubectl", "helm"], help="which tool")
    parser.add_argument(
        "--provider", help="local, kind or context:NAME (default: $CLUSTER, else kind if Docker answers)"
    )
    options = parser.parse_args()
    try:
        _obey(options.command, options.name, choose(options.provider))
    except Busy as busy:
        print(busy, file=sys.stderr)
        return BUSY
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _obey(command: str, name: str | None, provider: Provider) -> None:
    if command == "tool":
        cluster = provider.cluster()
        print(cluster.helm if name == "helm" else cluster.kubectl)
    elif command == "status":
        print(provider.status())
    elif command == "kubeconfig":
        print(provider.cluster().kubeconfig)
    elif command == "down":
        provider.down()
    elif command == "up":
        provider.up()
        print(provider.cluster().kubeconfig)
    else:
        provider.up()
        provider.load(ALL)
        print(*(image.reference for image in ALL), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
