"""Chunks in frames: how the encoded pieces of a commit are laid into data frames, and found again.

Chunks follow each other without gaps; none is divided between two frames. A frame is closed before
it would grow past 1 MiB; a larger chunk has a frame of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chain import LogIds, chain_after, check_commit, frames_hash
from mmsb_jax._store.format.chunk import CHUNK_BYTES, Chunk
from mmsb_jax._store.format.frame import (
    HEADER_BYTES,
    BadFrameError,
    Header,
    Kind,
    Reader,
    build_frame,
    check_data,
    check_meta,
    padded,
    read_data,
    read_header,
)
from mmsb_jax._store.format.record import CommitRecord

INLINE_BYTES = 1 << 18
"""A commit with no more data than this carries them in its own frame."""

_FEW_BUFFERS = 16


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


@dataclass(frozen=True, slots=True)
class Shipped:
    """A commit with its frames, whole and checked, apart from any log.

    Attributes:
        record: what it says.
        chain: the chain after it.
        frames: (header, meta and data with their zeros) of its data frames and, last, of its own.
    """

    record: CommitRecord
    chain: bytes
    frames: tuple[tuple[Header, memoryview], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its frames."""
        return sum(header.frame_bytes for header, _ in self.frames)

    def chunks(self) -> list[memoryview]:
        """Its data, one view a chunk, in order.

        Raises:
            BadFrameError: the chunks do not fill the frames.
        """
        parts = [_data_of(header, body) for header, body in self.frames if header.data_bytes]
        return chunk_views(self.record, parts)

    def placed(self, position: int, synced: int) -> Iterator[tuple[Header, list[Buffer]]]:
        """Its frames as they stand at ``position`` of a log that is durable up to ``synced``.

        Neither enters the chain, nor any hash but that of the header.
        """
        for header, body in self.frames:
            header = header._replace(position=position, synced=synced)
            yield header, [header.encode(), body]
            position += header.frame_bytes


def _data_of(header: Header, body: memoryview) -> memoryview:
    start = header.data_offset - HEADER_BYTES
    return body[start : start + header.data_bytes]


def read_commit_frames(
    read: Reader, offset: int, version: int, chain: bytes, ids: LogIds
) -> tuple[Shipped, int]:
    """The commit of ``version`` whose first frame stands at ``offset``, and where it ends.

    Args:
        read: reads the file or the bytes.
        offset: where it begins.
        version: the version that it must have.
        chain: the chain before it.
        ids: which log wrote which version.

    Raises:
        BadFrameError: a frame is damaged or cut short, or belongs to another history.
        FormatError: a newer format wrote it.
    """
    frames: list[tuple[Header, memoryview]] = []
    while True:
        header = read_header(read, offset, None)
        header.check_kind()
        if header.kind not in (Kind.DATA, Kind.COMMIT):
            raise BadFrameError(f"a frame of kind {header.kind} where a commit should be")
        body = memoryview(read(offset + HEADER_BYTES, header.frame_bytes - HEADER_BYTES))
        meta = check_meta(body[: padded(header.meta_bytes)], header)
        check_data(body[padded(header.meta_bytes) :], header)
        frames.append((header, body))
        offset += header.frame_bytes
        if header.kind == Kind.COMMIT:
            break
        if meta:
            raise BadFrameError("a data frame with a meta")
    record = CommitRecord.decode(meta)
    if record.version != version:
        raise BadFrameError(f"version {record.version} where version {version} should be")
    pending = [(header.data_bytes, header.data_hash) for header, _ in frames[:-1]]
    check_commit(record, chain, ids, pending)
    return Shipped(record, chain_after(chain, meta, header.data_hash), tuple(frames)), offset
