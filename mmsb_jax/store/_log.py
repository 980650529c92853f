"""The log as a reader sees it: which commits there are, what each says, the state after any."""

import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import numpy as np

from mmsb_jax._errors import CorruptionError, FormatError, VersionError
from mmsb_jax.store._codec import read_blob
from mmsb_jax.store._files import Files
from mmsb_jax.store._format import BadFrameError, Kind, build_frame, read_header, read_meta
from mmsb_jax.store._frames import chunk_views, read_parts
from mmsb_jax.store._index import IndexRow, SegmentIndex
from mmsb_jax.store._manifest import Manifest
from mmsb_jax.store._record import DIGEST_ONLY, EXTRA_ID, CommitRecord
from mmsb_jax.store._recovery import (
    find_segments,
    leave_out_torn,
    settle_tail,
    snapshot_mark,
)
from mmsb_jax.store._replay import advance, replay
from mmsb_jax.store._segment import (
    Found,
    Piece,
    Scan,
    Segment,
    chain_after,
    reader_of,
    scan_commits,
)
from mmsb_jax.store._snapshot import list_snapshots
from mmsb_jax.store._state import StoredState, Table

MAX_EXTRA_BYTES = 1 << 40


class Log:
    """A log, opened to read. Its writer holds one too, and enters what it appends.

    Args:
        files: the log's directory.
        place: what to call it in messages.
        salvage: open what is whole before a damage, instead of refusing.

    Attributes:
        recovered: what recovery found and left out; empty when all was well.
        pieces: the segments, oldest first; there is at least one.
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
        """Look until the same place is bad twice: a writer may go on while a reader looks."""
        seen = ""
        while (damage := self._look()) is not None:
            if str(damage) == seen:
                if not self._salvage:
                    raise damage
                self.recovered.append(seen)
                return
            seen = str(damage)

    def _look(self) -> CorruptionError | None:
        """Find where the log ends; returns what is damaged there, if anything."""
        segments, self.recovered = find_segments(self.files, self.place, self.manifest.ids)
        self.pieces = [
            Piece(segment, following.base - segment.base, None)
            for segment, following in itertools.pairwise(segments)
        ]
        self.enter_segment(segments[-1])
        self._scan_tail()
        mark = max(self.scan.synced, snapshot_mark(self))
        leave_out_torn(self, mark)
        return settle_tail(self, mark)

    def enter_segment(self, segment: Segment) -> None:
        """Go on in ``segment``, which is the last from now on."""
        if self.pieces:
            self.pieces[-1].end_offset = segment.base - self.pieces[-1].segment.base
        self.pieces.append(Piece(segment, None, SegmentIndex(segment.first_version)))
        self.scan = segment.start()

    def go_back(self, place: int) -> None:
        """Take the segment at ``place`` as the last, and forget those behind it."""
        segment, synced = self.pieces[place].segment, self.scan.synced
        self.pieces[place:] = []
        self.enter_segment(segment)
        self.scan.synced = synced
        self._scan_tail()

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
            self._scan_tail()
            number = self.pieces[-1].segment.number
            segments, _ = find_segments(self.files, self.place, self.manifest.ids)
            following = [s for s in segments if s.number > number]
            if not following:
                return
            if not self._continues(following[0]):
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
        return self.pieces[0].segment.first_version

    @property
    def position(self) -> int:
        """Where in the log its last whole frame ends, in bytes."""
        return self.pieces[-1].segment.base + self.scan.offset

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
        """The index of a segment: from its sidecar, or from a scan where that does not fit.

        Raises:
            CorruptionError: the segment is damaged (with ``salvage``: its index ends there).
        """
        if piece.index is None:
            piece.index = self._load_index(piece) or self._scan_index(piece)
        if piece.damage is not None and not self._salvage:
            raise piece.damage
        return piece.index

    def _load_index(self, piece: Piece) -> SegmentIndex | None:
        segment, following = piece.segment, self._following(piece)
        with contextlib.suppress(OSError, BadFrameError, FormatError):
            read = reader_of(self.files, segment.index_name)
            header = read_header(read, 0, 0)
            if header.kind == Kind.INDEX:
                index = SegmentIndex.decode(
                    read_meta(read, 0, header),
                    following.chain,
                    segment.first_version,
                    following.base - segment.base,
                )
                if index.last_version == following.first_version - 1 and (
                    self._leads_on(piece, index)
                ):
                    return index
        return None

    def _leads_on(self, piece: Piece, index: SegmentIndex) -> bool:
        """Whether the newest commit of a segment, where it is whole, leads to the next segment.

        Where it does not, the file is one of a copy of the log that went another way.
        """
        if not len(index):
            return piece.segment.chain == self._following(piece).chain
        with contextlib.suppress(OSError, BadFrameError):
            found = self._read_commit(piece, index.offset(index.last_version))
            return found.chain == self._following(piece).chain
        return True

    def _scan_index(self, piece: Piece) -> SegmentIndex:
        scan, index = self.scan_piece(piece, check_data=False)
        if scan.fault is not None:
            piece.damage = self.damaged(piece.segment, scan.offset, scan.fault)
            if self._salvage:
                self.recovered.append(str(piece.damage))
        return index

    def scan_piece(self, piece: Piece, check_data: bool = True) -> tuple[Scan, SegmentIndex]:
        """Walk a segment from its beginning; the scan says what is wrong in it, if anything."""
        segment, index = piece.segment, SegmentIndex(piece.segment.first_version)
        scan, read = segment.start(), reader_of(self.files, segment.name)
        end = self.scan.offset if piece is self.pieces[-1] else piece.end_offset
        for commit in scan_commits(read, segment, scan, self.manifest.ids, end, check_data):
            index.append(commit.record, commit.offset, commit.logged_bytes)
        if scan.fault is None and piece is not self.pieces[-1]:
            following = self._following(piece)
            if (scan.version + 1, scan.chain) != (following.first_version, following.chain):
                scan.fault = f"segment {following.number} continues another history"
                index = SegmentIndex(segment.first_version)
        return scan, index

    def _following(self, piece: Piece) -> Segment:
        return self.pieces[self.pieces.index(piece) + 1].segment

    def write_index(self, piece: Piece) -> None:
        """Put the sidecar of a sealed segment beside it."""
        assert piece.end_offset is not None
        meta = self.index_of(piece).encode(self._following(piece).chain, piece.end_offset)
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
        """What the index says of ``version``.

        Raises:
            VersionError: no such version.
            CorruptionError: it is behind a damage in its segment.
        """
        return self._index_with(version)[1].row(version)

    def _index_with(self, version: int) -> tuple[Piece, SegmentIndex]:
        piece = self.piece_of(version)
        index = self.index_of(piece)
        if version > index.last_version:
            assert piece.damage is not None
            raise piece.damage
        return piece, index

    def record(self, version: int) -> CommitRecord:
        """What the commit says of itself; reads none of its data.

        Raises:
            VersionError: no such version.
            CorruptionError: its frame does not read back.
        """
        return self.find(version).record

    def find(self, version: int) -> Found:
        """The commit of ``version``; reads none of its data.

        Raises:
            VersionError: no such version.
            CorruptionError: its frame does not read back.
        """
        piece, index = self._index_with(version)
        offset = index.offset(version)
        try:
            found = self._read_commit(piece, offset)
            if found.record.version != version:
                raise BadFrameError(f"the commit of version {version} is not where it should be")
            if found.record.log_id != self.manifest.ids.of(version):
                raise BadFrameError(f"the commit of version {version} is of another log")
        except (BadFrameError, OSError) as error:
            raise self.damaged(piece.segment, offset, str(error)) from error
        return found

    def _read_commit(self, piece: Piece, offset: int) -> Found:
        read = reader_of(self.files, piece.segment.name)
        header = read_header(read, offset, piece.segment.base + offset)
        if header.kind != Kind.COMMIT:
            raise BadFrameError(f"a frame of kind {header.kind} where a commit should be")
        meta = read_meta(read, offset, header)
        record = CommitRecord.decode(meta)
        chain = chain_after(record.previous_chain, meta, header.data_hash)
        return Found(record, piece, offset, offset + header.frame_bytes, chain)

    def chain_after(self, version: int) -> bytes:
        """The chain after the commit of ``version``."""
        return self.find(version).chain

    def chunks_of(self, found: Found) -> list[memoryview]:
        """The data of a commit, one view a chunk, in order.

        Raises:
            CorruptionError: they do not read back.
        """
        segment = found.piece.segment
        read = reader_of(self.files, segment.name)
        try:
            parts = read_parts(read, segment.base, found.offset, found.record)
            return chunk_views(found.record, parts)
        except (BadFrameError, OSError) as error:
            raise self.damaged(segment, found.offset, str(error)) from error

    def extra(self, version: int) -> tuple[bytes | None, int]:
        """The caller's ``extra`` of a commit (None: there is none), and the commit's flags."""
        found = self.find(version)
        records = found.record.records
        place = np.flatnonzero(records["id"] == EXTRA_ID)
        if not place.size:
            return None, found.record.flags
        start = int(records["chunks"][: place[0]].sum())
        span = slice(start, start + int(records["chunks"][place[0]]))
        parts = self.chunks_of(found)[span]
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
        """The name of an array, live or deleted.

        Raises:
            CorruptionError: no commit ever made such an array.
        """
        if array_id not in self._names:
            through = self.version
            for piece in self.pieces:
                for version in self.index_of(piece).versions_with_ops(self._named_through):
                    for op in self.record(version).ops:
                        self._names[op.info.id] = op.info.name
            self._named_through = through
        if array_id not in self._names:
            raise CorruptionError(
                f"{self.place}: a commit touches array {array_id}, which no commit ever made"
            )
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
            nearest = min(steps.tolist(), key=lambda known: abs(known - step))
            raise VersionError(f"step {step} does not exist; the nearest step is {nearest}")
        indexes = map(self.index_of, self.pieces)
        earliest = min(index.earliest_ns() for index in indexes if len(index))
        raise VersionError(
            f"time_ns={time_ns} is before every commit; the earliest is time_ns={earliest}"
        )

    def snapshots(self) -> list[int]:
        """Versions of which there is a snapshot, ascending."""
        return [version for version in list_snapshots(self.files) if version <= self.version]

    def table(self, version: int) -> Table:
        """The arrays, constants and digests at ``version``; reads no array's bytes."""
        if version == 0:
            return Table(self.manifest.ids.own)
        return replay(self, version, lambda _: False, None, with_data=False)[0].table

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
        state, newest = replay(self, version, wanted, page_bytes, executor=executor)
        if newest.record.flags & DIGEST_ONLY:
            raise VersionError(f"version {version} holds a digest only: its bytes were not logged")
        if check:
            try:
                state.check_digest(executor)
            except BadFrameError as error:
                raise CorruptionError(
                    f"{self.place}: {error}. Its frames are whole: a snapshot or several frames "
                    f"were changed together. Run `mmsb verify` on it."
                ) from error
        return state

    def advance(self, state: StoredState, version: int) -> None:
        """Bring ``state`` forward to ``version``; its bytes are spent where this raises."""
        advance(self, state, version)

    def arrays_of(self, record: CommitRecord) -> list[str]:
        """Names of the arrays that a commit changed a byte of."""
        rows = record.records
        changed = rows[(rows["changed"] > 0) & (rows["id"] != EXTRA_ID)]
        return sorted(self.name_of(int(i)) for i in changed["id"])
