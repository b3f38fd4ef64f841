"""The parts of three protocols of buckets that a list needs: S3's ListObjectsV2 (Google's XML API too), and Azure's."""

from xml.sax.saxutils import escape

from tests.runtime.fetching.stand_in import Answer, Asked, Store

KEY = "AKIAEXAMPLE"
SECRET = "s3cr3t-canary-0123456789"  # noqa: S105
_QUOTE = {'"': "&quot;"}
_DENIED = Answer(403, b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>")


def s3(store: Store, bucket: str = "models", *, page: int = 1000, key: str | None = KEY) -> None:
    """Have `store` serve a bucket; `key`: who alone may read, None: everybody."""

    def route(asked: Asked) -> Answer | None:
        if key is not None and key not in asked.headers.get("authorization", "") + asked.query.get(
            "X-Amz-Credential", ""
        ):
            return _DENIED
        if asked.path.rstrip("/") == f"/{bucket}" and "list-type" in asked.query:
            return _list(store, f"/{bucket}/", asked, page)
        return None

    store.routes.append(route)


def gcs(store: Store, bucket: str = "models") -> None:
    s3(store, bucket, key=None)


def azure(store: Store, container: str = "models") -> None:
    def route(asked: Asked) -> Answer | None:
        if asked.query.get("comp") != "list":
            return None
        prefix = asked.query.get("prefix", "")
        blobs = "".join(
            f"<Blob><Name>{escape(path)}</Name><Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified>"
            f"<Etag>{etag}</Etag><Content-Length>{size}</Content-Length><Content-Type>x/y</Content-Type></Properties></Blob>"
            for path, etag, size in _keys(store, f"/{container}/", prefix)
        )
        body = f'<?xml version="1.0"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    store.routes.append(route)
    store.headers |= {"x-ms-blob-type": "BlockBlob"}


def _keys(store: Store, base: str, prefix: str) -> list[tuple[str, str, int]]:
    found = sorted(path for path in store.files if path.startswith(base + prefix))
    return [(path[len(base) :], store.etag(path), len(store.files[path])) for path in found]


def _list(store: Store, base: str, asked: Asked, page: int) -> Answer:
    keys = _keys(store, base, asked.query.get("prefix", ""))
    start = int(asked.query.get("continuation-token") or 0)
    more = f"<NextContinuationToken>{start + page}</NextContinuationToken>" if len(keys) > start + page else ""
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(etag, _QUOTE)}</ETag><Size>{size}</Size></Contents>"
        for key, etag, size in keys[start : start + page]
    )
    truncated = "true" if more else "false"
    body = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>"
    return Answer(200, body.encode(), {"Content-Type": "application/xml"})


def fill(store: Store, base: str, files: dict[str, bytes]) -> None:
    store.files |= {f"{base}/{name}": data for name, data in files.items()}
