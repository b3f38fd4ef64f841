"""Real stores, each a process on loopback, alike for a test: models are put there, and a URI names them."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import quote, urlencode

from e2e.cluster import pki
from tests.runtime.fetching.stand_in import Asked
from tests.runtime.stores import programs
from tests.runtime.stores.proxy import Upstream

Model = Mapping[str, Path]
"""Its files, by the names that they have in it."""
START_S = 60.0
LARGE_FROM = 1 << 16
"""Of a model's files, in the tests; the others are a few bytes."""


class Site(ABC):
    """One store. `secret` are the variables that open it, `stranger` those that do not; None: it knows nobody."""

    name: ClassVar[str]
    secret: dict[str, str]
    stranger: dict[str, str] | None = None
    announces = True
    """Whether it tells a digest, so that damage is seen without one in the spec."""
    is_frozen = False
    """Whether what a model consists of stays there when its name means another one."""
    upstream: Upstream

    @classmethod
    @abstractmethod
    def serving(cls, folder: Path) -> AbstractContextManager["Site"]: ...

    @abstractmethod
    def put(self, name: str, model: Model) -> None:
        """Also in place of what has the name."""

    @abstractmethod
    def remove(self, name: str) -> None: ...

    @abstractmethod
    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        """URI and `storage` of a model, asked for through a proxy."""

    def is_body(self, asked: Asked) -> bool:
        """Whether it is the content of a large file."""
        return asked.method == "GET" and asked.path.endswith("model.pt")


@contextmanager
def running(folder: Path, *command: str | Path, port: int, env: Mapping[str, str] | None = None) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as out, subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=folder) as server:
        try:
            end = time.monotonic() + START_S
            while not _listens(port):
                assert server.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < end, f"{command[0]} does not listen"
                time.sleep(0.05)
            yield
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def ask(
    port: int, method: str, path: str, body: bytes | IO[bytes] = b"", headers: Mapping[str, str] | None = None
) -> http.client.HTTPResponse:
    """The answer, with its body read away. Fails unless it is a good one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body, dict(headers or {}))
    answer = connection.getresponse()
    words = answer.read()
    connection.close()
    assert answer.status < 300, f"{method} {path}: {answer.status} {words[:500]!r}"
    return answer


def written(place: Path, model: Model) -> None:
    """Whole, in place of what was there: nobody ever sees half of it."""
    fresh = place.with_name(f".{place.name}")
    for name, file in model.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, fresh / name)
    old = place.with_name(f".{place.name}.old")
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


class S3(Site):
    name = "s3"
    announces = False
    _KEY, _SECRET = "AKIATESTSTORE", "canary-of-a-secret-key"

    def __init__(self, folder: Path) -> None:
        self._bucket = folder / "root" / "models"
        self._bucket.mkdir(parents=True)
        self.upstream = Upstream(free_port())
        self.secret = _aws(self._KEY, self._SECRET)
        self.stranger = _aws(self._KEY, "another")

    def put(self, name: str, model: Model) -> None:
        written(self._bucket / name, model)

    def remove(self, name: str) -> None:
        shutil.rmtree(self._bucket / name)

    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        return f"s3://models/{name}", {"endpoint": f"http://127.0.0.1:{port}", "secretName": "keys"}

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["S3"]:
        site = cls(folder)
        options = ("--auth-key", f"{cls._KEY},{cls._SECRET}", "--addr", f"127.0.0.1:{site.upstream.port}")
        with running(folder, *_rclone("s3", folder), *options, port=site.upstream.port):
            yield site


class Https(Site):
    """Files of a server with a certificate of a private authority. A model is a tar, as a URI names one file."""

    name = "https"
    announces = False

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._root.mkdir()
        self._put_s = 1_700_000_000
        pki.create(folder / "tls", "127.0.0.1", "127.0.0.1")
        made = folder / "tls" / "apiserver.crt", folder / "tls" / "apiserver.key"
        self.upstream = Upstream(free_port(), certificate=made, authority=folder / "tls" / "ca.crt")
        self.authority = {"SLIPWAY_SECRET_CA": (folder / "tls" / "ca.crt").read_text()}
        self.secret = self.authority | _basic("reader", "canary-of-a-password")
        self.stranger = self.authority | _basic("reader", "another")

    def put(self, name: str, model: Model) -> None:
        fresh = self._root / f".{name}"
        with tarfile.open(fresh, "w") as made:
            for path, file in model.items():
                made.add(file, path)
        self._put_s += 1
        os.utime(fresh, (self._put_s, self._put_s))  # what it tells versions apart by, in seconds
        fresh.rename(self.file(name))

    def remove(self, name: str) -> None:
        self.file(name).unlink()

    def file(self, name: str) -> Path:
        return self._root / f"{name}.tar"

    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        return f"https://127.0.0.1:{port}/{name}.tar", {"secretName": "reader"}

    def is_body(self, asked: Asked) -> bool:
        return asked.method == "GET" and asked.headers.get("range") != "bytes=0-0"

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["Https"]:
        site = cls(folder)
        assert site.upstream.certificate
        cert, key = map(str, site.upstream.certificate)
        known = ("--user", "reader", "--pass", "canary-of-a-password", "--addr", f"127.0.0.1:{site.upstream.port}")
        command = (*_rclone("http", folder), *known, "--cert", cert, "--key", key)
        with running(folder, *command, port=site.upstream.port):
            yield site


class Google(Site):
    name = "gs"

    def __init__(self, port: int, key: Path) -> None:
        self.upstream = Upstream(port, host="storage.test")
        account = {
            "type": "service_account",
            "client_email": "reader@project.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": key.read_text(),
        }
        self.secret = {"SLIPWAY_SECRET_GOOGLE_SERVICE_ACCOUNT": json.dumps(account)}
        self._files: dict[str, list[str]] = {}

    def put(self, name: str, model: Model) -> None:
        for path, file in model.items():
            query = urlencode({"uploadType": "media", "name": f"{name}/{path}"})
            with file.open("rb") as body:
                headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
                ask(self.upstream.port, "POST", f"/upload/storage/v1/b/models/o?{query}", body, headers)
        self._files[name] = list(model)

    def remove(self, name: str) -> None:
        for path in self._files.pop(name):
            ask(self.upstream.port, "DELETE", f"/storage/v1/b/models/o/{quote(f'{name}/{path}', safe='')}")

    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        return f"gs://models/{name}", {"endpoint": f"http://127.0.0.1:{port}", "secretName": "account"}

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["Google"]:
        key = folder / "key"
        subprocess.run(["openssl", "genrsa", "-traditional", "-out", key, "2048"], check=True, capture_output=True)
        site = cls(free_port(), key)
        (folder / "root").mkdir()
        options = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(site.upstream.port), "-log-level", "warn")
        where = ("-backend", "filesystem", "-filesystem-root", folder / "root", "-public-host", site.upstream.host)
        with running(folder, programs.fake_gcs(), *options, *where, port=site.upstream.port):
            ask(site.upstream.port, "POST", "/storage/v1/b?project=p", b'{"name": "models"}')
            yield site


class Azure(Site):
    name = "az"
    _ACCOUNT, _KEY = "account1", base64.b64encode(b"canary" * 8).decode()

    def __init__(self) -> None:
        self.upstream = Upstream(free_port())
        self.secret = {"SLIPWAY_SECRET_AZURE_STORAGE_ACCOUNT_KEY": self._KEY}
        self.stranger = {"SLIPWAY_SECRET_AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"k" * 64).decode()}
        self._files: dict[str, list[str]] = {}

    def put(self, name: str, model: Model) -> None:
        for path, file in model.items():
            with file.open("rb") as body:
                self._ask(
                    "PUT", f"models/{name}/{path}", body=body, size=file.stat().st_size, x_ms_blob_type="BlockBlob"
                )
        self._files[name] = list(model)

    def remove(self, name: str) -> None:
        for path in self._files.pop(name):
            self._ask("DELETE", f"models/{name}/{path}")

    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        endpoint = f"http://127.0.0.1:{port}/{self._ACCOUNT}"
        return f"az://{self._ACCOUNT}/models/{name}", {"endpoint": endpoint, "secretName": "keys"}

    def _ask(
        self, method: str, path: str, query: str = "", *, body: IO[bytes] | bytes = b"", size: int = 0, **more: str
    ) -> None:
        """Signed with the account's key. Source: Azure, "Authorize with Shared Key"."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        headers |= {key.replace("_", "-"): value for key, value in more.items()}
        path = f"/{self._ACCOUNT}/{quote(path)}"
        lines = [method, "", "", str(size or ""), *[""] * 8, *(f"{name}:{headers[name]}" for name in sorted(headers))]
        lines += [
            f"/{self._ACCOUNT}{path}",
            *(f"{a}:{b}" for a, _, b in (q.partition("=") for q in query.split("&") if q)),
        ]
        made = hmac.new(base64.b64decode(self._KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
        headers |= {"Authorization": f"SharedKey {self._ACCOUNT}:{base64.b64encode(made).decode()}"}
        headers |= {"Content-Length": str(size)}
        ask(self.upstream.port, method, path + (f"?{query}" if query else ""), body, headers)

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["Azure"]:
        site = cls()
        env = os.environ | {"AZURITE_ACCOUNTS": f"{cls._ACCOUNT}:{cls._KEY}"}
        options = ("--blobPort", str(site.upstream.port), "--location", str(folder), "--silent", "--disableTelemetry")
        command = (*programs.azurite(), *options, "--skipApiVersionCheck")
        with running(folder, *command, port=site.upstream.port, env=env):
            site._ask("PUT", "models", "restype=container")
            yield site


class Oci(Site):
    name = "oci"
    is_frozen = True
    # Of "reader" and "canary-of-a-password", by bcrypt.
    _KNOWN = "reader:$2b$05$abcdefghijklmnopqrstuuUUeXwVNSz4yQW3PK7SxUVCL7UROAiT6\n"

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._large: set[str] = set()
        self.upstream = Upstream(free_port())
        self.secret, self.stranger = _basic("reader", "canary-of-a-password"), _basic("reader", "another")
        self._headers = {"Authorization": "Basic " + base64.b64encode(b"reader:canary-of-a-password").decode()}

    def put(self, name: str, model: Model) -> None:
        layers = [
            self._blob(name, file)
            | {
                "mediaType": "application/octet-stream",
                "annotations": {"org.opencontainers.image.title": path},
            }
            for path, file in model.items()
        ]
        (self._root / "empty").write_bytes(b"{}")
        media_type = "application/vnd.oci.image.manifest.v1+json"
        config = self._blob(name, self._root / "empty") | {"mediaType": "application/vnd.oci.empty.v1+json"}
        self._large |= {layer["digest"] for layer in layers if layer["size"] >= LARGE_FROM}
        manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}
        headers = self._headers | {"Content-Type": media_type}
        ask(self.upstream.port, "PUT", f"/v2/{name}/manifests/1", json.dumps(manifest).encode(), headers)

    def _blob(self, name: str, file: Path) -> dict[str, Any]:
        with file.open("rb") as body:
            digest = "sha256:" + hashlib.file_digest(body, "sha256").hexdigest()
            body.seek(0)
            begun = ask(self.upstream.port, "POST", f"/v2/{name}/blobs/uploads/", b"", self._headers)
            where = begun.headers["Location"]
            headers = self._headers | {"Content-Length": str(file.stat().st_size)}
            ask(self.upstream.port, "PUT", f"{where}&digest={quote(digest)}", body, headers)
        return {"digest": digest, "size": file.stat().st_size}

    def remove(self, name: str) -> None:
        where = self._root / "docker" / "registry" / "v2"
        shutil.rmtree(where / "repositories" / name)

    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        storage = {"endpoint": f"http://127.0.0.1:{port}", "secretName": "reader"}
        return f"oci://registry.example/{name}:1", storage

    def is_body(self, asked: Asked) -> bool:
        return asked.path.rpartition("/")[2] in self._large

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["Oci"]:
        site = cls(folder)
        site._root.mkdir()
        (folder / "users").write_text(cls._KNOWN)
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(site._root)}},
            "http": {"addr": f"127.0.0.1:{site.upstream.port}", "relativeurls": True, "secret": "x"},
            "auth": {"htpasswd": {"realm": "test", "path": str(folder / "users")}},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        with running(folder, programs.registry(), "serve", folder / "config.yml", port=site.upstream.port):
            yield site


def _rclone(kind: str, folder: Path) -> tuple[str | Path, ...]:
    options = ("--config", os.devnull, "--dir-cache-time", "0s", "--read-only")
    return programs.rclone(), "serve", kind, str(folder / "root"), *options


def _aws(key: str, secret: str) -> dict[str, str]:
    return {"SLIPWAY_SECRET_AWS_ACCESS_KEY_ID": key, "SLIPWAY_SECRET_AWS_SECRET_ACCESS_KEY": secret}


def _basic(user: str, password: str) -> dict[str, str]:
    return {"SLIPWAY_SECRET_USERNAME": user, "SLIPWAY_SECRET_PASSWORD": password}
