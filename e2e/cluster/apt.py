"""The Debian packages the local cluster stands on; installed when missing, and said so."""

import os
import shutil
from pathlib import Path

from .paths import cache
from .shell import ClusterError, logged, say, step

# A file of each package tells whether it is there, on any distribution that has these programs.
NODE = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ebtables": "ebtables",
    "ethtool": "ethtool",
    "iproute2": "ip",
    "procps": "sysctl",
    "openssl": "openssl",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "ca-certificates": "/etc/ssl/certs/ca-certificates.crt"}


def require(packages: dict[str, str], needed_by: str = "the local cluster") -> None:
    """Install what is missing of `packages`, a table of names and a program or file of each."""
    missing = [name for name, sign in packages.items() if not (shutil.which(sign) or Path(sign).exists())]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise ClusterError(f"{needed_by} needs {', '.join(missing)}: install them (as root, on Debian, this does it)")
    say(f"missing Debian packages: {' '.join(missing)}")
    log, env = cache() / "log" / "apt.log", {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step("installing them by apt-get"):
        logged(log, "apt-get", "update", env=env)
        logged(log, "apt-get", "install", "--yes", "--no-install-recommends", *missing, env=env)


def unpacked(package: str, program: str) -> Path:
    """A program of a Debian package that is not installed: nothing of it runs as a service, and no root is needed.

    Raises:
        ClusterError: it is not on PATH, and there is no apt-get to get it with.
    """
    if found := shutil.which(Path(program).name):
        return Path(found)
    folder = cache() / f"deb-{package}"
    if not folder.is_dir():
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise ClusterError(
                f"put {Path(program).name} on PATH, or run on Debian, where {package} is unpacked for it"
            )
        fresh, log = folder.with_suffix(".partial"), cache() / "log" / f"deb-{package}.log"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        with step(f"unpacking Debian's {package}"):
            if os.geteuid() == 0:
                logged(log, "apt-get", "update")
            logged(log, "apt-get", "download", package, cwd=fresh)
            for archive in fresh.glob("*.deb"):
                logged(log, "dpkg", "--extract", str(archive), str(fresh))
                archive.unlink()
        fresh.rename(folder)
    return folder / program
