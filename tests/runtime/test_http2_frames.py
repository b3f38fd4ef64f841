"""Bytes into frames: however they are cut, whatever they claim."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_runtime.wire import http2_frames as h2
from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode, FrameReader

Raw = tuple[int, int, int, bytes]
RAW = st.tuples(
    st.integers(0, 12),
    st.integers(0, 255).map(lambda f: f & ~h2.PADDED),
    st.integers(0, 2**31 - 1),
    st.binary(max_size=60),
)


def encoded(raw: Raw) -> bytes:
    type_, flags, stream, payload = raw
    return len(payload).to_bytes(3, "big") + bytes((type_, flags)) + struct.pack(">I", stream) + payload


@settings(max_examples=200)
@given(st.lists(RAW, max_size=6), st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Raw], cuts: list[int]) -> None:
    wire = b"".join(map(encoded, sent))
    reader = FrameReader(2**20, 2**16)
    got: list[Raw] = []
    at = turn = 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        got += reader.feed(wire[at : at + size])
        at, turn = at + size, turn + 1
    # Pieces of DATA are compared by what they are together.
    for raw in sent:
        assert got, f"{raw} is missing"
        type_, flags, stream, payload = got.pop(0)
        while type_ == h2.DATA and len(payload) < len(raw[3]):
            assert not flags & h2.END_STREAM
            _, flags, _, more = got.pop(0)
            payload += more
        assert (type_, flags, stream, payload) == raw
    assert not got
    assert reader.held_bytes == 0


def test_data_is_passed_on_before_its_frame_is_complete() -> None:
    reader = FrameReader(2**20, 2**14)
    assert list(reader.feed(h2.head(h2.DATA, h2.END_STREAM, 1, 2**20) + b"abc")) == [(h2.DATA, 0, 1, b"abc")]
    assert list(reader.feed(b"x" * (2**20 - 4))) == [(h2.DATA, 0, 1, b"x" * (2**20 - 4))]
    assert reader.held_bytes == 0
    last = list(reader.feed(b"z" + h2.frame(h2.PING, 0, 0, b"12345678")))
    assert last == [(h2.DATA, h2.END_STREAM, 1, b"z"), (h2.PING, 0, 0, b"12345678")]


def test_padded_data_is_held_until_its_padding_is_known() -> None:
    reader = FrameReader(2**20, 2**14)
    whole_frame = h2.frame(h2.DATA, h2.PADDED, 1, b"\x02abc\0\0")
    assert list(reader.feed(whole_frame[:-1])) == []
    assert list(reader.feed(whole_frame[-1:])) == [(h2.DATA, h2.PADDED, 1, b"\x02abc\0\0")]


@pytest.mark.parametrize(
    ("type_", "size", "code"),
    [
        pytest.param(h2.DATA, 2**20 + 1, ErrorCode.FRAME_SIZE_ERROR, id="DATA"),
        pytest.param(h2.HEADERS, 2**20 + 1, ErrorCode.FRAME_SIZE_ERROR, id="HEADERS"),
        pytest.param(h2.HEADERS, 2**16 + 1, ErrorCode.ENHANCE_YOUR_CALM, id="HEADERS within the announced size"),
        pytest.param(77, 2**16 + 1, ErrorCode.ENHANCE_YOUR_CALM, id="unknown type"),
    ],
)
def test_a_frame_that_is_too_large_is_refused_by_its_header(type_: int, size: int, code: ErrorCode) -> None:
    reader = FrameReader(2**20, 2**16)
    before = h2.frame(h2.PING, 0, 0, b"12345678")
    frames = reader.feed(before + h2.head(type_, 0, 1, size))
    assert next(frames)[0] == h2.PING
    with pytest.raises(ConnectionBroken) as broken:
        next(frames)
    assert broken.value.code == code
    assert reader.held_bytes == 0


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        pytest.param(b"12345", ErrorCode.FRAME_SIZE_ERROR, id="no list of pairs"),
        pytest.param(struct.pack(">HI", h2.ENABLE_PUSH, 2), ErrorCode.PROTOCOL_ERROR, id="ENABLE_PUSH 2"),
        pytest.param(struct.pack(">HI", h2.INITIAL_WINDOW_SIZE, 2**31), ErrorCode.FLOW_CONTROL_ERROR, id="window 2^31"),
        pytest.param(struct.pack(">HI", h2.MAX_FRAME_SIZE, 2**14 - 1), ErrorCode.PROTOCOL_ERROR, id="frames too small"),
        pytest.param(struct.pack(">HI", h2.MAX_FRAME_SIZE, 2**24), ErrorCode.PROTOCOL_ERROR, id="frames too large"),
        pytest.param(struct.pack(">HI", 99, 1) * 65, ErrorCode.ENHANCE_YOUR_CALM, id="hundreds of settings"),
    ],
)
def test_settings_out_of_range_break_the_connection(payload: bytes, code: ErrorCode) -> None:
    with pytest.raises(ConnectionBroken) as broken:
        h2.read_settings(0, payload)
    assert broken.value.code == code


def test_the_last_of_two_equal_settings_counts_and_unknown_ones_do_no_harm() -> None:
    payload = struct.pack(">HIHIHI", h2.INITIAL_WINDOW_SIZE, 1, 0xAAAA, 5, h2.INITIAL_WINDOW_SIZE, 2)
    assert h2.read_settings(0, payload)[h2.INITIAL_WINDOW_SIZE] == 2


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd", b"\xff" + b"x" * 254])
def test_more_padding_than_frame_is_refused(payload: bytes) -> None:
    with pytest.raises(ConnectionBroken, match="padding"):
        h2.without_padding(payload)


def test_padding_may_be_all_there_is() -> None:
    assert h2.without_padding(b"\x00") == b""
    assert h2.without_padding(b"\x03\0\0\0") == b""
    assert h2.without_padding(b"\x01ab\0") == b"ab"


def test_a_goaway_carries_at_most_64_bytes_of_reason() -> None:
    assert len(h2.goaway(1, ErrorCode.NO_ERROR, "x" * 1000)) == 9 + 8 + 64
