"""Where a model is, seen from its pod: a path that is already there, a volume to mount, or something to fetch."""

from dataclasses import dataclass

MOUNT = "/mnt/models"
REMOTE = ("s3", "gs", "az", "https", "hf", "oci")


@dataclass(frozen=True, slots=True)
class Location:
    path: str
    """What the server loads."""
    claim: str | None = None
    """PersistentVolumeClaim to mount read-only at `MOUNT`."""
    fetch: str | None = None
    """URI that an init container fetches into `MOUNT`."""


def locate(uri: str, *, runtime_image: str, fetcher_image: str) -> Location:
    """Location of a model. `uri` is one that the CRD admits.

    A sample ships in the fetcher's image: where the server runs in that same image it is there already.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return Location(path=rest)
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        return Location(path=f"{MOUNT}/{path}".rstrip("/"), claim=claim)
    if scheme not in REMOTE and runtime_image == fetcher_image:
        return Location(path=uri)
    return Location(path=MOUNT, fetch=uri)
