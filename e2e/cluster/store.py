"""Images in the node's containerd: what is there, and how one gets in."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import builder
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
            _import(state, partial(_add_program, image, programs / program))
            run(*ctr(state), "images", "tag", "--force", image, stamp)


def add_built(state: Path, reference: str) -> None:
    """Bring an image from the builder to the node, without the layers the node has already.

    For each of those an empty file in the layout tells the builder not to write the layer. containerd does not miss
    it: a layer whose snapshot exists is never opened. So a change of code travels in a second beside 6 GB of torch.
    """
    with tempfile.TemporaryDirectory(dir=state) as folder:
        layout = Path(folder)
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for layer in _unpacked(state, builder.layers(reference)):
            (blobs / layer.removeprefix("sha256:")).touch()
        builder.push(reference, layout)
        _import(state, lambda archive: _add_filled(archive, layout))
        _drop_packed_layers(state, layout)


def _unpacked(state: Path, layers: list[str]) -> list[str]:
    """Those of an image's lowest layers, by uncompressed digest, that are snapshots of the node."""
    snapshots = set(run(*ctr(state), "snapshots", "list").split())
    chain, found = "", []
    for layer in layers:
        # Source: OCI image specification, "Layer ChainID"
        chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}" if chain else layer
        if chain not in snapshots:
            break
        found.append(layer)
    return found


def _add_filled(archive: tarfile.TarFile, layout: Path) -> None:
    for path in layout.rglob("*"):
        if path.is_file() and path.stat().st_size:
            archive.add(path, path.relative_to(layout))


def _drop_packed_layers(state: Path, layout: Path) -> None:
    """Free the compressed layers: containers run from the snapshots, and nothing is ever pushed from the node."""
    blobs = {path.name for path in (layout / "blobs" / "sha256").iterdir() if path.stat().st_size}
    described = (layout / "index.json").read_text()
    for manifest in json.loads(described)["manifests"]:
        content = json.loads((layout / "blobs" / manifest["digest"].replace(":", "/")).read_text())
        packed = [layer["digest"] for layer in content["layers"] if layer["digest"].removeprefix("sha256:") in blobs]
        if packed:
            run(*ctr(state), "content", "delete", *packed)


def _import(state: Path, fill: Callable[[tarfile.TarFile], None]) -> None:
    """Stream an archive, docker's or OCI's, into containerd."""
    command = [*ctr(state), "images", "import", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        with suppress(BrokenPipeError), tarfile.open(fileobj=process.stdin, mode="w|") as archive:
            fill(archive)
        process.stdin.close()
        words = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise ClusterError(f"containerd refused an image: {words}")


def _add_program(image: str, program: Path, archive: tarfile.TarFile) -> None:
    """Write a docker archive of an image FROM scratch with one program as its entry point."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        _add(layer, program.name, program.read_bytes())
    settings = {"Entrypoint": [f"/{program.name}"], "User": "65534:65534"}
    root = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}"]}
    about = {"architecture": run("go", "env", "GOARCH").strip(), "os": "linux", "config": settings, "rootfs": root}
    manifest = [{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}]
    _add(archive, "layer.tar", buffer.getvalue())
    _add(archive, "config.json", json.dumps(about).encode())
    _add(archive, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    archive.addfile(entry, io.BytesIO(content))
