"""Dense: every byte of an array, in chunks of 1 MiB.

- *full*: as it is;
- *full, compressed*: transposed to byte planes, compressed;
- *xor*: exclusive or with the array's previous bytes, transposed to byte planes, compressed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.encoding.base import (
    UNITS,
    compress,
    decompress,
    from_planes,
    planes_of,
    to_planes,
)
from mmsb_jax._store.encoding.choose import choose_dense
from mmsb_jax._store.format.chunk import CHUNK_BYTES, Chunk, Coding
from mmsb_jax._store.format.frame import BadFrameError


def encode_dense(
    new: np.ndarray,
    old: np.ndarray | None,
    unit: int,
    executor: Callable[[], Executor] | None = None,
    coding: Coding | None = None,
) -> tuple[list[Chunk], bool]:
    """Chunks of every byte of ``new`` (uint8[n]), and whether they need no earlier bytes.

    ``old`` (uint8[n]) are the bytes before; None where the record must stand alone. Several chunks
    are compressed side by side in the threads that ``executor`` makes. Without a ``coding`` a
    sample chooses one.
    """
    if not new.size:
        return [], True
    with room_for(f"the encoding of an array of {new.size:,} bytes"):
        return _encode_dense(new, old, unit, executor, coding or choose_dense(new, old, unit))


def _encode_dense(
    new: np.ndarray,
    old: np.ndarray | None,
    unit: int,
    executor: Callable[[], Executor] | None,
    coding: Coding,
) -> tuple[list[Chunk], bool]:
    starts = range(0, new.size, CHUNK_BYTES)

    def encode(start: int) -> Chunk:
        piece = new[start : start + CHUNK_BYTES]
        if coding is Coding.FULL:
            return Chunk(start, piece.size, 0, coding, unit, piece.data)
        if coding is Coding.XOR_ZSTD:
            assert old is not None
            piece = piece ^ old[start : start + CHUNK_BYTES]
        data = compress(to_planes(piece, unit))
        return Chunk(start, piece.size, 0, coding, unit, data)

    if executor is None or coding is Coding.FULL or len(starts) == 1:
        chunks = list(map(encode, starts))
    else:
        chunks = list(executor().map(encode, starts))
    return chunks, coding is not Coding.XOR_ZSTD


def dense_chunks(
    new: np.ndarray,
    mixed: np.ndarray,
    unit: int,
    sizes: Sequence[int],
    choices: Sequence[tuple[bool, Coding | None]],
) -> list[Chunk]:
    """`encode_dense` of arrays of at most a chunk that lie end to end.

    Args:
        new, mixed: words after, and what differs in them (uint32[n]).
        unit: bytes of an element.
        sizes: bytes of each array; the next begins with the next whole word.
        choices: whether its record must stand alone, and its coding, None for a sample's.

    Cost: little beside the compression.
    """
    count = len(sizes)
    what = "an array" if count == 1 else f"{count} arrays"
    with room_for(f"the encoding of {what} of {sum(sizes):,} bytes"):
        planes = {Coding.FULL_ZSTD: _Planes(new, unit), Coding.XOR_ZSTD: _Planes(mixed, unit)}
        raw, chunks, start = new.view(np.uint8), [], 0
        for size, (is_alone, coding) in zip(sizes, choices, strict=True):
            stop = start + size
            if coding is None:
                old = None if is_alone else raw[start:stop] ^ mixed.view(np.uint8)[start:stop]
                coding = choose_dense(raw[start:stop], old, unit)
            if coding is Coding.FULL:
                data = raw[start:stop].tobytes()
            else:
                data = compress(planes[coding].of(start, stop))
            chunks.append(Chunk(0, size, 0, coding, unit, data))
            start += -(-size // 4) * 4
    return chunks


class _Planes:
    """The byte planes of arrays that lie end to end; made when they are first asked for."""

    def __init__(self, words: np.ndarray, unit: int) -> None:
        self._words = words
        self._unit = unit
        self._planes: list[memoryview] = []

    def of(self, start: int, stop: int) -> bytes:
        """Those of the bytes ``start … stop``."""
        if not self._planes:
            self._planes = [plane.data for plane in planes_of(self._words, self._unit)]
        first, end = start // self._unit, stop // self._unit
        return b"".join([plane[first:end] for plane in self._planes])


def decode_full(span: np.ndarray, chunk: np.void, data: memoryview) -> None:
    """Set the bytes that a chunk covers to those it holds as they are."""
    _check_chunk(chunk)
    if len(data) != span.size:
        raise BadFrameError(f"{len(data)} bytes where {span.size} should be")
    span[...] = np.frombuffer(data, np.uint8)


def decode_compressed(span: np.ndarray, chunk: np.void, data: memoryview) -> None:
    """Set the bytes that a chunk covers to those it holds compressed."""
    span[...] = _decompressed(chunk, data)


def decode_mixed(span: np.ndarray, chunk: np.void, data: memoryview) -> None:
    """Change the bytes that a chunk covers by the exclusive or that it holds compressed."""
    np.bitwise_xor(span, _decompressed(chunk, data), out=span)


def _decompressed(chunk: np.void, data: memoryview) -> np.ndarray:
    _check_chunk(chunk)
    raw_bytes = int(chunk["raw"])
    raw = np.frombuffer(decompress(data, raw_bytes, raw_bytes), np.uint8)
    return from_planes(raw, int(chunk["unit"]))


def _check_chunk(chunk: np.void) -> None:
    raw_bytes, unit = int(chunk["raw"]), int(chunk["unit"])
    if raw_bytes > CHUNK_BYTES or unit not in UNITS:
        raise BadFrameError(f"a dense chunk of {raw_bytes} bytes, elements of {unit}")
