"""Forks: a log of its own that shares its history with another, up to one version."""

import os
import time

from mmsb_jax._errors import LocationError
from mmsb_jax.store._files import Files
from mmsb_jax.store._log import Log
from mmsb_jax.store._manifest import Manifest
from mmsb_jax.store._segment import (
    FOLDER,
    NO_SEGMENT,
    SEGMENT_FRAME_BYTES,
    LogIds,
    Segment,
)
from mmsb_jax.store._snapshot import snapshot_name

_LOG_ID_BYTES = 16


def create_log(files: Files, page_bytes: int) -> None:
    """Make an empty log in an empty directory.

    The manifest is written last: without it the directory is not a log. What an earlier try left
    behind, a segment without a commit, is replaced.

    Raises:
        LocationError: the directory holds segments with commits: a log that lost its manifest.
    """
    for name in files.names(FOLDER):
        if files.size(name) > SEGMENT_FRAME_BYTES:
            raise LocationError(
                f"{name} is there and the manifest is not: this was a log. Restore the manifest "
                f"from a copy, or choose another path."
            )
    _make_empty(files, page_bytes)


def _make_empty(files: Files, page_bytes: int) -> None:
    ids = LogIds((), os.urandom(_LOG_ID_BYTES))
    first = Segment(ids.own, 1, NO_SEGMENT, first_version=1, base=0, chain=bytes(16), synced=0)
    files.publish(first.name, first.frame())
    Manifest(ids, page_bytes, time.time_ns()).publish(files)


def fork_log(source: Log, version: int, target: Files) -> None:
    """Make in ``target``, an empty directory, a log that goes on behind ``version``.

    The commits up to there are copied, sharing blocks where the disk can; they keep the id of the
    log that wrote them, and the fork's manifest says up to which version that is. The manifest is
    written last: without it the directory is not a log.

    Raises:
        VersionError: the source has no such version (0 is the empty log).
    """
    if version == 0:
        _make_empty(target, source.manifest.page_bytes)
        return
    ids = LogIds(_lineage(source.manifest.ids, version), os.urandom(_LOG_ID_BYTES))
    _copy_history(source, version, target, ids)
    Manifest(ids, source.manifest.page_bytes, time.time_ns()).publish(target)


def _lineage(ids: LogIds, version: int) -> tuple[tuple[bytes, int], ...]:
    """The ids that the versions up to ``version`` carry."""
    kept = tuple((log_id, last) for log_id, last in ids.lineage if last < version)
    return (*kept, (ids.of(version), version))


def _copy_history(source: Log, version: int, target: Files, ids: LogIds) -> None:
    newest = source.find(version)
    last = newest.piece
    for piece in source.pieces[: source.pieces.index(last)]:
        assert piece.end_offset is not None
        target.copy(source.files, piece.segment.name, piece.end_offset)
    target.copy(source.files, last.segment.name, newest.end_offset)
    for snapshot in source.snapshots():
        if snapshot <= version:
            name = snapshot_name(snapshot)
            target.copy(source.files, name, source.files.size(name))
    segment = Segment(
        log_id=ids.own,
        number=last.segment.number + 1,
        previous=last.segment.number,
        first_version=version + 1,
        base=newest.end,
        chain=newest.chain,
        synced=newest.end,
    )
    target.publish(segment.name, segment.frame())
