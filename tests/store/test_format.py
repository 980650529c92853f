import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.errors import FormatError
from mmsb_jax._store.format.frame import (
    ALIGNMENT_BYTES,
    HEADER_BYTES,
    MAX_DATA_BYTES,
    MAX_META_BYTES,
    BadFrameError,
    Header,
    Kind,
    build_frame,
    padded,
    padding,
    read_data,
    read_header,
    read_meta,
)

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
HEADER = Header(
    kind=Kind.COMMIT,
    position=640,
    synced=512,
    meta_bytes=100,
    stream=0,
    data_bytes=7,
    meta_hash=2**64 - 1,
    data_hash=3,
)


def reader_of(raw: bytes):
    return lambda offset, size: raw[offset : offset + size]


def read_frame(raw: bytes) -> None:
    read = reader_of(raw)
    header = read_header(read, 0, 0)
    read_meta(read, 0, header)
    read_data(read, 0, header)


def rehash(raw: bytes) -> bytes:
    """A header whose hash fits again."""
    return raw[:56] + xxhash.xxh3_64_intdigest(raw[:56]).to_bytes(8, "little")


@given(
    st.builds(
        Header,
        kind=U16,
        position=U64,
        synced=U64,
        meta_bytes=st.integers(0, MAX_META_BYTES),
        stream=U32,
        data_bytes=st.integers(0, MAX_DATA_BYTES),
        meta_hash=U64,
        data_hash=U64,
        must_understand=st.booleans(),
    )
)
def test_header_encoded_and_decoded_is_equal(header):
    raw = header.encode()
    assert len(raw) == HEADER_BYTES == 64
    assert Header.decode(raw, header.position) == header
    assert Header.decode(raw, None) == header


def test_header_with_any_bit_flipped_is_refused():
    good = HEADER.encode()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrameError):
            Header.decode(bytes(bad), HEADER.position)


@pytest.mark.parametrize("size", [0, 1, 63])
def test_header_cut_short_is_refused(size):
    with pytest.raises(BadFrameError, match=f"{size} bytes where a header of 64 should be"):
        Header.decode(HEADER.encode()[:size], None)


def test_header_at_another_position_is_refused():
    with pytest.raises(BadFrameError, match="position 640 stands at 704"):
        Header.decode(HEADER.encode(), 704)


@pytest.mark.parametrize(
    "field", [{"meta_bytes": MAX_META_BYTES + 1}, {"data_bytes": 2**63}, {"data_bytes": 2**64 - 1}]
)
def test_header_that_claims_more_than_a_frame_can_have_is_refused(field):
    raw = HEADER._replace(**field).encode()
    with pytest.raises(BadFrameError, match="claims more bytes"):
        Header.decode(raw, None)


def test_header_of_a_newer_format_is_named_as_such():
    raw = bytearray(HEADER.encode())
    raw[4] = 2
    with pytest.raises(FormatError, match=r"format 2 at position 640.*Upgrade"):
        Header.decode(rehash(bytes(raw)), None)


def test_header_of_a_newer_format_with_a_bad_hash_is_damage():
    raw = bytearray(HEADER.encode())
    raw[4] = 2
    with pytest.raises(BadFrameError):
        Header.decode(bytes(raw), None)


def test_kind_unknown_is_passed_over_or_refused_by_its_bit():
    unknown = HEADER._replace(kind=99)
    with pytest.raises(FormatError, match="unknown kind 99"):
        unknown.check_kind()
    passed_over = unknown._replace(must_understand=False)
    passed_over.check_kind()
    assert not passed_over.is_known
    assert all(HEADER._replace(kind=kind).is_known for kind in Kind)


@given(st.integers(0, 10_000))
def test_padding_reaches_the_next_aligned_position(size):
    assert padded(size) == size + len(padding(size))
    assert padded(size) % ALIGNMENT_BYTES == 0
    assert len(padding(size)) < ALIGNMENT_BYTES


@given(st.binary(max_size=200), st.lists(st.binary(max_size=100), max_size=4))
def test_frame_built_and_read_is_equal(meta, data):
    header, buffers = build_frame(Kind.COMMIT, 64, 0, meta, data)
    raw = b"".join(buffers)
    assert len(raw) == header.frame_bytes
    assert len(raw) % ALIGNMENT_BYTES == 0
    read = reader_of(b"\xff" * 64 + raw)
    assert read_header(read, 64, 64) == header
    assert read_meta(read, 64, header) == meta
    assert bytes(read_data(read, 64, header)) == b"".join(data)


def test_frame_with_any_bit_flipped_is_refused():
    _, buffers = build_frame(Kind.COMMIT, 0, 0, b"meta" * 5, [b"data"])
    good = b"".join(buffers)
    tried = 0
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrameError):
            read_frame(bytes(bad))
        tried += 1
    assert tried == 3 * 64 * 8  # the padding counts


def test_frame_cut_short_at_any_byte_is_refused():
    _, buffers = build_frame(Kind.COMMIT, 0, 0, b"meta" * 30, [b"data" * 30])
    good = b"".join(buffers)
    for size in range(len(good)):
        with pytest.raises(BadFrameError):
            read_frame(good[:size])
