"""Clients' keys out of a namespace's Secret, within bounds: every gateway holds every namespace's keys. Pure.

A namespace can make its own clients fail here, with a sentence, and no more: what is beyond the bounds is left out.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

KEYS_MAX = 8
"""Per client: enough for turning over, and for a few machines with a key each."""
LENGTHS = (16, 512)
"""Of a key, in characters."""
TOTAL_MAX = 64 * 1024
"""Bytes of all keys of a namespace."""


@dataclass(frozen=True, slots=True)
class ClientKeys:
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """Client -> its keys."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Client -> why some or all of its keys do not count."""


def client_keys(data: Mapping[str, str]) -> ClientKeys:
    """A Secret's data: client -> its keys, one per line. Clients are read by name until the whole is too much."""
    keys: dict[str, tuple[str, ...]] = {}
    faults: dict[str, str] = {}
    left = TOTAL_MAX
    for client, encoded in sorted(data.items()):
        if len(encoded) * 3 // 4 > left:
            faults[client] = f"left out: the Secret has more than {TOTAL_MAX} bytes of keys"
            continue
        found, faults[client] = _of_client(encoded)
        left -= sum(map(len, found))
        keys[client] = found
    return ClientKeys(keys, {client: words for client, words in faults.items() if words})


def _of_client(encoded: str) -> tuple[tuple[str, ...], str]:
    """Its keys, and what is wrong with the rest."""
    try:
        lines = base64.b64decode(encoded, validate=True).decode("ascii").splitlines()
    except (binascii.Error, UnicodeDecodeError):
        return (), "its keys are not ASCII text, one a line"
    keys = [line.strip() for line in lines if line.strip()]
    fit = [key for key in keys if LENGTHS[0] <= len(key) <= LENGTHS[1]]
    if len(fit) < len(keys):
        words = f"{len(keys) - len(fit)} of its keys left out: a key has {LENGTHS[0]} to {LENGTHS[1]} characters"
    else:
        words = f"only its first {KEYS_MAX} keys count" if len(fit) > KEYS_MAX else ""
    return tuple(fit[:KEYS_MAX]), words
