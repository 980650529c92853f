"""Snapshots: the whole state at one version, so that a checkout has a near start.

A snapshot is a file of data frames and one frame with the meta of a commit: the one that makes the
state from nothing. Its header's ``synced`` is the position in the log that it covers.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.blob import read_blob
from mmsb_jax._store.encoding.decode import decode_into
from mmsb_jax._store.encoding.dense import encode_dense
from mmsb_jax._store.encoding.digest import ZERO
from mmsb_jax._store.encoding.group import LOT_WORDS, SMALL_BYTES, group_chunks
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.format.chain import LogIds, frames_hash, has_frames
from mmsb_jax._store.format.chunk import (
    CHUNK,
    Chunk,
    ChunkData,
    Chunks,
    Coding,
    own_data,
    pack_chunks,
)
from mmsb_jax._store.format.data import chunk_data, chunks_of_frames, data_frames, data_of_frame
from mmsb_jax._store.format.frame import (
    BadFrameError,
    Header,
    Kind,
    build_frame,
    read_data,
    read_meta,
    reader_of,
    walk_frames,
)
from mmsb_jax._store.format.names import snapshot_name
from mmsb_jax._store.format.record import (
    EXTRA_ID,
    EXTRA_IS_JSON,
    FULL,
    MAX_EXTRA_BYTES,
    PAGE_VERSIONS,
    VALUES_REPLACE,
    CommitRecord,
    Op,
    OpCode,
    Row,
    records_of,
)
from mmsb_jax._store.state.state import StoredState

_PIECE_BYTES = 64 << 20
"""Of an array, encoded at a time."""
_UNIT_OF_VERSIONS = 8


def write_snapshot(
    files: Files,
    state: StoredState,
    time_ns: int,
    position: int,
    executor: Callable[[], Executor] | None = None,
    extra: "Extra | None" = None,
) -> int:
    """Publish ``state`` as the snapshot of its version; returns the bytes written.

    The log must be synced up to ``position``, where the version ends. ``extra`` is kept beside the
    state where the commit itself will go.
    """
    sizes = list[int]()

    def counted() -> Iterator[Buffer]:
        for buffer in _frames(state, time_ns, position, executor, extra):
            sizes.append(len(buffer))
            yield buffer

    with room_for(f"the snapshot of version {state.table.version}"):
        files.publish(snapshot_name(state.table.version), counted())
    return sum(sizes)


def snapshot_bytes(state: StoredState, extra: "Extra | None" = None) -> int:
    """The bytes that `write_snapshot` would write."""
    return sum(map(len, _frames(state, 0, 0, None, extra)))


class Extra(NamedTuple):
    """The caller's ``extra`` of a commit.

    Attributes:
        chunks: its chunks.
        is_json: whether they are JSON.
        version: the commit that gave it; 0 for that which holds it.
    """

    chunks: Sequence[Chunk]
    is_json: bool
    version: int = 0

    def blob(self) -> bytes:
        """Its bytes."""
        rows = pack_chunks(self.chunks)
        return read_blob(rows, [memoryview(chunk.data) for chunk in self.chunks], MAX_EXTRA_BYTES)

    @classmethod
    def of(cls, record: CommitRecord, views: Sequence[ChunkData]) -> "Extra | None":
        """That of a commit or snapshot, whose data are ``views``; None where it has none."""
        span = record.extra_span()
        if span is None:
            return None
        chunks = [
            Chunk(
                offset=int(row["offset"]),
                raw_bytes=int(row["raw"]),
                items=int(row["items"]),
                coding=Coding(int(row["coding"])),
                unit=int(row["unit"]),
                data=bytes(own_data(view)),
            )
            for row, view in zip(record.chunks[span], views[span], strict=True)
        ]
        given_by = record.records["base"][record.records["id"] == EXTRA_ID]
        return cls(chunks, bool(record.flags & EXTRA_IS_JSON), int(given_by[0]))


class _Contents:
    """What a snapshot holds, made piece by piece, so that little of it is in memory at a time.

    Attributes:
        rows: the records of what has been made.
        table: the rows of its chunks.
    """

    def __init__(self, state: StoredState, executor: Callable[[], Executor] | None) -> None:
        self.rows = list[Row]()
        self.table = list[bytes]()
        self._state = state
        self._executor = executor
        self._lots: dict[int, list[tuple[Row, np.ndarray]]] = {}  # by the unit of their elements
        self._left: dict[int, int] = {}

    def chunks(self, extra: "Extra | None") -> Iterator[Chunk | Chunks]:
        """The chunks of all arrays, and of ``extra``."""
        for chunk in self._chunks():
            self.table.append(chunk.rows)
            yield chunk
        if extra is not None:
            given_by = 0 if extra.version == self._state.table.version else extra.version
            self.rows.append((EXTRA_ID, given_by, 0, 0, 0, len(extra.chunks), FULL))
            self.table += [chunk.rows for chunk in extra.chunks]
            yield from extra.chunks

    def _chunks(self) -> Iterator[Chunk | Chunks]:
        state, table = self._state, self._state.table
        for array_id, info in table.arrays.items():
            base, lanes = table.bases.get(array_id, 0), table.lanes.get(array_id, ZERO)
            if base == 0:
                continue  # never written: zeros
            row = array_id, base, *lanes, info.nbytes, 1, FULL
            yield from self._array(row, state.words[array_id], unit_of_dtype(info.dtype))
            versions = state.page_versions.get(array_id)
            if versions is not None and versions.size:
                row = array_id, base, *lanes, 0, 1, PAGE_VERSIONS
                yield from self._array(row, versions, _UNIT_OF_VERSIONS)
        yield from self._all_lots()

    def _array(self, row: Row, words: np.ndarray, unit: int) -> Iterator[Chunk | Chunks]:
        """The chunks of an array; those of a small one wait for others of the ``unit``."""
        if words.nbytes <= SMALL_BYTES:
            if self._left.get(unit, 0) < words.nbytes and unit in self._lots:
                if unit == _UNIT_OF_VERSIONS:  # they stand behind the records of their arrays
                    yield from self._all_lots()
                else:
                    yield self._lot(unit)
            if unit not in self._lots:
                self._lots[unit], self._left[unit] = [], 4 * LOT_WORDS
            self._lots[unit].append((row, words))
            self._left[unit] -= words.nbytes
            return
        raw, count = words.view(np.uint8), 0
        raw = raw[: row[4]] if row[6] == FULL else raw
        for start in range(0, raw.size, _PIECE_BYTES):
            piece = raw[start : start + _PIECE_BYTES]
            for chunk in encode_dense(piece, None, unit, self._executor):
                chunk.offset += start
                count += 1
                yield chunk
        self.rows.append((*row[:5], count, row[6]))

    def _all_lots(self) -> Iterator[Chunks]:
        """All small arrays that wait, the versions of pages last."""
        for unit in sorted(self._lots):
            yield self._lot(unit)

    def _lot(self, unit: int) -> Chunks:
        """The small arrays that wait, as one group."""
        lot = self._lots.pop(unit)
        self.rows += [row for row, _ in lot]
        nbytes = [row[4] if row[6] == FULL else words.nbytes for row, words in lot]
        words = np.concatenate([words.view(np.uint32) for _, words in lot])
        return group_chunks(words, None, unit, np.array(nbytes))


def _frames(
    state: StoredState,
    time_ns: int,
    position: int,
    executor: Callable[[], Executor] | None,
    extra: Extra | None,
) -> Iterator[Buffer]:
    table, contents = state.table, _Contents(state, executor)
    offset, sizes = 0, []
    for header, frame in data_frames(contents.chunks(extra), position=0, synced=position):
        offset += header.frame_bytes
        sizes.append((header.data_bytes, header.data_hash))
        yield from frame
    record = CommitRecord(
        log_id=table.log_id,
        previous_chain=table.chain,
        state_digest=table.state_digest,
        version=table.version,
        time_ns=time_ns,
        values={**table.values, **table.graph},
        flags=VALUES_REPLACE | (EXTRA_IS_JSON if extra is not None and extra.is_json else 0),
        next_id=table.next_id,
        frame_sizes=[size for size, _ in sizes],
        frames_hash=frames_hash(sizes),
        records=records_of(contents.rows),
        chunks=np.frombuffer(b"".join(contents.table), CHUNK),
        ops=[Op(OpCode.CREATE, info) for info in table.arrays.values()],
    )
    yield from build_frame(Kind.SNAPSHOT, offset, position, record.encode())[1]


def read_snapshot(
    files: Files,
    version: int,
    log_ids: LogIds,
    wanted: Callable[[str], bool] | None = None,
    page_bytes: int | None = None,
    with_data: bool = True,
    executor: Executor | None = None,
) -> tuple[StoredState, int]:
    """The state in a snapshot, and the log's position that it covers.

    Args:
        files: the log's directory.
        version: which snapshot.
        log_ids: which ids the log's versions carry.
        wanted: which arrays to hold, by name; None for all.
        page_bytes: to keep the versions of pages; None to leave them.
        with_data: False reads the table alone: no array then has bytes.
        executor: where to read and decode side by side.

    Cost: what the frames of the wanted arrays take; of them, one a thread is held at a time.
    """
    read = reader_of(files, snapshot_name(version))
    walk = _walk(files, version, log_ids)
    record = walk.record
    state = StoredState(record.log_id, wanted if with_data else lambda _: False, page_bytes)
    targets = state.begin(record)

    def load(frame: tuple[Header, int], chunks: range) -> None:
        if all(targets[chunk] is None for chunk in chunks):
            return
        header, offset = frame
        rows, data = record.chunks[chunks.start : chunks.stop], read_data(read, offset, header)
        parts = data_of_frame(rows, data)
        for row, part, target in zip(rows, parts, targets[chunks.start : chunks.stop], strict=True):
            if target is not None:
                decode_into(target, row, part)

    chunks = chunks_of_frames(record, [header.data_bytes for header, _ in walk.frames])
    for _ in (map if executor is None else executor.map)(load, walk.frames, chunks):
        pass
    state.end(record)
    return state, walk.synced


def read_snapshot_with_extra(
    files: Files, version: int, log_ids: LogIds, page_bytes: int | None
) -> tuple[StoredState, Extra | None]:
    """The state in a snapshot, and the ``extra`` that is kept beside it, as it is stored."""
    walk, read = _walk(files, version, log_ids), reader_of(files, snapshot_name(version))
    parts = [read_data(read, offset, header) for header, offset in walk.frames]
    views = chunk_data(walk.record, parts)
    state = StoredState(walk.record.log_id, None, page_bytes)
    state.load(walk.record, views)
    return state, Extra.of(walk.record, views)


class _Walk(NamedTuple):
    """A snapshot's frames: its record, and its data frames (header, offset)."""

    record: CommitRecord
    frames: list[tuple[Header, int]]
    synced: int


def _walk(files: Files, version: int, log_ids: LogIds) -> _Walk:
    name = snapshot_name(version)
    read, end = reader_of(files, name), files.size(name)
    frames: list[tuple[Header, int]] = []
    for offset, header in walk_frames(read, 0):
        if header.kind == Kind.SNAPSHOT:
            break
        if header.kind != Kind.DATA:
            raise BadFrameError(f"a frame of kind {header.kind} in a snapshot")
        frames.append((header, offset))
    else:
        raise BadFrameError("the file ends before its frame")
    record = CommitRecord.decode(read_meta(read, offset, header))
    if offset + header.frame_bytes != end or header.data_bytes:
        raise BadFrameError("the file does not end with its frame")
    if record.version != version or record.log_id != log_ids.of(version):
        raise BadFrameError(f"the snapshot is of version {record.version} of another history")
    if not has_frames(record, [(frame.data_bytes, frame.data_hash) for frame, _ in frames]):
        raise BadFrameError("the snapshot has other data frames than it says")
    return _Walk(record, frames, header.synced)


def read_snapshot_extra(files: Files, version: int, log_ids: LogIds) -> Extra | None:
    """The caller's ``extra`` that a snapshot keeps; None where it keeps none.

    Cost: the headers of its frames, and the last frames.
    """
    walk = _walk(files, version, log_ids)
    span = walk.record.extra_span()
    if span is None:
        return None
    # It is the last of the data: only the last frames are read.
    stored = walk.record.chunks["stored"].tolist()
    wanted, parts, size = sum(stored[span]), list[memoryview](), 0
    read = reader_of(files, snapshot_name(version))
    for header, offset in reversed(walk.frames):
        if size >= wanted:
            break
        parts.insert(0, read_data(read, offset, header))
        size += header.data_bytes
    raw = memoryview(b"".join(parts))[size - wanted :]
    ends = itertools.accumulate(stored[span], initial=0)
    views = [memoryview(b"")] * span.start
    views += [raw[start:end] for start, end in itertools.pairwise(ends)]
    return Extra.of(walk.record, views)
