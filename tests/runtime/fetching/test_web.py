"""Models from HTTPS servers: of a private authority, behind redirects, and of servers that serve no parts."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.fetching.archives import entry, gz, tar
from tests.runtime.fetching.conftest import Fetch
from tests.runtime.fetching.stand_in import Answer, Fault, Store, serving

DATA = b"weights" * 100_000


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "ca.crt", folder / "key"
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    name = ("-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1")
    command = (*made, "-keyout", str(paths[1]), "-out", str(paths[0]), *name)
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return paths


@pytest.fixture
def store(certificate: tuple[Path, Path]) -> Iterator[Store]:
    with serving(Store(), certificate) as made:
        yield made


@pytest.fixture
def trusted(certificate: tuple[Path, Path]) -> dict[str, str]:
    return {"SLIPWAY_SECRET_CA": certificate[0].read_text()}


def test_a_file_is_fetched_from_a_server_of_a_private_authority(
    store: Store, fetch: Fetch, trusted: dict[str, str]
) -> None:
    store.files["/a/m x.pt"] = DATA
    got = fetch(f"{store.url}/a/m%20x.pt", env=trusted)
    assert (got.code, got.model) == (0, {"m x.pt": DATA}), got.message


def test_without_its_authority_the_server_is_not_believed(store: Store, fetch: Fetch) -> None:
    store.files["/m.pt"] = DATA
    got = fetch(f"{store.url}/m.pt")
    assert (got.code, got.reason) == (75, "StoreUnavailable")
    assert "has no certificate to trust: self-signed certificate" in got.message


def test_an_authority_that_is_none_is_told(store: Store, fetch: Fetch) -> None:
    got = fetch(f"{store.url}/m.pt", env={"SLIPWAY_SECRET_CA": "-----BEGIN"})
    assert (got.reason, got.message) == ("AccessDenied", "ca.crt is not a certificate in PEM form")


@pytest.mark.parametrize(
    ("env", "header"),
    [
        ({"SLIPWAY_SECRET_TOKEN": "t0ken"}, "Bearer t0ken"),
        (
            {"SLIPWAY_SECRET_USERNAME": "me", "SLIPWAY_SECRET_PASSWORD": "pw"},
            "Basic " + base64.b64encode(b"me:pw").decode(),
        ),
    ],
    ids=["token", "password"],
)
def test_credentials_go_with_each_request(
    store: Store, fetch: Fetch, trusted: dict[str, str], env: dict[str, str], header: str
) -> None:
    store.files["/m.pt"] = DATA
    assert fetch(f"{store.url}/m.pt", env=trusted | env).code == 0
    assert {asked.headers.get("authorization") for asked in store.asked} == {header}


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, 77, "AccessDenied"),
        (403, 77, "AccessDenied"),
        (404, 66, "ModelNotFound"),
        (410, 66, "ModelNotFound"),
        (400, 75, "StoreUnavailable"),
        (204, 75, "StoreUnavailable"),
    ],
)
def test_an_answer_that_is_no_file_is_told(
    store: Store, fetch: Fetch, trusted: dict[str, str], *, status: int, code: int, reason: str
) -> None:
    store.routes.append(lambda _: Answer(status))
    got = fetch(f"{store.url}/m.pt", env=trusted)
    assert (got.code, got.reason, got.model) == (code, reason, {})


@pytest.mark.parametrize("told", [True, False], ids=["with a length", "without a length"])
def test_a_server_without_parts_serves_a_file_in_one_piece(
    store: Store, fetch: Fetch, trusted: dict[str, str], told: bool
) -> None:
    store.ranges, store.told, store.files["/m.pt"] = False, told, DATA
    assert fetch(f"{store.url}/m.pt", env=trusted).model == {"m.pt": DATA}


def test_a_server_without_parts_is_asked_from_the_beginning_when_it_breaks_off(
    store: Store, fetch: Fetch, trusted: dict[str, str]
) -> None:
    store.ranges, store.files["/m.pt"] = False, DATA
    store.faults = [Fault(cut_after=100_000, when=lambda asked: "range" not in asked.headers, times=2)]
    assert fetch(f"{store.url}/m.pt", env=trusted).model == {"m.pt": DATA}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("slipway_runtime.fetch.journal.PART", 1 << 16)
    monkeypatch.setattr("slipway_runtime.fetch.download.PART", 1 << 16)
    return 1 << 16


def test_without_an_etag_the_time_of_change_tells_versions_apart(
    store: Store, fetch: Fetch, trusted: dict[str, str], small_parts: int
) -> None:
    store.validators, store.files["/m.pt"] = False, DATA
    new = b"another" * 100_000

    def replace() -> None:
        store.files["/m.pt"], store.modified = new, "Mon, 01 Jan 2024 00:00:01 GMT"

    store.faults = [Fault(before=replace, when=lambda asked: asked.headers.get("range", "").startswith("bytes=65536-"))]
    got = fetch(f"{store.url}/m.pt", env=trusted, limits={"connections": 1})
    assert (got.code, got.model) == (0, {"m.pt": new}), got.message
    assert "was replaced while it was downloaded" in got.log


def test_of_a_server_that_tells_no_version_a_file_is_one_piece(
    store: Store, fetch: Fetch, trusted: dict[str, str], small_parts: int
) -> None:
    """Its parts might be of two files."""
    store.validators, store.modified, store.files["/m.pt"] = False, "", DATA
    assert fetch(f"{store.url}/m.pt", env=trusted).model == {"m.pt": DATA}
    assert [asked.headers.get("range") for asked in store.asked] == ["bytes=0-0", None]


def test_a_file_of_unknown_length_is_held_to_the_limits(store: Store, fetch: Fetch, trusted: dict[str, str]) -> None:
    store.ranges = store.told = False
    store.files["/m.pt"] = DATA
    for limits in ({"maxFileBytes": 100_000}, {"maxBytes": 100_000}):
        got = fetch(f"{store.url}/m.pt", env=trusted, limits=limits)
        assert (got.code, got.reason, got.model) == (65, "LimitExceeded", {})


def test_an_empty_file_is_a_file(store: Store, fetch: Fetch, trusted: dict[str, str]) -> None:
    store.files["/m.pt"] = b""
    assert fetch(f"{store.url}/m.pt", env=trusted).model == {"m.pt": b""}


def test_an_archive_is_unpacked_unless_the_spec_says_no(store: Store, fetch: Fetch, trusted: dict[str, str]) -> None:
    store.files["/m.tar.gz"] = packed = gz(tar(entry("model.pt", DATA), entry("sub/x", b"x")))
    assert fetch(f"{store.url}/m.tar.gz", env=trusted).model == {"model.pt": DATA, "sub/x": b"x"}
    got = fetch(f"{store.url}/m.tar.gz", env=trusted, storage={"unpack": False})
    assert got.model == {"m.tar.gz": packed}


def test_a_hostile_archive_leaves_nothing(store: Store, fetch: Fetch, trusted: dict[str, str], tmp_path: Path) -> None:
    store.files["/m.tar"] = tar(entry("model.pt", DATA), entry("../../x", b"x"))
    got = fetch(f"{store.url}/m.tar", env=trusted)
    assert (got.code, got.reason, got.files) == (65, "ArchiveRefused", {})
    assert not (tmp_path / "x").exists()
    assert list((tmp_path / "volume").iterdir()) == []


def test_a_redirect_on_the_same_host_is_followed(store: Store, fetch: Fetch, trusted: dict[str, str]) -> None:
    store.files["/real"] = DATA
    store.routes.append(lambda asked: Answer(302, b"", {"Location": "/real"}) if asked.path == "/m.pt" else None)
    got = fetch(f"{store.url}/m.pt", env=trusted | {"SLIPWAY_SECRET_TOKEN": "t"})
    assert got.model == {"m.pt": DATA}
    assert {asked.headers["authorization"] for asked in store.asked} == {"Bearer t"}


def test_a_redirect_to_a_host_that_is_allowed_takes_no_credentials_along(
    store: Store, fetch: Fetch, trusted: dict[str, str], certificate: tuple[Path, Path]
) -> None:
    with serving(Store(), certificate) as other:
        other.files["/real"] = DATA
        store.routes.append(lambda asked: Answer(307, b"", {"Location": f"{other.url}/real?sig=x"}))
        here = [f"127.0.0.1:{store.port}", f"127.0.0.1:{other.port}"]
        env = trusted | {"SLIPWAY_SECRET_TOKEN": "t"}
        got = fetch(f"{store.url}/m.pt", env=env, policy={"insideHosts": here, "redirectHosts": here})
        assert got.model == {"m.pt": DATA}, got.message
        assert not any("authorization" in asked.headers for asked in other.asked)
        refused = fetch(f"{store.url}/n.pt", env=env, policy={"insideHosts": here})
    assert (refused.code, refused.reason) == (78, "SourceRefused")


ELSEWHERE = [
    "http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "https://2852039166/",
    "https://[fd00:ec2::254]/",
    "http://127.0.0.1:{port}/m.pt", "https://localhost:{port}/real", "https://127.1:{port}/real",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/x", "//169.254.169.254/x", "https://evil@127.0.0.1:{port}/real", "", "/m.pt",
    "https://127.0.0.1:{port}\\@169.254.169.254/", "https://127.0.0.1:99999/", "https://127.0.0.1:0x1bb/",
]  # fmt: skip
REDIRECTS = [(302, location) for location in ELSEWHERE] + [(status, ELSEWHERE[0]) for status in (301, 303, 307, 308)]


@pytest.mark.parametrize(("status", "location"), REDIRECTS)
def test_a_redirect_elsewhere_is_refused(
    store: Store, fetch: Fetch, trusted: dict[str, str], status: int, location: str
) -> None:
    store.files["/real"] = DATA
    where = location.format(port=store.port)
    store.routes.append(lambda asked: Answer(status, b"", {"Location": where}) if asked.path == "/m.pt" else None)
    got = fetch(f"{store.url}/m.pt", env=trusted)
    assert (got.code, got.reason in ("SourceRefused", "StorageUriInvalid"), got.model) == (78, True, {}), got.message
    assert {asked.path for asked in store.asked} == {"/m.pt"}


def test_a_header_full_of_line_breaks_brings_nothing_in(store: Store, fetch: Fetch, trusted: dict[str, str]) -> None:
    got = fetch(f"{store.url}/m.pt", env=trusted | {"SLIPWAY_SECRET_TOKEN": "t\r\nHost: evil"})
    assert (got.reason, store.asked) == ("AccessDenied", [])


@pytest.mark.parametrize(
    "policy", [{"schemes": ["s3"]}, {"hosts": ["other.example"], "insideHosts": []}, {"insideHosts": []}], ids=str
)
def test_what_the_policy_forbids_is_not_asked(
    store: Store, fetch: Fetch, trusted: dict[str, str], policy: dict[str, list[str]]
) -> None:
    got = fetch(f"{store.url}/m.pt", env=trusted, policy=policy)
    assert (got.code, got.reason, store.asked) == (78, "SourceRefused", [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{", "SLIPWAY_FETCH is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"x": 1}', "unknown: x"),
        ('{"policy": []}', "SLIPWAY_FETCH.policy must be an object"),
        ('{"policy": {"host": []}}', "SLIPWAY_FETCH.policy.host is unknown"),
        ('{"policy": {"hosts": "h"}}', "SLIPWAY_FETCH.policy.hosts must be a list of strings"),
        ('{"limits": {"maxBytes": true}}', "SLIPWAY_FETCH.limits.maxBytes must be a whole number above 0"),
        ('{"limits": {"maxBytes": 0}}', "SLIPWAY_FETCH.limits.maxBytes must be a whole number above 0"),
        ('{"storage": {"unpack": "no"}}', "SLIPWAY_FETCH.storage.unpack must be true or false"),
        ('{"storage": {"sha256": 1}}', "SLIPWAY_FETCH.storage.sha256 must be a string"),
        ('{"proxy": 1}', "SLIPWAY_FETCH.proxy must be a string"),
        ('{"proxy": "socks5://x"}', "the proxy must be http://HOST:PORT"),
    ],
)
def test_settings_that_are_wrong_are_named(fetch: Fetch, given: str, words: str) -> None:
    got = fetch("https://h/m.pt", env={"SLIPWAY_FETCH": given})
    assert (got.code, got.reason, words in got.message) == (78, "ConfigurationInvalid", True), got.message
