"""Certificates that nobody but a test trusts."""

import subprocess
from pathlib import Path


def certificate(path: Path, key: Path, name: str) -> None:
    command: tuple[str, ...] = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    )
    command += ("-keyout", str(key), "-out", str(path), "-subj", f"/CN={name}", "-days", "2")
    subprocess.run((*command, "-addext", f"subjectAltName=DNS:{name}"), check=True, capture_output=True)
