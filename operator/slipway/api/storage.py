"""Where a model is, and how it is brought from there: the URI, and what a store must be told besides."""

from typing import Annotated

from pydantic import Field

from slipway.api.schema import ATOMIC, Schema, Size, rule, rules

_PATH = r"(/[A-Za-z0-9._~!$&()*+,;=:@-]+)*/?"
_BUCKET = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_HOST = r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?"
_HUB = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_LOCAL = (
    r"sample://[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._~+@=-]+)*/?"
    r"|file://(/[A-Za-z0-9._~+@=-]+)+/?"
)
_REMOTE = (
    rf"(s3|gs)://{_BUCKET}{_PATH}"
    rf"|az://[a-z0-9]{{3,24}}/{_BUCKET}{_PATH}"
    rf"|https://{_HOST}(/[A-Za-z0-9._~!$&()*+,;=:@%-]+)+"
    rf"|hf://{_HUB}/{_HUB}(@[A-Za-z0-9][A-Za-z0-9._-]{{0,127}})?{_PATH}"
    rf"|oci://{_HOST}(/[a-z0-9._-]+)+(:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}|(:[A-Za-z0-9._-]+)?@sha256:[0-9a-f]{{64}})"
)
_URI_RULE = rule(
    # A string of CEL takes a backslash for its own.
    f"self.matches('^({_LOCAL}|{_REMOTE})$') && !self.matches('/[.][.]?(/|$)')".replace("\\", "\\\\"),
    "must be s3://, gs://, az://, https://, hf://, oci://, sample://NAME, pvc://CLAIM/PATH or file:///PATH"
    ' without ".."',
    value="(self.size() > 100 ? self.substring(0, 100) + '...' : self)",
)
StorageUri = Annotated[str, Field(max_length=1024, json_schema_extra=rules(_URI_RULE))]
ENDPOINT = rf"^https?://{_HOST}$"


class Storage(Schema):
    """How a model is brought from a store."""

    secret_name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = Field(
        default=None,
        description="Secret of the namespace with credentials, by the keys that docs/storage.md names; seen by nothing"
        " but the container that fetches.",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)] | None = Field(
        default=None, description="Digest of the file; of several, that of their list (docs/storage.md)."
    )
    endpoint: Annotated[str, Field(max_length=512, pattern=ENDPOINT)] | None = Field(
        default=None, description="Address of the store, where it is not the cloud's own."
    )
    region: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="Of an S3 bucket; us-east-1 when absent."
    )
    path_style: bool = Field(default=True, description="Address an S3 bucket by path; false: by a host of its own.")
    anonymous: bool = Field(default=False, description="Send no credentials.")
    unpack: bool = Field(default=True, description="Unpack a tar, tar.gz, tar.zst or zip that the URI names.")
    allow_patterns: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=16, json_schema_extra=ATOMIC)
    ] = Field(
        default=[], description="Files to take of hf://, such as '*.onnx'; absent: safetensors and configuration."
    )
    max_size: Size | None = Field(default=None, description="The most that is fetched; never above the chart's.")


REMOTE_RULES = (
    rule(
        "!has(self.storage) || self.storageUri.matches('^(s3|gs|az|https|hf|oci)://')",
        "storage goes with s3://, gs://, az://, https://, hf:// and oci://",
    ),
    rule(
        "!has(self.storage) || self.storageUri.startsWith('s3://')"
        " || (!has(self.storage.region) && self.storage.pathStyle)",
        "storage.region and storage.pathStyle go with s3://",
    ),
    rule(
        "!has(self.storage) || !has(self.storage.endpoint) || !self.storageUri.startsWith('https://')",
        "storage.endpoint does not go with https://, which names its host",
    ),
    rule(
        "!has(self.storage) || !has(self.storage.allowPatterns) || self.storage.allowPatterns.size() == 0"
        " || self.storageUri.startsWith('hf://')",
        "storage.allowPatterns goes with hf://",
    ),
    rule(
        "!has(self.storage) || !has(self.storage.secretName) || !self.storage.anonymous",
        "storage.anonymous sends no credentials: leave storage.secretName out",
    ),
)
