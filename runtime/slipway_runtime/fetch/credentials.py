"""Credentials of the container, by the names of their variables. Each comes from one key of the service's Secret.

They are read here and handed to who needs them; nothing prints them.
"""

import base64
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from slipway_runtime.fetch.failures import FetchError, Why

CA_FILES = (Path("/etc/slipway/ca/ca.crt"),)
"""The administrator's, as a ConfigMap of the namespace; besides it the Secret's `ca.crt`."""
_S3 = {
    "SLIPWAY_SECRET_AWS_ACCESS_KEY_ID": "access_key_id",
    "SLIPWAY_SECRET_AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "SLIPWAY_SECRET_AWS_SESSION_TOKEN": "session_token",
}
_AZURE = {
    "SLIPWAY_SECRET_AZURE_STORAGE_ACCOUNT_KEY": "account_key",
    "SLIPWAY_SECRET_AZURE_STORAGE_SAS_TOKEN": "sas_key",
    "SLIPWAY_SECRET_AZURE_CLIENT_ID": "client_id",
    "SLIPWAY_SECRET_AZURE_CLIENT_SECRET": "client_secret",
    "SLIPWAY_SECRET_AZURE_TENANT_ID": "tenant_id",
}
# What a cloud's own webhook puts into a pod (IRSA, Azure workload identity).
_S3_IDENTITY = {"AWS_ROLE_ARN": "role_arn", "AWS_WEB_IDENTITY_TOKEN_FILE": "web_identity_token_file"}
_AZURE_IDENTITY = {
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_TENANT_ID": "tenant_id",
    "AZURE_FEDERATED_TOKEN_FILE": "federated_token_file",
}


class Credentials:
    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env

    def s3(self) -> dict[str, str]:
        """Options of the store; empty: there are none."""
        return self._options(_S3, 2) or self._options(_S3_IDENTITY, 2)

    def azure(self) -> dict[str, str]:
        return self._options(_AZURE, 1) or self._options(_AZURE_IDENTITY, 3)

    def google(self) -> str:
        """The JSON of a service account's key; empty: there is none."""
        return self._secret("GOOGLE_SERVICE_ACCOUNT")

    def bearer(self) -> str:
        return self._secret("TOKEN")

    def basic(self) -> tuple[str, str] | None:
        user, password = self._secret("USERNAME"), self._secret("PASSWORD")
        return (user, password) if user or password else None

    def authorization(self) -> dict[str, str]:
        """Headers for a store that takes a token or a user's password."""
        if token := self.bearer():
            return {"Authorization": f"Bearer {_header(token)}"}
        if known := self.basic():
            return {"Authorization": basic_header(*known)}
        return {}

    def registry(self, host: str, port: int) -> tuple[str, str] | None:
        """User and password for a registry: of a Docker config, else the plain ones."""
        text = self._secret("DOCKERCONFIGJSON")
        if not text:
            return self.basic()
        try:
            auths = json.loads(text)["auths"]
            for name, entry in auths.items():
                if name.removeprefix("https://").split("/")[0] in (host, f"{host}:{port}"):
                    known = base64.b64decode(entry["auth"]).decode() if entry.get("auth") else ""
                    user, _, password = known.partition(":")
                    return (user, password) if known else (entry["username"], entry["password"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(Why.DENIED, "the Secret's .dockerconfigjson is not a Docker config") from error
        return None

    def authorities(self) -> list[str]:
        """Certificates to trust besides the image's, as PEM."""
        found = [path.read_text() for path in CA_FILES if path.is_file()]
        return [*found, *filter(None, [self._secret("CA")])]

    def _secret(self, name: str) -> str:
        return (self._env.get(f"SLIPWAY_SECRET_{name}") or "").strip()

    def _options(self, names: Mapping[str, str], needed: int) -> dict[str, str]:
        found = {option: self._env[name].strip() for name, option in names.items() if self._env.get(name, "").strip()}
        return found if len(found) >= needed else {}


def basic_header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def tls(authorities: list[str]) -> ssl.SSLContext:
    """Trusts the image's authorities and these."""
    context = ssl.create_default_context()
    for text in authorities:
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise FetchError(Why.DENIED, "ca.crt is not a certificate in PEM form") from error
    return context


def _header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise FetchError(Why.DENIED, "the Secret's token has characters that no token has")
    return value
