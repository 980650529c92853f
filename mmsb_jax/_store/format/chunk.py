"""Chunks: the encoded pieces of an array, and their table in a record."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.frame import BadFrameError

CHUNK_BYTES = 1 << 20
"""Bytes of an array in one dense chunk."""
SPARSE_ITEMS = 1 << 18
"""Changed elements in one sparse chunk."""
SPARSE_SPAN_BYTES = 1 << 30
_CHUNK = struct.Struct("<QIIIBBH")
CHUNK = np.dtype(
    [
        ("offset", "<u8"),
        ("raw", "<u4"),
        ("stored", "<u4"),
        ("items", "<u4"),
        ("coding", "u1"),
        ("unit", "u1"),
        ("reserved", "<u2"),
    ]
)
"""One piece of a record: the bytes of the array that it covers, and how they are stored."""


class Coding(IntEnum):
    """How a chunk is stored. Numbers are never used again."""

    SPARSE = 1
    SPARSE_ZSTD = 2
    FULL = 3
    FULL_ZSTD = 4
    XOR_ZSTD = 5
    FULL_GROUP = 6
    XOR_GROUP = 7


SPARSE_CODINGS = frozenset({Coding.SPARSE, Coding.SPARSE_ZSTD})
GROUP_CODINGS = frozenset({Coding.FULL_GROUP, Coding.XOR_GROUP})


@dataclass(slots=True)
class Chunk:
    """One encoded piece of an array: `offset` and `raw_bytes` say what of it the piece covers."""

    offset: int
    raw_bytes: int
    items: int
    coding: Coding
    unit: int
    data: Buffer

    @property
    def rows(self) -> bytes:
        """Its row of the table."""
        return _CHUNK.pack(
            self.offset, self.raw_bytes, len(self.data), self.items, self.coding, self.unit, 0
        )

    def pieces(self) -> Iterator[Buffer]:
        """Its data."""
        yield self.data


class Chunks(NamedTuple):
    """Chunks of many small arrays.

    Attributes:
        table: their rows (CHUNK[n]).
        data: the data of one behind those of another.
    """

    table: np.ndarray
    data: bytes

    @property
    def rows(self) -> bytes:
        """Their rows of the table."""
        return self.table.tobytes()

    def pieces(self) -> Iterator[Buffer]:
        """Their data, in pieces of whole chunks that fit a frame."""
        if len(self.data) <= CHUNK_BYTES:
            yield self.data
            return
        data, start, stop = memoryview(self.data), 0, 0
        for size in self.table["stored"].tolist():
            if stop > start and stop + size - start > CHUNK_BYTES:
                yield data[start:stop]
                start = stop
            stop += size
        yield data[start:stop]


def pack_chunks(chunks: Sequence[Chunk | Chunks]) -> np.ndarray:
    """The chunk table of a record."""
    return np.frombuffer(b"".join([chunk.rows for chunk in chunks]), CHUNK)


def held_bytes(table: np.ndarray) -> int:
    """Bytes that the data of chunks may take while they wait: of groups of several, decoded."""
    held = table["stored"]
    if has_groups(table):
        is_shared = np.isin(table["coding"], list(GROUP_CODINGS)) & (table["items"] != 1)
        held = np.where(is_shared, table["raw"], held)
    return int(held.sum(dtype=np.uint64))


def shares(table: np.ndarray) -> list[int]:
    """Bytes stored of each chunk; those of a group are shared out by size."""
    sizes = table["stored"].tolist()
    if not has_groups(table):
        return sizes
    codings, items, raw = (table[name].tolist() for name in ("coding", "items", "raw"))
    first = 0
    while first < len(sizes):
        count = max(1, items[first]) if codings[first] in GROUP_CODINGS else 1
        if count > 1:
            group = slice(first, first + count)
            total = sum(raw[group]) or 1
            sizes[group] = [sizes[first] * nbytes // total for nbytes in raw[group]]
        first += count
    return sizes


def has_groups(table: np.ndarray) -> bool:
    """Whether any of the chunks is of a group."""
    return not GROUP_CODINGS.isdisjoint(table["coding"].tobytes())


class Group:
    """Chunks that are coded together.

    Args:
        rows: of the table (CHUNK[n]).
        data: what is stored of them.

    Attributes:
        raw: what they hold (uint8[n]), once it has been decoded; what decodes it keeps it here.
    """

    __slots__ = ("__weakref__", "data", "raw", "rows")

    def __init__(self, rows: np.ndarray, data: memoryview) -> None:
        self.rows = rows
        self.data = data
        self.raw: np.ndarray | None = None


class GroupPart(NamedTuple):
    """What a chunk of a group holds: bytes ``start … stop`` of what the group does."""

    group: Group
    start: int
    stop: int


ChunkData = memoryview | GroupPart
"""The data of a chunk that was read."""


def own_data(data: ChunkData) -> memoryview:
    """The data of a chunk that is stored by itself."""
    if isinstance(data, GroupPart):
        raise BadFrameError("a chunk of a group where none can be")
    return data
