"""A second opinion on the core: every operation again, byte by byte, to be obviously right.

Nothing here is fast, and nothing is shared with what it checks. A delta is what it says, a
dictionary from places to bytes, and so its algebra is that of dictionaries::

    compose(first, second)  is  first | second
    diff(old, new)          is  the places that differ, with the bytes of new
    invert(pool, delta)     is  the same places, with the bytes of pool

Values of the core come in through `pool_of`, `writes_of` and `log_of`, which only read their
arrays; JAX is not imported.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

WORD_BYTES = 4
"""Bytes of a word."""

NO_PAGE = 2**31 - 1
"""Page of the rows of a delta that are not in use."""

Writes = dict[tuple[int, int], int]
"""A delta: (page, byte of the page) → the new byte."""


@dataclass(frozen=True)
class Pool:
    """Pages as bytes.

    Attributes:
        data: ``uint8[pages, page_bytes]``.
        version: ``uint32[pages]``.
    """

    data: np.ndarray
    version: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Pool)
            and np.array_equal(self.data, other.data)
            and np.array_equal(self.version, other.version)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class LogModel:
    """A log of fixed capacity.

    Attributes:
        entries: the deltas, oldest first.
        commits, blocks: how many entries, and how many blocks of them together, there is room for.
        block_words: words of a block.
        version: the version before the first entry.
        overflow: whether an entry found no room.
    """

    commits: int
    blocks: int
    block_words: int
    version: int = 0
    entries: tuple[Writes, ...] = ()
    overflow: bool = False


# Reading the core's values


def pool_of(pages: Any) -> Pool:
    """The bytes of a `mmsb_jax.Pages`."""
    words = np.ascontiguousarray(np.asarray(pages.words))
    data = words.astype("<u4").view(np.uint8).reshape(len(words), WORD_BYTES * words.shape[1])
    return Pool(data, np.array(pages.version))


def writes_of(delta: Any) -> Writes:
    """What a `mmsb_jax.Delta` writes."""
    return _writes_of_rows(delta, range(int(delta.count)), int(delta.block_words))


def log_of(log: Any) -> LogModel:
    """What a `mmsb_jax.TLog` holds."""
    ends = np.asarray(log.ends)[: int(log.count)].tolist()
    starts = [0, *ends][: len(ends)]
    words = int(log.block_words)
    return LogModel(
        commits=len(np.asarray(log.ends)),
        blocks=len(np.asarray(log.page)),
        block_words=words,
        version=int(log.version),
        entries=tuple(
            _writes_of_rows(log, range(start, end), words)
            for start, end in zip(starts, ends, strict=True)
        ),
        overflow=bool(log.overflow),
    )


def _writes_of_rows(columns: Any, rows: Iterable[int], block_words: int) -> Writes:
    page, block = np.asarray(columns.page), np.asarray(columns.block)
    mask, data = (
        np.ascontiguousarray(np.asarray(words)).astype("<u4").view(np.uint8)
        for words in (columns.mask, columns.data)
    )
    block_bytes = block_words * WORD_BYTES
    return {
        (int(page[row]), int(block[row]) * block_bytes + i): int(data[row, i])
        for row in rows
        for i in range(block_bytes)
        if mask[row, i]
    }


# Trees


def leaf_bytes(leaf: Any) -> bytes:
    """The bytes of a leaf, little-endian where it is a number; give a PRNG key as its data."""
    if type(leaf) is bool:
        return struct.pack("<?", leaf)
    if type(leaf) is int:
        return struct.pack("<q", leaf)
    if type(leaf) is float:
        return struct.pack("<d", leaf)
    if type(leaf) is complex:
        return struct.pack("<dd", leaf.real, leaf.imag)
    return np.asarray(leaf).tobytes()


def pack(leaves: Sequence[Any], page_bytes: int) -> Pool:
    """Each leaf from a page of its own on, the rest of its last page zero; all at version 0."""
    whole = b""
    for leaf in leaves:
        raw = leaf_bytes(leaf)
        whole += raw + bytes(-len(raw) % page_bytes)
    data = np.frombuffer(whole, np.uint8).reshape(-1, page_bytes)
    return Pool(data, np.zeros(len(data), np.uint32))


def unpack(pool: Pool, arrays: Sequence[tuple[Any, Sequence[int]]]) -> list[np.ndarray]:
    """The arrays of these dtypes and shapes; the inverse of `pack`."""
    out, page = [], 0
    page_bytes = pool.data.shape[1]
    for dtype, shape in arrays:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        raw = pool.data[page:].tobytes()[:nbytes]
        out.append(np.frombuffer(raw, dtype).reshape(shape))
        page += -(-nbytes // page_bytes)
    return out


# Deltas


def diff(old: Pool, new: Pool) -> Writes:
    """The bytes that differ."""
    return {
        (int(page), int(byte)): int(new.data[page, byte])
        for page, byte in np.argwhere(old.data != new.data)
    }


def apply(pool: Pool, writes: Writes, version: int | None = None) -> Pool:
    """The pool with the bytes written; what is outside of it is dropped."""
    data, versions = pool.data.copy(), pool.version.copy()
    pages, page_bytes = data.shape
    for (page, byte), value in writes.items():
        if 0 <= page < pages and 0 <= byte < page_bytes and data[page, byte] != value:
            data[page, byte] = value
            if version is not None:
                versions[page] = version
    return Pool(data, versions)


def compose(first: Writes, second: Writes) -> Writes:
    """First one and then the other: where both write, the second wins."""
    return first | second


def invert(pool: Pool, writes: Writes) -> Writes:
    """What undoes ``writes`` on ``pool``; zeros outside of it."""
    pages, page_bytes = pool.data.shape
    return {
        (page, byte): int(pool.data[page, byte])
        if 0 <= page < pages and 0 <= byte < page_bytes
        else 0
        for page, byte in writes
    }


def from_bytes(page: int, page_bytes: int, mask: Sequence[Any], data: Sequence[Any]) -> Writes:
    """The bytes of an array that begins at ``page``, where ``mask`` is true."""
    return {
        (page + i // page_bytes, i % page_bytes): int(value)
        for i, (written, value) in enumerate(zip(mask, data, strict=True))
        if written
    }


def blocks_of(writes: Writes, block_words: int) -> list[tuple[int, int]]:
    """The blocks (page, block of the page) that are written to, ascending."""
    block_bytes = block_words * WORD_BYTES
    return sorted({(page, byte // block_bytes) for page, byte in writes})


def first_blocks(writes: Writes, block_words: int, capacity: int) -> tuple[Writes, bool]:
    """What fits in ``capacity`` blocks, and whether something did not."""
    blocks = blocks_of(writes, block_words)
    kept = set(blocks[:capacity])
    block_bytes = block_words * WORD_BYTES
    fitting = {
        (page, byte): value
        for (page, byte), value in writes.items()
        if (page, byte // block_bytes) in kept
    }
    return fitting, len(blocks) > capacity


def delta_arrays(writes: Writes, block_words: int, capacity: int) -> dict[str, np.ndarray]:
    """The arrays of the only `mmsb_jax.Delta` of this capacity that says ``writes``."""
    writes, overflow = first_blocks(writes, block_words, capacity)
    blocks = blocks_of(writes, block_words)
    block_bytes = block_words * WORD_BYTES
    mask = np.zeros((capacity, block_bytes), np.uint8)
    data = np.zeros((capacity, block_bytes), np.uint8)
    row_of = {block: row for row, block in enumerate(blocks)}
    for (page, byte), value in writes.items():
        row = row_of[page, byte // block_bytes]
        mask[row, byte % block_bytes] = 0xFF
        data[row, byte % block_bytes] = value
    unused = capacity - len(blocks)
    return {
        "page": np.array([page for page, _ in blocks] + [NO_PAGE] * unused, np.int32),
        "block": np.array([block for _, block in blocks] + [0] * unused, np.int32),
        "mask": mask.view("<u4").astype(np.uint32),
        "data": data.view("<u4").astype(np.uint32),
        "count": np.array(len(blocks), np.int32),
        "overflow": np.array(overflow),
    }


# Logs


def append(log: LogModel, writes: Writes, overflow: bool = False) -> LogModel:
    """The log with one more entry; with ``overflow`` where it has no room, or had none before."""
    used = sum(len(blocks_of(entry, log.block_words)) for entry in log.entries)
    needed = len(blocks_of(writes, log.block_words))
    full = used + needed > log.blocks or len(log.entries) >= log.commits
    if full or overflow or log.overflow:
        return replace(log, overflow=True)
    return replace(log, entries=(*log.entries, writes))


def slice_log(log: LogModel, start: int, stop: int) -> LogModel:
    """The log of the entries ``start … stop - 1``."""
    stop = min(max(stop, 0), len(log.entries))
    start = min(max(start, 0), stop)
    return replace(log, entries=log.entries[start:stop], version=log.version + start)


def replay(pool: Pool, log: LogModel, until: int | None = None) -> Pool:
    """The pool after the first ``until`` entries."""
    limit = len(log.entries) if until is None else max(until, 0)
    for i, writes in enumerate(log.entries[:limit]):
        pool = apply(pool, writes, log.version + i + 1)
    return pool


# Digests


def digest(pool: Pool, regions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The digest of each region, given as (first page, pages)."""
    return [_lanes(pool.data[page : page + pages].tobytes()) for page, pages in regions]


def _lanes(raw: bytes) -> tuple[int, int]:
    first = second = 0
    for i, (word,) in enumerate(struct.iter_unpack("<I", raw)):
        if word:
            key = _mix((i + 0x9E3779B9) % 2**32)
            first += _mix(word ^ key)
            second += _mix(((word + key) % 2**32) ^ 0x85EBCA6B)
    return first % 2**32, second % 2**32


def _mix(word: int) -> int:
    """lowbias32."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) % 2**32
    word = ((word ^ (word >> 15)) * 0x846CA68B) % 2**32
    return word ^ (word >> 16)
