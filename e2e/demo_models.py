"""The part of the tour about models: one from an S3 server, and the same one on Triton."""

import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.bench.fetch.tools import rclone
from e2e.cluster import TRITON, choose
from e2e.cluster.paths import cache
from e2e.support.manifests import client_pod, secret, service
from e2e.support.site import documents
from e2e.support.triton import RUNTIME, SIZE

if TYPE_CHECKING:
    from e2e.demo import Tour
    from e2e.support.api import Manifest

STORE, PORT = "store", 9000
KEY, SECRET = "AKIADEMO", secrets.token_hex(16)
SAMPLES = "/opt/slipway"
"""In the image of the runtime: the folder above the samples, which is the bucket `samples` then."""
HEADS = ("from-s3", "by-triton")


def models(tour: "Tour", namespace: str, install: str, body: str) -> None:
    """`install` is the command that Slipway was installed by, `body` a request that is answered 3, 5, 7, 9."""
    kubectl, files = f"kubectl -n {namespace}", _files(cache() / "demo", namespace)
    choose().load((TRITON,))
    tour.step("A pod for a store", f"{kubectl} apply -f {files['store']}")
    tour.step("... which runs", f"{kubectl} wait pod/{STORE} --for=condition=Ready --timeout=60s")
    into = shlex.quote("cat > $HOME/rclone && chmod +x $HOME/rclone")
    tour.step("rclone is brought into it", f"{kubectl} exec -i {STORE} -- sh -c {into} < {rclone()}")
    serve = f"$HOME/rclone serve s3 --addr :{PORT} --auth-key {KEY},{SECRET} --config /dev/null {SAMPLES}"
    started = shlex.quote(f"nohup {serve} > /dev/null 2>&1 &")
    tour.step("... and serves the sample models by S3", f"{kubectl} exec {STORE} -- sh -c {started}")
    inside = shlex.quote(f"fetch.policy.insideHosts={{{STORE}.{namespace}.svc:{PORT}}}")
    tour.step("An administrator allows models from there", f"{install} --set {inside}")
    tour.step("A model from it, and the same one on Triton", f"{kubectl} apply -f {files['services']}")
    for name in HEADS:
        tour.step(f"Wait for {name}", f"{kubectl} wait infsvc/{name} --for=condition=Ready --timeout=180s")
    tour.step("Which runtime serves which", f"{kubectl} get infsvc {' '.join(HEADS)} -o custom-columns={_COLUMNS}")
    with tour.forwarded() as address:
        for name in HEADS:
            url = f"{address}/{namespace}/{name}/v2/models/{name}/infer"
            tour.expect("3.0,5.0,7.0,9.0", tour.step(f"Ask {name}", f"curl -sS {url} -d {shlex.quote(body)}"))
    tour.step("Make room", f"{kubectl} delete infsvc {' '.join(HEADS)} --wait=false && {kubectl} delete pod/{STORE}")


_COLUMNS = "NAME:.metadata.name,MODEL:.spec.predictor.model.storageUri,RUNTIME:.status.runtime"


def _files(folder: Path, namespace: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    access = {"endpoint": f"http://{STORE}.{namespace}.svc:{PORT}", "secretName": "reader"}
    made: dict[str, list[Manifest]] = {
        "store": [
            client_pod(STORE),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": STORE},
                "spec": {"selector": {"app": STORE}, "ports": [{"port": PORT}]},
            },
            secret("reader", AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET),
        ],
        "services": [
            service("from-s3", "s3://samples/hello", storage=access),
            service("by-triton", "s3://samples/hello", storage=access, runtime=RUNTIME, resources=SIZE),
        ],
    }
    files = {name: folder / f"{name}.yaml" for name in made}
    for name, manifests in made.items():
        files[name].write_text(documents(*manifests))
    return files
