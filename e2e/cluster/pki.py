"""Keys and certificates of one cluster, made anew at every start: a tenth of a second, and nothing ever expires."""

from pathlib import Path

from .shell import run

_DAYS = "365"


def create(folder: Path, node_ip: str, service_ip: str) -> None:
    """Write ca, apiserver, admin and node as .crt and .key, and sa.key, which signs service account tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    _key(folder / "ca.key")
    _key(folder / "sa.key")
    run(
        *("openssl", "req", "-x509", "-new", "-key", folder / "ca.key", "-out", folder / "ca.crt"),
        *("-days", _DAYS, "-subj", "/CN=slipway-cluster"),
    )
    names = [
        "localhost",
        *(f"kubernetes{end}" for end in ("", ".default", ".default.svc", ".default.svc.cluster.local")),
    ]
    addresses = ["127.0.0.1", service_ip, node_ip]
    _certificate(folder, "apiserver", "/CN=kube-apiserver", names, addresses)
    _certificate(folder, "admin", "/O=system:masters/CN=admin", ["admin"], [])
    _certificate(folder, "node", "/O=system:nodes/CN=system:node:node", ["node"], [node_ip])


def _key(path: Path) -> None:
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


def _certificate(folder: Path, name: str, subject: str, dns: list[str], ips: list[str]) -> None:
    key, request = folder / f"{name}.key", folder / f"{name}.csr"
    _key(key)
    run("openssl", "req", "-new", "-key", key, "-out", request, "-subj", subject)
    alternatives = ",".join([*(f"DNS:{value}" for value in dns), *(f"IP:{value}" for value in ips)])
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=clientAuth,serverAuth\n")
    run(
        *("openssl", "x509", "-req", "-in", request, "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key"),
        *("-CAcreateserial", "-out", folder / f"{name}.crt", "-days", _DAYS, "-extfile", extensions),
    )
