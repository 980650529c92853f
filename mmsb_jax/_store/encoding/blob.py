"""Blobs: the caller's ``extra``, as chunks and back."""

from collections.abc import Sequence

import numpy as np

from mmsb_jax._base.memory_limit import check_room
from mmsb_jax._store.encoding.decode import decode_into
from mmsb_jax._store.encoding.dense import encode_dense
from mmsb_jax._store.format.chunk import Chunk, ChunkData
from mmsb_jax._store.format.frame import BadFrameError


def compress_blob(blob: bytes) -> list[Chunk]:
    """Chunks of the caller's ``extra``: full, compressed where that helps."""
    raw = np.frombuffer(blob, np.uint8)
    return encode_dense(raw, None, 1)[0] if raw.size else []


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
        decode_into(target, chunk, part)
    return target.tobytes()
