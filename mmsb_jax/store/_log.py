"""The log as a reader sees it: which commits there are, what each says, the state after any."""

import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from mmsb_jax._errors import CorruptionError, VersionError
from mmsb_jax.store._codec import read_blob
from mmsb_jax.store._files import Files
from mmsb_jax.store._format import BadFrameError, Kind, build_frame, read_header, read_meta
from mmsb_jax.store._frames import chunk_views, read_parts
from mmsb_jax.store._index import IndexRow, SegmentIndex
from mmsb_jax.store._manifest import Manifest
from mmsb_jax.store._record import EXTRA_ID, FULL, PAGE_VERSIONS, CommitRecord
from mmsb_jax.store._recovery import find_segments, settle_tail
from mmsb_jax.store._segment import (
    SEGMENT_FRAME_BYTES,
    Scan,
    Segment,
    chain_after,
    reader_of,
    scan_commits,
)
from mmsb_jax.store._snapshot import list_snapshots, read_snapshot
from mmsb_jax.store._state import StoredState, Table

MAX_EXTRA_BYTES = 1 << 40


@dataclass(slots=True)
class Piece:
    """A segment as part of the log: where it ends (None: it is the last), and its index."""

    segment: Segment
    end_offset: int | None
    index: SegmentIndex | None


@dataclass(frozen=True, slots=True)
class _Found:
    """A commit that was read: its record, where its frame stands, the chain after it."""

    record: CommitRecord
    piece: Piece
    offset: int
    chain: bytes


class Log:
    """A log, opened to read. Its writer holds one too, and enters what it appends.

    Args:
        files: the log's directory.
        place: what to call it in messages.
        salvage: open what is whole before a damage, instead of refusing.

    Attributes:
        recovered: what recovery found and left out; empty when all was well.
        pieces: the segments, oldest first; empty for a log without commits.
        scan: where the last segment ends.

    Raises:
        LocationError, CorruptionError, FormatError: the directory is no log, is damaged below
            what was durable, or was written by a newer format.
    """

    def __init__(self, files: Files, place: str, salvage: bool = False) -> None:
        self.files = files
        self.place = place
        self.manifest = Manifest.read(files, place)
        self.recovered: list[str] = []
        self.pieces: list[Piece] = []
        self.scan = Scan(0, 0, bytes(16), 0)
        self._salvage = salvage
        self._names: dict[int, str] = {}
        self._named_through = 0
        self._open()

    def _open(self) -> None:
        segments, ignored = find_segments(self.files, self.place)
        self.recovered = list(ignored)
        self.pieces = [
            Piece(segment, following.base - segment.base, None)
            for segment, following in itertools.pairwise(segments)
        ]
        if segments:
            self.enter_segment(segments[-1])
            self._scan_tail()
            fault = settle_tail(self, self._salvage)
            if fault:
                self.recovered.append(fault)

    def enter_segment(self, segment: Segment) -> None:
        """Go on in ``segment``, which is the last from now on."""
        if self.pieces:
            self.pieces[-1].end_offset = segment.base - self.pieces[-1].segment.base
        self.pieces.append(Piece(segment, None, SegmentIndex(segment.first_version)))
        self.scan = Scan(
            SEGMENT_FRAME_BYTES,
            segment.first_version - 1,
            segment.chain,
            max(segment.synced, self.scan.synced),
        )

    def _scan_tail(self) -> None:
        last = self.pieces[-1]
        assert last.index is not None
        read = reader_of(self.files, last.segment.name)
        self.scan.fault = None
        for commit in scan_commits(read, last.segment, self.scan, self.manifest.ids):
            last.index.append(commit.record, commit.offset, commit.logged_bytes)

    def refresh(self) -> None:
        """See what the writer has added since; a bad tail is one that is still being written."""
        while True:
            if self.pieces:
                self._scan_tail()
            number = self.pieces[-1].segment.number if self.pieces else 0
            segments, _ = find_segments(self.files, self.place)
            following = [s for s in segments if s.number > number]
            if not following:
                return
            if self.pieces and not self._continues(following[0]):
                self._open()
                return
            self.enter_segment(following[0])

    def _continues(self, segment: Segment) -> bool:
        last = self.pieces[-1].segment
        return segment.previous == last.number and segment.base == last.base + self.scan.offset

    @property
    def version(self) -> int:
        """The newest version; 0 for an empty log."""
        return self.scan.version

    @property
    def first_version(self) -> int:
        """The oldest version that the log holds."""
        return self.pieces[0].segment.first_version if self.pieces else 1

    @property
    def position(self) -> int:
        """Where in the log the newest commit ends, in bytes."""
        return self.pieces[-1].segment.base + self.scan.offset if self.pieces else 0

    @property
    def durable_version(self) -> int:
        """The newest version that is known to survive a power cut."""
        for piece in reversed(self.pieces):
            if piece.segment.base < self.scan.synced:
                index = self.index_of(piece)
                limit = self.scan.synced - piece.segment.base
                return piece.segment.first_version - 1 + index.count_before(limit)
        return 0

    def index_of(self, piece: Piece) -> SegmentIndex:
        """The index of a segment: from its sidecar, or from a scan where that does not fit."""
        if piece.index is None:
            piece.index = self._load_index(piece) or self._scan_index(piece)
        return piece.index

    def _load_index(self, piece: Piece) -> SegmentIndex | None:
        following = self.pieces[self.pieces.index(piece) + 1].segment
        with contextlib.suppress(OSError, BadFrameError, ValueError):
            read = reader_of(self.files, piece.segment.index_name)
            header = read_header(read, 0, 0)
            if header.kind == Kind.INDEX:
                meta = read_meta(read, 0, header)
                index = SegmentIndex.decode(meta, following.chain, piece.segment.first_version)
                if index.last_version == following.first_version - 1:
                    return index
        return None

    def _scan_index(self, piece: Piece) -> SegmentIndex:
        segment, index = piece.segment, SegmentIndex(piece.segment.first_version)
        scan = Scan(SEGMENT_FRAME_BYTES, segment.first_version - 1, segment.chain, 0)
        read = reader_of(self.files, segment.name)
        ids = self.manifest.ids
        for commit in scan_commits(read, segment, scan, ids, piece.end_offset, check_data=False):
            index.append(commit.record, commit.offset, commit.logged_bytes)
        if scan.fault:
            raise self.damaged(segment, scan.offset, scan.fault)
        return index

    def write_index(self, piece: Piece) -> None:
        """Put the sidecar of a sealed segment beside it."""
        following = self.pieces[self.pieces.index(piece) + 1].segment
        assert piece.end_offset is not None
        meta = self.index_of(piece).encode(following.chain, piece.end_offset)
        frame = build_frame(Kind.INDEX, 0, 0, meta, must_understand=False)[1]
        self.files.publish(piece.segment.index_name, frame)

    def damaged(self, segment: Segment, offset: int, fault: str) -> CorruptionError:
        """The error for bytes at ``offset`` of a segment that are not what was written."""
        return CorruptionError(
            f"{self.place}/{segment.name} is damaged at byte {offset}: {fault}. What was written "
            f"there durably does not read back. Restore the file from a copy, or open the log "
            f"with mode='r', salvage=True to read the versions before the damage."
        )

    def piece_of(self, version: int) -> Piece:
        """The segment that holds ``version``.

        Raises:
            VersionError: the log does not have that version.
        """
        if not self.first_version <= version <= self.version:
            raise self.no_version(version)
        starts = [piece.segment.first_version for piece in self.pieces]
        return self.pieces[bisect.bisect_right(starts, version) - 1]

    def no_version(self, version: int) -> VersionError:
        """The error for a version that is not there, with the nearest that is."""
        if not self.version:
            return VersionError(f"version {version} does not exist: the log is empty")
        nearest = min(max(version, self.first_version), self.version)
        return VersionError(
            f"version {version} does not exist. The log has versions {self.first_version} to "
            f"{self.version}; the nearest is {nearest}."
        )

    def row(self, version: int) -> IndexRow:
        """What the index says of ``version``."""
        return self.index_of(self.piece_of(version)).row(version)

    def record(self, version: int) -> CommitRecord:
        """What the commit says of itself; reads none of its data.

        Raises:
            VersionError: no such version.
            CorruptionError: its frame does not read back.
        """
        return self._find(version).record

    def _find(self, version: int) -> "_Found":
        piece = self.piece_of(version)
        offset = self.index_of(piece).offset(version)
        read = reader_of(self.files, piece.segment.name)
        try:
            header = read_header(read, offset, piece.segment.base + offset)
            meta = read_meta(read, offset, header)
            record = CommitRecord.decode(meta)
            if header.kind != Kind.COMMIT or record.version != version:
                raise BadFrameError(f"the commit of version {version} is not where it should be")
            if record.log_id != self.manifest.ids.of(version):
                raise BadFrameError(f"the commit of version {version} is of another log")
        except BadFrameError as error:
            raise self.damaged(piece.segment, offset, str(error)) from error
        chain = chain_after(record.previous_chain, meta, header.data_hash)
        return _Found(record, piece, offset, chain)

    def end_of(self, version: int) -> int:
        """Where in its segment's file the commit of ``version`` ends."""
        found = self._find(version)
        read = reader_of(self.files, found.piece.segment.name)
        return found.offset + read_header(read, found.offset, None).frame_bytes

    def chain_after(self, version: int) -> bytes:
        """The chain after the commit of ``version``."""
        return self._find(version).chain

    def _chunks(self, found: "_Found") -> list[memoryview]:
        segment = found.piece.segment
        read = reader_of(self.files, segment.name)
        try:
            parts = read_parts(read, segment.base, found.offset, found.record)
            return chunk_views(found.record, parts)
        except BadFrameError as error:
            raise self.damaged(segment, found.offset, str(error)) from error

    def extra(self, version: int) -> tuple[bytes | None, int]:
        """The caller's ``extra`` of a commit (None: there is none), and the commit's flags."""
        found = self._find(version)
        records = found.record.records
        place = np.flatnonzero(records["id"] == EXTRA_ID)
        if not place.size:
            return None, found.record.flags
        start = int(records["chunks"][: place[0]].sum())
        span = slice(start, start + int(records["chunks"][place[0]]))
        parts = self._chunks(found)[span]
        try:
            blob = read_blob(found.record.chunks[span], parts, MAX_EXTRA_BYTES)
        except BadFrameError as error:
            raise self.damaged(found.piece.segment, found.offset, str(error)) from error
        return blob, found.record.flags

    def select(
        self,
        array: str | None = None,
        source: str | None = None,
        since: int | None = None,
        until: int | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[int]:
        """Versions, oldest first; ``since`` and ``until`` are inclusive, as ``start_ns`` is."""
        low = max(self.first_version, 0 if since is None else since)
        high = self.version if until is None else min(until, self.version)
        ids = None if array is None else self.ids_named(array, low, high)
        for piece in list(self.pieces):
            index = self.index_of(piece)
            if index.last_version < low or index.first_version > high:
                continue
            for version in index.select(ids, source, start_ns, end_ns):
                if low <= version <= high:
                    yield version

    def ids_named(self, name: str, low: int, high: int) -> list[int]:
        """Ids of every array that was called ``name`` while it was touched in ``low … high``."""
        touched: set[int] = set()
        for piece in self.pieces:
            index = self.index_of(piece)
            if index.last_version >= low and index.first_version <= high:
                touched |= index.touched_ids()
        return [i for i in touched if self.name_of(i) == name]

    def name_of(self, array_id: int) -> str:
        """The name of an array, live or deleted."""
        if array_id not in self._names:
            for piece in self.pieces:
                for version in self.index_of(piece).versions_with_ops(self._named_through):
                    for op in self.record(version).ops:
                        self._names[op.info.id] = op.info.name
            self._named_through = self.version
        return self._names[array_id]

    def last_with(self, step: int | None = None, time_ns: int | None = None) -> int:
        """The newest version of ``step``, or the newest not after ``time_ns``.

        Raises:
            VersionError: there is none; the message names the nearest.
        """
        for piece in reversed(self.pieces):
            found = self.index_of(piece).last_with(step, time_ns)
            if found is not None:
                return found
        if not self.version:
            raise VersionError("the log is empty: there is no version to find")
        if step is not None:
            steps = np.concatenate([self.index_of(piece).steps() for piece in self.pieces])
            if not steps.size:
                raise VersionError(f"no commit has a step; step={step} does not exist")
            nearest = int(steps[np.abs(steps - step).argmin()])
            raise VersionError(f"step {step} does not exist; the nearest step is {nearest}")
        first = self.row(self.first_version).time_ns
        raise VersionError(
            f"time_ns={time_ns} is before the first commit; the earliest is time_ns={first}"
        )

    def snapshots(self) -> list[int]:
        """Versions of which there is a snapshot, ascending."""
        return [version for version in list_snapshots(self.files) if version <= self.version]

    def table(self, version: int) -> Table:
        """The arrays, constants and digests at ``version``; reads no array's bytes."""
        if version == 0:
            return Table(self.manifest.ids.own)
        self.piece_of(version)
        state = self._start(version, lambda _: False, None, with_data=False)
        self.advance(state, version)
        return state.table

    def state(
        self,
        version: int,
        wanted: Callable[[str], bool] | None = None,
        page_bytes: int | None = None,
        check: bool = True,
        executor: Executor | None = None,
    ) -> StoredState:
        """The state at ``version``, from the nearest snapshot and the commits behind it.

        Args:
            version: 0 is the empty state.
            wanted: which arrays to hold, by name; None for all.
            page_bytes: to keep the versions of pages; None to leave them.
            check: whether to compare the digest of every array held, from scratch.
            executor: where to decode and check side by side.

        Raises:
            VersionError: no such version.
            CorruptionError: a commit on the way does not read back, or the digest differs.
        """
        if version == 0:
            return StoredState(self.manifest.ids.own, wanted, page_bytes)
        self.piece_of(version)
        state = self._start(version, wanted, page_bytes)
        self.advance(state, version, executor)
        if check:
            try:
                state.check_digest(executor)
            except BadFrameError as error:
                raise CorruptionError(
                    f"{self.place}: {error}. Its frames are whole: a snapshot or several frames "
                    f"were changed together. Run `mmsb verify` on it."
                ) from error
        return state

    def _start(
        self,
        version: int,
        wanted: Callable[[str], bool] | None,
        page_bytes: int | None,
        with_data: bool = True,
    ) -> StoredState:
        """The newest snapshot at or before ``version`` that is whole; else the empty state."""
        for candidate in reversed(self.snapshots()):
            if candidate <= version:
                # A snapshot saves time; a damaged one costs it. `verify` reports it.
                with contextlib.suppress(BadFrameError, FileNotFoundError):
                    return read_snapshot(
                        self.files, candidate, self.manifest.ids, wanted, page_bytes, with_data
                    )[0]
        if self.first_version != 1:
            raise CorruptionError(
                f"{self.place}: version {version} needs a snapshot, and none at or before it is "
                f"whole. Restore the folder snapshots from a copy."
            )
        return StoredState(self.manifest.ids.of(1), wanted, page_bytes)

    def advance(self, state: StoredState, version: int, executor: Executor | None = None) -> None:
        """Bring ``state`` forward to ``version``; its bytes are spent where this raises."""
        commits = [self._find(v) for v in range(state.table.version + 1, version + 1)]
        skips = _replaced_later([found.record for found in commits])
        for found, skip in zip(commits, skips, strict=True):
            try:
                if found.record.previous_chain != state.table.chain:
                    raise BadFrameError(
                        f"version {found.record.version} does not continue what is before it"
                    )
                state.apply(
                    found.record,
                    found.chain,
                    lambda found=found: self._chunks(found),
                    () if state.keeps_page_versions else skip,
                )
            except BadFrameError as error:
                raise self.damaged(found.piece.segment, found.offset, str(error)) from error

    def arrays_of(self, record: CommitRecord) -> list[str]:
        """Names of the arrays that a commit changed a byte of."""
        rows = record.records
        changed = rows[(rows["changed"] > 0) & (rows["id"] != EXTRA_ID)]
        return sorted(self.name_of(int(i)) for i in changed["id"])


def _replaced_later(records: list[CommitRecord]) -> list[set[int]]:
    """For each commit, the arrays whose bytes a later full record gives anyway."""
    skips: list[set[int]] = []
    replaced: set[int] = set()
    for record in reversed(records):
        skips.append(set(replaced))
        rows = record.records
        full = (rows["flags"] & (FULL | PAGE_VERSIONS)) == FULL
        replaced |= set(rows["id"][full].tolist())
    return skips[::-1]
