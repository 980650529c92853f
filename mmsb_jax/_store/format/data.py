"""Chunks in frames: how the encoded pieces of a commit are laid into data frames, and found again.

Chunks follow each other without gaps; none is divided between two frames. A frame is closed before
it would grow past 1 MiB; a larger chunk has a frame of its own.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol, overload

import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chain import LogIds, chain_after, check_commit, frames_hash
from mmsb_jax._store.format.chunk import (
    CHUNK_BYTES,
    GROUP_CODINGS,
    Chunk,
    ChunkData,
    Chunks,
    Group,
    GroupPart,
    has_groups,
    pack_chunks,
)
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
    walk_frames,
)
from mmsb_jax._store.format.record import CommitRecord, PlainRecord

INLINE_BYTES = 1 << 18
"""A commit with no more data than this carries them in its own frame."""

_FEW_BUFFERS = 16


def group_chunks(chunks: Iterable[Chunk | Chunks]) -> Iterator[list[Buffer]]:
    """The data of each data frame, in order."""
    group: list[Buffer] = []
    size = 0
    for piece in (piece for chunk in chunks for piece in chunk.pieces()):
        if group and size + len(piece) > CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(piece)
        size += len(piece)
    if group:
        yield group


def data_frames(
    chunks: Iterable[Chunk | Chunks], position: int, synced: int
) -> Iterator[tuple[Header, list[Buffer]]]:
    """The data frames of ``chunks``, the first at ``position``: (header, buffers to write)."""
    for group in group_chunks(chunks):
        # One copy costs less than many buffers.
        data = group if len(group) <= _FEW_BUFFERS else [b"".join(group)]
        header, buffers = build_frame(Kind.DATA, position, synced, data=data)
        position += header.frame_bytes
        yield header, buffers


class ChunksOf(Sequence[ChunkData]):
    """The data of each chunk of a commit, in order; a frame is read when it is asked for.

    Args:
        record: of the commit.
        sizes: the bytes of data of its data frames.
        read: reads and checks the data of one of them, by its number.

    Attributes:
        within: what it is read within; it may turn errors into others.
    """

    def __init__(
        self, record: CommitRecord, sizes: Sequence[int], read: Callable[[int], memoryview]
    ) -> None:
        self.within: Callable[[], AbstractContextManager[None]] = nullcontext
        self._table = record.chunks
        self._spans = chunks_of_frames(record, sizes)
        self._read = read
        self._last: tuple[int, list[ChunkData]] = -1, []

    def __len__(self) -> int:
        return self._table.size

    @overload
    def __getitem__(self, place: int) -> ChunkData: ...
    @overload
    def __getitem__(self, place: slice) -> list[ChunkData]: ...
    def __getitem__(self, place: int | slice) -> ChunkData | list[ChunkData]:
        if isinstance(place, int):
            (one,) = self[range(len(self))[place] : range(len(self))[place] + 1]
            return one
        start, stop, _ = place.indices(len(self))
        found = list[ChunkData]()
        frame = bisect.bisect_right(self._spans, start, key=lambda span: span.start) - 1
        while start < stop:
            span = self._spans[frame]
            found += self._of_frame(frame)[start - span.start : stop - span.start]
            start, frame = span.stop, frame + 1
        return found

    def _of_frame(self, number: int) -> list[ChunkData]:
        known, parts = self._last
        if known != number:
            span = self._spans[number]
            with self.within():
                parts = data_of_frame(self._table[span.start : span.stop], self._read(number))
            self._last = number, parts
        return parts


def chunk_data(record: CommitRecord, parts: Sequence[memoryview]) -> ChunksOf:
    """The data of each chunk of ``record``, from those of its frames in order."""
    return ChunksOf(record, list(map(len, parts)), parts.__getitem__)


def data_of_frame(rows: np.ndarray, data: memoryview) -> list[ChunkData]:
    """The data of each chunk of a frame, whose rows of the table are ``rows``."""
    parts, stop = list[ChunkData](), 0
    for size in rows["stored"].tolist():
        start, stop = stop, stop + size
        parts.append(data[start:stop])
    if has_groups(rows):
        _part_groups(rows, parts)
    return parts


def _part_groups(table: np.ndarray, parts: list[ChunkData]) -> None:
    """Make the data of the chunks of groups their parts of these."""
    codings, items, stored = (table[name].tolist() for name in ("coding", "items", "stored"))
    first, count = 0, len(codings)
    while first < count:
        if codings[first] not in GROUP_CODINGS:
            first += 1
            continue
        end, data = first + items[first], parts[first]
        rows = table[first:end]
        is_one = len({*zip(codings[first:end], rows["unit"].tolist(), strict=True)}) == 1
        followers = (*items[first + 1 : end], *stored[first + 1 : end])
        if not first < end <= count or not is_one or any(followers):
            raise BadFrameError("the chunks of a group are not its own")
        assert isinstance(data, memoryview)
        group, stop = Group(rows, data), 0
        for place, nbytes in zip(range(first, end), rows["raw"].tolist(), strict=True):
            parts[place] = GroupPart(group, stop, stop + nbytes)
            stop += -(-nbytes // WORD_BYTES) * WORD_BYTES
        first = end


def chunks_of_frames(record: CommitRecord, sizes: Sequence[int]) -> list[range]:
    """Which chunks of ``record`` each of its data frames holds, which have ``sizes`` bytes."""
    stored, found, chunk = record.chunks["stored"].tolist(), list[range](), 0
    for size in sizes:
        first, left = chunk, size
        while chunk < len(stored) and stored[chunk] <= left:
            left -= stored[chunk]
            chunk += 1
        if left or chunk == first:
            raise BadFrameError("the chunks of the commit do not fill its data frames")
        found.append(range(first, chunk))
    if chunk != len(stored):
        raise BadFrameError("the chunks of the commit do not fill its data frames")
    return found


def read_chunks(read: Reader, base: int, offset: int, record: CommitRecord) -> ChunksOf:
    """The data of the commit whose frame stands at ``offset``; the headers of all are read now."""
    if not record.frame_sizes:
        header = read_header(read, offset, base + offset)
        sizes = [header.data_bytes] if header.data_bytes else []
        return ChunksOf(record, sizes, lambda _: read_data(read, offset, header))
    headers, place = list[tuple[int, Header]](), commit_start(offset, record)
    for size in map(_data_frame_bytes, record.frame_sizes):
        header = read_header(read, place, base + place)
        if header.kind != Kind.DATA:
            raise BadFrameError(f"a frame of kind {header.kind} where data should be")
        headers.append((place, header))
        place += size
    frames = [(header.data_bytes, header.data_hash) for _, header in headers]
    if frames_hash(frames) != record.frames_hash:
        raise BadFrameError("the data frames are not those of the commit")
    return ChunksOf(record, record.frame_sizes, lambda number: read_data(read, *headers[number]))


def commit_start(offset: int, record: CommitRecord) -> int:
    """Where the first frame of the commit stands whose own stands at ``offset``."""
    start = offset - sum(map(_data_frame_bytes, record.frame_sizes))
    if start < 0:
        raise BadFrameError("the commit claims more data than stands before it")
    return start


def _data_frame_bytes(data_bytes: int) -> int:
    return HEADER_BYTES + padded(data_bytes)


class Position(NamedTuple):
    """Where a commit comes to stand in a log, and after what.

    Attributes:
        position: where its first frame begins.
        synced: up to where the log is known to be durable.
        log_id: id of the log.
        version: the version that it gets.
        chain: the chain before it.
    """

    position: int
    synced: int
    log_id: bytes = b""
    version: int = 0
    chain: bytes = b""


class Frames(Protocol):
    """A commit that can be put into a log.

    Attributes:
        record: what it says; complete once it is placed.
        chain: the chain after it; known then too.
        is_own: whether it becomes a commit of that log, rather than being one of another.
    """

    @property
    def record(self) -> CommitRecord | PlainRecord:
        """What it says."""
        ...

    @property
    def chain(self) -> bytes:
        """The chain after it."""
        ...

    @property
    def is_own(self) -> bool:
        """Whether it becomes a commit of that log."""
        ...

    def placed(self, place: Position) -> Iterator[tuple[Header, list[Buffer]]]:
        """Its frames as they stand there: (header, buffers to write), its own the last."""
        ...


@dataclass(slots=True)
class NewCommit:
    """A commit that no log has yet; as `Frames`.

    Attributes:
        record: what it says; version, chain, frames and chunks are entered when it is placed.
        chunks: its data.
    """

    record: CommitRecord
    chunks: Sequence[Chunk | Chunks]
    chain: bytes = b""

    @property
    def is_own(self) -> bool:
        """It becomes one of the log."""
        return True

    def complete(self) -> None:
        """Enter into the record what was not known before its data were written."""

    def placed(self, place: Position) -> Iterator[tuple[Header, list[Buffer]]]:
        """Its data frames, where there is much, and then its own."""
        record, position = self.record, place.position
        frames: list[tuple[int, int]] = []
        inline: list[Buffer] = []
        if sum(len(chunk.data) for chunk in self.chunks) <= INLINE_BYTES:
            inline = [b"".join([chunk.data for chunk in self.chunks])]
        else:
            for header, buffers in data_frames(self.chunks, position, place.synced):
                yield header, buffers
                frames.append((header.data_bytes, header.data_hash))
                position += header.frame_bytes
        self.complete()
        record.log_id, record.version = place.log_id, place.version
        record.previous_chain = place.chain
        record.frame_sizes = [size for size, _ in frames]
        record.frames_hash = frames_hash(frames)
        record.chunks = pack_chunks(self.chunks)
        meta = record.encode()
        header, buffers = build_frame(Kind.COMMIT, position, place.synced, meta, inline)
        self.chain = chain_after(place.chain, meta, header.data_hash)
        yield header, buffers


@dataclass(frozen=True, slots=True)
class CommitFrames:
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

    def chunks(self) -> ChunksOf:
        """The data of each of its chunks, in order."""
        parts = [_data_of(header, body) for header, body in self.frames if header.data_bytes]
        return chunk_data(self.record, parts)

    @property
    def is_own(self) -> bool:
        """It stays one of the log that wrote it."""
        return False

    def placed(self, place: Position) -> Iterator[tuple[Header, list[Buffer]]]:
        """Its frames as they stand there.

        The place enters neither the chain, nor any hash but that of the header.
        """
        position = place.position
        for header, body in self.frames:
            header = header._replace(position=position, synced=place.synced)
            yield header, [header.encode(), body]
            position += header.frame_bytes


def _data_of(header: Header, body: memoryview) -> memoryview:
    start = header.data_offset - HEADER_BYTES
    return body[start : start + header.data_bytes]


def read_commit_frames(
    read: Reader, offset: int, version: int, chain: bytes, ids: LogIds
) -> tuple[CommitFrames, int]:
    """The commit of ``version`` whose first frame stands at ``offset``, and where it ends.

    Args:
        read: reads the file or the bytes.
        offset: where it begins.
        version: the version that it must have.
        chain: the chain before it.
        ids: which log wrote which version.
    """
    frames: list[tuple[Header, memoryview]] = []
    for at, header in walk_frames(read, None, offset):
        if header.kind not in (Kind.DATA, Kind.COMMIT):
            raise BadFrameError(f"a frame of kind {header.kind} where a commit should be")
        body = memoryview(read(at + HEADER_BYTES, header.frame_bytes - HEADER_BYTES))
        meta = check_meta(body[: padded(header.meta_bytes)], header)
        check_data(body[padded(header.meta_bytes) :], header)
        frames.append((header, body))
        if header.kind == Kind.COMMIT:
            break
        if meta:
            raise BadFrameError("a data frame with a meta")
    else:
        raise BadFrameError("the bytes end before the frame of the commit")
    record = CommitRecord.decode(meta)
    if record.version != version:
        raise BadFrameError(f"version {record.version} where version {version} should be")
    pending = [(header.data_bytes, header.data_hash) for header, _ in frames[:-1]]
    check_commit(record, chain, ids, pending)
    chain = chain_after(chain, meta, header.data_hash)
    return CommitFrames(record, chain, tuple(frames)), at + header.frame_bytes
