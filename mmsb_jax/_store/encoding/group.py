"""Groups: every byte of an array, or of many small ones, in byte planes that are coded one by one.

The bytes lie end to end, those of each chunk filled with zeros to whole words, and are divided into
byte planes. Each plane is stored by itself: compressed, or as it is, where that helps little. Of
floating numbers that move, the planes of exponents shrink and those of low bits do not.

- *full*: the bytes;
- *xor*: exclusive or with the bytes before.
"""

import os
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.encoding.base import UNITS, compress, decompress, planes_of, values_of
from mmsb_jax._store.encoding.choose import helps, sample_sizes, sample_spans
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chunk import (
    CHUNK,
    CHUNK_BYTES,
    ChunkData,
    Chunks,
    Coding,
    Group,
    GroupPart,
)
from mmsb_jax._store.format.frame import BadFrameError

SMALL_BYTES = 1 << 16
"""An array of at most so many bytes is taken together with others."""
LOT_WORDS = 1 << 16
"""Words that are taken together."""
LEAST_BYTES = 1 << 11
"""What is less is stored as it is: a frame takes as much, and the compression more time than it."""
_KEPT_BYTES = 96 << 20
Mixed = Callable[[slice], np.ndarray]
"""What differs in some of the bytes (uint8[n])."""


def encode_group(new: np.ndarray, mixed: Mixed | None, unit: int) -> tuple[Coding, bytes] | None:
    """The data of a group; None where its bytes are to be stored as they are.

    Args:
        new: its bytes (uint8[n]), whole words and elements.
        mixed: what differs in them; None where they must stand alone.
        unit: bytes of an element.

    Cost: a few samples; about 1 ns a byte, and the compression of the planes that shrink.
    """
    if new.size < LEAST_BYTES:
        return None
    spans = sample_spans(new.size, unit)
    coding, sizes = Coding.FULL_GROUP, sample_sizes([new[span] for span in spans], unit)
    if mixed is not None:
        others = sample_sizes([mixed(span) for span in spans], unit)
        if sum(others) < sum(sizes):
            coding, sizes = Coding.XOR_GROUP, others
    sampled = sum(span.stop - span.start for span in spans) // unit
    if not any(helps(size, sampled) for size in sizes):
        return None
    held = new if mixed is None or coding is Coding.FULL_GROUP else mixed(slice(0, new.size))
    planes = planes_of(held, unit)
    stored = [
        _stored(plane.data, helps(size, sampled)) for plane, size in zip(planes, sizes, strict=True)
    ]
    lengths = [len(part) for part in stored]
    if sum(lengths) == planes.size:
        return None
    return coding, b"".join([struct.pack(f"<{unit}I", *lengths), *stored])


def _stored(plane: memoryview, may_shrink: bool) -> Buffer:
    """A plane as it is stored: itself, where that is no longer."""
    squeezed = compress(plane) if may_shrink else plane
    return squeezed if len(squeezed) < len(plane) else plane


def group_chunks(
    new: np.ndarray, mixed: np.ndarray | None, unit: int, extents: np.ndarray
) -> Chunks:
    """A chunk of every byte of each of several arrays that lie end to end.

    Args:
        new: words after (uint32[n]).
        mixed: what differs in them (uint32[n]); None where the records must stand alone.
        unit: bytes of an element.
        extents: bytes of each array (int64[k]); the next begins with the next whole word.
    """
    raw = new.view(np.uint8)
    what = "an array" if extents.size == 1 else f"{extents.size} arrays"
    with room_for(f"the encoding of {what} of {int(extents.sum()):,} bytes"):
        differing = None if mixed is None else mixed.view(np.uint8).__getitem__
        coded = encode_group(raw, differing, unit)
    table = np.zeros(extents.size, CHUNK)
    table["raw"], table["unit"] = extents, unit
    if coded is None:
        table["stored"], table["coding"] = extents, Coding.FULL
        return Chunks(table, _without_padding(raw, extents))
    table["coding"], data = coded
    table["items"][0], table["stored"][0] = extents.size, len(data)
    return Chunks(table, data)


def _without_padding(raw: np.ndarray, extents: np.ndarray) -> bytes:
    if not (extents % WORD_BYTES).any():
        return raw.tobytes()
    padded = -(-extents // WORD_BYTES) * WORD_BYTES
    starts = (np.cumsum(padded) - padded).tolist()
    return b"".join([raw[s : s + n].data for s, n in zip(starts, extents.tolist(), strict=True)])


def decode_full_group(span: np.ndarray, chunk: np.void, part: ChunkData) -> None:
    """Set the bytes that a chunk covers to those that its group holds."""
    span[...] = _bytes_of(part, chunk)


def decode_xor_group(span: np.ndarray, chunk: np.void, part: ChunkData) -> None:
    """Change the bytes that a chunk covers by the exclusive or that its group holds."""
    np.bitwise_xor(span, _bytes_of(part, chunk), out=span)


def _bytes_of(part: ChunkData, chunk: np.void) -> np.ndarray:
    if not isinstance(part, GroupPart):
        raise BadFrameError("a chunk of a group that stands apart from it")
    if part.stop - part.start != int(chunk["raw"]):
        raise BadFrameError(f"{part.stop - part.start} bytes of a group for {chunk['raw']}")
    group = part.group
    if group.rows.size == 1:
        return _decoded(group)[: part.stop]  # nobody else asks for it
    raw = group.raw
    if raw is None:
        raw = _decoded(group)
        _kept.keep(group, raw)
    return raw[part.start : part.stop]


class _Kept:
    """What groups hold, decoded, as long as these are in use; the oldest go where it is too much.

    Few bytes may claim much, and the parts of a group are asked for one by one.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin with none; in a child, where another thread may have had the lock."""
        self._lock = threading.RLock()  # a group may go while another is kept
        self._groups: OrderedDict[int, tuple[weakref.ref[Group], int]] = OrderedDict()
        self._nbytes = 0

    def keep(self, group: Group, raw: np.ndarray) -> None:
        """Let ``group`` have what it holds."""
        key = id(group)
        with self._lock:
            self._forget(key)
            group.raw = raw
            self._groups[key] = weakref.ref(group, lambda _: self._forget(key)), raw.nbytes
            self._nbytes += raw.nbytes
            while self._nbytes > _KEPT_BYTES and len(self._groups) > 1:
                oldest, (reference, _) = next(iter(self._groups.items()))
                self._forget(oldest)
                if (other := reference()) is not None:
                    other.raw = None

    def _forget(self, key: int) -> None:
        with self._lock:
            _, nbytes = self._groups.pop(key, (None, 0))
            self._nbytes -= nbytes


_kept = _Kept()
os.register_at_fork(after_in_child=_kept.begin)


def _decoded(group: Group) -> np.ndarray:
    """What a group holds (uint8[n])."""
    unit, data = int(group.rows["unit"][0]), group.data
    extents = group.rows["raw"].astype(np.int64)
    total = int((-(-extents // WORD_BYTES)).sum()) * WORD_BYTES
    if unit not in UNITS or total % unit or total > CHUNK_BYTES or len(data) < 4 * unit:
        raise BadFrameError(f"a group of {total} bytes, elements of {unit}, in {len(data)} bytes")
    sizes, count = struct.unpack_from(f"<{unit}I", data), total // unit
    if sum(sizes) != len(data) - 4 * unit or max(sizes) > count:
        raise BadFrameError("the planes of a group do not fill its data")
    planes, start = np.empty((unit, count), np.uint8), 4 * unit
    for plane, size in zip(planes, sizes, strict=True):
        stored = data[start : start + size]
        plane[...] = np.frombuffer(
            stored if size == count else decompress(stored, count, count), np.uint8
        )
        start += size
    return values_of(planes).view(np.uint8)
