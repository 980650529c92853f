"""Names of the files of a log: ``manifest``, ``log/…`` and ``snapshots/…``."""

import re
from collections.abc import Iterable

from mmsb_jax._store.files.protocol import Files

MANIFEST_NAME = "manifest"
LOG_FOLDER = "log"
SNAPSHOT_FOLDER = "snapshots"

NO_SEGMENT = 0
"""Number that stands for "none before"; segments count from 1."""

ARCHIVE_NAME = re.compile(rf"{LOG_FOLDER}/[0-9]{{20}}-[0-9]{{20}}\.arc")
"""Name of an archive's file; see `ArchiveEntry.name`."""

_SEGMENT_NAME = re.compile(rf"{LOG_FOLDER}/([0-9]{{8,}})-([0-9]{{20}})\.seg")
_SNAPSHOT_NAME = re.compile(rf"{SNAPSHOT_FOLDER}/([0-9]{{20}})\.snap")


def segment_name(number: int, first_version: int, is_cut: bool = False) -> str:
    """Name of the file of a segment. One that was cut is found by the manifest alone."""
    return f"{LOG_FOLDER}/{number:08d}-{first_version:020d}.{'cut' if is_cut else 'seg'}"


def list_segments(names: Iterable[str]) -> list[tuple[int, int, str]]:
    """(number, first version, name) of the segment files among ``names``, ascending."""
    found = ((_SEGMENT_NAME.fullmatch(name), name) for name in names)
    segments = ((int(m[1]), int(m[2]), name) for m, name in found if m)
    return sorted(segment for segment in segments if segment[0] != NO_SEGMENT)


def index_name(segment_name: str) -> str:
    """Name of the sidecar with the index of a segment."""
    return segment_name[: -len(".seg")] + ".idx"


def snapshot_name(version: int) -> str:
    """Name of the file that holds the state at ``version``."""
    return f"{SNAPSHOT_FOLDER}/{version:020d}.snap"


def list_snapshots(files: Files) -> list[int]:
    """Versions of which there is a snapshot file, ascending."""
    found = (_SNAPSHOT_NAME.fullmatch(name) for name in files.names(SNAPSHOT_FOLDER))
    return sorted(int(match[1]) for match in found if match)
