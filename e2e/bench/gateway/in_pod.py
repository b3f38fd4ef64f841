"""The agent as in a pod, with the service account in a folder of our own: `python in_pod.py FOLDER`.

Outside of a pod it would read a kubeconfig, by a library that no gateway has, and be larger for it.
"""

import sys
from pathlib import Path

from slipway.gateway.__main__ import main
from slipway.kube import pod

if __name__ == "__main__":
    load, account = pod.PodServer.load, Path(sys.argv.pop())
    pod.PodServer.load = lambda env: load(env, account)  # type: ignore[assignment, method-assign, misc]
    main()
