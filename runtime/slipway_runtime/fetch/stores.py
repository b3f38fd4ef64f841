"""What lies in a bucket of S3, Google Cloud Storage or Azure. obstore knows the protocols: it lists, and signs URLs.

It speaks through the guard only. The files are then read from the signed URLs, by connections of ours.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from slipway_runtime.fetch import azure
from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.credentials import Credentials
from slipway_runtime.fetch.errand import Errand
from slipway_runtime.fetch.failures import FetchError, Transient, Why
from slipway_runtime.fetch.guard import Guard
from slipway_runtime.fetch.http import Request
from slipway_runtime.fetch.items import Item, Listing, is_archive, relative, safe_path
from slipway_runtime.fetch.settings import Storage
from slipway_runtime.fetch.uri import Bucket, host_port

_SIGNED_FOR = timedelta(minutes=15)
_RETRY: Any = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2},
}
_GOOGLE = ("oauth2.googleapis.com", "www.googleapis.com", "iamcredentials.googleapis.com")
_REGION = "us-east-1"


def listing(errand: Errand, bucket: Bucket) -> Listing:
    """The files of a bucket's key, or of all keys below it.

    Raises:
        FetchError: access is denied, nothing is there, it is too much, or the policy forbids it.
    """
    storage, credentials = errand.storage, errand.credentials
    place = _place(bucket, storage)
    guard = Guard(errand.dialer, place.hosts)
    client: Any = {
        "allow_http": True,  # the guard judges
        "proxy_url": guard.url,
        "connect_timeout": "5s",
        "read_timeout": "10s",
        "timeout": "60s",
        "user_agent": "slipway-fetch",
    }
    if authorities := credentials.authorities():
        client["root_certificate"] = "\n".join(authorities)
    try:
        store, signs = _store(bucket, errand, place, client)
        return _listed(errand, bucket, store, _requests(store, place.base, signs, credentials, bucket))
    except FetchError:
        raise
    except (BaseError, OSError, ValueError) as error:
        raise guard.refused or _mapped(error, errand.uri, storage) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which is none of Python's ordinary errors
            raise
        raise FetchError(Why.STORE, f"'{errand.uri}' cannot be asked for: {type(error).__name__}") from error
    finally:
        guard.close()


class _Place:
    """Where a bucket is: the store's address, the bucket's, and the hosts that are asked on the way."""

    def __init__(self, endpoint: str, base: str, hosts: tuple[str, ...]) -> None:
        self.endpoint, self.base, self.hosts = endpoint, base, hosts


def _place(bucket: Bucket, storage: Storage) -> _Place:
    region = storage.region or _REGION
    if storage.endpoint:
        endpoint = storage.endpoint.rstrip("/")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise FetchError(Why.URI, "storage.endpoint must be http://HOST or https://HOST")
        host, port = host_port(endpoint, parts.netloc, 443 if parts.scheme == "https" else 80)
        if bucket.scheme == "az":
            return _Place(endpoint, f"{endpoint}/{bucket.name}", (f"{host}:{port}", "login.microsoftonline.com"))
        if bucket.scheme == "s3" and not storage.path_style:
            if rules.literal(host) is not None:
                raise FetchError(Why.URI, "storage.pathStyle: false needs a name in storage.endpoint, not an address")
            named = f"{parts.scheme}://{bucket.name}.{parts.netloc}"
            return _Place(named, named, (f"{bucket.name}.{host}:{port}", f"sts.{region}.amazonaws.com"))
        return _Place(endpoint, f"{endpoint}/{bucket.name}", (f"{host}:{port}", f"sts.{region}.amazonaws.com"))
    match bucket.scheme:
        case "s3":
            end = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
            host = f"s3.{region}.{end}"
            return _Place(f"https://{host}", f"https://{host}/{bucket.name}", (host, f"sts.{region}.{end}"))
        case "gs":
            host = "storage.googleapis.com"
            return _Place(
                f"https://{host}",
                f"https://{host}/{bucket.name}",
                (host, *_GOOGLE),
            )
        case "az":
            host = f"{bucket.account}.blob.core.windows.net"
            return _Place(f"https://{host}", f"https://{host}/{bucket.name}", (host, "login.microsoftonline.com"))


def _store(bucket: Bucket, errand: Errand, place: _Place, client: Any) -> tuple[Any, bool]:
    """The store, and whether its requests are signed."""
    storage, credentials = errand.storage, errand.credentials
    # Without keys a store asks its cloud's metadata service for some, unless it is told not to sign.
    from_cloud = errand.dialer.policy.cloud_credentials and not (storage.secret_name or storage.anonymous)
    unsigned: dict[str, Any] = {} if from_cloud else {"skip_signature": True}
    options: Any = {"client_options": client, "retry_config": _RETRY}
    match bucket.scheme:
        case "s3":
            known: dict[str, Any] = {} if storage.anonymous else credentials.s3()
            signs = _has(bool(known), storage, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            style: Any = {"virtual_hosted_style_request": not storage.path_style}
            region = storage.region or _REGION
            known, signs = known or unsigned, signs or from_cloud
            return S3Store(bucket.name, endpoint=place.endpoint, region=region, **style, **known, **options), signs
        case "gs":
            key = "" if storage.anonymous else credentials.google()
            signs = _has(bool(key), storage, "service-account.json")
            known, signs = {"service_account_key": key} if key else unsigned, signs or from_cloud
            base: Any = {"base_url": place.endpoint} if storage.endpoint else {}
            return GCSStore(bucket.name, **base, **known, **options), signs
        case "az":
            known = {} if storage.anonymous else dict(credentials.azure())
            signs = _has(bool(known), storage, "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID")
            signs = signs and "sas_key" not in known
            known, signs = known or unsigned, signs or (from_cloud and not known)
            return AzureStore(
                bucket.name, account_name=bucket.account, endpoint=place.endpoint, **known, **options
            ), signs


def _has(known: bool, storage: Storage, keys: str) -> bool:
    if not known and storage.secret_name and not storage.anonymous:
        raise FetchError(Why.DENIED, f"Secret '{storage.secret_name}' does not exist or has no {keys}")
    return known


def _requests(
    store: Any, base: str, signs: bool, credentials: Credentials, bucket: Bucket
) -> Callable[[str], Callable[[], Request]]:
    """What makes the request for a key."""
    known = credentials.azure() if bucket.scheme == "az" else {}
    sas = "" if signs else known.get("sas_key", "")

    def of(key: str) -> Callable[[], Request]:
        def made() -> Request:
            if signs and bucket.scheme == "az" and not azure.is_plain(key):
                return Request(_signed_by_us(base, bucket, key, known))
            if signs:
                # For Google obstore puts a percent sign into the URL as it is, where it would encode what follows.
                name = key.replace("%", "%25") if bucket.scheme == "gs" else key
                return Request(obstore.sign(store, "GET", name, _SIGNED_FOR))
            return Request(f"{base}/{quote(key)}" + (f"?{sas.lstrip('?')}" if sas else ""))

        return made

    return of


def _signed_by_us(base: str, bucket: Bucket, key: str, known: dict[str, str]) -> str:
    if "account_key" not in known:
        words = "has characters that can only be signed for with AZURE_STORAGE_ACCOUNT_KEY, or with a SAS token"
        raise FetchError(Why.DENIED, f"the name {key[:100]!r} {words}")
    resource = f"{bucket.account}/{bucket.name}/{key}"
    return azure.signed(base, resource, known["account_key"], _SIGNED_FOR.total_seconds())


def _listed(errand: Errand, bucket: Bucket, store: Any, of: Callable[[str], Callable[[], Request]]) -> Listing:
    limits = errand.limits
    if not bucket.is_folder:
        try:
            return _single(bucket.key, obstore.head(store, bucket.key), of)
        except FileNotFoundError:
            pass  # then it is a folder, or nothing
    found: list[Any] = []
    for chunk in obstore.list(store, bucket.key or None, chunk_size=1000):
        found += chunk
        if len(found) > limits.max_files + 1000:
            raise FetchError(
                Why.LIMIT, f"'{errand.uri}' has more than {limits.max_files} files, which is the limit here"
            )
    metas = _without_folders(found)
    paths = relative((meta["path"] for meta in metas), bucket.key)
    return Listing(tuple(_item(path, meta, of) for path, meta in zip(paths, metas, strict=True)))


def _without_folders(found: list[Any]) -> list[Any]:
    """Without the empty objects that stand for folders in some consoles."""
    parents = {meta["path"].rpartition("/")[0] for meta in found}
    parents |= {"/".join(parent.split("/")[:n]) for parent in parents for n in range(1, parent.count("/") + 1)}
    return [meta for meta in found if meta["size"] or meta["path"] not in parents]


def _single(key: str, meta: Any, of: Callable[[str], Callable[[], Request]]) -> Listing:
    name = safe_path(key.rpartition("/")[2])
    return Listing((_item(name, meta, of),), "archive" if is_archive(name) else "")


def _item(path: str, meta: Any, of: Callable[[str], Callable[[], Request]]) -> Item:
    return Item(path, int(meta["size"]), meta.get("e_tag") or "", of(meta["path"]))


def _mapped(error: Exception, uri: str, storage: Storage) -> FetchError:
    """A foreign error in words of ours; never its own, which may quote the request."""
    text = str(error).lower()
    whose = (
        f"Secret '{storage.secret_name}'" if storage.secret_name else "no credentials are given (storage.secretName)"
    )
    if (
        isinstance(error, PermissionDeniedError | UnauthenticatedError)
        or "403 forbidden" in text
        or "401 unauthorized" in text
    ):
        return FetchError(Why.DENIED, f"the store denies access to '{uri}': check the keys and their rights; {whose}")
    if isinstance(error, FileNotFoundError) or "404 not found" in text or "nosuchbucket" in text:
        return FetchError(Why.MISSING, f"there is nothing at '{uri}': check bucket and path in storageUri")
    if "redirect" in text and "region" in text:
        return FetchError(Why.STORE, f"the bucket of '{uri}' is in another region: set storage.region")
    if "certificate" in text or "unknownissuer" in text:
        return FetchError(Why.STORE, f"the store of '{uri}' has no certificate to trust: put its authority into ca.crt")
    if any(word in text for word in ("credential", "service account", "private key", "pem file")):
        return FetchError(Why.DENIED, f"the credentials for '{uri}' cannot be read: {whose}")
    return Transient(f"the store of '{uri}' does not answer as a store ({type(error).__name__})")
