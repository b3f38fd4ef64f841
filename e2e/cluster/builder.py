"""Builds the project's images from their Dockerfiles by buildah: no daemon, no registry, its store in the cache.

The base image comes from a registry where one answers, else it is made by debootstrap, which needs only a Debian
mirror. Wheels are downloaded once for images and development environment alike: both use the same uv cache.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .images import Image
from .paths import REPO, cache
from .shell import logged, run, step

BASE = "docker.io/library/debian:bookworm-slim"
# Files of the machine that a build may need to reach package indexes; mounted while it runs, never kept in an image.
SECRETS = {
    "ca": ("/etc/ssl/certs/ca-certificates.crt",),
    "pip": ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf"),
    "uv": ("/etc/uv/uv.toml", "~/.config/uv/uv.toml"),
}


def build(image: Image) -> None:
    """Build the image unless this very content has been built before."""
    if _exists(image.reference):
        return
    if not _exists(BASE):
        _make_base()
    title = (
        f"building {image.name} (torch is 3 GB to download the first time)"
        if image.name == "runtime"
        else f"building {image.name}"
    )
    options = ["--isolation", "chroot", "--pull-never", "--layers", "--file", str(image.dockerfile), *_secrets()]
    run(*_buildah(), "rm", "--all")  # what a failed build left behind
    with step(title):
        logged(
            cache() / "log" / f"image-{image.name}.log",
            *_buildah(),
            "bud",
            *options,
            "--tag",
            image.reference,
            REPO,
            env=_env(),
        )
    _forget_others(image)


def layers(reference: str) -> list[str]:
    """The digests of the image's uncompressed layers, from the base upwards."""
    about = json.loads(run(*_buildah(), "inspect", "--type", "image", reference))
    return list(about["OCIv1"]["rootfs"]["diff_ids"])


def push(reference: str, layout: Path) -> None:
    """Write the image into a folder in OCI layout, but for the layers whose uncompressed digest is a file there."""
    run(
        *_buildah(),
        "push",
        "--quiet",
        "--compression-format",
        "zstd",
        reference,
        f"oci:{layout}:{reference}",
        env=_env(),
    )


def _buildah() -> tuple[str, ...]:
    return "buildah", "--root", f"{cache()}/buildah/store", "--runroot", f"{cache()}/buildah/run"


def _env() -> dict[str, str]:
    """The environment in which `--mount=type=cache,id=uv` of a Dockerfile is the uv cache of this machine."""
    scratch = cache() / "buildah" / "tmp"
    for name in ("buildah-cache", "buildah-cache-0"):  # as buildah calls it: up to 1.31, and since
        link = scratch / name / "uv"
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(cache() / "uv-cache")
    (cache() / "uv-cache").mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(scratch)}


def _secrets() -> Iterator[str]:
    for name, places in SECRETS.items():
        found = [path for place in places if (path := Path(place).expanduser()).is_file()]
        if found:
            yield f"--secret=id={name},src={found[0]}"


def _exists(reference: str) -> bool:
    return bool(run(*_buildah(), "images", "--quiet", "--filter", f"reference={reference}").strip())


def _forget_others(image: Image) -> None:
    """Drop earlier builds of the image; the layers it shares with them stay."""
    name = image.reference.rpartition(":")[0]
    listed = run(*_buildah(), "images", "--format", "{{.Name}}:{{.Tag}}", "--filter", f"reference={name}").split()
    for old in set(listed) - {image.reference}:
        run(*_buildah(), "rmi", old)


def _make_base() -> None:
    if _registry_answers():
        with step(f"pulling {BASE}"):
            logged(cache() / "log" / "image-base.log", *_buildah(), "pull", BASE, env=_env())
        return
    with (
        step("no registry answers: making a Debian base image by debootstrap"),
        tempfile.TemporaryDirectory(dir=cache()) as folder,
    ):
        root = Path(folder) / "root"
        logged(cache() / "log" / "image-base.log", "debootstrap", "--variant=minbase", "bookworm", root)
        _slim(root)
        archive = Path(folder) / "base.tar"
        run("tar", "-C", root, "--numeric-owner", "-cf", archive, ".")
        container = run(*_buildah(), "from", "scratch", env=_env()).strip()
        run(*_buildah(), "add", "--quiet", container, archive, "/", env=_env())
        run(*_buildah(), "config", "--cmd", '["bash"]', container)
        run(*_buildah(), "commit", "--quiet", "--rm", container, BASE, env=_env())


_FILES = {
    # As in Debian's own slim image: no documentation, no package caches.
    "etc/dpkg/dpkg.cfg.d/slim": "".join(
        f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "info", "locale", "man")
    )
    + "path-include /usr/share/doc/*/copyright\n",
    "etc/apt/apt.conf.d/slim": """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
""",
    "etc/apt/sources.list": """\
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
""",
}
_CLEARED = ("usr/share/info", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists", "var/log")


def _slim(root: Path) -> None:
    for name in _CLEARED:
        shutil.rmtree(root / name)
        (root / name).mkdir()
    for path, content in _FILES.items():
        (root / path).write_text(content)


def _registry_answers() -> bool:
    try:
        socket.create_connection(("registry-1.docker.io", 443), timeout=3).close()
    except OSError:
        return False
    return True
