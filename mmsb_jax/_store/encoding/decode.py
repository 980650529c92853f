"""Decoding: the pieces of an array put back, whoever has written them.

Every size is checked against the array before anything is decompressed.
"""

import threading
from collections.abc import Sequence

import numpy as np
import zstandard

from mmsb_jax._base.memory_limit import check_room
from mmsb_jax._store.encoding.encode import (
    CHUNK_BYTES,
    SPARSE_CODINGS,
    SPARSE_ITEMS,
    SPARSE_SPAN_BYTES,
    Coding,
)
from mmsb_jax._store.format.frame import BadFrameError

_UNITS = frozenset({1, 2, 4, 8})
_RUN_BYTES = 1 << 24
"""Sparse chunks are decoded together until they may take so much, decompressed."""


class _Local(threading.local):
    """A zstd context: costly to make, and not to be shared between threads."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_local = _Local()


def _from_planes(raw: np.ndarray, unit: int) -> np.ndarray:
    """The bytes whose planes are ``raw``; by shifts, which go ten times as fast as single bytes."""
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
    chunks: Sequence[tuple[np.void, memoryview]], unit: int, nbytes: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The elements (int64[n]) that chunks of one array set, in order, and to what (unsigned[n]).

    None where not all of them `sets_elements`.

    Raises:
        BadFrameError: a payload does not hold what its chunk says, or reaches beyond the array,
            which has ``nbytes`` bytes.
    """
    if not all(sets_elements(chunk, unit) for chunk, _ in chunks):
        return None
    places, values = [np.zeros(0, np.int64)], [np.zeros(0, f"<u{unit}")]
    for chunk, part in chunks:
        _check_within(chunk, nbytes)
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
    size = 0
    for chunk, part in chunks:
        is_sparse = int(chunk["coding"]) in SPARSE_CODINGS
        if not is_sparse or size > _RUN_BYTES:
            _decode_run(target, run)
            run, size = [], 0
        if is_sparse:
            run.append((chunk, part))
            size += _most_bytes(chunk)
        else:
            decode_into(target, chunk, part)
    _decode_run(target, run)


def _decode_run(target: np.ndarray, run: list[tuple[np.void, memoryview]]) -> None:
    units = {int(chunk["unit"]) for chunk, _ in run}
    if len(run) < 2 or len(units) != 1:
        for chunk, part in run:
            decode_into(target, chunk, part)
        return
    (unit,) = units
    for chunk, _ in run:
        _check_within(chunk, target.size)
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
        if (int(index[high - 1]) + 1) * unit != size:
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
        or not items * unit <= raw_bytes <= SPARSE_SPAN_BYTES
    ):
        raise BadFrameError(f"a sparse chunk of {items} elements of {unit} bytes in {raw_bytes}")
    if chunk["coding"] == Coding.SPARSE_ZSTD:
        data = _decompress(data, None, _most_bytes(chunk))
    if len(data) < items * (unit + 1):
        raise BadFrameError("a sparse chunk is shorter than its elements")
    return np.frombuffer(data, np.uint8)


def _most_bytes(chunk: np.void) -> int:
    """What the payload of a sparse chunk may take, decompressed.

    A gap takes a byte, and an escape one more for every 255 elements of the span.
    """
    items, unit, raw_bytes = int(chunk["items"]), int(chunk["unit"]), int(chunk["raw"])
    return items * (unit + 1) + raw_bytes // max(1, unit) // 255 + 1


def _check_within(chunk: np.void, nbytes: int) -> None:
    offset, raw_bytes = int(chunk["offset"]), int(chunk["raw"])
    if offset + raw_bytes > nbytes:
        raise BadFrameError(f"a chunk of {raw_bytes} bytes at {offset} of {nbytes}")


def check_extent(rows: np.ndarray, nbytes: int) -> None:
    """Refuse the chunks of a record that together cover more than their array has.

    So what decoding them takes is bounded by the array, whatever is in them.

    Raises:
        BadFrameError: they do.
    """
    if rows.size > 1 and int(rows["raw"].sum(dtype=np.uint64)) > nbytes:
        raise BadFrameError(f"the chunks of a record cover more than the {nbytes} bytes there are")


def decode_into(target: np.ndarray, chunk: np.void, data: memoryview) -> None:
    """Put one chunk back: ``target`` (uint8[n], the array before) becomes the array after.

    Raises:
        BadFrameError: the chunk reaches outside the array, or does not hold what it says.
    """
    _check_within(chunk, target.size)
    offset, raw_bytes, unit = int(chunk["offset"]), int(chunk["raw"]), int(chunk["unit"])
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


def read_blob(chunks: np.ndarray, parts: Sequence[memoryview], size_limit: int) -> bytes:
    """The caller's ``extra`` as it was before it was encoded.

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
