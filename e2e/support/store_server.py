"""An S3 store in a pod, with good models and bad ones; the good ones are its own image's samples."""

import gzip
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.runtime.fetching import buckets
from tests.runtime.fetching.archives import entry, gz, tar
from tests.runtime.fetching.stand_in import Asked, Fault, Store, serving

SAMPLES, BROUGHT = Path("/opt/slipway/samples"), Path("/app/models")
FOREVER = 1 << 60
PORT = 9000


def main() -> None:
    store = Store()
    buckets.s3(store, key=os.environ["ACCESS_KEY"])
    for name, sample in (("hello", "hello"), ("cut", "hello"), ("hello-v2", "hello-v2"), ("failing", "hello")):
        fill(store, name, files_of(sample))
    for folder in BROUGHT.glob("*"):
        fill(store, folder.name, {path.name: path.read_bytes() for path in folder.iterdir()})
    fill(store, "slow", {"model.pt": bytes(1 << 20)})
    fill(store, "steady", {"model.pt": bytes(8 << 20)})
    model = [entry(name, data) for name, data in files_of("hello").items()]
    store.files |= {
        "/models/packed.tar.gz": gz(tar(*model)),
        "/models/climbs.tar": tar(*model, entry("../../../tmp/evil")),
        "/models/bomb.tar.gz": gzip.compress(tar(entry("model.pt", bytes(64 << 20))), 9),
    }
    store.faults = [
        Fault(cut_after=1000, when=gets("cut"), times=3),
        Fault(status=503, when=gets("failing"), times=FOREVER),
        Fault(bytes_per_second=1000, when=gets("slow"), times=FOREVER),
        Fault(bytes_per_second=100_000, when=gets("steady"), times=FOREVER),
    ]
    with serving(store, at=("0.0.0.0", PORT)):  # noqa: S104 - a pod's own
        signal.pause()


def files_of(sample: str) -> dict[str, bytes]:
    folder = SAMPLES / sample
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(store: Store, name: str, files: dict[str, bytes]) -> None:
    buckets.fill(store, f"/models/{name}", files)


def gets(name: str) -> Callable[[Asked], bool]:
    def when(asked: Asked) -> bool:
        return asked.method == "GET" and asked.path.startswith(f"/models/{name}/")

    return when


if __name__ == "__main__":
    main()
