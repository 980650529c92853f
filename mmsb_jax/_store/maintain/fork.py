"""Forks: a log of its own that shares its history with another, up to one version."""

import time

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


def fork_log(source: Log, version: int, target: Files) -> None:
    """Make in ``target``, an empty directory, a log that goes on behind ``version``.

    The commits up to there are copied, sharing blocks where the disk can; they keep the id of the
    log that wrote them, and the fork's manifest says up to which version that is. Of what the
    source has compacted away the fork has what the source has, and its tags up to ``version``. The
    manifest is written last: without it the directory is not a log.
    """
    if version == 0:
        make_empty(target, source.manifest.page_bytes)
        return
    before = _names(target)

    def fork() -> None:
        for name in _names(target) - before:
            target.remove(name)  # of a try from which a compaction took a file away
        _fork(source, version, target)

    source.retry_if_compacted(fork)


def _names(files: Files) -> set[str]:
    return {*files.names(LOG_FOLDER), *files.names(SNAPSHOT_FOLDER)}


def _fork(source: Log, version: int, target: Files) -> None:
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
    for piece in copied:
        size = end - piece.segment.base if piece is copied[-1] else piece.end_offset
        assert size is not None
        _copy(source, piece.segment.name, target, size)
    for snapshot in source.snapshots():
        if snapshot <= version:
            _copy(source, snapshot_name(snapshot), target)
    oldest = copied[0].segment if copied else segment
    compaction = _compaction(source, version, target, oldest, tags)
    target.publish(segment.name, [*segment.frame(), *_tag_frame(source, copied, segment, tags)])
    Manifest(ids, source.manifest.page_bytes, time.time_ns(), compaction).publish(target)


def _copy(source: Log, name: str, target: Files, size: int | None = None) -> None:
    """Copy a file of the source; all of it without ``size``."""
    try:
        there = source.files.size(name)
    except FileNotFoundError:
        there = -1
    if there < (size or 0):
        raise CorruptionError(
            f"{source.place}/{name} is {'missing' if there < 0 else 'cut short'}. Restore it from "
            f"a copy, or fork behind a version that does not need it."
        )
    target.copy(source.files, name, there if size is None else size)


def _compaction(
    source: Log, version: int, target: Files, oldest: Segment, tags: dict[str, int]
) -> Compaction | None:
    """What the compactions of the source have left of the versions that the fork has."""
    compaction = source.manifest.compaction
    if compaction is None:
        return None
    entries: list[ArchiveEntry] = []
    for archive in source.view.archives:
        if archive.first_version <= version:
            entries.append(
                _copy_archive(source, archive, min(version, archive.last_version), target)
            )
    kept = tuple(v for v in compaction.kept if v <= version)
    return Compaction(
        number=oldest.number,
        first_version=oldest.first_version,
        is_cut=oldest.is_cut,
        archives=tuple(entries),
        kept=kept,
        tags=tags,
    )


def _copy_archive(source: Log, archive: Archive, last: int, target: Files) -> ArchiveEntry:
    """Copy an archive up to the commit of ``last``."""
    if last == archive.last_version:
        _copy(source, archive.entry.name, target)
        return archive.entry
    first = archive.first_version
    entry = ArchiveEntry(first, last, source.end_of(last), source.chain_after(last))
    frames = archive_frames(first, map(archive.commit, range(first, last + 1)))
    target.publish(entry.name, [buffer for frame in frames for buffer in frame])
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
