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

from mmsb_jax._dtypes import parse_dtype
from mmsb_jax.store._files import Buffer
from mmsb_jax.store._format import BadFrameError
from mmsb_jax.store._room import check_room

CHUNK_BYTES = 1 << 20
"""Bytes of an array in one dense chunk."""
SPARSE_ITEMS = 1 << 18
"""Changed elements in one sparse chunk."""
_SPARSE_SPAN_BYTES = 1 << 30
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
_UNITS = frozenset({1, 2, 4, 8})


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
    """zstd contexts: costly to make, and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


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
        if int(index[stop - 1]) - first >= _SPARSE_SPAN_BYTES // unit:
            stop = start + int(
                np.searchsorted(index[start:stop], first + _SPARSE_SPAN_BYTES // unit)
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


def _from_planes(raw: np.ndarray, unit: int) -> np.ndarray:
    """The inverse of `_to_planes`; by shifts, which go ten times as fast as single bytes."""
    if unit == 1:
        return raw
    whole = raw.size // unit * unit
    piece = np.empty_like(raw)
    planes = raw[:whole].reshape(unit, -1)
    elements = planes[0].astype(f"<u{unit}")
    for i in range(1, unit):
        plane = planes[i].astype(f"<u{unit}")
        plane <<= 8 * i
        elements |= plane
    piece[:whole] = elements.view(np.uint8)
    piece[whole:] = raw[whole:]
    return piece


def read_sparse(chunk: np.void, data: memoryview) -> tuple[np.ndarray, np.ndarray]:
    """(element index int64[n], values uint8[unit, n]) of a sparse chunk, in planes.

    Raises:
        BadFrameError: the payload does not hold what the chunk says.
    """
    items, unit, raw_bytes = int(chunk["items"]), int(chunk["unit"]), int(chunk["raw"])
    raw = _sparse_payload(chunk, data)
    coded = raw.size - items * unit
    gaps = raw[:coded]
    if coded == items:
        index = np.cumsum(gaps, dtype=np.int64)
        index += np.arange(items)
    else:
        ends = np.flatnonzero(gaps != 255)
        if ends.size != items:
            raise BadFrameError("a sparse chunk has another number of elements than it says")
        # Element k has k others before it, and ends[k] - k escapes of 255 each.
        index = np.cumsum(gaps[ends], dtype=np.int64)
        index += 255 * ends
        index -= 254 * np.arange(items)
    if (int(index[-1]) + 1) * unit != raw_bytes:
        raise BadFrameError("a sparse chunk covers other bytes than it says")
    return index, raw[coded:].reshape(unit, items)


def values_of(planes: np.ndarray) -> np.ndarray:
    """The elements (unsigned[n]) whose bytes are ``planes`` (uint8[unit, n])."""
    unit = planes.shape[0]
    values = planes[0].astype(f"<u{unit}")
    for i in range(1, unit):
        plane = planes[i].astype(f"<u{unit}")
        plane <<= 8 * i
        values |= plane
    return values


def sets_elements(chunk: np.void, unit: int) -> bool:
    """Whether a chunk is sparse and sets whole elements of ``unit`` bytes."""
    return (
        int(chunk["coding"]) in SPARSE_CODINGS
        and int(chunk["unit"]) == unit
        and int(chunk["offset"]) % unit == 0
    )


def sparse_elements(
    chunks: Sequence[tuple[np.void, memoryview]], unit: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The elements (int64[n]) that chunks of one array set, in order, and to what (unsigned[n]).

    None where not all of them `sets_elements`.

    Raises:
        BadFrameError: a payload does not hold what its chunk says.
    """
    if not all(sets_elements(chunk, unit) for chunk, _ in chunks):
        return None
    places, values = [np.zeros(0, np.int64)], [np.zeros(0, f"<u{unit}")]
    for chunk, part in chunks:
        index, planes = read_sparse(chunk, part)
        places.append(index + int(chunk["offset"]) // unit)
        values.append(values_of(planes))
    return np.concatenate(places), np.concatenate(values)


def decode_all(target: np.ndarray, chunks: Sequence[tuple[np.void, memoryview]]) -> None:
    """Put many chunks of one array back, in order, as `decode_into` does one by one.

    Sparse chunks that follow each other are decoded together: a hundred small ones cost little
    more than one large one.

    Raises:
        BadFrameError: as `decode_into`.
    """
    run: list[tuple[np.void, memoryview]] = []
    for chunk, part in chunks:
        if int(chunk["coding"]) in SPARSE_CODINGS:
            run.append((chunk, part))
            continue
        _decode_run(target, run)
        run = []
        decode_into(target, chunk, part)
    _decode_run(target, run)


def _decode_run(target: np.ndarray, run: list[tuple[np.void, memoryview]]) -> None:
    units = {int(chunk["unit"]) for chunk, _ in run}
    if len(run) < 2 or len(units) != 1:
        for chunk, part in run:
            decode_into(target, chunk, part)
        return
    (unit,) = units
    raws = [_sparse_payload(chunk, part) for chunk, part in run]
    items = np.array([int(chunk["items"]) for chunk, _ in run])
    coded = np.array([raw.size for raw in raws]) - items * unit
    gaps = np.concatenate([raw[:size] for raw, size in zip(raws, coded, strict=True)])
    start, first = np.cumsum(coded) - coded, np.cumsum(items) - items
    ends = np.flatnonzero(gaps != 255)
    if ends.size != items.sum() or (np.searchsorted(ends, start) != first).any():
        raise BadFrameError("a sparse chunk has another number of elements than it says")
    # As in `read_sparse`, with what stands before each chunk taken off again.
    index = np.cumsum(gaps[ends], dtype=np.int64)
    before = np.where(first > 0, index[first - 1], 0) + 255 * start - 254 * first
    index += 255 * ends
    index -= 254 * np.arange(ends.size)
    index -= np.repeat(before, items)
    stop = first + items
    spans = [(int(chunk["offset"]), int(chunk["raw"])) for chunk, _ in run]
    planes = (
        np.concatenate(
            [
                raw[size + i * n : size + (i + 1) * n]
                for raw, size, n in zip(raws, coded, items, strict=True)
            ]
        )
        for i in range(unit)
    )
    values = next(planes).astype(f"<u{unit}")
    for i, plane in enumerate(planes, 1):
        values |= plane.astype(f"<u{unit}") << np.array(8 * i, f"<u{unit}")
    for (offset, size), low, high in zip(spans, first.tolist(), stop.tolist(), strict=True):
        if (int(index[high - 1]) + 1) * unit != size or offset + size > target.size:
            raise BadFrameError("a sparse chunk covers other bytes than it says")
        target[offset : offset + size].view(f"<u{unit}")[index[low:high]] = values[low:high]


def _sparse_payload(chunk: np.void, data: memoryview) -> np.ndarray:
    """The gaps and planes of a sparse chunk (uint8[n]), decompressed.

    Raises:
        BadFrameError: it claims more than a chunk can have, or is shorter than its elements.
    """
    items, unit, raw_bytes = int(chunk["items"]), int(chunk["unit"]), int(chunk["raw"])
    if (
        unit not in _UNITS
        or raw_bytes % unit
        or not 0 < items <= SPARSE_ITEMS
        or raw_bytes > _SPARSE_SPAN_BYTES
    ):
        raise BadFrameError(f"a sparse chunk of {items} elements of {unit} bytes")
    if chunk["coding"] == Coding.SPARSE_ZSTD:
        # A gap takes a byte, and an escape one more for every 255 elements of the span.
        limit = items * (unit + 1) + raw_bytes // unit // 255 + 1
        data = _decompress(data, None, limit)
    if len(data) < items * (unit + 1):
        raise BadFrameError("a sparse chunk is shorter than its elements")
    return np.frombuffer(data, np.uint8)


def decode_into(target: np.ndarray, chunk: np.void, data: memoryview) -> None:
    """Put one chunk back: ``target`` (uint8[n], the array before) becomes the array after.

    Raises:
        BadFrameError: the chunk reaches outside the array, or does not hold what it says.
    """
    offset, raw_bytes, unit = int(chunk["offset"]), int(chunk["raw"]), int(chunk["unit"])
    if offset + raw_bytes > target.size:
        raise BadFrameError(f"a chunk of {raw_bytes} bytes at {offset} of {target.size}")
    span = target[offset : offset + raw_bytes]
    coding = int(chunk["coding"])
    if coding in SPARSE_CODINGS:
        index, planes = read_sparse(chunk, data)
        if unit == 1:
            span[index] = planes[0]
        else:
            values = np.ascontiguousarray(planes.T).view(f"u{unit}")[:, 0]
            span.view(f"u{unit}")[index] = values
    elif raw_bytes > CHUNK_BYTES or unit not in _UNITS:
        raise BadFrameError(f"a dense chunk of {raw_bytes} bytes, elements of {unit}")
    elif coding == Coding.FULL:
        if len(data) != raw_bytes:
            raise BadFrameError(f"{len(data)} bytes where {raw_bytes} should be")
        span[...] = np.frombuffer(data, np.uint8)
    else:
        raw = np.frombuffer(_decompress(data, raw_bytes, raw_bytes), np.uint8)
        piece = _from_planes(raw, unit)
        if coding == Coding.XOR_ZSTD:
            np.bitwise_xor(span, piece, out=span)
        else:
            span[...] = piece


def _decompress(data: memoryview, size: int | None, limit: int) -> memoryview:
    """Decompressed bytes, never more than ``limit`` whatever the data claim."""
    try:
        claimed = zstandard.frame_content_size(data)
        if claimed < 0 or claimed > limit or (size is not None and claimed != size):
            raise BadFrameError(f"compressed data claim {claimed} bytes; at most {limit} expected")
        raw = _local.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrameError(f"compressed data do not decompress: {error}") from error
    return memoryview(raw)


def compress_blob(blob: bytes) -> list[Chunk]:
    """Chunks of the caller's ``extra``: full, compressed where that helps."""
    raw = np.frombuffer(blob, np.uint8)
    return encode_dense(raw, None, 1)[0] if raw.size else []


def read_blob(chunks: np.ndarray, parts: Sequence[memoryview], size_limit: int) -> bytes:
    """The blob that `compress_blob` encoded.

    Raises:
        BadFrameError: the chunks do not follow each other or do not hold what they say.
        DeviceMemoryError: the machine has no room for what they claim.
    """
    total = int(chunks["raw"].sum(dtype=np.uint64))
    if total > size_limit:
        raise BadFrameError(f"extra of {total} bytes; at most {size_limit} expected")
    check_room(total, "the extra of a commit")
    if (np.cumsum(chunks["raw"], dtype=np.uint64) - chunks["raw"] != chunks["offset"]).any():
        raise BadFrameError("the chunks of extra do not follow each other")
    target = np.zeros(total, np.uint8)
    for chunk, part in zip(chunks, parts, strict=True):
        decode_into(target, chunk, part)
    return target.tobytes()
