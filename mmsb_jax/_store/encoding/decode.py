"""Putting the pieces of an array back, whoever has written them.

Every size is checked against the array before anything is decompressed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmsb_jax._store.encoding.base import check_within, span_of
from mmsb_jax._store.encoding.dense import decode_compressed, decode_full, decode_mixed
from mmsb_jax._store.encoding.group import decode_full_group, decode_xor_group
from mmsb_jax._store.encoding.sparse import decode_run, decode_sparse, most_bytes
from mmsb_jax._store.format.chunk import SPARSE_CODINGS, ChunkData, Coding, own_data
from mmsb_jax._store.format.frame import BadFrameError

_DECODERS: dict[int, Callable[[np.ndarray, np.void, Any], object]] = {
    Coding.SPARSE: decode_sparse,
    Coding.SPARSE_ZSTD: decode_sparse,
    Coding.FULL: decode_full,
    Coding.FULL_ZSTD: decode_compressed,
    Coding.XOR_ZSTD: decode_mixed,
    Coding.FULL_GROUP: decode_full_group,
    Coding.XOR_GROUP: decode_xor_group,
}
"""What puts a chunk back, by its coding: (the bytes that it covers, the chunk, its data)."""
_RUN_BYTES = 1 << 24
"""Sparse chunks are decoded together until they may take so much, decompressed."""


def decode_all(target: np.ndarray, chunks: Sequence[tuple[np.void, ChunkData]]) -> None:
    """Put many chunks of one array back, in order, as `decode_into` does one by one.

    Sparse chunks that follow each other are decoded together: a hundred small ones cost little
    more than one large one.
    """
    run: list[tuple[np.void, memoryview]] = []
    size = 0
    for chunk, part in chunks:
        is_sparse = int(chunk["coding"]) in SPARSE_CODINGS
        if not is_sparse or size > _RUN_BYTES:
            decode_run(target, run)
            run, size = [], 0
        if is_sparse:
            run.append((chunk, own_data(part)))
            size += most_bytes(chunk)
        else:
            decode_into(target, chunk, part)
    decode_run(target, run)


def decode_into(target: np.ndarray, chunk: np.void, data: ChunkData) -> None:
    """Put one chunk back: ``target`` (uint8[n], the array before) becomes the array after."""
    check_within(chunk, target.size)
    decode = _DECODERS.get(int(chunk["coding"]))
    if decode is None:
        raise BadFrameError(f"a chunk of an unknown coding, {chunk['coding']}")
    decode(span_of(target, chunk), chunk, data)


def check_extent(rows: np.ndarray, nbytes: int) -> None:
    """Refuse the chunks of a record that together cover more than their array has.

    So what decoding them takes is bounded by the array, whatever is in them.
    """
    if rows.size > 1 and int(rows["raw"].sum(dtype=np.uint64)) > nbytes:
        raise BadFrameError(f"the chunks of a record cover more than the {nbytes} bytes there are")
