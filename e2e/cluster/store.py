"""Images in the node's containerd: what is there, and how one gets in."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from .config import PAUSE
from .shell import ClusterError, run

COREDNS = "slipway.local/coredns:1"


def ctr(state: Path) -> tuple[str, ...]:
    return ("ctr", "--address", f"{state}/containerd.sock", "--namespace", "k8s.io")


def names(state: Path) -> set[str]:
    return set(run(*ctr(state), "images", "list", "--quiet").split())


def containers(state: Path) -> list[str]:
    return run(*ctr(state), "containers", "list", "--quiet").split()


def add_single_programs(state: Path, programs: Path) -> None:
    """The two images that are one program and nothing else, so that they need no builder: pause and CoreDNS."""
    present = names(state)
    for image, program in ((PAUSE, "pause"), (COREDNS, "coredns")):
        stamp = f"{image}-{programs.name}"  # the folder's name changes with the program
        if stamp not in present:
            load(state, _archive(image, programs / program))
            run(*ctr(state), "images", "tag", "--force", image, stamp)


def load(state: Path, archive: bytes) -> None:
    """Import a docker archive."""
    done = subprocess.run(
        [*ctr(state), "images", "import", "-"], input=archive, capture_output=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"containerd refused an image: {done.stderr.decode(errors='replace').strip()}")


def _archive(image: str, program: Path) -> bytes:
    """A docker archive of an image FROM scratch with one program as its entry point."""
    layer = _tar({program.name: program.read_bytes()})
    settings = {"Entrypoint": [f"/{program.name}"], "User": "65534:65534"}
    root = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    about = json.dumps({"architecture": "amd64", "os": "linux", "config": settings, "rootfs": root})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}])
    return _tar({"layer.tar": layer, "config.json": about.encode(), "manifest.json": manifest.encode()})


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
