"""Dense: every byte of an array, in chunks of 1 MiB.

- *full*: as it is;
- a group of its own (`mmsb_jax._store.encoding.group`), where that is less.

What was written before there were groups is read: all planes compressed as one, of the bytes or of
the exclusive or with the array's previous bytes. So is the caller's blob still.
"""

import functools
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._base.words import host_words
from mmsb_jax._store.encoding.base import UNITS, decompress, from_planes
from mmsb_jax._store.encoding.group import encode_group
from mmsb_jax._store.format.chunk import CHUNK_BYTES, Chunk, Coding
from mmsb_jax._store.format.frame import BadFrameError


def encode_dense(
    new: np.ndarray,
    old: np.ndarray | None,
    unit: int,
    executor: Callable[[], Executor] | None = None,
) -> list[Chunk]:
    """Chunks of every byte of ``new`` (uint8[n]).

    ``old`` (uint8[n]) are the bytes before; None where the record must stand alone. Several chunks
    are coded side by side in the threads that ``executor`` makes.
    """

    def encode(start: int) -> Chunk:
        span = slice(start, start + CHUNK_BYTES)
        piece = new[span]
        filled, mixed = host_words(piece).view(np.uint8), None
        if old is not None:
            mixed = functools.partial(_mixed, filled, host_words(old[span]).view(np.uint8))
        coded = encode_group(filled, mixed, unit)
        if coded is None:
            return Chunk(start, piece.size, 0, Coding.FULL, unit, piece.data)
        coding, data = coded
        return Chunk(start, piece.size, 1, coding, unit, data)

    starts = range(0, new.size, CHUNK_BYTES)
    with room_for(f"the encoding of an array of {new.size:,} bytes"):
        run = map if executor is None or len(starts) == 1 else executor().map
        return list(run(encode, starts))


def _mixed(new: np.ndarray, old: np.ndarray, span: slice) -> np.ndarray:
    return new[span] ^ old[span]


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
