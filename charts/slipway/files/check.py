"""Waits until the API server serves Slipway's kinds and, with an address given, the operator is ready.

Runs in the operator's image, for the chart's hook and test. Needs no permission: discovery is open to every
account. Ends with 1 and a sentence when that has not come true within a minute.
"""

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

KINDS = {"inferenceservices", "servingruntimes", "clusterservingruntimes"}
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc/apis/slipway.dev/v1alpha1"
DEADLINE_S = 60


def missing() -> str:
    """What is not there yet, in words; empty when all is."""
    token = (ACCOUNT / "token").read_text()
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(API, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, context=trust, timeout=5) as answer:
            served = {resource["name"] for resource in json.load(answer)["resources"]}
        if absent := KINDS - served:
            return f"the API server does not serve {', '.join(sorted(absent))}"
        for address in sys.argv[1:]:
            urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, TimeoutError) as error:
        return f"{getattr(error, 'url', None) or API}: {error}"
    return ""


deadline = time.monotonic() + DEADLINE_S
while problem := missing():
    if time.monotonic() > deadline:
        sys.exit(problem)
    time.sleep(0.5)
print("Slipway's kinds are served", "and the operator is ready" if sys.argv[1:] else "")
