"""Making a log: its first segment, and last its manifest."""

import os
import time
from collections.abc import Iterable

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import LOG_FOLDER, NO_SEGMENT
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, Segment

_LOG_ID_BYTES = 16


def create_log(files: Files, page_bytes: int) -> None:
    """Make an empty log in an empty directory.

    The manifest is written last: without it the directory is not a log. What an earlier try left
    behind, a segment without a commit, is replaced.
    """
    for name in files.names(LOG_FOLDER):
        if files.size(name) > SEGMENT_FRAME_BYTES:
            raise LocationError(
                f"{name} is there and the manifest is not: this was a log. Restore the manifest "
                f"from a copy, or choose another path."
            )
    make_empty(files, page_bytes)


def new_ids(lineage: Iterable[tuple[bytes, int]] = ()) -> LogIds:
    """The ids of a new log, whose early versions are those of ``lineage``."""
    return LogIds(tuple(lineage), os.urandom(_LOG_ID_BYTES))


def make_empty(files: Files, page_bytes: int, ids: LogIds | None = None) -> None:
    """Make a log without a commit; the manifest comes last."""
    ids = ids or new_ids()
    first = Segment(ids.own, 1, NO_SEGMENT, first_version=1, base=0, chain=bytes(16), synced=0)
    files.publish(first.name, first.frame())
    Manifest(ids, page_bytes, time.time_ns()).publish(files)
