"""Recovery: which segments make the log, and whether what is bad at its end is torn or damaged.

Every frame names the newest position up to which the log was durable when it was written. Bytes
below the newest such mark that do not read back are damage, and refused; bytes above it are an
uncertain tail, left out and reported. Recovery changes nothing on disk.
"""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.names import (
    LOG_FOLDER,
    NO_SEGMENT,
    index_name,
    list_segments,
    list_snapshots,
)
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, Segment, read_segment
from mmsb_jax._store.state.snapshot import read_snapshot

if TYPE_CHECKING:
    from mmsb_jax._store.format.manifest import Compaction, Manifest


def find_segments(
    files: Files, place: str, manifest: "Manifest"
) -> tuple[list[Segment], list[str]]:
    """The segments of the log, oldest first, and what was passed over.

    A log that was compacted begins with the segment that the manifest names.

    A segment is synced before anything in it is acknowledged: a newest file that is no longer than
    its first frame, and whose frame is bad, is one whose making was cut short.
    """
    oldest, ids = manifest.compaction, manifest.ids
    names, continued = _name_by_number(files, place, oldest)
    ignored: list[str] = []
    segments: list[Segment] = []
    wanted = max(names)
    while wanted != NO_SEGMENT:
        if wanted not in names:
            raise _missing(place, wanted)
        name = names[wanted]
        try:
            segment = read_segment(files, name)
        except FileNotFoundError:
            raise _missing(place, wanted) from None
        except BadFrameError as error:
            earlier = max((number for number in names if number < wanted), default=NO_SEGMENT)
            was_whole = segments or earlier == NO_SEGMENT or earlier in continued
            if was_whole or files.size(name) > SEGMENT_FRAME_BYTES:
                raise CorruptionError(
                    f"{place}/{name} is damaged at byte 0: {error}. Restore it from a copy, or "
                    f"make a new log of what is whole with `mmsb repair`."
                ) from error
            ignored.append(f"{name}: its making was cut short; nothing was in it")
            wanted = earlier
            continue
        if not ids.may_hold(segment.log_id, segment.first_version):
            raise CorruptionError(
                f"{place}/{name} is a segment of another log. Take it out of the folder log, and "
                f"restore the one that it may have replaced."
            )
        if segments and segment.number >= segments[-1].number:
            raise CorruptionError(f"{place}/{name}: the segments of the log stand in a ring")
        segments.append(segment)
        wanted = segment.previous
        if oldest is not None and segment.number == oldest.number:
            wanted = NO_SEGMENT
    if oldest is not None and segments[-1].number != oldest.number:
        raise _missing(place, oldest.number)
    return segments[::-1], ignored


def _name_by_number(
    files: Files, place: str, oldest: "Compaction | None"
) -> tuple[dict[int, str], set[int]]:
    """The segment files, and which of them are known to have been continued by another."""
    listed: list[str] = []
    while True:
        listed, before = files.names(LOG_FOLDER), listed
        found = _segments_from(oldest, listed)
        continued = {number for number, _, name in found if index_name(name) in listed}
        if not found:
            raise _missing(place, 1 if oldest is None else oldest.number)
        newest = found[-1][0]
        if newest not in continued:
            break
        # An index is made once the next segment is there. Listed again: that may have been now.
        if listed == before:
            raise _missing(place, newest + 1)
    names: dict[int, str] = {}
    for number, _, name in found:
        if number in names:
            raise CorruptionError(
                f"{place}: {names[number]} and {name} have the same number. One of them belongs "
                f"to another log; take it out of the folder log."
            )
        names[number] = name
    return names, continued


def _segments_from(oldest: "Compaction | None", listed: list[str]) -> list[tuple[int, int, str]]:
    """(number, first version, name) of the segment files that may be part of the log, ascending."""
    found = list_segments(listed)
    if oldest is None:
        return found
    found = [entry for entry in found if entry[0] > oldest.number]
    if oldest.segment_name in listed:
        found.insert(0, (oldest.number, oldest.first_version, oldest.segment_name))
    return found


def newest_number(names: Iterable[str]) -> int:
    """The highest number among the segment files of those names; 0 for none."""
    return max((number for number, _, _ in list_segments(names)), default=NO_SEGMENT)


def _missing(place: str, number: int) -> CorruptionError:
    return CorruptionError(
        f"{place}: segment {number} of the log is missing from the folder log. Restore it from a "
        f"copy, or make a new log of what is whole with `mmsb repair`."
    )


def snapshot_mark(files: Files, ids: LogIds) -> int:
    """The position up to which the newest whole snapshot says that the log was durable."""
    for version in reversed(list_snapshots(files)):
        with contextlib.suppress(BadFrameError, FileNotFoundError):
            return read_snapshot(files, version, ids, with_data=False)[1]
    return 0
