"""Signed tokens and the public keys that they are checked by, made with openssl."""

import base64
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


class Issuer:
    """Somebody who signs tokens. Source: RFC 7515 to 7519."""

    def __init__(self, name: str, key_id: str = "one") -> None:
        self.name, self._key_id = name, key_id
        self._key = _openssl("genrsa", "2048")

    def jwks(self) -> str:
        with _file(self._key) as key:
            modulus = _openssl("rsa", "-in", key.name, "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
        public = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self._key_id}
        return json.dumps({"keys": [public | {"n": _base64(bytes.fromhex(modulus)), "e": "AQAB"}]})

    def token(self, **claims: Any) -> str:
        """Good for an hour, unless the claims say otherwise."""
        about = {"iss": self.name, "sub": "somebody", "exp": int(time.time()) + 3600} | claims
        parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT", "kid": self._key_id}, about)]
        text = ".".join(map(_base64, parts))
        with _file(self._key) as key:
            signature = _openssl("dgst", "-sha256", "-sign", key.name, stdin=text.encode())
        return f"{text}.{_base64(signature)}"


def _file(content: bytes) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the caller's `with`
    Path(file.name).write_bytes(content)
    return file


def _openssl(*argv: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *argv], input=stdin, capture_output=True, check=True).stdout


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
