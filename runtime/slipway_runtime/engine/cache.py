"""Answers that are kept: bounded in bytes, the one that was not asked for longest goes first.

The key is a hash of 128 bits over names, types, shapes and bytes of the inputs, seeded anew in every process: nobody
can prepare two inputs that share one. A model whose answers depend on anything else must not have a cache.
"""

import secrets
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import xxhash

from slipway_runtime.engine.job import size_of
from slipway_runtime.tensors import Parameter, Rows

Key = bytes
_ENTRY_BYTES = 400
_ARRAY_BYTES = 150
"""About what an entry, and each of its arrays, costs beside the data."""
_SMALL_BYTES = 2048
"""Below, copying is quicker than asking numpy for a view."""
_MOST_HEADS = 1000


class Cache:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._seed = secrets.randbits(64)
        self._heads: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._entries: OrderedDict[Key, tuple[Rows, int]] = OrderedDict()
        """Outputs and their bytes."""
        self.size_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, inputs: Rows, parameters: Mapping[str, Parameter]) -> Key:
        """`inputs` in the model's order."""
        digest = xxhash.xxh3_128(seed=self._seed)
        update = digest.update
        for data in inputs:
            dtype = data.dtype
            update(self._head(dtype.char, data.shape))
            if dtype.hasobject:
                for value in data.ravel():
                    update(len(value).to_bytes(8, "little"))
                    update(value)
            elif data.nbytes < _SMALL_BYTES:
                update(data.tobytes())
            else:
                update(np.ascontiguousarray(data).data)
        if parameters:
            digest.update(repr(sorted(parameters.items())).encode())
        return digest.digest()

    def _head(self, type_char: str, shape: tuple[int, ...]) -> bytes:
        """Type and shape as bytes; most requests have those of the one before."""
        head = self._heads.get((type_char, shape))
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[type_char, shape] = f"{type_char}{shape}".encode()
        return head

    def get(self, key: Key) -> Rows | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, outputs: Rows) -> None:
        """Keep copies, unless they are larger than the whole cache."""
        size_bytes = _ENTRY_BYTES + _ARRAY_BYTES * len(outputs) + size_of(outputs)
        if size_bytes > self._max_bytes or key in self._entries:
            return
        # Copies: an answer may be a view of its whole batch's.
        self._entries[key] = ([data.copy() for data in outputs], size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            _, (_, oldest_bytes) = self._entries.popitem(last=False)
            self.size_bytes -= oldest_bytes
            self.evictions += 1

    def clear(self) -> None:
        self._entries.clear()
        self.size_bytes = 0
