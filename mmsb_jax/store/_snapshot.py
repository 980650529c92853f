"""Snapshots: the whole state at one version, so that a checkout has a near start.

A snapshot is a file of data frames and one frame with the meta of a commit: the one that makes the
state from nothing. Its header's ``synced`` is the position in the log that it covers.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import numpy as np

from mmsb_jax._dtypes import parse_dtype
from mmsb_jax.store._codec import encode_dense, unit_of
from mmsb_jax.store._digest import ZERO
from mmsb_jax.store._files import Buffer, Files
from mmsb_jax.store._format import (
    BadFrameError,
    Kind,
    build_frame,
    read_data,
    read_header,
    read_meta,
)
from mmsb_jax.store._frames import chunk_views, data_frames, pack_chunks
from mmsb_jax.store._record import (
    FULL,
    PAGE_VERSIONS,
    VALUES_REPLACE,
    CommitRecord,
    Op,
    OpCode,
    records_of,
)
from mmsb_jax.store._segment import LogIds, frames_hash, reader_of
from mmsb_jax.store._state import StoredState

FOLDER = "snapshots"
_NAME = re.compile(r"snapshots/([0-9]{20})\.snap")


def snapshot_name(version: int) -> str:
    """Name of the file that holds the state at ``version``."""
    return f"{FOLDER}/{version:020d}.snap"


def list_snapshots(files: Files) -> list[int]:
    """Versions of which there is a snapshot file, ascending."""
    found = (_NAME.fullmatch(name) for name in files.names(FOLDER))
    return sorted(int(match[1]) for match in found if match)


def write_snapshot(
    files: Files,
    state: StoredState,
    time_ns: int,
    position: int,
    executor: Callable[[], Executor] | None = None,
) -> int:
    """Publish ``state`` as the snapshot of its version; returns the bytes written.

    The log must be synced up to ``position``, where the version ends.
    """
    buffers = list(_frames(state, time_ns, position, executor))
    files.publish(snapshot_name(state.table.version), buffers)
    return sum(map(len, buffers))


def _frames(
    state: StoredState, time_ns: int, position: int, executor: Callable[[], Executor] | None
) -> Iterator[Buffer]:
    table = state.table
    rows, chunks = [], []
    for array_id, info in table.arrays.items():
        base, lanes = table.bases.get(array_id, 0), table.lanes.get(array_id, ZERO)
        if base == 0:
            continue  # never written: zeros
        unit = unit_of(parse_dtype(info.dtype).itemsize)
        encoded, _ = encode_dense(state.bytes_of(array_id), None, unit, executor)
        rows.append((array_id, base, *lanes, info.nbytes, len(encoded), FULL))
        chunks += encoded
        versions = state.page_versions.get(array_id)
        if versions is not None and versions.size:
            encoded, _ = encode_dense(versions.view(np.uint8), None, 8)
            rows.append((array_id, base, *lanes, 0, len(encoded), PAGE_VERSIONS))
            chunks += encoded
    offset, sizes = 0, []
    for header, frame in data_frames(chunks, position=0, synced=position):
        offset += header.frame_bytes
        sizes.append((header.data_bytes, header.data_hash))
        yield from frame
    record = CommitRecord(
        log_id=table.log_id,
        previous_chain=table.chain,
        state_digest=table.state_digest,
        version=table.version,
        time_ns=time_ns,
        values=table.values | table.graph,
        flags=VALUES_REPLACE,
        next_id=table.next_id,
        frame_sizes=[size for size, _ in sizes],
        frames_hash=frames_hash(sizes),
        records=records_of(rows),
        chunks=pack_chunks(chunks),
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
) -> tuple[StoredState, int]:
    """The state in a snapshot, and the log's position that it covers.

    Args:
        files: the log's directory.
        version: which snapshot.
        log_ids: which ids the log's versions carry.
        wanted: which arrays to hold, by name; None for all.
        page_bytes: to keep the versions of pages; None to leave them.
        with_data: False reads the table alone: no array then has bytes.

    Raises:
        BadFrameError: damaged, cut short, or of another log.
        FormatError: written by a newer format.
    """
    name = snapshot_name(version)
    read = reader_of(files, name)
    end = files.size(name)
    frames: list[tuple[int, int, int]] = []  # offset of the data, data bytes, data hash
    offset, parts = 0, []
    while True:
        header = read_header(read, offset, offset)
        header.check_kind()
        if header.kind == Kind.SNAPSHOT:
            break
        if header.kind != Kind.DATA:
            raise BadFrameError(f"a frame of kind {header.kind} in a snapshot")
        if with_data:
            parts.append(read_data(read, offset, header))
        frames.append((offset, header.data_bytes, header.data_hash))
        offset += header.frame_bytes
    record = CommitRecord.decode(read_meta(read, offset, header))
    if offset + header.frame_bytes != end or header.data_bytes:
        raise BadFrameError("the file does not end with its frame")
    if record.version != version or record.log_id != log_ids.of(version):
        raise BadFrameError(f"the snapshot is of version {record.version} of another history")
    if record.frame_sizes != [size for _, size, _ in frames] or (
        record.frames_hash != frames_hash([(size, digest) for _, size, digest in frames])
    ):
        raise BadFrameError("the snapshot has other data frames than it says")
    state = StoredState(record.log_id, wanted if with_data else lambda _: False, page_bytes)
    state.load(record, lambda: chunk_views(record, parts))
    return state, header.synced
