"""Encodings of the bytes of one array: how a change is written, and how it is put back.

Chosen by a fixed rule, from counts and a sample, so that the same change gives the same bytes:

- *sparse*: gaps between the changed elements, and their new values;
- *xor*: exclusive or with the array's previous bytes, transposed to byte planes, compressed;
- *full, compressed*: every byte, transposed to byte planes, compressed;
- *full*: every byte as it is.

An element is ``unit`` bytes: the item size of the dtype where that is 1, 2 or 4, else the largest
of these that divides it.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import zstandard

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.files.disk import Buffer

CHUNK_BYTES = 1 << 20
"""Bytes of an array in one dense chunk."""
SPARSE_ITEMS = 1 << 18
"""Changed elements in one sparse chunk."""
SPARSE_SPAN_BYTES = 1 << 30
_COMPRESS_BELOW = 0.85
"""A dense record is compressed when a sample shrinks below this share of its size."""
_SAMPLES, _SAMPLE_BYTES = 4, 1 << 12
_ZSTD_LEVEL = 1


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


class _Local(threading.local):
    """A zstd context: costly to make, and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)


_local = _Local()


def unit_of(itemsize: int) -> int:
    """Bytes of an element for the codec: of what is larger than a word, a word."""
    return next(unit for unit in (4, 2, 1) if itemsize % unit == 0)


@functools.cache
def unit_of_dtype(name: str) -> int:
    """`unit_of` for a dtype by its name."""
    return unit_of(parse_dtype(name).itemsize)


def prefers_sparse(items: int, unit: int, nbytes: int) -> bool:
    """The rule: sparse when it takes less than half of the array's bytes, a gap being a byte."""
    return 2 * items * (unit + 1) < nbytes


def encode_sparse(index: np.ndarray, values: np.ndarray, unit: int) -> list[Chunk]:
    """Chunks that set element ``index`` (int64[n], ascending) to ``values`` (uint8[n, unit])."""
    sizes = []
    start = 0
    while start < index.size:
        first = int(index[start])
        stop = min(start + SPARSE_ITEMS, index.size)
        if int(index[stop - 1]) - first >= SPARSE_SPAN_BYTES // unit:
            stop = start + int(
                np.searchsorted(index[start:stop], first + SPARSE_SPAN_BYTES // unit)
            )
        sizes.append(stop - start)
        start = stop
    return sparse_chunks(index, values, unit, sizes)


def sparse_chunks(
    index: np.ndarray, values: np.ndarray, unit: int, sizes: Sequence[int]
) -> list[Chunk]:
    """One chunk for each of ``sizes``, which says how many of the elements it sets.

    Args:
        index: elements (int64[n]), ascending within a chunk.
        values: what they are set to (uint8[n, unit]).
        unit: bytes of an element.
        sizes: elements of each chunk, at least one and within the limits.
    """
    stops = list(itertools.accumulate(sizes))
    starts = [0, *stops[:-1]]
    gaps, ends = _encode_gaps(index, starts, stops)
    planes = np.ascontiguousarray(values.T).tobytes() if unit > 1 else values.tobytes()
    chunks, begin = [], 0
    for items, start, stop, end in zip(sizes, starts, stops, ends, strict=True):
        plane = range(start, index.size * unit, index.size)
        payload = b"".join((gaps[begin:end], *[planes[at : at + items] for at in plane]))
        coding = Coding.SPARSE
        if len(payload) > 64:
            squeezed = _local.compressor.compress(payload)
            if len(squeezed) < len(payload) - len(payload) // 32:
                payload, coding = squeezed, Coding.SPARSE_ZSTD
        first, last = int(index[start]), int(index[stop - 1])
        span = (last - first + 1) * unit
        chunks.append(Chunk(first * unit, span, items, coding, unit, payload))
        begin = end
    return chunks


def _encode_gaps(
    index: np.ndarray, starts: Sequence[int], stops: Sequence[int]
) -> tuple[bytes, Sequence[int]]:
    """A byte a gap, and where those of each chunk end.

    255 stands for a gap of 255 without an element behind it.
    """
    if index.size == len(starts):  # one element a chunk
        return bytes(index.size), stops
    gaps = np.empty_like(index)
    np.subtract(index[1:], index[:-1], out=gaps[1:])
    gaps -= 1
    gaps[starts] = 0
    if gaps.max() < 255:
        return gaps.astype(np.uint8).tobytes(), stops
    escapes = gaps // 255
    ends = np.cumsum(escapes)
    ends += np.arange(1, index.size + 1)
    coded = np.full(int(ends[-1]), 255, np.uint8)
    coded[ends - 1] = gaps - 255 * escapes
    return coded.tobytes(), ends[np.array(stops) - 1].tolist()


def encode_dense(
    new: np.ndarray,
    old: np.ndarray | None,
    unit: int,
    executor: Callable[[], Executor] | None = None,
) -> tuple[list[Chunk], bool]:
    """Chunks of every byte of ``new`` (uint8[n]), and whether they need no earlier bytes.

    ``old`` (uint8[n]) are the bytes before; None where the record must stand alone. Several chunks
    are compressed side by side in the threads that ``executor`` makes.
    """
    if not new.size:
        return [], True
    with room_for(f"the encoding of an array of {new.size:,} bytes"):
        return _encode_dense(new, old, unit, executor)


def _encode_dense(
    new: np.ndarray,
    old: np.ndarray | None,
    unit: int,
    executor: Callable[[], Executor] | None,
) -> tuple[list[Chunk], bool]:
    coding = _choose_dense(new, old, unit)
    starts = range(0, new.size, CHUNK_BYTES)

    def encode(start: int) -> Chunk:
        piece = new[start : start + CHUNK_BYTES]
        if coding is Coding.FULL:
            return Chunk(start, piece.size, 0, coding, unit, piece.data)
        if coding is Coding.XOR_ZSTD:
            assert old is not None
            piece = piece ^ old[start : start + CHUNK_BYTES]
        data = _local.compressor.compress(_to_planes(piece, unit))
        return Chunk(start, piece.size, 0, coding, unit, data)

    if executor is None or coding is Coding.FULL or len(starts) == 1:
        chunks = list(map(encode, starts))
    else:
        chunks = list(executor().map(encode, starts))
    return chunks, coding is not Coding.XOR_ZSTD


def _choose_dense(new: np.ndarray, old: np.ndarray | None, unit: int) -> Coding:
    """The coding that makes a sample smallest; plain bytes where none helps enough."""
    size = min(_SAMPLE_BYTES, new.size)
    step = max(1, (new.size - size) // max(1, _SAMPLES - 1) // unit * unit)
    starts = sorted({min(step * i, new.size - size) // unit * unit for i in range(_SAMPLES)})
    sample = np.concatenate([new[s : s + size] for s in starts])
    mixed = None
    if old is not None:
        mixed = _to_planes(sample ^ np.concatenate([old[s : s + size] for s in starts]), unit)
    return _code(_to_planes(sample, unit), mixed)[0]


def _code(full: Buffer, mixed: Buffer | None) -> tuple[Coding, bytes]:
    """The coding that makes bytes smallest, and these bytes compressed.

    Both are in planes: the bytes themselves, and what differs from those before, if any.
    """
    coding, data = Coding.FULL_ZSTD, _local.compressor.compress(full)
    if mixed is not None:
        squeezed = _local.compressor.compress(mixed)
        if len(squeezed) < len(data):
            coding, data = Coding.XOR_ZSTD, squeezed
    if len(data) / len(full) > _COMPRESS_BELOW:
        coding = Coding.FULL
    return coding, data


def is_own_sample(nbytes: int) -> bool:
    """Whether the sample that chooses a dense coding is the whole array, and there is a byte."""
    return 0 < nbytes <= _SAMPLE_BYTES


def dense_chunks(
    new: np.ndarray, mixed: np.ndarray, unit: int, sizes: Sequence[int], alone: Sequence[bool]
) -> list[Chunk]:
    """`encode_dense` of arrays that are their own samples, laid end to end: a chunk each.

    Args:
        new, mixed: words after, and what differs in them (uint32[n]).
        unit: bytes of an element.
        sizes: bytes of each array; the next begins with the next whole word.
        alone: whether its record must stand alone.

    Cost: little beside the compression, which its sample needs, and which is that of the chunk.
    """
    whole, planes, differing = new.tobytes(), _planes_of(new, unit), _planes_of(mixed, unit)
    chunks, start = [], 0
    for size, is_alone in zip(sizes, alone, strict=True):
        first, end = start // unit, (start + size) // unit
        full = b"".join([plane[first:end] for plane in planes])
        xor = None if is_alone else b"".join([plane[first:end] for plane in differing])
        coding, data = _code(full, xor)
        if coding is Coding.FULL:
            data = whole[start : start + size]
        chunks.append(Chunk(0, size, 0, coding, unit, data))
        start += -(-size // 4) * 4
    return chunks


def _planes_of(words: np.ndarray, unit: int) -> list[bytes]:
    """The first byte of every element, the second …"""
    raw = words.view(np.uint8)
    return [raw[i::unit].tobytes() for i in range(unit)]


def _to_planes(piece: np.ndarray, unit: int) -> Buffer:
    """Bytes with the first byte of every element first, then the second …; a rest at the end."""
    if unit == 1:
        return np.ascontiguousarray(piece).data
    whole = piece.size // unit * unit
    planes = np.ascontiguousarray(piece[:whole].reshape(-1, unit).T)
    return planes.tobytes() + piece[whole:].tobytes()


def compress_blob(blob: bytes) -> list[Chunk]:
    """Chunks of the caller's ``extra``: full, compressed where that helps."""
    raw = np.frombuffer(blob, np.uint8)
    return encode_dense(raw, None, 1)[0] if raw.size else []
