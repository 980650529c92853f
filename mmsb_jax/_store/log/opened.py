"""The files of an opened log: the segments and archives that make it, and looking at them again.

A writer may append, rotate and compact while a reader looks. So what is read is read again where a
compaction has taken a file away in the meantime: the manifest says what is there instead.
"""

import contextlib
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from mmsb_jax._base.errors import (
    ClosedError,
    CorruptionError,
    DivergenceError,
    FormatError,
    LocationError,
    VersionError,
)
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.chain import OTHER_HISTORY, chain_after
from mmsb_jax._store.format.frame import BadFrameError, Kind, read_header, read_meta, reader_of
from mmsb_jax._store.format.index import SegmentIndex
from mmsb_jax._store.format.manifest import Compaction, Manifest
from mmsb_jax._store.format.names import LOG_FOLDER
from mmsb_jax._store.format.record import CommitRecord
from mmsb_jax._store.log.archive import Archive, Unpacked
from mmsb_jax._store.log.identity import Place, place_of
from mmsb_jax._store.log.recovery import find_segments, newest_number, snapshot_mark
from mmsb_jax._store.log.segment import (
    LogSegment,
    Scan,
    Segment,
    StoredCommit,
    newest_mark_behind,
    scan_commits,
)

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True, eq=False)
class LogView:
    """What a log is made of. A compaction puts another in its place, at once."""

    compaction: Compaction | None
    archives: tuple[Archive, ...]
    pieces: list[LogSegment]


class OpenedLog(ABC):
    """The files of a log; see `Log`."""

    def __init__(self, files: Files, place: str, salvage: bool = False) -> None:
        self.files = files
        self.place = place
        before = Place()
        with contextlib.suppress(FileNotFoundError):  # what reads the manifest says it better
            before = place_of(files)
        self.manifest = Manifest.read(files, place)
        self.recovered: list[str] = []
        self.view = LogView(None, (), [])
        self.scan = Scan(0, 0, bytes(16), 0)
        self.is_written_here = False
        self._salvage = salvage
        self._looking = threading.RLock()
        self._is_doubtful = False
        self._known = 0, bytes(16)
        self._open()
        self._stands = self._look_at_place().in_(before)

    @property
    def pieces(self) -> list[LogSegment]:
        """The segments, oldest first; there is at least one."""
        return self.view.pieces

    @property
    def parts(self) -> list[Archive | LogSegment]:
        """All that has an index, oldest first: the archives, then the segments."""
        view = self.view
        return [*view.archives, *view.pieces]

    @property
    def version(self) -> int:
        """The newest version; 0 for an empty log."""
        return self.scan.version

    @property
    def position(self) -> int:
        """Where in the log its last whole frame ends, in bytes."""
        return self.pieces[-1].segment.base + self.scan.offset

    @abstractmethod
    def chain_at(self, version: int) -> bytes:
        """The chain after ``version``."""

    def _open(self) -> None:
        """Look until the same place is bad twice: a writer may go on while a reader looks."""
        seen = ""
        while True:
            try:
                damage = self._look()
            except (CorruptionError, FileNotFoundError):
                if not self._read_manifest():
                    raise
                continue
            if damage is None:
                return
            if str(damage) != seen:
                seen = str(damage)
            elif self._read_manifest():
                seen = ""
            elif self._salvage:
                self.recovered.append(seen)
                return
            else:
                raise damage

    def _look(self) -> CorruptionError | None:
        """Find where the log ends; returns what is damaged there, if anything."""
        manifest = self.manifest
        segments, self.recovered = find_segments(self.files, self.place, manifest)
        compaction = manifest.compaction
        entries = () if compaction is None else compaction.archives
        unpacked = Unpacked()
        archives = (Archive(self.files, self.place, entry, unpacked) for entry in entries)
        pieces = [
            LogSegment(segment, following.base - segment.base, None)
            for segment, following in itertools.pairwise(segments)
        ]
        self.view = LogView(compaction, tuple(archives), pieces)
        self.enter_segment(segments[-1])
        self._scan_tail()
        mark = max(self.scan.synced, snapshot_mark(self.files, manifest.ids))
        self._leave_out_torn(mark)
        return self._settle_tail(mark)

    def _leave_out_torn(self, mark: int) -> None:
        """Leave out the segments behind one whose end was not durable and is not whole.

        A segment is begun before the one that it continues is synced. Only where ``mark``, the
        newest known, does not cover that one's end is it read here: after a crash that soon.
        """
        for place, piece in enumerate(self.pieces[:-1]):
            if piece.end > mark and self.scan_piece(piece)[0].fault is not None:
                later = [other.segment.name for other in self.pieces[place + 1 :]]
                self.recovered.append(
                    f"{', '.join(later)}: what it continues was not durable and is not whole; "
                    f"left out"
                )
                self.go_back(place)
                return

    def _settle_tail(self, mark: int) -> CorruptionError | None:
        """Judge what is behind the newest whole commit: report a torn tail, return damage.

        ``mark`` is the newest position up to which the log is known to have been durable.
        """
        last, scan = self.pieces[-1].segment, self.scan
        if scan.fault is not None:
            read = reader_of(self.files, last.name)
            mark = max(mark, newest_mark_behind(read, last, scan.offset))
        if mark > self.position:
            fault = scan.fault or "the file ends before what was written durably"
            return self.damaged(last, scan.offset, fault)
        if scan.fault is not None:
            size = self.files.size(last.name)
            self.recovered.append(
                f"{last.name}: {size - scan.offset} bytes at {scan.offset} are not a whole commit "
                f"({scan.fault}); they were not durable, and are left out"
            )
        return None

    def _read_manifest(self) -> bool:
        """Whether the manifest says something else by now; it is taken over then."""
        manifest = Manifest.read(self.files, self.place)
        if manifest == self.manifest:
            return False
        self.manifest = manifest
        return True

    def replace_manifest(
        self, manifest: Manifest, poison: Callable[[str], ClosedError], view: LogView | None = None
    ) -> None:
        """Replace the manifest, durably.

        Args:
            manifest: the new one.
            poison: called where nobody knows which one is in force now: what is written from then
                on could be read as of another history.
            view: what the log is made of then; as before for None.
        """
        before = self.manifest
        try:
            manifest.publish(self.files)
            self.manifest, self.view = manifest, self.view if view is None else view
        except OSError as error:  # an interrupt is made good by the next call: see `LogWriter`
            if self.is_in_force(before):
                raise
            raise poison(f"the manifest may or may not be replaced: {error!r}") from error

    def is_in_force(self, manifest: Manifest) -> bool:
        """Whether that on disk is known to be ``manifest``."""
        try:
            return Manifest.read(self.files, self.place) == manifest
        except Exception:
            return False

    def reload(self) -> bool:
        """Open the log anew where a compaction has changed it; whether one has."""
        with self._looking:
            if self.is_written_here or Manifest.read(self.files, self.place) == self.manifest:
                return False
            self._go_on_from_here(self.scan.version, self.scan.chain)
            return True

    def open_anew(self) -> None:
        """Open the log beside this one, and take its place: other threads read this one."""
        self._take_over(self._opened_again())

    def _opened_again(self) -> Self:
        return type(self)(self.files, self.place, self._salvage)

    def _take_over(self, fresh: "OpenedLog") -> None:
        self.manifest, self.recovered = fresh.manifest, fresh.recovered
        self.view = fresh.view
        self.scan = fresh.scan
        self._stands, self._is_doubtful = fresh._stands, False

    def retry_if_compacted(self, read: Callable[[], Read]) -> Read:
        """What ``read`` gives: again, where a compaction took a file away from under it."""
        while True:
            view = self.view
            try:
                return read()
            except (CorruptionError, FileNotFoundError, VersionError) as error:
                with self._looking:
                    if self.view is not view:
                        continue  # it was noticed in there, or by another thread
                    if isinstance(error, VersionError) or not self.reload():
                        raise

    def newest_number(self) -> int:
        """The highest number that a segment's file has, whether the log has it or not."""
        return max(newest_number(self.files.names(LOG_FOLDER)), self.pieces[-1].segment.number)

    def enter_segment(self, segment: Segment) -> None:
        """Go on in ``segment``, which is the last from now on."""
        if self.pieces:
            self.pieces[-1].end_offset = segment.base - self.pieces[-1].segment.base
        self.pieces.append(LogSegment(segment, None, SegmentIndex(segment.first_version)))
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
        last.index.tags |= self.scan.tags

    def refresh(self) -> None:
        """See what the writer has added since; a bad tail is one that is still being written."""
        with self._looking:
            self.check_place()
            if self._is_doubtful:  # an interrupt, or an error, ended the last look halfway
                self._go_on_from_here(*self._known)
            self._known = self.scan.version, self.scan.chain
            self._is_doubtful, newest = True, self.pieces[-1].segment
            self.retry_if_compacted(self._go_on)
            if self.pieces[-1].segment is not newest:
                self._stands = self._look_at_place().in_(self._stands)
            self._is_doubtful = False

    def check_place(self) -> None:
        """See that what is at the path is still this log, and goes on from where it was read.

        Cost: about 5 µs; where files were replaced the log is opened anew.
        """
        with self._looking:
            now = self._look_at_place()
            if now.is_same(self._stands) and now.segment_bytes >= self._least_bytes():
                return
            self._go_on_from_here(self.scan.version, self.scan.chain)

    def _go_on_from_here(self, version: int, chain: bytes) -> None:
        """Open what is at the path by now, and take it over where it goes on from ``version``."""
        self.files.close()  # what is open are the files that were there before
        manifest = Manifest.read(self.files, self.place)
        if manifest.ids.own != self.manifest.ids.own:
            raise self._diverged("another log was put in its place")
        fresh = self._opened_again()
        if fresh.version < version:
            raise self._diverged(
                f"it ends at version {fresh.version} now, and had {version}: it lost its end, "
                f"or a copy was put back"
            )
        if fresh.chain_at(version) != chain:
            raise self._diverged(f"it went another way at version {version} or before")
        self._take_over(fresh)

    def check_place_written(self) -> None:
        """See that what is at the path is the log that is written here."""
        if not isinstance(self.files, DiskFiles):
            return
        now, stands = self._look_at_place(), self._stands
        if now.directory != stands.directory:
            raise self._diverged("another directory is at its path")
        if now.manifest != stands.manifest:  # by this writer, or by somebody else
            manifest = Manifest.read(self.files, self.place)
            if manifest.ids.own != self.manifest.ids.own:
                raise self._diverged("another log was put in its place")
        self._stands = now

    def _least_bytes(self) -> int:
        return self.scan.offset if isinstance(self.files, DiskFiles) else 0

    def _look_at_place(self) -> Place:
        try:
            return place_of(self.files, self.pieces[-1].segment.name)
        except FileNotFoundError as error:
            if self._is_there():
                return Place()  # a file of it was replaced: it is looked at anew
            raise LocationError(
                error.errno,
                f"{self.place} is not there any more: it was removed or moved while it was open. "
                f"Open the log where it is now.",
            ) from error

    def _is_there(self) -> bool:
        try:
            Manifest.read(self.files, self.place)
        except LocationError:
            return False
        return True

    def _diverged(self, fault: str) -> DivergenceError:
        return DivergenceError(
            f"{self.place} is not the log that was opened: {fault}. Open it again to read what is "
            f"there."
        )

    def _go_on(self) -> None:
        while True:
            compaction, names = self.manifest.compaction, self.files.names(LOG_FOLDER)
            if self.pieces[0].segment.name not in names and self.reload():
                return
            self._scan_tail()
            if self.scan.fault is not None and self._read_manifest():
                if self.manifest.compaction != compaction:
                    self._go_on_from_here(self.scan.version, self.scan.chain)
                    return
                continue  # others write the versions to come
            if (self.scan.fault or "").endswith(OTHER_HISTORY):  # the end was taken back since
                self._go_on_from_here(self.scan.version, self.scan.chain)
                return
            last = self.pieces[-1].segment
            if newest_number(names) <= last.number:
                return
            segments, _ = find_segments(self.files, self.place, self.manifest)
            following = [segment for segment in segments if segment.number > last.number]
            if not following:
                return
            if not self._continues(following[0]):
                self._go_on_from_here(self.scan.version, self.scan.chain)
                return
            self.enter_segment(following[0])

    def _continues(self, segment: Segment) -> bool:
        last, scan = self.pieces[-1].segment, self.scan
        return (segment.previous, segment.base, segment.first_version, segment.chain) == (
            last.number,
            last.base + scan.offset,
            scan.version + 1,
            scan.chain,
        )

    def index_of(self, part: Archive | LogSegment) -> SegmentIndex:
        """The index of a part: of a segment from its sidecar, or from a scan where none fits."""
        if isinstance(part, Archive):
            return part.index
        index = part.index  # held: the writer's thread forgets it once it is on disk
        if index is None:
            index = part.index = self._load_index(part) or self._scan_index(part)
        if part.damage is not None and not self._salvage:
            raise part.damage
        return index

    def _load_index(self, piece: LogSegment) -> SegmentIndex | None:
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

    def _leads_on(self, piece: LogSegment, index: SegmentIndex) -> bool:
        """Whether the newest commit of a segment, where it is whole, leads to the next segment.

        Where it does not, the file is one of a copy of the log that went another way.
        """
        if not len(index):
            return piece.segment.chain == self._following(piece).chain
        with contextlib.suppress(BadFrameError):
            found = self._read_commit(piece, index.offset(index.last_version))
            return found.chain == self._following(piece).chain
        return True

    def _scan_index(self, piece: LogSegment) -> SegmentIndex:
        scan, index = self.scan_piece(piece, check_data=False)
        if scan.fault is not None:
            piece.damage = self.damaged(piece.segment, scan.offset, scan.fault)
            if self._salvage:
                self.recovered.append(str(piece.damage))
        return index

    def scan_piece(self, piece: LogSegment, check_data: bool = True) -> tuple[Scan, SegmentIndex]:
        """Walk a segment from its beginning; the scan says what is wrong in it, if anything."""
        segment, index = piece.segment, SegmentIndex(piece.segment.first_version)
        scan, read = segment.start(), reader_of(self.files, segment.name)
        end = self.scan.offset if piece is self.pieces[-1] else piece.end_offset
        for commit in scan_commits(read, segment, scan, self.manifest.ids, end, check_data):
            index.append(commit.record, commit.offset, commit.logged_bytes)
        index.tags |= scan.tags
        if scan.fault is None and piece is not self.pieces[-1]:
            following = self._following(piece)
            if (scan.version + 1, scan.chain) != (following.first_version, following.chain):
                scan.fault = f"segment {following.number} continues another history"
                index = SegmentIndex(segment.first_version)
        return scan, index

    def _following(self, piece: LogSegment) -> Segment:
        pieces = self.pieces
        if piece not in pieces:
            raise CorruptionError(f"{self.place}/{piece.segment.name} was compacted away")
        return pieces[pieces.index(piece) + 1].segment

    def write_index(self, piece: LogSegment) -> None:
        """Put the sidecar of a sealed segment beside it."""
        assert piece.end_offset is not None
        frame = self.index_of(piece).frame(self._following(piece).chain, piece.end_offset)
        self.files.publish(piece.segment.index_name, frame)

    def damaged(self, segment: Segment, offset: int, fault: str) -> CorruptionError:
        """The error for bytes at ``offset`` of a segment that are not what was written."""
        return CorruptionError(
            f"{self.place}/{segment.name} is damaged at byte {offset}: {fault}. What was written "
            f"there durably does not read back. Restore the file from a copy; or open the log "
            f"with mode='r', salvage=True to read the versions before the damage; or make a new "
            f"log of all that is whole with `mmsb repair`."
        )

    def _read_commit(self, piece: LogSegment, offset: int) -> StoredCommit:
        read = reader_of(self.files, piece.segment.name)
        header = read_header(read, offset, piece.segment.base + offset)
        if header.kind != Kind.COMMIT:
            raise BadFrameError(f"a frame of kind {header.kind} where a commit should be")
        meta = read_meta(read, offset, header)
        record = CommitRecord.decode(meta)
        chain = chain_after(record.previous_chain, meta, header.data_hash)
        end = offset + header.frame_bytes
        return StoredCommit(record, piece, offset, end, chain, meta, header.data_hash)
