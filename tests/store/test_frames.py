import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._store.format.chain import frames_hash
from mmsb_jax._store.format.chunk import CHUNK_BYTES, Chunk, Coding, pack_chunks
from mmsb_jax._store.format.data import chunk_data, data_frames, group_chunks, read_chunks
from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame
from mmsb_jax._store.format.record import CommitRecord
from tests.torture._forged_record import ForgedRecord


def chunk(data: bytes) -> Chunk:
    return Chunk(0, len(data), 0, Coding.FULL, 1, data)


def record_of(chunks: list[Chunk], frame_sizes: list[int]) -> CommitRecord:
    return ForgedRecord(
        log_id=bytes(16),
        previous_chain=bytes(16),
        state_digest=0,
        version=1,
        time_ns=0,
        frame_sizes=frame_sizes,
        chunks=pack_chunks(chunks),
    )


def write(chunks: list[Chunk], base: int) -> tuple[bytes, int, CommitRecord]:
    """A file of data frames and their commit: its bytes, where the commit stands, its record."""
    raw, sizes, frames = b"", [], []
    for header, buffers in data_frames(chunks, base, 0):
        raw += b"".join(buffers)
        sizes.append(header.data_bytes)
        frames.append((header.data_bytes, header.data_hash))
    record = record_of(chunks, sizes)
    record.frames_hash = frames_hash(frames)
    offset = len(raw)
    raw += b"".join(build_frame(Kind.COMMIT, base + offset, 0, record.encode())[1])
    return raw, offset, record


def reader_of(raw: bytes):
    return lambda offset, size: raw[offset : offset + size]


@given(st.lists(st.integers(0, 2 * CHUNK_BYTES), max_size=8))
def test_chunks_grouped_keep_their_order_and_stay_below_the_limit(sizes):
    chunks = [chunk(bytes([i]) * size) for i, size in enumerate(sizes)]
    groups = list(group_chunks(chunks))
    assert [part for group in groups for part in group] == [c.data for c in chunks]
    for group in groups:
        assert len(group) == 1 or sum(map(len, group)) <= CHUNK_BYTES


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6))
def test_chunks_in_frames_are_found_again(parts):
    chunks = [chunk(part) for part in parts]
    raw, offset, record = write(chunks, base=4096)
    found = read_chunks(reader_of(raw), 4096, offset, record)
    assert [bytes(view) for view in found] == parts


def test_chunks_in_the_commit_frame_are_found_again():
    chunks = [chunk(b"one"), chunk(b""), chunk(b"three")]
    record = record_of(chunks, [])
    _, buffers = build_frame(Kind.COMMIT, 0, 0, record.encode(), [c.data for c in chunks])
    found = read_chunks(reader_of(b"".join(buffers)), 0, 0, record)
    assert [bytes(view) for view in found] == [b"one", b"", b"three"]


def test_frames_are_read_when_their_chunks_are_asked_for():
    chunks = [chunk(bytes([k]) * size) for k, size in enumerate((CHUNK_BYTES, 9, 10, CHUNK_BYTES))]
    raw, offset, record = write(chunks, base=0)
    asked, read = [], reader_of(raw)

    def counted(at: int, size: int) -> bytes:
        asked.append(size)
        return read(at, size)

    found = read_chunks(counted, 0, offset, record)
    assert (len(found), asked) == (4, [64] * 3)
    assert [bytes(one) for one in found[1:3]] == [bytes([1]) * 9, bytes([2]) * 10]
    assert bytes(found[2]) == bytes([2]) * 10
    assert asked[3:] == [64]  # one frame has both
    assert bytes(found[-1]) == bytes([3]) * CHUNK_BYTES
    assert list(found[2:2]) == []
    with pytest.raises(IndexError):
        found[4]


def test_parts_of_a_commit_without_data_are_none():
    record = record_of([], [])
    raw = b"".join(build_frame(Kind.COMMIT, 0, 0, record.encode())[1])
    assert list(read_chunks(reader_of(raw), 0, 0, record)) == []


def test_parts_of_two_frames_never_join():
    raw, offset, record = write([chunk(b"a" * CHUNK_BYTES), chunk(b"b" * CHUNK_BYTES)], base=0)
    frame = offset // 2
    swapped = raw[frame:offset] + raw[:frame] + raw[offset:]
    with pytest.raises(BadFrameError, match="position"):
        read_chunks(reader_of(swapped), 0, offset, record)


def test_parts_of_another_commit_at_the_same_place_are_refused():
    raw, offset, record = write([chunk(b"one")], base=0)
    other, *_ = write([chunk(b"two")], base=0)
    with pytest.raises(BadFrameError, match="not those of the commit"):
        read_chunks(reader_of(other[:offset] + raw[offset:]), 0, offset, record)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10**6])
def test_parts_that_claim_more_than_stands_before_the_commit_are_refused(size):
    raw, offset, record = write([chunk(b"data")], base=0)
    record.frame_sizes = [size]
    with pytest.raises(BadFrameError, match="more data than stands before it"):
        read_chunks(reader_of(raw), 0, offset, record)


@pytest.mark.parametrize("parts", [[b"abc"], [b"abcde"], [b"ab", b"cde"], [b"ab", b"cd", b""], []])
def test_chunks_that_do_not_fill_their_frames_are_refused(parts):
    record = record_of([chunk(b"ab"), chunk(b"cd")], [])
    with pytest.raises(BadFrameError, match="do not fill"):
        chunk_data(record, [memoryview(part) for part in parts])


def test_chunk_table_has_the_layout_of_the_format():
    (row,) = pack_chunks([Chunk(5, 6, 7, Coding.XOR_ZSTD, 4, b"12345678")])
    assert row.tolist() == (5, 6, 8, 7, 5, 4, 0)
    assert np.dtype(row.dtype).itemsize == 24
