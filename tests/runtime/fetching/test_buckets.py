"""Models in buckets of S3, Google Cloud and Azure: what is fetched, and what a fault ends as."""

import base64
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.fetch import journal
from tests.runtime.fetching import buckets
from tests.runtime.fetching.buckets import KEY, SECRET
from tests.runtime.fetching.conftest import S3_KEYS, Fetch
from tests.runtime.fetching.stand_in import Answer, Asked, Fault, Store

MODEL = {"model.pt": b"weights" * 100_000, "config.json": b"{}", "1/a b/ü+x%.txt": b"odd", "empty": b""}
AZURE_KEY = base64.b64encode(b"k" * 64).decode()


@pytest.fixture
def s3(store: Store) -> Store:
    buckets.s3(store)
    buckets.fill(store, "/models/resnet/7", MODEL)
    store.files["/models/resnet/70/other"] = b"not ours"
    return store


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(journal, "PART", 1 << 16)
    monkeypatch.setattr("slipway_runtime.fetch.download.PART", 1 << 16)
    return 1 << 16


def at(store: Store, **storage: Any) -> dict[str, Any]:
    return {"endpoint": store.url, **storage}


def test_all_below_a_key_is_fetched(s3: Store, fetch: Fetch) -> None:
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.model) == (0, MODEL), got.message
    assert "683.6 KiB fetched to" in got.log


def test_a_key_is_fetched_under_its_last_name(s3: Store, fetch: Fetch) -> None:
    got = fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.model) == (0, {"model.pt": MODEL["model.pt"]})


def test_a_list_of_many_pages_is_fetched_whole(store: Store, fetch: Fetch) -> None:
    buckets.s3(store, page=7)
    files = {f"{n // 10}/{n}": str(n).encode() for n in range(100)}
    buckets.fill(store, "/models/m", files)
    assert fetch("s3://models/m/", env=S3_KEYS, storage=at(store)).model == files


def test_objects_that_stand_for_folders_are_no_files(s3: Store, fetch: Fetch) -> None:
    s3.files |= {"/models/resnet/7/1/": b"", "/models/resnet/7/1/a b/": b""}
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3)).model == MODEL


def test_a_public_bucket_needs_no_keys_and_gets_none(store: Store, fetch: Fetch) -> None:
    buckets.s3(store, key=None)
    buckets.fill(store, "/models/m", MODEL)
    assert fetch("s3://models/m", env=S3_KEYS, storage=at(store, anonymous=True)).model == MODEL
    assert not any("authorization" in asked.headers or "X-Amz-Signature" in asked.query for asked in store.asked)


def test_virtual_hosts_need_a_name(s3: Store, fetch: Fetch) -> None:
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3, pathStyle=False))
    assert (got.reason, "needs a name in storage.endpoint" in got.message) == ("StorageUriInvalid", True)


def test_a_bucket_of_virtual_hosts_is_asked_by_its_own_name(s3: Store, fetch: Fetch) -> None:
    got = fetch(
        "s3://models/resnet/7",
        env=S3_KEYS,
        storage={"endpoint": f"http://localhost.test:{s3.port}", "pathStyle": False},
        policy={"insideHosts": ["*.localhost.test"]},
    )
    assert got.message.startswith("host 'models.localhost.test' is not known: "), got.message


@pytest.mark.parametrize("uri", ["gs://models/m", "gs://models/m/"])
def test_a_bucket_of_google_is_fetched(store: Store, fetch: Fetch, uri: str) -> None:
    buckets.gcs(store)
    buckets.fill(store, "/models/m", MODEL)
    assert fetch(uri, storage=at(store, anonymous=True)).model == MODEL


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SLIPWAY_SECRET_AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY},
        {"SLIPWAY_SECRET_AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=xyz"},
    ],
    ids=["public", "account key", "SAS"],
)
def test_a_container_of_azure_is_fetched(store: Store, fetch: Fetch, env: dict[str, str]) -> None:
    buckets.azure(store)
    buckets.fill(store, "/models/m", MODEL)
    got = fetch("az://account1/models/m", env=env, storage=at(store))
    assert (got.code, got.model) == (0, MODEL), got.message
    assert all(
        "sig" in asked.query for asked in store.asked if asked.path.endswith("model.pt") and asked.method == "GET"
    ) == bool(env)


def metadata(asked: Asked) -> Answer | None:
    """A cloud's service for the credentials of its machines. Source: AWS, "Use IMDS" (version 2)."""
    base = "/latest/meta-data/iam/security-credentials/"
    if asked.path == "/latest/api/token":
        return Answer(200, b"session")
    if asked.path.startswith(base) and asked.headers.get("x-aws-ec2-metadata-token") == "session":
        known = {"AccessKeyId": KEY, "SecretAccessKey": SECRET, "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
        return Answer(200, b"role" if asked.path == base else json.dumps(known | {"Code": "Success"}).encode())
    return None


@pytest.mark.parametrize("is_allowed", [True, False])
def test_the_cloud_is_asked_for_credentials_only_where_an_administrator_allows_it(
    s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, is_allowed: bool
) -> None:
    s3.routes.insert(0, metadata)
    real = socket.create_connection
    there = ("169.254.169.254", 80)
    asked: list[object] = []

    def create_connection(where: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(where)
        return real(("127.0.0.1", s3.port) if where == there else where, timeout)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    got = fetch("s3://models/resnet/7", storage=at(s3), policy={"cloudCredentials": is_allowed})
    assert (got.model == MODEL, there in asked) == (is_allowed, is_allowed), got.message
    if not is_allowed:
        assert got.reason == "AccessDenied"


# What goes wrong.


def test_wrong_keys_are_told_at_once(s3: Store, fetch: Fetch) -> None:
    wrong = S3_KEYS | {"SLIPWAY_SECRET_AWS_ACCESS_KEY_ID": "AKIAWRONG"}
    got = fetch("s3://models/resnet/7", env=wrong, storage=at(s3, secretName="keys"))
    assert (got.code, got.reason) == (77, "AccessDenied")
    assert (
        got.message
        == "the store denies access to 's3://models/resnet/7': check the keys and their rights; Secret 'keys'"
    )


def test_a_secret_without_keys_is_named_with_what_it_lacks(s3: Store, fetch: Fetch) -> None:
    got = fetch("s3://models/resnet/7", storage=at(s3, secretName="keys"))
    assert (got.reason, got.message) == (
        "AccessDenied",
        "Secret 'keys' does not exist or has no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
    assert s3.asked == []


@pytest.mark.parametrize("uri", ["s3://models/gone", "s3://models/resnet/7/gone.pt", "s3://other/x/"])
def test_what_is_not_there_is_told(s3: Store, fetch: Fetch, uri: str) -> None:
    got = fetch(uri, env=S3_KEYS, storage=at(s3))
    assert (got.code, got.reason) == (66, "ModelNotFound")
    assert f"there is nothing at '{uri}'" in got.message


def test_a_damaged_service_account_is_told_without_a_word_of_it(store: Store, fetch: Fetch) -> None:
    env = {"SLIPWAY_SECRET_GOOGLE_SERVICE_ACCOUNT": json.dumps({"private_key": SECRET})}
    got = fetch("gs://models/m", env=env, storage=at(store, secretName="keys"))
    assert (got.reason, SECRET in got.log + got.message) == ("AccessDenied", False)


def test_a_key_that_climbs_is_refused(s3: Store, fetch: Fetch) -> None:
    s3.files["/models/resnet/7/../../x"] = b"x"
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.files) != (0, {}), got
    assert got.reason in ("ArchiveRefused", "StoreUnavailable")


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_store_that_fails_for_a_moment_is_asked_again(s3: Store, fetch: Fetch, status: int) -> None:
    s3.faults = [Fault(status=status, when=lambda asked: asked.method == "GET", times=2)]
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3)).model == MODEL


def test_a_connection_that_is_cut_goes_on_at_the_byte_where_it_was(s3: Store, fetch: Fetch, small_parts: int) -> None:
    s3.faults = [
        Fault(cut_after=1000, when=lambda asked: asked.path.endswith("model.pt") and asked.method == "GET", times=5)
    ]
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3)).model == MODEL
    starts = {asked.headers["range"].split("=")[1].split("-")[0] for asked in s3.asked if "range" in asked.headers}
    assert {int(start) % small_parts for start in starts} == {0, 1000}


def test_a_store_that_fails_for_good_is_told_within_fifteen_seconds_and_the_next_start_goes_on(
    s3: Store, fetch: Fetch, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.http.PATIENCE_S", 0.5)
    s3.faults = [
        Fault(
            status=503,
            when=lambda asked: asked.headers.get("range", "").startswith(f"bytes={3 * small_parts}-"),
            times=99,
        )
    ]
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), limits={"connections": 1})
    assert (got.code, got.reason, got.model) == (75, "StoreUnavailable", {})
    assert "answers 503" in got.message
    assert "X-Amz" not in got.message + got.log
    s3.faults, s3.asked = [], []
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), limits={"connections": 1}).model == MODEL
    again = [asked.headers["range"] for asked in s3.asked if "range" in asked.headers]
    assert again[0] == f"bytes={3 * small_parts}-{4 * small_parts - 1}"
    assert len(again) == -(-len(MODEL["model.pt"]) // small_parts) - 3


def test_what_an_earlier_start_left_of_another_version_is_thrown_away(
    s3: Store, fetch: Fetch, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.http.PATIENCE_S", 0.2)
    s3.faults = [
        Fault(status=503, when=lambda asked: f"{3 * small_parts}-" in asked.headers.get("range", ""), times=99)
    ]
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), limits={"connections": 1}).code == 75
    s3.faults = []
    s3.files["/models/resnet/7/model.pt"] = b"another" * 100_000
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert got.model == MODEL | {"model.pt": b"another" * 100_000}


def test_a_model_replaced_while_it_is_downloaded_is_fetched_as_the_new_one(
    s3: Store, fetch: Fetch, small_parts: int
) -> None:
    new = b"changed" * 100_000

    def replace() -> None:
        s3.files["/models/resnet/7/model.pt"] = new

    s3.faults = [Fault(before=replace, when=lambda asked: asked.headers.get("range", "").startswith("bytes=0-"))]
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), limits={"connections": 1})
    assert got.model == MODEL | {"model.pt": new}
    assert "was replaced or removed while it was downloaded; once more from the beginning" in got.log


def test_a_model_that_never_holds_still_is_given_up(s3: Store, fetch: Fetch, small_parts: int) -> None:
    def replace() -> None:
        s3.files["/models/resnet/7/model.pt"] = bytes([len(s3.asked) % 256]) * 700_000

    s3.faults = [
        Fault(before=replace, when=lambda asked: asked.headers.get("range", "").startswith("bytes=0-"), times=99)
    ]
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), limits={"connections": 1})
    assert (got.code, got.reason, got.model) == (75, "SourceChanged", {})


def test_a_store_that_brings_almost_nothing_is_given_up(
    s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.progress.SLOW_AFTER_S", 1.0)
    monkeypatch.setattr("slipway_runtime.fetch.progress.EVERY_S", 0.3)
    s3.faults = [
        Fault(bytes_per_second=1000, when=lambda asked: asked.path.endswith("model.pt") and asked.method == "GET")
    ]
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.reason) == (75, "StoreTooSlow")
    assert "less than the 16.0 KiB/s needed here" in got.message
    assert " s left" in got.log


def test_a_slow_store_that_is_fast_enough_is_waited_for(
    s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.progress.SLOW_AFTER_S", 0.3)
    s3.files["/models/resnet/7/model.pt"] = b"x" * 60_000
    s3.faults = [
        Fault(bytes_per_second=60_000, when=lambda asked: asked.path.endswith("model.pt") and asked.method == "GET")
    ]
    assert fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3)).code == 0


def test_a_silent_connection_is_given_up_and_tried_again(
    s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.dial.STALL_S", 0.3)
    s3.faults = [Fault(stall_after=1000, when=lambda asked: asked.path.endswith("model.pt") and asked.method == "GET")]
    assert fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3)).model == {"model.pt": MODEL["model.pt"]}


def test_a_digest_of_the_spec_is_held_to(s3: Store, fetch: Fetch) -> None:
    digest = hashlib.sha256(MODEL["model.pt"]).hexdigest()
    assert fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3, sha256=digest)).code == 0
    got = fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3, sha256="0" * 64))
    assert (got.code, got.reason) == (65, "ChecksumMismatch")
    assert f"has the sha256 {digest}, and not storage.sha256" in got.message


def test_the_digest_of_a_folder_is_that_of_its_list(s3: Store, fetch: Fetch) -> None:
    names = sorted(MODEL, key=str.encode)
    lines = "".join(f"{hashlib.sha256(MODEL[name]).hexdigest()}  {name}\n" for name in names)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3, sha256=digest)).code == 0


@pytest.mark.parametrize("header", ["x-goog-hash", "x-ms-blob-content-md5", "Repr-Digest"])
def test_a_digest_that_the_store_announces_is_held_to(s3: Store, fetch: Fetch, header: str) -> None:
    data = MODEL["model.pt"]
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    sha = base64.b64encode(hashlib.sha256(data).digest()).decode()
    right = {
        "x-goog-hash": f"crc32c=AAAAAA==,md5={md5}",
        "x-ms-blob-content-md5": md5,
        "Repr-Digest": f"sha-256=:{sha}:",
    }
    s3.headers = {header: right[header]}
    assert fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3)).code == 0
    s3.files["/models/resnet/7/model.pt"] = b"damaged" * 100_000
    got = fetch("s3://models/resnet/7/model.pt", env=S3_KEYS, storage=at(s3, region="eu-1", endpoint=s3.url + "/"))
    assert (got.code, got.reason) == (65, "ChecksumMismatch")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"maxFiles": 3}, "has more than 3 files"),
        ({"maxBytes": 700_000}, "has more than 683.6 KiB"),
        ({"maxFileBytes": 699_999}, "'model.pt' has 683.6 KiB, more than the 683.6 KiB of a file here"),
    ],
    ids=str,
)
def test_limits_are_judged_before_a_byte_is_downloaded(
    s3: Store, fetch: Fetch, limits: dict[str, int], words: str
) -> None:
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), limits=limits)
    assert (got.code, got.reason) == (65, "LimitExceeded")
    assert words in got.message
    assert not any(asked.method == "GET" and asked.path.endswith(".pt") for asked in s3.asked)


def test_a_disk_without_room_is_told_before_a_byte_is_downloaded(
    s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.reason) == (73, "DiskFull")
    assert got.message == "the model needs 683.6 KiB, but only 1000 bytes are free: give the pod more disk"


def test_a_disk_that_becomes_full_is_told(s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.reason, got.model) == (73, "DiskFull", {})


def test_a_pod_that_starts_again_needs_no_store(s3: Store, fetch: Fetch) -> None:
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3)).code == 0
    s3.asked, s3.files = [], {}
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert (got.code, got.model, s3.asked) == (0, MODEL, [])
    assert fetch("s3://models/resnet/7/", env=S3_KEYS, storage=at(s3)).reason == "ModelNotFound"


def test_what_was_in_the_folder_before_is_gone_with_the_new_model(s3: Store, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "volume" / "old").mkdir(parents=True)
    (tmp_path / "volume" / "old" / "weights").write_text("half")
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3)).model == MODEL


def test_the_policy_holds_for_the_endpoint_too(s3: Store, fetch: Fetch) -> None:
    for endpoint in (
        "http://169.254.169.254",
        "http://[fd00:ec2::254]",
        "https://169.254.169.254",
        "http://127.0.0.1:1",
    ):
        got = fetch("s3://models/resnet/7", env=S3_KEYS, storage={"endpoint": endpoint})
        assert (got.code, got.reason) == (78, "SourceRefused"), endpoint
    for endpoint in ("ftp://h", "h:9000", "http://user:pw@h", "http://h?x", "http://2852039166", "http://0xa9fea9fe"):
        got = fetch("s3://models/resnet/7", env=S3_KEYS, storage={"endpoint": endpoint})
        assert (got.code, got.reason) == (78, "StorageUriInvalid"), endpoint
    assert fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3), inside=False).reason == "SourceRefused"
    assert s3.asked == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data", "http://localhost:{port}/models/x", "https://evil.example/"]
)
def test_a_store_that_sends_elsewhere_is_not_followed(s3: Store, fetch: Fetch, status: int, target: str) -> None:
    location = target.format(port=s3.port)
    s3.routes.insert(
        0,
        lambda asked: Answer(status, b"", {"Location": location}) if asked.headers["host"].startswith("127.") else None,
    )
    got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
    assert got.reason in ("SourceRefused", "StoreUnavailable"), got.message
    assert {asked.headers["host"] for asked in s3.asked} == {f"127.0.0.1:{s3.port}"}


def test_keys_are_in_no_word_that_is_said(s3: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway_runtime.fetch.http.PATIENCE_S", 0.3)
    said = ""
    for fault in (
        Fault(status=500, times=99),
        Fault(status=403, times=99),
        Fault(status=404, times=99),
        Fault(cut_after=0, times=99),
    ):
        s3.faults = [fault]
        fault.when = lambda asked: asked.method == "GET"
        got = fetch("s3://models/resnet/7", env=S3_KEYS, storage=at(s3))
        assert got.code != 0
        said += got.message + got.log
    assert SECRET not in said
    assert "Signature" not in said
