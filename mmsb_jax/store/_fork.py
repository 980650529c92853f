"""Forks: a log of its own that shares its history with another, up to one version."""

import os
import time

from mmsb_jax.store._files import Files
from mmsb_jax.store._log import Log
from mmsb_jax.store._manifest import Manifest
from mmsb_jax.store._segment import LogIds, Segment
from mmsb_jax.store._snapshot import snapshot_name

LOG_ID_BYTES = 16


def create_log(files: Files, page_bytes: int) -> None:
    """Make an empty log in an empty directory."""
    ids = LogIds((), os.urandom(LOG_ID_BYTES))
    Manifest(ids, page_bytes, time.time_ns()).publish(files)


def fork_log(source: Log, version: int, target: Files) -> None:
    """Make in ``target``, an empty directory, a log that goes on behind ``version``.

    The commits up to there are copied, sharing blocks where the disk can; they keep the id of the
    log that wrote them, and the fork's manifest says up to which version that is. The manifest is
    written last: without it the directory is not a log.

    Raises:
        VersionError: the source has no such version (0 is the empty log).
    """
    ids = LogIds(_lineage(source.manifest.ids, version), os.urandom(LOG_ID_BYTES))
    if version:
        _copy_history(source, version, target, ids)
    Manifest(ids, source.manifest.page_bytes, time.time_ns()).publish(target)


def _lineage(ids: LogIds, version: int) -> tuple[tuple[bytes, int], ...]:
    """The ids that the versions up to ``version`` carry."""
    kept = tuple((log_id, last) for log_id, last in ids.lineage if last < version)
    return (*kept, (ids.of(version), version)) if version else ()


def _copy_history(source: Log, version: int, target: Files, ids: LogIds) -> None:
    last = source.piece_of(version)
    end = source.end_of(version)
    for piece in source.pieces[: source.pieces.index(last)]:
        size = piece.end_offset
        assert size is not None
        target.copy(source.files, piece.segment.name, size)
    target.copy(source.files, last.segment.name, end)
    for snapshot in source.snapshots():
        if snapshot <= version:
            name = snapshot_name(snapshot)
            target.copy(source.files, name, source.files.size(name))
    base = last.segment.base + end
    segment = Segment(
        log_id=ids.own,
        number=last.segment.number + 1,
        previous=last.segment.number,
        first_version=version + 1,
        base=base,
        chain=source.chain_after(version),
        synced=base,
    )
    target.publish(segment.name, segment.frame())
