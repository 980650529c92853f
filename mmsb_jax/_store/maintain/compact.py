"""Compaction: what is older than a version is folded into a snapshot, and its bytes are given up.

What comes of it is made beside the old files, under names that recovery passes over. One
replacement of the manifest makes them the log; before it nothing of the old is touched, after it
the old is removed. So a crash leaves the log as it was or as it is to be, and at most some files
that the next writer removes.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from mmsb_jax._base.errors import CorruptionError, FormatError
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.format.frame import BadFrameError, reader_of
from mmsb_jax._store.format.index import SegmentIndex
from mmsb_jax._store.format.manifest import ArchiveEntry, Compaction, Manifest
from mmsb_jax._store.format.names import (
    LOG_FOLDER,
    MANIFEST_NAME,
    NO_SEGMENT,
    SNAPSHOT_FOLDER,
    snapshot_name,
)
from mmsb_jax._store.log.archive import Archive, Archived, archive_frames
from mmsb_jax._store.log.in_force import carries_extra, stored_extra
from mmsb_jax._store.log.opened import LogView
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, LogSegment, Scan, Segment, scan_commits
from mmsb_jax._store.state.snapshot import read_snapshot_with_extra, snapshot_bytes, write_snapshot
from mmsb_jax._store.writer.cleanup import leftovers, remove_leftovers
from mmsb_jax._store.writer.writer import LogWriter, disk_error

_COPY_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did, or would do.

    Attributes:
        keep_since: the oldest version that is kept in full.
        kept: versions before it whose state is kept: the one right before it, tagged ones, and
            those that were asked for.
        dropped: versions whose data went; what their commits say is kept.
        bytes_before, bytes_after: bytes of the log's files; 0 after it where the disk does not say.
        dry_run: whether nothing was changed.
    """

    keep_since: int
    kept: tuple[int, ...]
    dropped: int
    bytes_before: int
    bytes_after: int
    dry_run: bool

    def __str__(self) -> str:
        states = ", ".join(map(str, self.kept)) or "none"
        verb = "would drop" if self.dry_run else "dropped"
        return (
            f"{verb} the data of {self.dropped:,} versions: {self.bytes_before:,} → "
            f"{self.bytes_after:,} bytes; kept in full from version {self.keep_since:,} on, and "
            f"of those before the states of {states}"
        )


def compact(
    writer: LogWriter,
    keep_since: int,
    *,
    also: Collection[int] = (),
    dry_run: bool = False,
    executor: Executor | None = None,
    began_segment: Callable[[], object] = lambda: None,
) -> CompactReport:
    """Give up the data of the versions before ``keep_since``, but for the states that are kept.

    Args:
        writer: the log's writer; nothing is appended meanwhile.
        keep_since: the oldest version to keep in full; older ones are kept up to where one has
            bytes.
        also: earlier versions whose state is to be kept too, beside tagged ones.
        dry_run: find out the sizes, and change nothing.
        executor: where to decode and digest side by side.
        began_segment: called once a new segment was begun; the cut goes through sealed ones only.

    Cost: a checkout of each state that is kept, one read of what the commits say that are dropped,
    one copy of the segment that the cut goes through. A dry run reads as much.
    """
    log = writer.log
    if not 1 <= keep_since <= log.version:
        raise log.no_version(keep_since)
    bytes_before = writer.while_still(lambda: sum(_sizes(log.files).values()))
    # The state before is kept as a snapshot: of the newest version that has bytes.
    keep_since = max(log.last_saved(keep_since - 1) + 1, log.kept_since)
    if keep_since > log.version:  # a fork behind a state that was kept, without a commit since
        return CompactReport(keep_since, log.kept, 0, bytes_before, bytes_before, dry_run)
    piece = log.piece_of(keep_since)
    is_cut = keep_since > piece.segment.first_version
    if is_cut and piece is log.pieces[-1] and not dry_run:
        writer.rotate()
        began_segment()
    if not dry_run:
        writer.sync()

    def work() -> CompactReport:
        work = _Work(writer, keep_since, executor, also)
        kept = work.kept
        if work.is_needed:
            bytes_after = work.rehearse() if dry_run else work.run()
        else:
            bytes_after = bytes_before
        return CompactReport(keep_since, kept, work.dropped, bytes_before, bytes_after, dry_run)

    return writer.while_still(work)


def compact_beside(
    writer: LogWriter, keep_since: int, also: Collection[int], executor: Executor | None = None
) -> bool:
    """`compact`, while commits go on: they wait only for the manifest to be replaced.

    Args:
        writer: the log's writer.
        keep_since: the first version of a segment, right behind one with bytes.
        also: earlier versions whose state is to be kept.
        executor: where to decode and digest side by side.

    Returns:
        Whether it was done: it is not where there is nothing to do, or a version that would be
        dropped was tagged meanwhile.
    """
    writer.sync()
    work = _Work(writer, keep_since, executor, also)
    return work.is_needed and work.run_beside()


def _sizes(files: Files) -> dict[str, int]:
    """The bytes of each file of a log."""
    names = [MANIFEST_NAME, *files.names(LOG_FOLDER), *files.names(SNAPSHOT_FOLDER)]
    return {name: files.size(name) for name in names}


class _Work:
    """One compaction: what there is to make, and the making of it."""

    def __init__(
        self,
        writer: LogWriter,
        keep_since: int,
        executor: Executor | None,
        also: Collection[int],
    ) -> None:
        log = writer.log
        self._writer, self._log, self._files = writer, log, log.files
        self._executor = executor
        self._page_bytes = log.manifest.page_bytes
        self._old = log.manifest
        self._before = log.manifest.compaction
        self._tags = log.tags()
        self._also = set(also)
        self._piece = log.piece_of(keep_since)
        self._is_cut = keep_since > self._piece.segment.first_version
        self._made: list[str] = []
        self._archives: list[Archive] = []
        self._first_piece: LogSegment | None = None
        self.keep_since = keep_since
        self.dropped = keep_since - log.kept_since
        self.kept = self._states_to_keep()

    @property
    def is_needed(self) -> bool:
        """Whether there is a version to drop, or a state that no tag names any more."""
        if self.dropped:
            return True
        return self._before is not None and self.kept != self._before.kept

    def _states_to_keep(self) -> tuple[int, ...]:
        log, base = self._log, self.keep_since - 1
        if not self.dropped and self._before is None:
            return ()
        named = {version for version in self._also.union(self._tags.values()) if version < base}
        there = {version for version in named if version >= log.kept_since or version in log.kept}
        return tuple(sorted(there | ({base} - {0})))

    # What is made: each as it is, or its size alone

    def rehearse(self) -> int:
        """The bytes of the log's files after the compaction."""
        sizes = _sizes(self._files)
        manifest = self._manifest(self._cut_segment())
        for version in self._snapshots_to_write():
            state = self._log.state(version, page_bytes=self._page_bytes, executor=self._executor)
            sizes[snapshot_name(version)] = snapshot_bytes(state, stored_extra(self._log, version))
        for entry in self._new_archives(manifest):
            sizes[entry.name] = sum(map(len, _flat(self._archive_frames(entry))))
        if self._is_cut:
            sizes |= self._cut_sizes()
        sizes[MANIFEST_NAME] = sum(map(len, manifest.frame()))
        for name in leftovers(self._files, manifest):
            sizes.pop(name, None)
        return sum(sizes.values())

    def _cut_sizes(self) -> dict[str, int]:
        """The cut segment, its index, and a new segment where it is cut from the last one."""
        log, piece, segment = self._log, self._piece, self._cut_segment()
        start, end = self._span()
        scan = Scan(start, self.keep_since - 1, segment.chain, segment.synced)
        index = self._scan(piece.segment, scan, end, check_data=False)
        size = SEGMENT_FRAME_BYTES + end - start
        following = replace(segment, first_version=index.last_version + 1, chain=scan.chain)
        frame = index.frame(following.chain, size)
        sizes = {segment.name: size, segment.index_name: sum(map(len, frame))}
        if piece is log.pieces[-1]:
            sizes["the new segment"] = SEGMENT_FRAME_BYTES
        return sizes

    def run(self) -> int:
        """Make it all, make it the log, remove the old; returns the bytes of the log's files."""
        with self._all_or_nothing():
            self._make()
            view = self._put_in_force()
        # It is done: what fails from here on only leaves files that the next writer removes.
        with contextlib.suppress(OSError):
            if self._is_cut:
                self._log.write_index(view.pieces[0])
        with contextlib.suppress(OSError):
            remove_leftovers(self._files, self._log.manifest)
        try:
            return sum(_sizes(self._files).values())
        except OSError:
            return 0

    def run_beside(self) -> bool:
        """The same without a cut, beside a writer that goes on; whether it could be done."""
        with self._all_or_nothing():
            self._make()
            left = self._writer.at_rest(self._switch)
            if left is None:
                self._take_back()
                return False
        for name in left:
            with contextlib.suppress(OSError):
                self._files.remove(name)
        return True

    def _switch(self) -> list[str] | None:
        """Make it the log; returns the files that go. None where a tag has come in its way."""
        self._old, self._tags = self._log.manifest, self._log.tags()
        if self.kept != self._states_to_keep():
            return None
        self._piece = self._log.piece_of(self.keep_since)
        self._put_in_force()
        gone = leftovers(self._files, self._log.manifest)
        return [name for name in gone if not name.endswith(".draft")]  # one may be on its way

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Take back what was made where it does not become the log."""
        log = self._log
        try:
            yield
        except BaseException as error:
            if log.is_in_force(self._old):  # else the new files may be the log's
                self._take_back()
            if isinstance(error, OSError):
                raise disk_error(error, log.place) from error
            raise

    def _make(self) -> None:
        """The files of what is to be the log, where nobody reads them yet."""
        log, segment = self._log, self._cut_segment()
        for version in self._snapshots_to_write():
            state = log.state(version, page_bytes=self._page_bytes, executor=self._executor)
            extra, end = stored_extra(log, version), log.end_of(version)
            write_snapshot(self._files, state, time.time_ns(), end, extra=extra)
        manifest = self._manifest(segment)
        self._archives = list(log.view.archives)[: self._archives_that_stay()]
        for entry in self._new_archives(manifest):
            self._write(entry.name, self._archive_frames(entry))
            self._archives.append(Archive(self._files, log.place, entry))
            self._archives[-1].check(None, manifest.ids)
        if self._is_cut:
            self._first_piece = self._write_cut(segment)

    def _put_in_force(self) -> LogView:
        """Make what was made the log, by its manifest."""
        log, manifest = self._log, self._manifest(self._cut_segment())
        pieces = log.pieces[log.pieces.index(self._piece) :]
        if self._first_piece is not None:
            pieces[0] = self._first_piece
        view = LogView(manifest.compaction, tuple(self._archives), pieces)
        self._writer.change_manifest(
            lambda: log.replace_manifest(manifest, self._writer.poison, view)
        )
        return view

    def _manifest(self, segment: Segment) -> Manifest:
        """The manifest of the log that begins with ``segment``."""
        log = self._log
        archives = () if self._before is None else self._before.archives
        if self.dropped:
            base, stay = self.keep_since - 1, self._archives_that_stay()
            first = archives[stay].first_version if stay < len(archives) else log.kept_since
            entry = ArchiveEntry(first, base, log.end_of(base), log.chain_after(base))
            archives = (*archives[:stay], entry)
        compaction = Compaction(
            number=segment.number,
            first_version=segment.first_version,
            is_cut=segment.is_cut,
            archives=archives,
            kept=self.kept,
            tags=self._tags,
        )
        return replace(log.manifest, compaction=compaction)

    # Snapshots

    def _snapshots_to_write(self) -> list[int]:
        """Versions whose state is to be kept, and is in no whole snapshot with all it needs."""
        fresh = [version for version in self.kept if version >= self._log.kept_since]
        return [version for version in fresh if not self._has_snapshot(version)]

    def _has_snapshot(self, version: int) -> bool:
        log, ids = self._log, self._log.manifest.ids
        with contextlib.suppress(BadFrameError, FormatError, CorruptionError, FileNotFoundError):
            state, extra = read_snapshot_with_extra(self._files, version, ids, self._page_bytes)
            state.check_digest(self._executor)
            is_same = state.table.chain == log.chain_after(version)
            return is_same and carries_extra(log, version, extra)
        return False

    # Archives

    def _archives_that_stay(self) -> int:
        """How many of the oldest archives are left as they are.

        Those behind are joined with the new one: each holds more versions than all behind it, so
        that a month of compactions leaves a few, and no commit is written again more often than
        there are archives.
        """
        before, dropped = self._before, self.dropped
        stay = 0 if before is None else len(before.archives)
        while before is not None and dropped and stay:
            entry = before.archives[stay - 1]
            versions = entry.last_version + 1 - entry.first_version
            if versions > dropped:
                break
            stay, dropped = stay - 1, dropped + versions
        return stay

    def _new_archives(self, manifest: Manifest) -> tuple[ArchiveEntry, ...]:
        assert manifest.compaction is not None
        return manifest.compaction.archives[-1:] if self.dropped else ()

    def _archive_frames(self, entry: ArchiveEntry) -> Iterator[list[Buffer]]:
        versions = range(entry.first_version, entry.last_version + 1)
        return archive_frames(entry.first_version, map(self._archived, versions))

    def _archived(self, version: int) -> Archived:
        part = self._log.part_of(version)
        if isinstance(part, Archive):
            return part.commit(version)
        found, row = self._log.find(version), self._log.row(version)
        position = found.piece.segment.base + found.offset
        return Archived(found.meta, found.data_hash, position, row.logged_bytes)

    # The cut

    def _span(self) -> tuple[int, int]:
        """Where in its file what is kept of the segment begins and ends."""
        log, piece = self._log, self._piece
        end = log.scan.offset if piece.end_offset is None else piece.end_offset
        return log.end_of(self.keep_since - 1) - piece.segment.base, end

    def _cut_segment(self) -> Segment:
        """The oldest segment afterwards: what is kept of its segment, or all of it."""
        old = self._piece.segment
        if not self._is_cut:
            return old
        log, base = self._log, self.keep_since - 1
        end = log.end_of(base)
        return replace(
            old,
            log_id=log.manifest.ids.of(self.keep_since),
            previous=NO_SEGMENT,
            first_version=self.keep_since,
            base=end - SEGMENT_FRAME_BYTES,
            chain=log.chain_after(base),
            synced=end,
            is_cut=True,
        )

    def _write_cut(self, segment: Segment) -> LogSegment:
        """Copy what is kept of a segment, and read the copy: the old one is about to go."""
        old, following = self._piece, self._log.pieces[self._log.pieces.index(self._piece) + 1]
        start, end = self._span()
        self._write(segment.name, self._copied(old.segment.name, segment, start, end))
        scan, size = segment.start(), SEGMENT_FRAME_BYTES + end - start
        index = self._scan(segment, scan, size, check_data=True)
        goes_on = (following.segment.first_version, following.segment.chain)
        if scan.fault is None and (scan.version + 1, scan.chain) != goes_on:
            scan.fault = f"segment {following.segment.number} continues another history"
        if scan.fault is not None:
            raise self._log.damaged(old.segment, start + scan.offset, scan.fault)
        return LogSegment(segment, size, index)

    def _copied(self, name: str, segment: Segment, start: int, end: int) -> Iterator[list[Buffer]]:
        yield segment.frame()
        while start < end:
            part = self._files.read(name, start, min(_COPY_BYTES, end - start))
            if not part:
                raise self._log.damaged(self._piece.segment, start, "the file ends here")
            yield [part]
            start += len(part)

    def _scan(self, segment: Segment, scan: Scan, end: int, check_data: bool) -> SegmentIndex:
        """Walk the commits that are kept of a segment; ``scan`` says where it ended, and why."""
        index = SegmentIndex(self.keep_since)
        read, ids = reader_of(self._files, segment.name), self._log.manifest.ids
        for commit in scan_commits(read, segment, scan, ids, end, check_data):
            index.append(commit.record, commit.offset, commit.logged_bytes)
        index.tags |= scan.tags
        return index

    # Files

    def _write(self, name: str, frames: Iterable[list[Buffer]]) -> None:
        """A file that nobody reads before the manifest names it."""
        self._files.remove(name)  # of a compaction that was cut short
        self._made.append(name)
        with contextlib.closing(self._files.create(name)) as file:
            for buffers in frames:
                file.append(buffers)
            file.sync()

    def _take_back(self) -> None:
        for name in self._made:
            with contextlib.suppress(OSError):
                self._files.remove(name)


def _flat(frames: Iterable[list[Buffer]]) -> Iterator[Buffer]:
    return (buffer for buffers in frames for buffer in buffers)
