"""Forks: a log of its own that shares its history with another, up to one version."""

import time
from dataclasses import dataclass

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.frame import Kind, build_frame
from mmsb_jax._store.format.manifest import ArchiveEntry, Compaction, Manifest
from mmsb_jax._store.format.names import LOG_FOLDER, NO_SEGMENT, SNAPSHOT_FOLDER, snapshot_name
from mmsb_jax._store.format.tags import encode_tags
from mmsb_jax._store.log.archive import Archive, archive_frames
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, LogSegment, Segment
from mmsb_jax._store.writer.create import make_empty, new_ids


def fork_log(source: Log, version: int, target: Files, shared_until: int | None = None) -> None:
    """Make in ``target``, an empty directory, a log that goes on behind ``version``.

    The commits up to there are copied, sharing blocks where the disk can; they keep the id of the
    log that wrote them, and the fork's manifest says up to which version that is. Of what the
    source has compacted away the fork has what the source has, and its tags up to ``version``. The
    manifest is written last: without it the directory is not a log.

    Args:
        source: the log.
        version: the last version that both have.
        target: where the fork is made.
        shared_until: where files that no log writes to any more may be the same in both (sealed
            segments, snapshots and archives), the position up to which segments are shared:
            whatever happens, the log must say that it was durable up to there, or the next writer
            would write what is behind it again. None shares nothing.
    """
    if version == 0:
        make_empty(target, source.manifest.page_bytes)
        return
    before = _names(target)

    def fork() -> None:
        for name in _names(target) - before:
            target.remove(name)  # of a try from which a compaction took a file away
        _Forking(source, version, target, shared_until).run()

    source.retry_if_compacted(fork)


def _names(files: Files) -> set[str]:
    return {*files.names(LOG_FOLDER), *files.names(SNAPSHOT_FOLDER)}


def surely_durable(log: Log) -> int:
    """The position up to which a log that is read will say, whatever happens, that it was durable.

    The first frame of a segment is durable before anything is written behind it.
    """
    return log.pieces[-1].segment.synced


@dataclass(frozen=True, slots=True)
class _Forking:
    """One try to make a fork; the arguments are those of `fork_log`."""

    source: Log
    version: int
    target: Files
    shared_until: int | None

    def run(self) -> None:
        """Make it all; the manifest comes last."""
        source, version, target, view = self.source, self.version, self.target, self.source.view
        source.check_state(version)
        ids = new_ids(_lineage(source, version))
        tags = {name: tagged for name, tagged in source.tags().items() if tagged <= version}
        copied = [piece for piece in source.pieces if piece.segment.first_version <= version]
        last = copied[-1].segment if copied else source.pieces[0].segment
        end = source.end_of(version)
        segment = Segment(
            log_id=ids.own,
            number=last.number + 1,
            previous=last.number if copied else NO_SEGMENT,
            first_version=version + 1,
            base=end,
            chain=source.chain_after(version),
            synced=end,
        )
        self._take_segments(copied, end)
        for snapshot in source.snapshots():
            if snapshot <= version:
                self._take(snapshot_name(snapshot))
        oldest = copied[0].segment if copied else segment
        compaction = self._compaction(oldest, tags)
        frames = [*segment.frame(), *_tag_frame(source, copied, segment, tags)]
        target.publish(segment.name, frames)
        if source.view is not view:  # a compaction came between: what was read are two logs
            raise FileNotFoundError(f"{source.place} was compacted meanwhile")
        Manifest(ids, source.manifest.page_bytes, time.time_ns(), compaction).publish(target)

    def _take_segments(self, pieces: list[LogSegment], end: int) -> None:
        """Take over segments, the last one up to the position ``end``."""
        newest = self.source.pieces[-1]
        for piece in pieces:
            is_sealed, name = piece is not newest, piece.segment.name
            size = (min(piece.end, end) if is_sealed else end) - piece.segment.base
            is_whole = size == piece.end_offset == self._size(name, size)
            if is_whole and piece.end <= (self.shared_until or 0):
                self._take(name)
            else:
                self._copy(name, size)

    def _take(self, name: str) -> None:
        """Take over a file that nobody writes to any more, whole."""
        if self.shared_until is not None:
            self.target.share(self.source.files, name, self._size(name, 0))
        else:
            self._copy(name)

    def _copy(self, name: str, size: int | None = None) -> None:
        """Copy a file of the source; all of it without ``size``."""
        there = self._size(name, size or 0)
        self.target.copy(self.source.files, name, there if size is None else size)

    def _size(self, name: str, least: int) -> int:
        """The bytes of a file of the source, which must have some at least."""
        source = self.source
        try:
            there = source.files.size(name)
        except FileNotFoundError:
            there = -1
        if there < least:
            raise CorruptionError(
                f"{source.place}/{name} is {'missing' if there < 0 else 'cut short'}. Restore it "
                f"from a copy, or fork behind a version that does not need it."
            )
        return there

    def _compaction(self, oldest: Segment, tags: dict[str, int]) -> Compaction | None:
        """What the compactions of the source have left of the versions that the fork has."""
        source, version, compaction = self.source, self.version, self.source.view.compaction
        if compaction is None:
            return None
        return Compaction(
            number=oldest.number,
            first_version=oldest.first_version,
            is_cut=oldest.is_cut,
            archives=tuple(
                self._take_archive(archive, min(version, archive.last_version))
                for archive in source.view.archives
                if archive.first_version <= version
            ),
            kept=tuple(v for v in compaction.kept if v <= version),
            tags=tags,
        )

    def _take_archive(self, archive: Archive, last: int) -> ArchiveEntry:
        """Take over an archive up to the commit of ``last``."""
        if last == archive.last_version:
            self._take(archive.entry.name)
            return archive.entry
        source, first = self.source, archive.first_version
        entry = ArchiveEntry(first, last, source.end_of(last), source.chain_after(last))
        frames = archive_frames(first, map(archive.commit, range(first, last + 1)))
        self.target.publish(entry.name, [buffer for frame in frames for buffer in frame])
        return entry


def _tag_frame(
    source: Log, copied: list[LogSegment], segment: Segment, tags: dict[str, int]
) -> list[Buffer]:
    """The frame behind that of ``segment`` that leaves the fork with ``tags``; none without any.

    What was said of tags up to the fork's version is in what was copied, and may be out of date.
    """
    said = {name for piece in copied for name in source.index_of(piece).tags}
    if not said | tags.keys():
        return []
    meta = encode_tags({name: tags.get(name) for name in said | tags.keys()})
    position = segment.base + SEGMENT_FRAME_BYTES
    return build_frame(Kind.TAG, position, segment.synced, meta, must_understand=False)[1]


def _lineage(source: Log, version: int) -> tuple[tuple[bytes, int], ...]:
    """The ids that the versions up to ``version`` carry, and those that made their segments.

    A log that takes in the commits of another makes segments, and may have no version of its own.
    """
    ids = source.manifest.ids
    kept = [(log_id, last) for log_id, last in ids.lineage if last < version]
    kept.append((ids.of(version), version))
    copied = [piece for piece in source.pieces if piece.segment.first_version <= version]
    known = LogIds(tuple(kept), b"")
    segments = [piece.segment for piece in copied]
    makers = [s.log_id for s in segments if not known.may_hold(s.log_id, s.first_version)]
    return (*kept, *((log_id, version) for log_id in dict.fromkeys(makers)))
