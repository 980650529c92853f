"""Chunks in frames: how the encoded pieces of a commit are laid into data frames, and found again.

Chunks follow each other without gaps; none is divided between two frames. A frame is closed before
it would grow past 1 MiB; a larger chunk has a frame of its own.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mmsb_jax._store.encoding.encode import CHUNK_BYTES, Chunk
from mmsb_jax._store.files.disk import Buffer
from mmsb_jax._store.format.frame import (
    HEADER_BYTES,
    BadFrameError,
    Header,
    Kind,
    Reader,
    build_frame,
    check_data,
    padded,
    read_data,
    read_header,
)
from mmsb_jax._store.format.record import CHUNK, CommitRecord
from mmsb_jax._store.log.segment import frames_hash

INLINE_BYTES = 1 << 18
"""A commit with no more data than this carries them in its own frame."""

_FEW_BUFFERS = 16

_CHUNK = struct.Struct("<QIIIBBH")


def pack_chunks(chunks: Sequence[Chunk]) -> np.ndarray:
    """The chunk table of a record."""
    rows = [
        _CHUNK.pack(c.offset, c.raw_bytes, len(c.data), c.items, c.coding, c.unit, 0)
        for c in chunks
    ]
    return np.frombuffer(b"".join(rows), CHUNK)


def group_chunks(chunks: Iterable[Chunk]) -> Iterator[list[Buffer]]:
    """The data of each data frame, in order."""
    group: list[Buffer] = []
    size = 0
    for chunk in chunks:
        if group and size + len(chunk.data) > CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(chunk.data)
        size += len(chunk.data)
    if group:
        yield group


def data_frames(
    chunks: Iterable[Chunk], position: int, synced: int
) -> Iterator[tuple[Header, list[Buffer]]]:
    """The data frames of ``chunks``, the first at ``position``: (header, buffers to write)."""
    for group in group_chunks(chunks):
        # One copy costs less than many buffers.
        data = group if len(group) <= _FEW_BUFFERS else [b"".join(group)]
        header, buffers = build_frame(Kind.DATA, position, synced, data=data)
        position += header.frame_bytes
        yield header, buffers


def chunk_views(record: CommitRecord, parts: Sequence[memoryview]) -> list[memoryview]:
    """One view a chunk of ``record``, from the data of its frames in order.

    Raises:
        BadFrameError: the chunks do not fill the frames.
    """
    views, part, start = [], 0, 0
    for stored in record.chunks["stored"].tolist():
        if part < len(parts) and start == len(parts[part]):
            part, start = part + 1, 0
        if part >= len(parts) or start + stored > len(parts[part]):
            raise BadFrameError("the chunks of the commit do not fill its data frames")
        views.append(parts[part][start : start + stored])
        start += stored
    if parts and (part != len(parts) - 1 or start != len(parts[part])):
        raise BadFrameError("the chunks of the commit do not fill its data frames")
    return views


def read_parts(read: Reader, base: int, offset: int, record: CommitRecord) -> list[memoryview]:
    """The data of the commit whose frame stands at ``offset``, a part a frame, hashes checked.

    Raises:
        BadFrameError: a frame is damaged, cut short or elsewhere.
    """
    if not record.frame_sizes:
        header = read_header(read, offset, base + offset)
        return [read_data(read, offset, header)] if header.data_bytes else []
    sizes = [_data_frame_bytes(size) for size in record.frame_sizes]
    start = commit_start(offset, record)
    block = read(start, offset - start)
    parts, frames, place = [], [], 0
    for size in sizes:
        header = Header.decode(block[place : place + HEADER_BYTES], base + start + place)
        if header.kind != Kind.DATA:
            raise BadFrameError(f"a frame of kind {header.kind} where data should be")
        data = memoryview(block)[place + header.data_offset : place + header.frame_bytes]
        parts.append(check_data(data, header))
        frames.append((header.data_bytes, header.data_hash))
        place += size
    if frames_hash(frames) != record.frames_hash:
        raise BadFrameError("the data frames are not those of the commit")
    return parts


def commit_start(offset: int, record: CommitRecord) -> int:
    """Where the first frame of the commit stands whose own stands at ``offset``.

    Raises:
        BadFrameError: it claims more data than there can be before it.
    """
    start = offset - sum(map(_data_frame_bytes, record.frame_sizes))
    if start < 0:
        raise BadFrameError("the commit claims more data than stands before it")
    return start


def _data_frame_bytes(data_bytes: int) -> int:
    return HEADER_BYTES + padded(data_bytes)
