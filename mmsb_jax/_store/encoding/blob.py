"""Blobs: the caller's ``extra``, as chunks and back."""

from collections.abc import Sequence

import numpy as np

from mmsb_jax._base.memory_limit import check_room, room_for
from mmsb_jax._store.encoding.base import compress
from mmsb_jax._store.encoding.choose import helps
from mmsb_jax._store.encoding.decode import decode_into
from mmsb_jax._store.format.chunk import CHUNK_BYTES, Chunk, ChunkData, Coding, own_data
from mmsb_jax._store.format.frame import BadFrameError


def compress_blob(blob: bytes) -> list[Chunk]:
    """Chunks of the caller's ``extra``: as they are, or compressed where that helps."""
    raw, chunks = memoryview(blob), list[Chunk]()
    with room_for(f"the encoding of an extra of {len(blob):,} bytes"):
        for start in range(0, len(blob), CHUNK_BYTES):
            piece = raw[start : start + CHUNK_BYTES]
            data, coding = compress(piece), Coding.FULL_ZSTD
            if not helps(len(data), len(piece)):
                data, coding = bytes(piece), Coding.FULL
            chunks.append(Chunk(start, len(piece), 0, coding, 1, data))
    return chunks


def read_blob(chunks: np.ndarray, parts: Sequence[ChunkData], size_limit: int) -> bytes:
    """The caller's ``extra`` as it was before it was encoded."""
    total = int(chunks["raw"].sum(dtype=np.uint64))
    if total > size_limit:
        raise BadFrameError(f"extra of {total} bytes; at most {size_limit} expected")
    check_room(total, "the extra of a commit")
    if (np.cumsum(chunks["raw"], dtype=np.uint64) - chunks["raw"] != chunks["offset"]).any():
        raise BadFrameError("the chunks of extra do not follow each other")
    target = np.zeros(total, np.uint8)
    for chunk, part in zip(chunks, parts, strict=True):
        decode_into(target, chunk, own_data(part))
    return target.tobytes()
