import contextlib
import functools
import gc
import os
import signal
import threading
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._base.errors import DeviceMemoryError
from mmsb_jax._base.words import host_words
from mmsb_jax._store.encoding import group, sparse
from mmsb_jax._store.encoding.base import unit_of
from mmsb_jax._store.encoding.blob import compress_blob, read_blob
from mmsb_jax._store.encoding.choose import prefers_sparse
from mmsb_jax._store.encoding.decode import decode_into
from mmsb_jax._store.encoding.dense import encode_dense
from mmsb_jax._store.encoding.group import group_chunks
from mmsb_jax._store.encoding.sparse import encode_sparse, read_sparse, sparse_chunks
from mmsb_jax._store.format.chunk import (
    CHUNK,
    CHUNK_BYTES,
    Chunk,
    ChunkData,
    Chunks,
    Coding,
    Group,
    GroupPart,
    held_bytes,
    own_data,
    pack_chunks,
    shares,
)
from mmsb_jax._store.format.data import chunk_data
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import CommitRecord
from tests.store._logs import threads

UNITS = [1, 2, 4]
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(*chunks: Chunk | Chunks) -> list[tuple[np.void, ChunkData]]:
    """The rows of the table of chunks, each with its data."""
    table = pack_chunks(chunks)
    record = CommitRecord(b"", b"", 0, 1, 0, chunks=table)
    data = b"".join(bytes(piece) for chunk in chunks for piece in chunk.pieces())
    return list(zip(table, chunk_data(record, [memoryview(data)] if data else []), strict=True))


def decode(target: np.ndarray, *chunks: Chunk | Chunks) -> None:
    for row, data in rows_of(*chunks):
        decode_into(target, row, data)


def random_bytes(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def put(target: np.ndarray, index: np.ndarray, values: np.ndarray, unit: int) -> None:
    """The scalar meaning of a sparse record."""
    for place, value in zip(index, values, strict=True):
        target[place * unit : place * unit + unit] = value


def changed(seed: int, gaps: list[int], unit: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.cumsum(np.array(gaps, np.int64) + 1) - 1
    return index, random_bytes(seed, index.size * unit).reshape(-1, unit)


@given(
    seed=SEEDS,
    gaps=st.lists(
        st.sampled_from([0, 1, 2, 7, 253, 254, 255, 256, 509, 510, 511, 3000]), min_size=1
    ),
    unit=st.sampled_from(UNITS),
)
def test_sparse_with_gaps_of_any_size_comes_back(seed, gaps, unit):
    index, values = changed(seed, gaps, unit)
    before = random_bytes(seed + 1, int(index[-1] + 1) * unit + 9)
    expected = before.copy()
    put(expected, index, values, unit)
    chunks = encode_sparse(index, values, unit)
    decode(before, chunks)
    np.testing.assert_array_equal(before, expected)
    assert chunks.table["items"].sum() == index.size


@given(
    seed=SEEDS,
    gaps=st.lists(st.integers(0, 60), min_size=1, max_size=60),
    unit=st.sampled_from(UNITS),
    items=st.integers(1, 9),
    span=st.integers(1, 40),
)
def test_sparse_over_the_limits_is_divided_and_comes_back(seed, gaps, unit, items, span):
    index, values = changed(seed, gaps, unit)
    before = np.zeros(int(index[-1] + 1) * unit, np.uint8)
    expected = before.copy()
    put(expected, index, values, unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "SPARSE_ITEMS", items)
        patch.setattr(sparse, "SPARSE_SPAN_BYTES", span * unit)
        chunks = encode_sparse(index, values, unit)
        decode(before, chunks)
    np.testing.assert_array_equal(before, expected)
    assert chunks.table["items"].max() <= items
    assert chunks.table["raw"].max() <= span * unit


def test_sparse_of_many_equal_elements_is_compressed():
    index = np.arange(0, 4000, 2)
    chunks = encode_sparse(index, np.full((index.size, 4), 7, np.uint8), 4)
    assert chunks.table["coding"].tolist() == [Coding.SPARSE_ZSTD]
    assert len(chunks.data) < 200
    target = np.zeros(16_000, np.uint8)
    decode(target, chunks)
    assert (target.reshape(-1, 4)[::2] == 7).all()
    assert not target.reshape(-1, 4)[1::2].any()


def test_sparse_of_two_elements_a_gigabyte_apart_is_two_chunks():
    index = np.array([0, 1 << 30])
    chunks = encode_sparse(index, np.ones((2, 1), np.uint8), 1)
    assert chunks.table[["offset", "raw"]].tolist() == [(0, 1), (1 << 30, 1)]


@given(
    seed=SEEDS,
    items=st.integers(1, 3000),
    unit=st.sampled_from([1, 2, 4, 8]),
    kind=st.sampled_from(["random", "zeros", "near"]),
    has_old=st.booleans(),
)
def test_dense_of_any_size_comes_back(seed, items, unit, kind, has_old):
    size = items * unit
    old = random_bytes(seed, size)
    new = {"random": random_bytes(seed + 1, size), "zeros": np.zeros(size, np.uint8)}.get(kind, old)
    if kind == "near":
        new = old.copy()
        new[:: max(1, size // 7)] ^= 1
    (chunk,) = encode_dense(new, old if has_old else None, unit)
    # A full record must not depend on what was there before.
    is_full = chunk.coding is not Coding.XOR_GROUP
    target = random_bytes(seed + 2, size) if is_full else old.copy()
    decode(target, chunk)
    np.testing.assert_array_equal(target, new)
    assert is_full or has_old


@pytest.mark.parametrize("unit", [1, 2, 4])
@pytest.mark.parametrize(
    ("coding", "make"),
    [
        (Coding.FULL, lambda old: random_bytes(9, old.size)),
        (
            Coding.FULL_GROUP,
            lambda old: np.arange(old.size, dtype=np.uint32).view(np.uint8)[: old.size],
        ),
        (Coding.XOR_GROUP, lambda old: old ^ (np.arange(old.size) % 97 == 0).astype(np.uint8)),
    ],
    ids=["full", "full_group", "xor_group"],
)
def test_dense_of_several_chunks_comes_back_in_each_coding(coding, make, unit):
    old = random_bytes(1, 2 * CHUNK_BYTES + 12_344)
    new = make(old)
    chunks = encode_dense(new, old, unit)
    assert {chunk.coding for chunk in chunks} == {coding}
    assert [chunk.raw_bytes for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 12_344]
    target = old.copy()
    decode(target, *chunks)
    np.testing.assert_array_equal(target, new)


def test_dense_chunks_of_one_array_have_each_the_coding_that_suits_it():
    old = random_bytes(1, 3 * CHUNK_BYTES)
    new = np.concatenate(
        [random_bytes(2, CHUNK_BYTES), np.zeros(CHUNK_BYTES, np.uint8), old[2 * CHUNK_BYTES :] ^ 1]
    )
    chunks = encode_dense(new, old, 4)
    codings = [chunk.coding for chunk in chunks]
    assert codings == [Coding.FULL, Coding.FULL_GROUP, Coding.XOR_GROUP]
    target = old.copy()
    decode(target, *chunks)
    np.testing.assert_array_equal(target, new)


@pytest.mark.parametrize("unit", [1, 2, 4, 8])
@pytest.mark.parametrize("coding", [Coding.FULL_ZSTD, Coding.XOR_ZSTD])
def test_dense_as_it_was_written_before_groups_is_read(coding, unit):
    old, new = random_bytes(1, 1003), random_bytes(2, 1003)
    held = new if coding is Coding.FULL_ZSTD else new ^ old
    whole = held.size // unit * unit
    in_planes = held[:whole].reshape(-1, unit).T.tobytes() + held[whole:].tobytes()
    target = old.copy()
    decode(target, Chunk(0, 1003, 0, coding, unit, zstandard.compress(in_planes)))
    np.testing.assert_array_equal(target, new)


def test_dense_in_threads_gives_the_same_bytes():
    old = random_bytes(1, 3 * CHUNK_BYTES)
    new = old ^ (np.arange(old.size) % 31 == 0).astype(np.uint8)
    alone, together = encode_dense(new, old, 4), encode_dense(new, old, 4, threads)
    assert [bytes(chunk.data) for chunk in alone] == [bytes(chunk.data) for chunk in together]


def test_dense_of_an_empty_array_has_no_chunks():
    assert encode_dense(np.empty(0, np.uint8), None, 4) == []


@given(
    seed=SEEDS,
    parts=st.lists(
        st.lists(st.sampled_from([0, 1, 254, 255, 600]), min_size=1, max_size=30), min_size=1
    ),
    unit=st.sampled_from(UNITS),
)
def test_sparse_chunks_of_arrays_end_to_end_are_those_of_each(seed, parts, unit):
    each = [changed(seed, gaps, unit) for gaps in parts]
    index, values = map(np.concatenate, zip(*each, strict=True))
    together = sparse_chunks(index, values, unit, list(map(len, parts)))
    alone = [encode_sparse(*one, unit) for one in each]
    assert together.rows == b"".join(chunks.rows for chunks in alone)
    assert together.data == b"".join(chunks.data for chunks in alone)


@given(
    seed=SEEDS,
    counts=st.lists(st.sampled_from([1, 2, 5, 64, 65, 300]), min_size=1, max_size=12),
    unit=st.sampled_from(UNITS),
)
def test_sparse_chunks_of_few_elements_are_laid_out_as_those_of_many(seed, counts, unit):
    rng = np.random.default_rng(seed)
    each = [changed(seed, rng.choice([0, 3, 255, 700], count).tolist(), unit) for count in counts]
    index, values = map(np.concatenate, zip(*each, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for long_items in (0, 10**9):
            patch.setattr(sparse, "_LONG_ITEMS", long_items)
            made.append(sparse_chunks(index, values, unit, counts))
    assert made[0].rows == made[1].rows
    assert made[0].data == made[1].data


def test_chunks_are_written_in_pieces_of_whole_chunks_that_fit_a_frame():
    table = np.zeros(5, CHUNK)
    table["stored"] = [700_000, 300_000, 0, 600_000, 5]
    data = random_bytes(0, 1_600_005).tobytes()
    assert [len(piece) for piece in Chunks(table, data).pieces()] == [1_000_000, 600_005]
    assert b"".join(Chunks(table, data).pieces()) == data
    assert [len(piece) for piece in Chunks(table[:2], data[:1_000_000]).pieces()] == [1_000_000]


# Groups


def grouped(
    seed: int, sizes: list[int], share: float, unit: int
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Arrays before and after, and the same end to end as words: after, and what differs."""
    rng = np.random.default_rng(seed)
    olds = [random_bytes(seed + i, size) for i, size in enumerate(sizes)]
    news = [old ^ np.where(rng.random(old.size) < share, 1, 0).astype(np.uint8) for old in olds]
    new, old = (np.concatenate([host_words(part) for part in parts]) for parts in (news, olds))
    return olds, news, new, new ^ old


@given(
    seed=SEEDS,
    sizes=st.lists(st.sampled_from([1, 3, 4, 12, 100, 1023, 4096]), min_size=1, max_size=6),
    unit=st.sampled_from(UNITS),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    alone=st.booleans(),
)
def test_group_comes_back_chunk_by_chunk(seed, sizes, unit, share, alone):
    sizes = [-(-size // unit) * unit for size in sizes]
    olds, news, new, mixed = grouped(seed, sizes, share, unit)
    chunks = group_chunks(new, None if alone else mixed, unit, np.array(sizes))
    codings = set(chunks.table["coding"].tolist())
    assert codings <= {Coding.FULL, Coding.FULL_GROUP, Coding.XOR_GROUP}
    assert not (alone and Coding.XOR_GROUP in codings)
    assert chunks.table["raw"].tolist() == sizes
    rows = rows_of(chunks)
    order = np.random.default_rng(seed).permutation(len(sizes))  # as one array asks for its own
    for k in order.tolist():
        target = olds[k].copy() if Coding.XOR_GROUP in codings else np.full(sizes[k], 9, np.uint8)
        decode_into(target, *rows[k])
        np.testing.assert_array_equal(target, news[k])


def test_group_stores_planes_that_do_not_shrink_as_they_are():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(8192).astype("f4")
    near = values * (1 + rng.standard_normal(8192).astype("f4") * np.float32(1e-3))
    new, old = near.view(np.uint32), values.view(np.uint32)
    chunks = group_chunks(new, new ^ old, 4, np.full(8, 4096))
    assert chunks.table["coding"].tolist() == [Coding.XOR_GROUP] * 8
    low, second, third, high = np.frombuffer(chunks.data[:16], np.uint32).tolist()
    assert (low, second) == (8192, 8192)
    assert high < third < 8192
    assert chunks.table["stored"].tolist() == [len(chunks.data)] + [0] * 7
    noise = rng.integers(0, 2**32, 8192, np.uint32)
    chunks = group_chunks(noise, noise ^ old, 4, np.full(8, 4096))
    assert chunks.table["coding"].tolist() == [Coding.FULL] * 8
    assert chunks.data == noise.tobytes()


def test_stored_bytes_of_a_group_are_shared_out_by_size():
    table = np.zeros(6, CHUNK)
    table["coding"] = [Coding.FULL, *[Coding.XOR_GROUP] * 3, Coding.SPARSE, Coding.FULL_GROUP]
    table["raw"], table["items"] = [8, 100, 200, 100, 9, 50], [0, 3, 0, 0, 1, 1]
    table["stored"] = [8, 80, 0, 0, 5, 7]
    assert shares(table) == [8, 20, 40, 20, 5, 7]
    assert held_bytes(table) == 8 + 400 + 5 + 7


def test_stored_bytes_of_groups_that_claim_each_other_are_shared_out_in_one_pass():
    table = np.zeros(20_000, CHUNK)
    table["coding"], table["raw"], table["items"] = Coding.XOR_GROUP, 1, 20_000
    table["stored"][0] = 40_000
    assert shares(table) == [2] * 20_000


def test_groups_keep_no_more_decoded_than_they_may_at_a_time(monkeypatch):
    monkeypatch.setattr(group, "_KEPT_BYTES", 5000)
    chunks = group_chunks(np.zeros(600, np.uint32), None, 4, np.array([1200, 1200]))
    read = [rows_of(chunks) for _ in range(40)]
    for rows in read:
        decode_into(np.zeros(1200, np.uint8), *rows[0])
    held = [rows[0][1].group.raw for rows in read]
    assert sum(raw is not None for raw in held) == 2
    assert held[-1] is not None
    for rows in reversed(read):
        target = np.ones(1200, np.uint8)
        decode_into(target, *rows[1])
        assert not target.any()
    del read, rows, held
    gc.collect()
    assert group._kept._nbytes == 0


def test_group_is_decoded_in_a_child_whose_parent_was_decoding_one():
    rows = rows_of(group_chunks(np.zeros(600, np.uint32), None, 4, np.array([1200, 1200])))
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with group._kept._lock:
            is_held.set()
            may_end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        decode_into(np.ones(1200, np.uint8), *rows[0])
        os._exit(7)
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def group_row(coding: Coding, raw: int, items: int, stored: int, unit: int = 1) -> tuple[int, ...]:
    return (0, raw, stored, items, coding, unit, 0)


@pytest.mark.parametrize(
    "rows",
    [
        [group_row(Coding.FULL_GROUP, 4, 0, 8)],
        [group_row(Coding.FULL_GROUP, 4, 2, 8)],
        [group_row(Coding.FULL_GROUP, 4, 2**32 - 1, 8)],
        [group_row(Coding.FULL_GROUP, 4, 2, 8), group_row(Coding.XOR_GROUP, 4, 0, 0)],
        [group_row(Coding.FULL_GROUP, 4, 2, 8), group_row(Coding.FULL_GROUP, 4, 0, 0, 2)],
        [group_row(Coding.FULL_GROUP, 4, 2, 4), group_row(Coding.FULL_GROUP, 4, 0, 4)],
        [group_row(Coding.FULL_GROUP, 4, 2, 8), group_row(Coding.FULL_GROUP, 4, 1, 0)],
        [group_row(Coding.FULL_GROUP, 4, 2, 8), group_row(Coding.FULL, 4, 0, 0)],
    ],
    ids=["follows none", "too few", "far too few", "coding", "unit", "stored", "in it", "plain"],
)
def test_group_whose_chunks_are_not_its_own_is_refused(rows):
    record = CommitRecord(b"", b"", 0, 1, 0, chunks=np.array(rows, CHUNK))
    with pytest.raises(BadFrameError, match="of a group are not its own"):
        list(chunk_data(record, [memoryview(bytes(8))]))


def planes(*parts: bytes) -> bytes:
    return b"".join([len(part).to_bytes(4, "little") for part in parts] + list(parts))


@pytest.mark.parametrize(
    ("data", "unit"),
    [
        (b"", 1),
        (b"\0\0\0", 1),
        (planes(b"abcde"), 1),
        (planes(b"abc"), 1),
        (planes(b"abcd") + b"\0", 1),
        (planes(b"ab", b"a"), 2),
        (planes(zstandard.compress(b"abcde")), 1),
        (planes(zstandard.compress(bytes(1000))), 1),
        (planes(b"abcd"), 0),
        (planes(b"ab", b"ab", b""), 3),
    ],
    ids=str,
)
def test_group_that_lies_of_its_planes_is_refused(data, unit):
    table = np.array([group_row(Coding.FULL_GROUP, 4, 1, len(data), unit)], CHUNK)
    ((row, part),) = rows_of(Chunks(table, data)) if data else [(table[0], _empty_group(table))]
    with pytest.raises(BadFrameError):
        decode_into(np.zeros(4, np.uint8), row, part)


def _empty_group(table: np.ndarray) -> GroupPart:
    return GroupPart(Group(table, memoryview(b"")), 0, 4)


def test_group_of_more_than_a_frame_holds_is_refused_before_it_is_decoded():
    data = planes(gigabyte())
    table = np.array([group_row(Coding.FULL_GROUP, 1 << 30, 1, len(data))], CHUNK)
    ((row, part),) = rows_of(Chunks(table, data))
    target = np.zeros(1 << 30, np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(BadFrameError, match="a group of"):
            decode_into(target, row, part)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_chunk_of_a_group_apart_from_it_is_refused():
    table = np.array([group_row(Coding.FULL_GROUP, 4, 1, 8)], CHUNK)
    with pytest.raises(BadFrameError, match="apart from it"):
        decode_into(np.zeros(4, np.uint8), table[0], memoryview(bytes(8)))
    with pytest.raises(BadFrameError, match="a group where none can be"):
        own_data(GroupPart(Group(table, memoryview(bytes(8))), 0, 4))


# What all encodings promise


@pytest.mark.parametrize(
    "encode",
    [
        lambda: [encode_sparse(np.arange(0, 9000, 3), random_bytes(1, 3000).reshape(-1, 1), 1)],
        lambda: encode_dense(random_bytes(2, 50_000), random_bytes(3, 50_000), 4),
        lambda: encode_dense(np.zeros(50_000, np.uint8), random_bytes(3, 50_000), 4),
    ],
    ids=["sparse", "full", "zstd"],
)
def test_encoding_twice_gives_the_same_bytes(encode):
    first, second = encode(), encode()
    assert pack_chunks(first).tobytes() == pack_chunks(second).tobytes()
    assert [bytes(chunk.data) for chunk in first] == [bytes(chunk.data) for chunk in second]


@pytest.mark.parametrize(("itemsize", "unit"), [(1, 1), (2, 2), (3, 1), (4, 4), (6, 2), (16, 4)])
def test_unit_is_the_largest_that_divides_the_element(itemsize, unit):
    assert unit_of(itemsize) == unit


def test_sparse_is_preferred_below_half_of_the_bytes():
    assert prefers_sparse(9, 4, 91)
    assert not prefers_sparse(9, 4, 90)


@given(st.binary(max_size=5000))
def test_blob_compressed_and_read_is_equal(blob):
    chunks = compress_blob(blob)
    assert (
        read_blob(pack_chunks(chunks), [memoryview(chunk.data) for chunk in chunks], 5000) == blob
    )


@pytest.mark.parametrize("blob", [bytes(3 << 20), np.random.default_rng(0).bytes(2 << 20)])
def test_blob_of_several_chunks_is_read(blob):
    chunks = compress_blob(blob)
    assert len(chunks) == len(blob) >> 20
    rows = pack_chunks(chunks)
    assert read_blob(rows, [memoryview(chunk.data) for chunk in chunks], 4 << 20) == blob


def test_blob_in_a_group_is_refused():
    table = np.array([group_row(Coding.FULL_GROUP, 4, 1, 8)], CHUNK)
    ((_, part),) = rows_of(Chunks(table, planes(b"abcd")))
    with pytest.raises(BadFrameError, match="a group where none can be"):
        read_blob(table, [part], 99)


def test_blob_over_the_limit_is_refused():
    chunks = compress_blob(b"x" * 100)
    with pytest.raises(BadFrameError, match="extra of 100 bytes; at most 99"):
        read_blob(pack_chunks(chunks), [memoryview(chunks[0].data)], 99)


def test_blob_whose_chunks_leave_a_gap_is_refused():
    chunks = [Chunk(at, 4, 0, Coding.FULL, 1, b"abcd") for at in (0, 8)]
    with pytest.raises(BadFrameError, match="do not follow each other"):
        read_blob(pack_chunks(chunks), [memoryview(chunk.data) for chunk in chunks], 99)


def test_blob_that_claims_more_than_the_machine_has_is_refused():
    rows = np.repeat(pack_chunks([Chunk(0, 2**32 - 1, 0, Coding.FULL_ZSTD, 1, b"")]), 1 << 12)
    with pytest.raises(DeviceMemoryError, match="the extra of a commit"):
        read_blob(rows, [memoryview(b"")] * rows.size, 1 << 62)


# Hostile chunks: what a file claims.


def bomb(size: int) -> bytes:
    """A few bytes that decompress to ``size`` zeros."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    zeros = bytes(1 << 24)
    parts = [compressor.compress(zeros) for _ in range(size >> 24)]
    return b"".join([*parts, compressor.flush()])


@functools.cache
def gigabyte() -> bytes:
    return bomb(1 << 30)


def refuse(target_bytes: int, chunk: Chunk) -> int:
    """Decode a chunk that must be refused; returns the most memory that this took."""
    target, (row,) = np.zeros(target_bytes, np.uint8), pack_chunks([chunk])
    tracemalloc.start()
    try:
        with pytest.raises(BadFrameError):
            decode_into(target, row, memoryview(chunk.data))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("coding", "raw", "items"),
    [
        (Coding.FULL_ZSTD, 1 << 30, 0),
        (Coding.XOR_ZSTD, 1 << 30, 0),
        (Coding.FULL_ZSTD, 1 << 20, 0),
        (Coding.SPARSE_ZSTD, 1 << 30, 1 << 30),
        (Coding.SPARSE_ZSTD, 1 << 30, 1 << 18),
        (Coding.SPARSE_ZSTD, 2**32 - 1, 2**32 - 1),
    ],
)
def test_decode_of_a_decompression_bomb_is_refused_before_it_goes_off(coding, raw, items):
    assert len(gigabyte()) < 200_000
    chunk = Chunk(0, raw, items, coding, 1, gigabyte())
    assert refuse(min(raw, 1 << 30), chunk) < 32 << 20


def test_decode_of_a_bomb_that_claims_to_be_small_is_refused():
    data = bytearray(gigabyte())
    claimed = data.index((1 << 30).to_bytes(4, "little"), 4)
    data[claimed : claimed + 4] = (1000).to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(data)) == 1000
    assert refuse(1000, Chunk(0, 1000, 0, Coding.FULL_ZSTD, 1, bytes(data))) < 32 << 20


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(2**63, 4, 0, Coding.FULL, 1, b"abcd"),
        Chunk(2**64 - 1, 4, 0, Coding.FULL, 1, b"abcd"),
        Chunk(97, 4, 0, Coding.FULL, 1, b"abcd"),
        Chunk(0, 4, 0, Coding.FULL, 1, b"abc"),
        Chunk(0, 4, 0, Coding.FULL, 3, b"abcd"),
        Chunk(0, 4, 0, Coding.FULL_ZSTD, 1, b"abcd"),
        Chunk(0, 4, 0, Coding.FULL_ZSTD, 1, zstandard.compress(b"abcde")),
        Chunk(0, 4, 0, Coding.FULL_ZSTD, 1, zstandard.compress(b"abcd") + b"\0"),
        Chunk(0, 4, 0, Coding.SPARSE, 1, b""),
        Chunk(0, 4, 1, Coding.SPARSE, 4, b"\0abc"),
        Chunk(0, 4, 1, Coding.SPARSE, 4, b"\1abcd"),
        Chunk(0, 5, 1, Coding.SPARSE, 4, b"\0abcd"),
        Chunk(0, 4, 1, Coding.SPARSE, 0, b"\0abcd"),
        Chunk(0, 4, 2**32 - 1, Coding.SPARSE, 1, b"\0a"),
        Chunk(0, 4, 2, Coding.SPARSE, 1, b"\0\0\0\0ab"),
        Chunk(0, 4, 2, Coding.SPARSE, 1, b"\xff\xffab"),
    ],
    ids=str,
)
def test_decode_of_a_chunk_that_lies_is_refused(chunk):
    assert refuse(100, chunk) < 1 << 20


@settings(max_examples=300)
@given(
    offset=st.integers(0, 2**64 - 1) | st.integers(0, 40),
    raw=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    items=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    coding=st.sampled_from(list(Coding)),
    unit=st.integers(0, 255) | st.sampled_from([1, 2, 4, 8]),
    data=st.binary(max_size=60) | st.binary(max_size=60).map(zstandard.compress),
)
def test_decode_of_any_chunk_gives_bytes_or_is_refused(offset, raw, items, coding, unit, data):
    target = np.zeros(64, np.uint8)
    guard = target[:32]
    (row,) = pack_chunks([Chunk(offset, raw, items, coding, unit, data)])
    with contextlib.suppress(BadFrameError):
        decode_into(guard, row, memoryview(data))
    assert not target[32:].any()


def test_read_sparse_gives_elements_and_their_bytes_in_planes():
    index, values = np.array([0, 2, 300]), random_bytes(3, 12).reshape(3, 4)
    chunks = encode_sparse(index, values, 4)
    ((row, data),) = rows_of(chunks)
    found, of_values = read_sparse(row, own_data(data))
    np.testing.assert_array_equal(found, index)
    np.testing.assert_array_equal(of_values, values.T)
