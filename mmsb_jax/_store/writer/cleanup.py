"""What a compaction leaves over: files that the manifest in force does not need."""

import contextlib
import re

from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import (
    ARCHIVE_NAME,
    LOG_FOLDER,
    SNAPSHOT_FOLDER,
    index_name,
    list_snapshots,
    snapshot_name,
)

_SEGMENT = re.compile(r"log/([0-9]{8,})-[0-9]{20}\.(seg|idx|cut)")
_SNAPSHOT = re.compile(r"snapshots/([0-9]{20})\.snap")
_DRAFT = ".draft"


def is_of_a_log(name: str) -> bool:
    """Whether a file of that name is one that a log is made of, its manifest aside."""
    return any(known.fullmatch(name) for known in (_SEGMENT, ARCHIVE_NAME, _SNAPSHOT))


def leftovers(files: Files, manifest: Manifest) -> list[str]:
    """Names of the files that a compaction has replaced, or began and did not finish.

    Of drafts only the writer may say that nobody is at work on them.
    """
    names = [*files.names(LOG_FOLDER), *files.names(SNAPSHOT_FOLDER)]
    return [name for name in names if _is_left_over(name, manifest)]


def _is_left_over(name: str, manifest: Manifest) -> bool:
    compaction = manifest.compaction
    if name.endswith(_DRAFT):
        return is_of_a_log(name.removesuffix(_DRAFT))
    if ARCHIVE_NAME.fullmatch(name):
        return compaction is None or name not in (entry.name for entry in compaction.archives)
    if found := _SEGMENT.fullmatch(name):
        if compaction is None:
            return found[2] == "cut"
        oldest = compaction.segment_name
        is_needed = name in (oldest, index_name(oldest))
        return not is_needed and (found[2] == "cut" or int(found[1]) <= compaction.number)
    if (found := _SNAPSHOT.fullmatch(name)) and compaction is not None:
        version = int(found[1])
        return version < compaction.first_version and version not in compaction.kept
    return False


def remove_leftovers(files: Files, manifest: Manifest) -> None:
    """Remove them, as far as that is possible; the manifest must be durable.

    Cost: a listing of the directory.
    """
    for name in leftovers(files, manifest):
        with contextlib.suppress(OSError):
            files.remove(name)


def remove_unreached(files: Files, version: int) -> None:
    """Remove snapshots of versions behind ``version``, the newest: a late join was cut short.

    One that a log has reached carries a mark: where that log lost its end it was refused.
    """
    for later in list_snapshots(files):
        if later > version:
            with contextlib.suppress(OSError):
                files.remove(snapshot_name(later))
