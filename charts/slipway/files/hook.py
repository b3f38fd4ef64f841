"""What the chart's hooks do, in the operator's image: `python -c SCRIPT ACTION...`.

An ACTION is a URL that must answer 200, `CODE URL` for another answer, or an object in JSON that is applied. First of
all Slipway's kinds must be served: on a first install the API server needs a moment for them. Every action is tried
until it succeeds, together for a minute at most; then the script ends with 1 and the last problem as its only sentence.
"""

# ruff: noqa: S310, T201 (the addresses come from the chart; the log is the answer)
import json
import ssl
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

KINDS = {
    "InferenceService": "inferenceservices",
    "ServingRuntime": "servingruntimes",
    "ClusterServingRuntime": "clusterservingruntimes",
}
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc/apis/slipway.dev/v1alpha1"
DEADLINE_S = 60


def ask_api(path: str = "", body: str | None = None) -> dict:
    """GET of a path, or server-side apply of `body` to it."""
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    if body is not None:
        headers["Content-Type"] = "application/apply-patch+yaml"
        path += "?fieldManager=slipway-chart&force=true"
    request = Request(API + path, body and body.encode(), headers, method="PATCH" if body else "GET")
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urlopen(request, context=trust, timeout=5) as answer:
        return json.load(answer)


def check_kinds() -> None:
    absent = set(KINDS.values()) - {resource["name"] for resource in ask_api()["resources"]}
    if absent:
        raise URLError(f"the API server does not serve {', '.join(sorted(absent))} yet")


def apply(manifest: str) -> None:
    obj = json.loads(manifest)
    where = f"/namespaces/{obj['metadata']['namespace']}" if "namespace" in obj["metadata"] else ""
    ask_api(f"{where}/{KINDS[obj['kind']]}/{obj['metadata']['name']}", manifest)


def expect(url: str, code: int) -> None:
    try:
        urlopen(url, timeout=5).close()
    except HTTPError as error:
        if error.code != code:
            raise
    else:
        if code != 200:
            raise URLError(f"{url} answers 200, not {code}")


def run(action: str) -> None:
    if action.startswith("{"):
        apply(action)
    else:
        code, _, url = action.rpartition(" ")
        expect(url, int(code or 200))


def explain(error: OSError) -> str:
    if isinstance(error, HTTPError):
        return f"{error.url}: {error.code} {error.read().decode('utf-8', 'replace')[:500]}"
    return str(error)


deadline = time.monotonic() + DEADLINE_S
steps = [check_kinds] + [lambda action=action: run(action) for action in sys.argv[1:]]
while steps:
    try:
        steps[0]()
        steps.pop(0)
    except OSError as error:  # URLError, HTTPError and time-outs are
        if time.monotonic() > deadline:
            sys.exit(explain(error))
        time.sleep(0.5)
print("done")
