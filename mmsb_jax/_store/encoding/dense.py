"""Dense: every byte of an array, in chunks of 1 MiB.

- *full*: as it is;
- *full, compressed*: transposed to byte planes, compressed;
- *xor*: exclusive or with the array's previous bytes, transposed to byte planes, compressed.
"""

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.encoding.base import (
    UNITS,
    compress,
    decompress,
    from_planes,
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
