"""What the encodings share: compression, byte planes, and the unit of an array."""

import functools
import threading

import numpy as np
import zstandard

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.frame import BadFrameError

UNITS = frozenset({1, 2, 4, 8})
"""Bytes that an element of a chunk may have."""
_ZSTD_LEVEL = 1


class _Local(threading.local):
    """zstd contexts: costly to make, and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_local = _Local()


def compress(raw: Buffer) -> bytes:
    """``raw``, compressed."""
    return _local.compressor.compress(raw)


def from_planes(raw: np.ndarray, unit: int) -> np.ndarray:
    """The bytes whose planes are ``raw``; by shifts, which go ten times as fast as single bytes."""
    if unit == 1:
        return raw
    whole = raw.size // unit * unit
    piece = np.empty_like(raw)
    piece[:whole] = values_of(raw[:whole].reshape(unit, -1)).view(np.uint8)
    piece[whole:] = raw[whole:]
    return piece


def values_of(planes: np.ndarray) -> np.ndarray:
    """The elements (unsigned[n]) whose bytes are ``planes`` (uint8[unit, n])."""
    unit = planes.shape[0]
    values = planes[0].astype(f"<u{unit}")
    for i in range(1, unit):
        plane = planes[i].astype(f"<u{unit}")
        plane <<= 8 * i
        values |= plane
    return values


def check_within(chunk: np.void, nbytes: int) -> None:
    """Refuse a chunk that reaches beyond its array."""
    offset, raw_bytes = int(chunk["offset"]), int(chunk["raw"])
    if offset + raw_bytes > nbytes:
        raise BadFrameError(f"a chunk of {raw_bytes} bytes at {offset} of {nbytes}")


def decompress(data: memoryview, size: int | None, limit: int) -> memoryview:
    """Decompressed bytes, never more than ``limit`` whatever the data claim."""
    try:
        claimed = zstandard.frame_content_size(data)
        if claimed < 0 or claimed > limit or (size is not None and claimed != size):
            raise BadFrameError(f"compressed data claim {claimed} bytes; at most {limit} expected")
        raw = _local.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrameError(f"compressed data do not decompress: {error}") from error
    return memoryview(raw)


def unit_of(itemsize: int) -> int:
    """Bytes of an element for the codec: of what is larger than a word, a word."""
    return next(unit for unit in (4, 2, 1) if itemsize % unit == 0)


@functools.cache
def unit_of_dtype(name: str) -> int:
    """`unit_of` for a dtype by its name."""
    return unit_of(parse_dtype(name).itemsize)


def planes_of(vector: np.ndarray, unit: int) -> np.ndarray:
    """The first byte of every element of ``unit`` bytes, the second … (uint8[unit, n]).

    By shifts, which go twice as fast as every so-manyth byte.
    """
    values = vector.view(f"<u{unit}")
    planes = np.empty((unit, values.size), np.uint8)
    np.copyto(planes[0], values, casting="unsafe")
    for i in range(1, unit):
        np.copyto(planes[i], values >> (8 * i), casting="unsafe")
    return planes


def span_of(target: np.ndarray, chunk: np.void) -> np.ndarray:
    """The bytes of an array (uint8[n]) that a chunk covers."""
    offset = int(chunk["offset"])
    return target[offset : offset + int(chunk["raw"])]
