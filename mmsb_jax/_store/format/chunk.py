"""Chunks: the encoded pieces of an array, and their table in a record."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mmsb_jax._store.files.protocol import Buffer

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


SPARSE_CODINGS = frozenset({Coding.SPARSE, Coding.SPARSE_ZSTD})


@dataclass(slots=True)
class Chunk:
    """One encoded piece of an array: `offset` and `raw_bytes` say what of it the piece covers."""

    offset: int
    raw_bytes: int
    items: int
    coding: Coding
    unit: int
    data: Buffer


def pack_chunks(chunks: Sequence[Chunk]) -> np.ndarray:
    """The chunk table of a record."""
    return np.frombuffer(b"".join(map(chunk_row, chunks)), CHUNK)


def chunk_row(chunk: Chunk) -> bytes:
    """A row of the table."""
    stored = len(chunk.data)
    return _CHUNK.pack(
        chunk.offset, chunk.raw_bytes, stored, chunk.items, chunk.coding, chunk.unit, 0
    )
