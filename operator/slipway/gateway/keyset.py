"""An issuer's answer to the key set that Envoy is given: public keys that a token can be checked with, and no others.

Envoy refuses a table whose key set has no usable key, so an issuer's slip would hold up a service's routing. Symmetric
keys are left out too: who publishes one lets everybody sign.
"""

import base64
import binascii
import json
import re
from typing import Any

SIZE_MAX = 64 * 1024
KEYS_MAX = 32
_RSA_BITS = (2048, 8192)
_COORDINATES = {"P-256": 32, "P-384": 48, "P-521": 66}
_ALGORITHMS = {"RSA": "RS|PS", "EC": "ES", "OKP": "EdDSA"}


class Unfit(Exception):
    """The answer is not a key set that can be used, or the address must not be asked."""


def compact(body: bytes) -> str:
    """The usable keys as compact JSON.

    Raises:
        Unfit: it is no key set, or has no usable key.
    """
    if len(body) > SIZE_MAX:
        raise Unfit(f"more than {SIZE_MAX} bytes")
    try:
        keys = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unfit("not a JSON Web Key Set") from error
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys) or len(keys) > KEYS_MAX:
        raise Unfit(f"not a JSON Web Key Set of at most {KEYS_MAX} keys")
    if not (usable := [key for key in keys if is_usable(key)]):
        raise Unfit("no key in it can check a token: RSA of 2048 bits or more, EC of P-256, P-384, P-521, or Ed25519")
    return json.dumps({"keys": usable}, separators=(",", ":"), sort_keys=True)


def is_usable(key: dict[str, Any]) -> bool:
    """Whether it is a public key for signatures, whole, of a kind that Envoy knows."""
    kind, algorithm = str(key.get("kty")), key.get("alg", "")
    if kind not in _ALGORITHMS or key.get("use", "sig") != "sig" or not isinstance(key.get("kid", ""), str):
        return False
    if not isinstance(algorithm, str) or (algorithm and not re.match(_ALGORITHMS[kind], algorithm)):
        return False
    if kind == "RSA":
        return _is_rsa(_number(key.get("n")), _number(key.get("e")))
    if kind == "EC":
        size = _COORDINATES.get(str(key.get("crv")), -1)
        return len(_bytes(key.get("x"))) == len(_bytes(key.get("y"))) == size
    return key.get("crv") == "Ed25519" and len(_bytes(key.get("x"))) == 32


def _is_rsa(modulus: int, exponent: int) -> bool:
    is_long_enough = _RSA_BITS[0] <= modulus.bit_length() <= _RSA_BITS[1]
    return is_long_enough and modulus % 2 == 1 and exponent % 2 == 1 and 2 < exponent < 1 << 33


def _number(text: Any) -> int:
    return int.from_bytes(_bytes(text), "big")


def _bytes(text: Any) -> bytes:
    """Of base64url without padding; nothing of anything else."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return b""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
