"""HPACK against the encoder of the `hpack` package, and against blocks no honest encoder makes."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode
from slipway_runtime.wire.http2_headers import TABLE_BYTES, Field, HeaderDecoder, literal

LIMIT = 16 * 1024
TOO_LARGE: list[Field] = [(b"too", b"large")]

NAME = st.sampled_from([b":path", b"te", b"x-a", b"grpc-timeout", b"user-agent"]) | st.binary(min_size=1, max_size=40)
FIELDS = st.lists(st.tuples(NAME, st.binary(max_size=300)), max_size=8)


def decoder(limit: int = LIMIT) -> HeaderDecoder[list[Field]]:
    return HeaderDecoder(lambda fields: fields, TOO_LARGE, limit)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([0, 100, 4096])), max_size=12))
def test_blocks_of_another_encoder_are_read_as_they_were_meant(blocks: list[tuple[list[Field], bool, int]]) -> None:
    encoder, ours = Encoder(), decoder(10**6)
    for fields, huffman, table in blocks:
        encoder.header_table_size = table
        block = bytes(encoder.encode([(*field, False) for field in fields], huffman=huffman))
        assert ours.decode(block) == fields


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([(b"a", b"1"), (b"b", b"2" * 50), (b"c", b"3" * 2000), (b"d", b"4" * 3000)]), max_size=60)
)
def test_what_is_remembered_of_a_block_is_forgotten_when_its_indices_move(fields: list[Field]) -> None:
    encoder, ours = Encoder(), decoder()
    for field in fields:
        assert ours.decode(bytes(encoder.encode([field]))) == [field]


@given(st.binary(min_size=1, max_size=60), st.binary(max_size=400))
def test_a_literal_is_read_by_another_decoder(name: bytes, value: bytes) -> None:
    assert [tuple(field) for field in Decoder().decode(literal(name, value), raw=True)] == [(name, value)]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_bytes_are_fields_or_a_compression_error(blocks: list[bytes]) -> None:
    ours = decoder()
    code = ErrorCode.COMPRESSION_ERROR
    try:
        for block in blocks:
            ours.decode(block)
    except ConnectionBroken as broken:
        code = broken.code
    assert code == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="index into an empty table"),
        pytest.param(b"\xff\xff\xff\xff\xff\x7f", id="a number without end"),
        pytest.param(b"\x7f\x80\x80\x80\x80\x80\x80\x00", id="a number with too many zeros"),
        pytest.param(b"\x00\x05ab", id="a string beyond the block"),
        pytest.param(b"\x40", id="nothing after the first byte"),
        pytest.param(b"\x3f\xe2\x1f", id="a table larger than ours"),
        pytest.param(b"\x82\x20", id="a new table size after a field"),
        pytest.param(b"\x00\x01a\x82\xff\xff", id="Huffman padding of more than 7 bits"),
        pytest.param(b"\x00\x01a\x81\x00", id="Huffman padding that is not ones"),
        pytest.param(b"\x00\x01a\x84\xff\xff\xff\xff", id="Huffman's end of string"),
    ],
)
def test_a_block_that_cannot_be_read_is_a_compression_error(block: bytes) -> None:
    with pytest.raises(ConnectionBroken) as broken:
        decoder().decode(block)
    assert broken.value.code == ErrorCode.COMPRESSION_ERROR


def test_two_new_table_sizes_at_the_start_of_a_block_are_taken() -> None:
    ours = decoder()
    ours.decode(b"\x40\x01a\x01b")
    assert ours.decode(b"\xbe") == [(b"a", b"b")]
    assert ours.decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]
    with pytest.raises(ConnectionBroken):
        ours.decode(b"\xbe")  # size 0 emptied the table


def test_a_list_that_is_too_large_leaves_the_table_in_step() -> None:
    ours = decoder()
    entry = b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000
    assert ours.decode(entry + b"\xbe" * 20) is TOO_LARGE
    assert ours.beyond > 0, "who reads it for nothing may charge for it"
    assert ours.decode(b"\xbe") == [(b"a", b"b" * 4000)]


def test_a_bomb_of_references_is_broken_off() -> None:
    ours = decoder()
    with pytest.raises(ConnectionBroken, match="unfolds without end"):
        ours.decode(b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 60_000)
    assert ours.beyond < 1000


def test_an_entry_larger_than_the_table_empties_it() -> None:
    ours = decoder()
    ours.decode(b"\x40\x01a\x01b")
    ours.decode(b"\x40\x01a\x7f\x81\x3f" + b"b" * 8192)
    with pytest.raises(ConnectionBroken):
        ours.decode(b"\xbe")


def test_memory_of_a_decoder_is_bounded_however_many_blocks_it_reads() -> None:
    ours = decoder()
    for number in range(2000):
        ours.decode(literal(b"x", b"%d" % number))
        ours.decode(literal(b"x", b"%d" % number + b"y" * 1000))
        ours.decode(b"\x40\x01a\x05%05d" % number)
    assert len(ours.known) <= 64
    assert len(ours._dynamic) <= TABLE_BYTES // 32
    assert sum(map(len, ours.known)) <= 64 * 1024
