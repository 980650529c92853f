"""Sparse: gaps between the changed elements, and their new values."""

import struct
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.encoding.base import (
    UNITS,
    check_within,
    compress,
    decompress,
    span_of,
    values_of,
)
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chunk import (
    CHUNK,
    SPARSE_CODINGS,
    SPARSE_ITEMS,
    SPARSE_SPAN_BYTES,
    Chunk,
    ChunkData,
    Chunks,
    Coding,
    own_data,
)
from mmsb_jax._store.format.frame import BadFrameError

_FORMATS: dict[int, Literal["B", "H", "I"]] = {1: "B", 2: "H", 4: "I"}
"""Bytes of an element → its letter in `struct`."""
_SQUEEZED_BYTES = 64
"""A payload of more is compressed where that saves a 32nd."""
_LONG_ITEMS = 64
"""Elements of a chunk from which its planes are copied as pieces."""


def encode_sparse(index: np.ndarray, values: np.ndarray, unit: int) -> Chunks:
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


def sparse_chunks(index: np.ndarray, values: np.ndarray, unit: int, sizes: Sequence[int]) -> Chunks:
    """One chunk for each of ``sizes``, which says how many of the elements it sets.

    Args:
        index: elements (int64[n]), ascending within a chunk.
        values: what they are set to (uint8[n, unit]).
        unit: bytes of an element.
        sizes: elements of each chunk, at least one and within the limits.
    """
    items = np.array(sizes)
    stops = np.cumsum(items)
    starts = stops - items
    gaps, ends = _encode_gaps(index, starts, stops)
    table = np.zeros(items.size, CHUNK)
    first, last = index[starts], index[stops - 1]
    table["offset"], table["raw"] = first * unit, (last - first + 1) * unit
    table["items"], table["unit"] = items, unit
    lengths = np.diff(ends, prepend=0) + items * unit
    is_dense_in_items = index.size > _LONG_ITEMS * items.size
    join = _join_long if is_dense_in_items else _join_short
    payload = join(gaps, ends, values, starts, stops)
    table["stored"], table["coding"] = lengths, Coding.SPARSE
    if lengths.max() > _SQUEEZED_BYTES:
        payload = _squeezed(payload, lengths, table)
    return Chunks(table, payload)


def _join_long(
    gaps: np.ndarray, ends: np.ndarray, values: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> bytes:
    """The gaps and planes of one chunk behind those of another, for chunks of many elements."""
    planes, begin, parts = np.ascontiguousarray(values.T), 0, list[memoryview]()
    for start, stop, end in zip(starts.tolist(), stops.tolist(), ends.tolist(), strict=True):
        parts.append(gaps[begin:end].data)
        parts += [plane[start:stop].data for plane in planes]
        begin = end
    return b"".join(parts)


def _join_short(
    gaps: np.ndarray, ends: np.ndarray, values: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> bytes:
    """`_join_long` of many chunks of few elements each: every byte is sent to its place."""
    items, unit = stops - starts, values.shape[1]
    before = unit * starts  # bytes of values in front of each chunk's
    payload = np.empty(gaps.size + values.size, np.uint8)
    each = np.diff(ends, prepend=0)
    payload[np.arange(gaps.size) + np.repeat(before, each)] = gaps
    place = np.arange(items.sum()) + np.repeat(before + ends - starts, items)
    step = np.repeat(items, items)
    for plane in range(unit):
        payload[place] = values[:, plane]
        place += step
    return payload.tobytes()


def _squeezed(payload: bytes, lengths: np.ndarray, table: np.ndarray) -> bytes:
    """The payloads, those compressed that are worth it; the table says which."""
    raw, parts, stop = memoryview(payload), list[Buffer](), 0
    for k, size in enumerate(lengths.tolist()):
        start, stop = stop, stop + size
        part, coding = _stored(raw[start:stop])
        parts.append(part)
        table["stored"][k], table["coding"][k] = len(part), coding
    return b"".join(parts)


def _stored(payload: Buffer) -> tuple[Buffer, Coding]:
    """A payload as it is stored: compressed if that is worth it."""
    if len(payload) > _SQUEEZED_BYTES:
        squeezed = compress(payload)
        if len(squeezed) < len(payload) - len(payload) // 32:
            return squeezed, Coding.SPARSE_ZSTD
    return payload, Coding.SPARSE


def _chunk(first: int, last: int, items: int, unit: int, payload: bytes) -> Chunk:
    """A chunk of the elements ``first … last``."""
    stored, coding = _stored(payload)
    return Chunk(first * unit, (last - first + 1) * unit, items, coding, unit, stored)


def count_few(mixed: bytes, unit: int) -> tuple[int, int]:
    """The elements, and the bytes, that differ in a few words of which each differs.

    Args:
        mixed: what differs in them.
        unit: bytes of an element.
    """
    differing = len(mixed) - mixed.count(0)
    if unit == WORD_BYTES:
        return len(mixed) // WORD_BYTES, differing
    return sum(map(bool, memoryview(mixed).cast(_FORMATS[unit]))), differing


def few_chunk(words: list[int], values: list[int], mixed: list[int], unit: int) -> Chunk:
    """The one chunk of `sparse_chunks` for a few changed words of an array.

    Args:
        words: which words, ascending.
        values: what they become.
        mixed: what differs in them.
        unit: bytes of an element.
    """
    if unit < WORD_BYTES:
        words, values = _elements_of_few(words, values, mixed, unit)
    gaps, before = bytearray(1), words[0]
    for place in words[1:]:
        gap, before = place - before - 1, place
        if gap >= 255:
            gaps += b"\xff" * (gap // 255)
            gap %= 255
        gaps.append(gap)
    raw = struct.pack(f"<{len(values)}{_FORMATS[unit]}", *values)
    planes = [raw] if len(values) == 1 else [raw[plane::unit] for plane in range(unit)]
    return _chunk(words[0], before, len(words), unit, b"".join((gaps, *planes)))


def _elements_of_few(
    words: list[int], values: list[int], mixed: list[int], unit: int
) -> tuple[list[int], list[int]]:
    """The changed elements of changed words, and their values."""
    each, bits = WORD_BYTES // unit, 8 * unit
    mask = (1 << bits) - 1
    places, elements = [], []
    for word, value, differing in zip(words, values, mixed, strict=True):
        for k in range(each):
            if differing >> k * bits & mask:
                places.append(word * each + k)
                elements.append(value >> k * bits & mask)
    return places, elements


def _encode_gaps(
    index: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A byte a gap (uint8[n]), and where those of each chunk end.

    255 stands for a gap of 255 without an element behind it.
    """
    if index.size == starts.size:  # one element a chunk
        return np.zeros(index.size, np.uint8), stops
    gaps = np.empty_like(index)
    np.subtract(index[1:], index[:-1], out=gaps[1:])
    gaps -= 1
    gaps[starts] = 0
    if gaps.max() < 255:
        return gaps.astype(np.uint8), stops
    escapes = gaps // 255
    ends = np.cumsum(escapes)
    ends += np.arange(1, index.size + 1)
    coded = np.full(int(ends[-1]), 255, np.uint8)
    coded[ends - 1] = gaps - 255 * escapes
    return coded, ends[stops - 1]


def read_sparse(chunk: np.void, data: memoryview) -> tuple[np.ndarray, np.ndarray]:
    """(element index int64[n], values uint8[unit, n]) of a sparse chunk, in planes."""
    items, unit, raw_bytes = int(chunk["items"]), int(chunk["unit"]), int(chunk["raw"])
    raw = sparse_payload(chunk, data)
    coded = raw.size - items * unit
    gaps = raw[:coded]
    if coded == items and gaps.max() < 255:
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


def sets_elements(chunk: np.void, unit: int) -> bool:
    """Whether a chunk is sparse and sets whole elements of ``unit`` bytes."""
    return (
        int(chunk["coding"]) in SPARSE_CODINGS
        and int(chunk["unit"]) == unit
        and int(chunk["offset"]) % unit == 0
    )


def sparse_elements(
    chunks: Sequence[tuple[np.void, ChunkData]], unit: int, nbytes: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The elements (int64[n]) that chunks of one array set, in order, and to what (unsigned[n]).

    None where not all of them `sets_elements`.
    """
    if not all(sets_elements(chunk, unit) for chunk, _ in chunks):
        return None
    places, values = [np.zeros(0, np.int64)], [np.zeros(0, f"<u{unit}")]
    for chunk, part in chunks:
        check_within(chunk, nbytes)
        index, planes = read_sparse(chunk, own_data(part))
        places.append(index + int(chunk["offset"]) // unit)
        values.append(values_of(planes))
    return np.concatenate(places), np.concatenate(values)


def sparse_payload(chunk: np.void, data: memoryview) -> np.ndarray:
    """The gaps and planes of a sparse chunk (uint8[n]), decompressed."""
    items, unit, raw_bytes = int(chunk["items"]), int(chunk["unit"]), int(chunk["raw"])
    if (
        unit not in UNITS
        or raw_bytes % unit
        or not 0 < items <= SPARSE_ITEMS
        or not items * unit <= raw_bytes <= SPARSE_SPAN_BYTES
    ):
        raise BadFrameError(f"a sparse chunk of {items} elements of {unit} bytes in {raw_bytes}")
    if chunk["coding"] == Coding.SPARSE_ZSTD:
        data = decompress(data, None, most_bytes(chunk))
    if len(data) < items * (unit + 1):
        raise BadFrameError("a sparse chunk is shorter than its elements")
    return np.frombuffer(data, np.uint8)


def most_bytes(chunk: np.void) -> int:
    """What the payload of a sparse chunk may take, decompressed.

    A gap takes a byte, and an escape one more for every 255 elements of the span.
    """
    items, unit, raw_bytes = int(chunk["items"]), int(chunk["unit"]), int(chunk["raw"])
    return items * (unit + 1) + raw_bytes // max(1, unit) // 255 + 1


def decode_sparse(span: np.ndarray, chunk: np.void, data: memoryview) -> np.ndarray:
    """Set elements of ``span`` (uint8[n], the bytes that the chunk covers); returns which."""
    index, planes = read_sparse(chunk, data)
    unit = planes.shape[0]
    if unit == 1:
        span[index] = planes[0]
    else:
        values = np.ascontiguousarray(planes.T).view(f"u{unit}")[:, 0]
        span.view(f"u{unit}")[index] = values
    return index


def decode_run(target: np.ndarray, run: Sequence[tuple[np.void, memoryview]]) -> None:
    """Put sparse chunks of one array back, in order, those of one unit together."""
    units = {int(chunk["unit"]) for chunk, _ in run}
    if len(run) < 2 or len(units) != 1:
        for chunk, part in run:
            check_within(chunk, target.size)
            decode_sparse(span_of(target, chunk), chunk, part)
        return
    (unit,) = units
    for chunk, _ in run:
        check_within(chunk, target.size)
    raws = [sparse_payload(chunk, part) for chunk, part in run]
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
        if (int(index[high - 1]) + 1) * unit != size:
            raise BadFrameError("a sparse chunk covers other bytes than it says")
        target[offset : offset + size].view(f"<u{unit}")[index[low:high]] = values[low:high]
