"""Models in an OCI registry: artifacts of files, and images with the model below /models."""

import base64
import hashlib
import json
from typing import Any

import pytest

from tests.runtime.fetching.archives import entry, gz, tar, zst
from tests.runtime.fetching.conftest import Fetch
from tests.runtime.fetching.stand_in import Answer, Asked, Fault, Store

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Site:
    """A registry with one repository, `team/m`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.token = ""
        self.known = ""
        """Authorization that the token is given for; empty: anybody."""
        store.routes.append(self.route)

    def layer(self, data: bytes, media_type: str = "application/octet-stream", **annotations: str) -> dict[str, Any]:
        self.store.files[f"/v2/team/m/blobs/{digest(data)}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), "annotations": annotations}

    def file(self, name: str, data: bytes) -> dict[str, Any]:
        return self.layer(data, **{TITLE: name})

    def manifest(self, reference: str, *layers: dict[str, Any]) -> str:
        return self.put(reference, {"schemaVersion": 2, "mediaType": OCI, "layers": list(layers)})

    def put(self, reference: str, content: Any) -> str:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        for name in (reference, digest(data)):
            self.store.files[f"/v2/team/m/manifests/{name}"] = data
        return digest(data)

    def route(self, asked: Asked) -> Answer | None:
        if asked.path == "/token":
            if self.known and asked.headers.get("authorization") != self.known:
                return Answer(401)
            scope = asked.query == {"service": "reg", "scope": "repository:team/m:pull"}
            return Answer(200 if scope else 400, json.dumps({"token": self.token}).encode())
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.store.url}/token",service="reg",scope="repository:team/m:pull"'
            return Answer(401, b"", {"WWW-Authenticate": challenge})
        return None


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def at(site: Site, **more: Any) -> dict[str, Any]:
    return {"endpoint": site.store.url, **more}


def test_the_files_of_an_artifact_are_fetched_by_their_titles(site: Site, fetch: Fetch) -> None:
    site.manifest("1", site.file("model.pt", b"weights"), site.file("sub/labels.txt", b"a"), site.layer(b"untitled"))
    got = fetch("oci://registry.example/team/m:1", storage=at(site))
    assert (got.code, got.model) == (0, {"model.pt": b"weights", "sub/labels.txt": b"a"}), got.message


@pytest.mark.parametrize(
    ("media_type", "pack"),
    [
        ("application/vnd.oci.image.layer.v1.tar", bytes),
        ("application/vnd.oci.image.layer.v1.tar+gzip", gz),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zst),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gz),
    ],
)
def test_of_an_image_what_is_below_models_is_the_model(site: Site, fetch: Fetch, media_type: str, pack: Any) -> None:
    base = site.layer(pack(tar(entry("bin/sh", b"#!"), entry("etc/passwd", b"root"))), media_type)
    model = site.layer(pack(tar(entry("models/model.pt", b"weights"), entry("models/1/x", b"x"))), media_type)
    site.manifest("1", base, model)
    got = fetch("oci://registry.example/team/m:1", storage=at(site, unpack=False))
    assert (got.code, got.model) == (0, {"model.pt": b"weights", "1/x": b"x"}), got.message


def test_an_image_without_a_model_is_told(site: Site, fetch: Fetch) -> None:
    site.manifest("1", site.layer(gz(tar(entry("bin/sh"))), "application/vnd.oci.image.layer.v1.tar+gzip"))
    got = fetch("oci://registry.example/team/m:1", storage=at(site))
    assert (got.code, got.reason, "below /models in the image" in got.message) == (66, "ModelNotFound", True)


def test_an_archive_as_the_only_file_of_an_artifact_is_unpacked(site: Site, fetch: Fetch) -> None:
    site.manifest("1", site.file("model.tar.gz", gz(tar(entry("model.pt", b"weights")))))
    assert fetch("oci://registry.example/team/m:1", storage=at(site)).model == {"model.pt": b"weights"}


def test_of_an_index_the_manifest_for_this_machine_is_taken(site: Site, fetch: Fetch) -> None:
    ours = site.manifest("ours", site.file("model.pt", b"ours"))
    other = site.manifest("other", site.file("model.pt", b"other"))
    entries = [
        {"digest": other, "platform": {"os": "linux", "architecture": "s390x"}},
        {"digest": ours, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    site.put("1", {"mediaType": INDEX, "manifests": entries})
    assert fetch("oci://registry.example/team/m:1", storage=at(site)).model == {"model.pt": b"ours"}


def test_a_digest_names_the_manifest_and_is_held_to(site: Site, fetch: Fetch) -> None:
    right = site.manifest("1", site.file("model.pt", b"weights"))
    assert fetch(f"oci://registry.example/team/m@{right}", storage=at(site)).model == {"model.pt": b"weights"}
    site.store.files[f"/v2/team/m/manifests/{right}"] += b" "
    got = fetch(f"oci://registry.example/team/m:2@{right}", storage=at(site))
    assert (got.code, got.reason) == (65, "ChecksumMismatch")


def test_a_layer_is_held_to_its_digest(site: Site, fetch: Fetch) -> None:
    layer = site.file("model.pt", b"weights")
    site.manifest("1", layer)
    site.store.files[f"/v2/team/m/blobs/{layer['digest']}"] = b"damaged"
    got = fetch("oci://registry.example/team/m:1", storage=at(site))
    assert (got.code, got.reason, got.model) == (65, "ChecksumMismatch", {})


BASIC = "Basic " + base64.b64encode(b"me:pw").decode()
CONFIG = {
    "auths": {
        "https://other.example": {"auth": "eDp5"},
        "registry.example": {"auth": base64.b64encode(b"me:pw").decode()},
    }
}


@pytest.mark.parametrize(
    "env",
    [
        {"SLIPWAY_SECRET_USERNAME": "me", "SLIPWAY_SECRET_PASSWORD": "pw"},
        {"SLIPWAY_SECRET_DOCKERCONFIGJSON": json.dumps(CONFIG)},
        {
            "SLIPWAY_SECRET_DOCKERCONFIGJSON": json.dumps(
                {"auths": {"registry.example": {"username": "me", "password": "pw"}}}
            )
        },
    ],
    ids=["a user and a password", "a Docker config", "a Docker config in plain words"],
)
def test_a_token_is_asked_for_with_the_credentials(site: Site, fetch: Fetch, env: dict[str, str]) -> None:
    site.token, site.known = "t0ken", BASIC
    site.manifest("1", site.file("model.pt", b"weights"))
    got = fetch("oci://registry.example/team/m:1", storage=at(site), env=env)
    assert (got.code, got.model) == (0, {"model.pt": b"weights"}), got.message


def test_a_public_registry_gives_a_token_to_anybody(site: Site, fetch: Fetch) -> None:
    site.token = "t0ken"  # noqa: S105
    site.manifest("1", site.file("model.pt", b"weights"))
    assert fetch("oci://registry.example/team/m:1", storage=at(site)).code == 0


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SLIPWAY_SECRET_USERNAME": "me", "SLIPWAY_SECRET_PASSWORD": "wrong"},
        {"SLIPWAY_SECRET_DOCKERCONFIGJSON": json.dumps({"auths": {"other.example": {"auth": "eDp5"}}})},
        {"SLIPWAY_SECRET_DOCKERCONFIGJSON": "{"},
        {"SLIPWAY_SECRET_DOCKERCONFIGJSON": json.dumps({"auths": {"registry.example": {"auth": "!"}}})},
    ],
    ids=["none", "wrong", "of another registry", "no JSON", "no base64"],
)
def test_without_the_right_credentials_access_is_denied(site: Site, fetch: Fetch, env: dict[str, str]) -> None:
    site.token, site.known = "t0ken", BASIC
    site.manifest("1", site.file("model.pt", b"weights"))
    got = fetch("oci://registry.example/team/m:1", storage=at(site), env=env)
    assert (got.code, got.reason) == (77, "AccessDenied")


@pytest.mark.parametrize(
    "realm",
    ["http://169.254.169.254/token", "https://2852039166/x", "http://localhost/x", "file:///etc/passwd", "gopher://h"],
)
def test_a_token_is_asked_for_only_where_the_policy_allows(site: Site, fetch: Fetch, realm: str) -> None:
    challenge = f'Bearer realm="{realm}",service="reg"'
    site.store.routes.insert(0, lambda _: Answer(401, b"", {"WWW-Authenticate": challenge}))
    got = fetch("oci://registry.example/team/m:1", storage=at(site), env={"SLIPWAY_SECRET_USERNAME": "me"})
    assert got.reason in ("SourceRefused", "AccessDenied", "StorageUriInvalid"), got.message


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"null", b"{}", b'{"layers": 1}', b'{"layers": [1]}', b'{"layers": [{}]}', b'{"manifests": []}',
        b'{"manifests": [{"digest": "sha256:../../x"}]}', b'{"layers": []}',
        json.dumps({"layers": [{"digest": "sha256:../x", "size": 1, "annotations": {TITLE: "x"}}]}).encode(),
        json.dumps({"layers": [{"digest": digest(b""), "size": "x", "annotations": {TITLE: "x"}}]}).encode(),
        json.dumps({"layers": [{"digest": digest(b""), "size": 1, "annotations": {TITLE: "../x"}}]}).encode(),
        json.dumps({"layers": [{"digest": digest(b""), "size": 1 << 60, "annotations": {TITLE: "x"}}]}).encode(),
        json.dumps({"layers": [{"digest": digest(b""), "size": -1, "annotations": {TITLE: "x"}}]}).encode(),
    ],
)  # fmt: skip
def test_a_manifest_of_nonsense_is_told(site: Site, fetch: Fetch, content: bytes) -> None:
    site.put("1", content)
    got = fetch("oci://registry.example/team/m:1", storage=at(site))
    assert (got.code != 0, bool(got.reason), got.model) == (True, True, {}), got


def test_a_registry_that_fails_for_a_moment_is_asked_again(site: Site, fetch: Fetch) -> None:
    site.manifest("1", site.file("model.pt", b"weights"))
    site.store.faults = [Fault(status=502, times=3)]
    assert fetch("oci://registry.example/team/m:1", storage=at(site)).code == 0
