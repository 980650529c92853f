"""Segments: the files of the log, and the walk over the frames in one.

A segment begins with a frame that says which segment it continues, from which version, position
and chain on. What stands in the old one behind that position is not part of the log: recovery
never truncates, it continues elsewhere.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.chain import LogIds, chain_after, check_commit
from mmsb_jax._store.format.frame import (
    HEADER_BYTES,
    MAX_NUMBER,
    BadFrameError,
    Buffer,
    Header,
    Kind,
    Reader,
    build_frame,
    check_hash,
    check_number,
    headers_from,
    padded,
    read_data,
    read_header,
    read_meta,
    reader_of,
    walk_frames,
)
from mmsb_jax._store.format.index import SegmentIndex
from mmsb_jax._store.format.names import NO_SEGMENT, index_name, segment_name
from mmsb_jax._store.format.record import CommitRecord, PlainRecord
from mmsb_jax._store.format.tags import TagChanges, decode_tags

_META = struct.Struct("<16sQQQ16s")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log.

    Attributes:
        log_id: id of the log that wrote it.
        number: its number; never used again.
        previous: number of the segment that it continues.
        first_version: version of its first commit.
        base: position of its first byte.
        chain: chain before its first commit.
        synced: position up to which the log was durable when it was made.
        is_cut: whether a compaction made it, of the end of the segment of that number.
    """

    log_id: bytes
    number: int
    previous: int
    first_version: int
    base: int
    chain: bytes
    synced: int
    is_cut: bool = False

    @property
    def name(self) -> str:
        """Name of its file."""
        return segment_name(self.number, self.first_version, self.is_cut)

    @property
    def index_name(self) -> str:
        """Name of its index's sidecar."""
        return index_name(self.name)

    def start(self) -> "Scan":
        """Where a scan of it begins."""
        return Scan(SEGMENT_FRAME_BYTES, self.first_version - 1, self.chain, self.synced)

    def frame(self) -> list[Buffer]:
        """Its first frame."""
        check_number("the number of a segment", self.number, NO_SEGMENT + 1, MAX_NUMBER)
        check_number("the number of the one before", self.previous, NO_SEGMENT, MAX_NUMBER)
        check_number("the first version of a segment", self.first_version, 1, MAX_NUMBER)
        check_number("where a segment begins", self.base, 0, MAX_NUMBER)
        check_hash("the id of a log", self.log_id)
        check_hash("the chain before a segment", self.chain)
        meta = _META.pack(self.log_id, self.number, self.previous, self.first_version, self.chain)
        return build_frame(Kind.SEGMENT, self.base, self.synced, meta)[1]


SEGMENT_FRAME_BYTES = HEADER_BYTES + padded(_META.size)
"""Bytes of the first frame of a segment."""


def read_segment(files: Files, name: str) -> Segment:
    """The segment that a file's first frame declares."""
    read = reader_of(files, name)
    header = read_header(read, 0, None)
    if header.kind != Kind.SEGMENT or header.meta_bytes != _META.size or header.data_bytes:
        raise BadFrameError("the file does not begin with the frame of a segment")
    log_id, number, previous, first_version, chain = _META.unpack(read_meta(read, 0, header))
    segment = Segment(
        log_id=log_id,
        number=number,
        previous=previous,
        first_version=first_version,
        base=header.position,
        chain=chain,
        synced=header.synced,
        is_cut=name.endswith(".cut"),
    )
    if segment.name != name:
        raise BadFrameError(f"the file declares itself to be {segment.name}")
    if first_version == 0 or max(number, first_version, segment.base) > MAX_NUMBER:
        raise BadFrameError("the segment begins where none can")
    return segment


class ScannedCommit(NamedTuple):
    """A whole commit that a scan met.

    Attributes:
        record: what it says.
        offset: where its frame stands in the file.
        logged_bytes: bytes of all its frames.
        chain: chain after it.
    """

    record: CommitRecord | PlainRecord
    offset: int
    logged_bytes: int
    chain: bytes


@dataclass(slots=True, eq=False)
class LogSegment:
    """A segment as part of the log: where it ends (None: it is the last), and its index.

    ``damage`` says what is wrong behind the last commit of the index, where that is not all.
    """

    segment: Segment
    end_offset: int | None
    index: SegmentIndex | None
    damage: CorruptionError | None = None

    @property
    def end(self) -> int:
        """Position of its end, where the next segment begins."""
        assert self.end_offset is not None
        return self.segment.base + self.end_offset


@dataclass(frozen=True, slots=True)
class StoredCommit:
    """A commit that was read.

    Attributes:
        record: what it says.
        piece: where it is.
        offset, end_offset: where in the file its frame begins and ends.
        chain: the chain after it.
        meta, data_hash: what its frame adds to the chain.
    """

    record: CommitRecord
    piece: LogSegment
    offset: int
    end_offset: int
    chain: bytes
    meta: bytes
    data_hash: int

    @property
    def end(self) -> int:
        """Position in the log where the commit ends."""
        return self.piece.segment.base + self.end_offset


@dataclass(slots=True)
class Scan:
    """Where a scan is and, at its end, why it ended.

    Attributes:
        offset: end of the last whole commit (or mark), in the file.
        version: version of the last whole commit.
        chain: chain after it.
        synced: newest synced position that a frame has named.
        fault: what is wrong behind `offset`; None where the file ends there.
        tags: what was said of tags on the way, the newest of each.
        has_process: whether anything was said of a process.
    """

    offset: int
    version: int
    chain: bytes
    synced: int
    fault: str | None = None
    tags: TagChanges = field(default_factory=dict)
    has_process: bool = False


_BETWEEN = (Kind.MARK, Kind.TAG, Kind.PROCESS)
"""What may stand between commits."""


def scan_commits(
    read: Reader,
    segment: Segment,
    scan: Scan,
    log_ids: "LogIds",
    end_offset: int | None = None,
    check_data: bool = True,
) -> Iterator[ScannedCommit]:
    """Whole commits from ``scan.offset`` on; ``scan`` follows and says at the end why it ended.

    Args:
        read: reads the segment's file.
        segment: the segment.
        scan: where to begin; changed in place.
        log_ids: which log's id a version carries.
        end_offset: where the next segment says that this one ends; None to read on to the end.
        check_data: whether data are read and compared with their hash.
    """
    reached = scan.offset
    pending: list[tuple[int, int]] = []
    try:
        for offset, header in walk_frames(read, segment.base, reached, end_offset):
            commit = None
            if header.kind == Kind.DATA and not header.meta_bytes:
                if check_data:
                    read_data(read, offset, header)
                pending.append((header.data_bytes, header.data_hash))
            elif header.kind == Kind.COMMIT:
                commit = _read_commit(read, offset, header, scan, pending, log_ids, check_data)
                pending = []
            elif pending or (header.is_known and header.kind not in _BETWEEN):
                raise BadFrameError(f"a frame of kind {header.kind} where none should be")
            else:  # a mark, or what a later version has added and this one may pass over
                meta = read_meta(read, offset, header)
                read_data(read, offset, header)
                if header.kind == Kind.TAG:
                    scan.tags |= decode_tags(meta)
                scan.has_process |= header.kind == Kind.PROCESS
            scan.synced = max(scan.synced, header.synced)
            reached = offset + header.frame_bytes
            if commit is not None:
                scan.version, scan.chain = commit.record.version, commit.chain
            if not pending:
                scan.offset = reached
            if commit is not None:
                yield commit
    except BadFrameError as error:
        scan.fault = str(error)
        return
    if end_offset is not None and reached >= end_offset:
        if reached != end_offset or pending:
            scan.fault = "the next segment says that this one ends elsewhere"
    elif pending:
        scan.fault = "data frames without their commit"
    elif end_offset is not None:
        scan.fault = "the file ends before the next segment says"


def _read_commit(
    read: Reader,
    offset: int,
    header: Header,
    scan: Scan,
    pending: list[tuple[int, int]],
    log_ids: "LogIds",
    check_data: bool,
) -> ScannedCommit:
    """The commit whose frame stands at ``offset``, checked against what came before it."""
    meta = read_meta(read, offset, header)
    record = CommitRecord.decode(meta)
    if check_data:
        read_data(read, offset, header)
    if record.version != scan.version + 1:
        raise BadFrameError(f"version {record.version} follows version {scan.version}")
    check_commit(record, scan.chain, log_ids, pending)
    chain = chain_after(scan.chain, meta, header.data_hash)
    return ScannedCommit(record, offset, offset + header.frame_bytes - scan.offset, chain)


def newest_mark_behind(read: Reader, segment: Segment, offset: int) -> int:
    """The newest synced position that any whole header behind ``offset`` names; 0 for none.

    It tells damage from a torn tail.
    """
    headers = headers_from(read, segment.base, offset)
    return max((header.synced for _, header in headers), default=0)
