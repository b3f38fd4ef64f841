"""HPACK (RFC 7541) for a server: header blocks into fields, and the few fields a server sends into blocks. Pure.

Clients that send the same fields again send the same bytes again, as long as the dynamic table stays as it is: what
such a block meant is remembered. Answers use neither the dynamic table nor Huffman codes, so a block that is sent is
a constant. The tables are those of the `hpack` package; its own decoder takes ten times as long per request.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode

T = TypeVar("T")
Field = tuple[bytes, bytes]

STATUS_200 = b"\x88"  # static index 8
_STATIC: Final[tuple[Field, ...]] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
TABLE_BYTES = 4096
"""Of the dynamic table: the default of HTTP/2, which we never change."""
ENTRY_OVERHEAD = 32
_FAR_TOO_MANY = 16  # times the limit: no mistake any more, and reading on would keep the others waiting
_REMEMBERED, _REMEMBERED_BYTES = 64, 1024
_STRINGS, _STRING_BYTES = 128, 128
_MAX_INTEGER_BYTES = 4


class HeaderDecoder(Generic[T]):
    """The decoder of one connection. `parse` makes of the fields what the caller wants to have of a block."""

    def __init__(self, parse: Callable[[list[Field]], T], too_large: T, max_bytes: int) -> None:
        """`too_large` stands for a list of more than `max_bytes`, which is decoded but not kept."""
        self._parse, self._too_large, self._max_bytes = parse, too_large, max_bytes
        self._dynamic: list[Field] = []  # the newest last
        self._dynamic_bytes = 0
        self._limit = TABLE_BYTES
        self._is_changed = False  # the dynamic table, by the block at hand
        self.known: dict[bytes, T] = {}
        """What blocks meant that change nothing: whoever is in a hurry looks here first."""
        self.beyond = 0
        """Fields of the block at hand that were read for the table's sake alone."""
        self._strings: dict[bytes, bytes] = {}  # Huffman codes read before: reading one is our slowest loop

    def decode(self, block: bytes) -> T:
        """What `parse` makes of a block. Every block must be decoded, also of streams that are refused.

        Raises:
            ConnectionBroken: COMPRESSION_ERROR.
        """
        known = self.known.get(block)
        if known is not None:
            return known
        self._is_changed, self.beyond = False, 0
        try:
            fields = self._fields(block)
        except (IndexError, HPACKDecodingError) as error:
            raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be read") from error
        parsed = self._too_large if fields is None else self._parse(fields)
        if self._is_changed or len(self.known) == _REMEMBERED:
            self.known.clear()
        if not self._is_changed and len(block) <= _REMEMBERED_BYTES:
            self.known[block] = parsed
        return parsed

    def _fields(self, block: bytes) -> list[Field] | None:
        """The fields; None if they are too many, which costs no more memory than the block."""
        fields: list[Field] = []
        at = self._resized(block)
        end, room = len(block), self._max_bytes
        while at < end:
            if block[at] & 0x80:
                index, at = _integer(block, at, 0x7F)
                field = self._indexed(index)
            else:
                field, at = self._literal(block, at)
            room -= len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
            if room >= 0:
                fields.append(field)
                continue
            self.beyond += 1
            if room < -_FAR_TOO_MANY * self._max_bytes:
                raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "a header block that unfolds without end")
        return fields if room >= 0 else None

    def _literal(self, block: bytes, at: int) -> tuple[Field, int]:
        first = block[at]
        if first & 0x40:
            index, at = _integer(block, at, 0x3F)
        elif first & 0x20:
            raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, "a change of the header table after a header")
        else:
            index, at = _integer(block, at, 0x0F)
        if index:
            name = self._indexed(index)[0]
        else:
            name, at = self._string(block, at)
        value, at = self._string(block, at)
        field = (name, value)
        if first & 0x40:
            self._add(field)
        return field, at

    def _indexed(self, index: int) -> Field:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        back = index - len(_STATIC)
        if not 0 < back <= len(self._dynamic):
            raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, f"a header with index {index}")
        return self._dynamic[-back]

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        is_huffman = block[at] & 0x80
        length, at = _integer(block, at, 0x7F)
        stop = at + length
        if stop > len(block):
            raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, "a string that ends after its block")
        text = block[at:stop]
        return (self._plain(text) if is_huffman else text), stop

    def _plain(self, code: bytes) -> bytes:
        known = self._strings.get(code)
        if known is not None:
            return known
        plain = bytes(decode_huffman(code))
        if len(code) <= _STRING_BYTES:
            if len(self._strings) == _STRINGS:
                self._strings.clear()
            self._strings[code] = plain
        return plain

    def _add(self, field: Field) -> None:
        self._is_changed = True
        self._dynamic.append(field)
        self._dynamic_bytes += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        if self._dynamic_bytes > self._limit:
            self._evict()

    def _resized(self, block: bytes) -> int:
        """Changes of the table's size, which only the beginning of a block may hold; where they end."""
        at = 0
        while at < len(block) and block[at] & 0xE0 == 0x20:
            limit, at = _integer(block, at, 0x1F)
            if limit > TABLE_BYTES:
                raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, f"a header table of {limit} bytes")
            self._is_changed = True
            self._limit = limit
            self._evict()
        return at

    def _evict(self) -> None:
        gone = 0
        while self._dynamic_bytes > self._limit:
            name, value = self._dynamic[gone]
            self._dynamic_bytes -= len(name) + len(value) + ENTRY_OVERHEAD
            gone += 1
        del self._dynamic[:gone]


def literal(name: bytes, value: bytes) -> bytes:
    """A field as it is sent: not indexed, not Huffman coded."""
    return b"\x00" + _encoded(name) + _encoded(value)


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """RFC 7541, 5.1. Bounded, so that nobody sends a number of a megabyte."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, "a number that does not end")


def _encoded(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    head, rest = bytearray((0x7F,)), length - 0x7F
    while rest > 0x7F:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    head.append(rest)
    return bytes(head) + text
