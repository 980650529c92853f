"""Recovery: which segments make the log, and whether what is bad at its end is torn or damaged.

Every frame names the newest position up to which the log was durable when it was written. Bytes
below the newest such mark that do not read back are damage, and refused; bytes above it are an
uncertain tail, left out and reported. Recovery changes nothing on disk.
"""

import contextlib
from typing import TYPE_CHECKING

from mmsb_jax._errors import CorruptionError
from mmsb_jax.store._files import Files
from mmsb_jax.store._format import BadFrameError, read_header
from mmsb_jax.store._segment import (
    NO_SEGMENT,
    SEGMENT_FRAME_BYTES,
    Segment,
    list_segments,
    newest_mark_behind,
    read_segment,
    reader_of,
)
from mmsb_jax.store._snapshot import list_snapshots, snapshot_name

if TYPE_CHECKING:
    from mmsb_jax.store._log import Log


def find_segments(files: Files, place: str) -> tuple[list[Segment], list[str]]:
    """The segments of the log, oldest first, and what was passed over.

    A segment is synced before anything in it is acknowledged: a newest file that is no longer than
    its first frame, and whose frame is bad, is one whose making was cut short.

    Raises:
        CorruptionError: a segment that others stand on is missing or damaged.
    """
    found = list_segments(files)
    names = {number: name for number, _, name in found}
    ignored: list[str] = []
    segments: list[Segment] = []
    wanted = found[-1][0] if found else NO_SEGMENT
    while wanted != NO_SEGMENT:
        name = names.get(wanted)
        if name is None:
            raise CorruptionError(
                f"{place}: segment {wanted} of the log is missing from the folder log. Restore "
                f"it from a copy."
            )
        try:
            segment = read_segment(files, name)
        except BadFrameError as error:
            if segments or files.size(name) > SEGMENT_FRAME_BYTES:
                raise CorruptionError(
                    f"{place}/{name} is damaged at byte 0: {error}. Restore it from a copy."
                ) from error
            ignored.append(f"{name}: its making was cut short; nothing was in it")
            earlier = [number for number, _, _ in found if number < wanted]
            wanted = earlier[-1] if earlier else NO_SEGMENT
            continue
        if segments and segment.number >= segments[-1].number:
            raise CorruptionError(f"{place}/{name}: the segments of the log stand in a ring")
        segments.append(segment)
        wanted = segment.previous
    return segments[::-1], ignored


def settle_tail(log: "Log", salvage: bool) -> str | None:
    """Judge what is behind the newest whole commit; what was left out, in words, or None.

    Raises:
        CorruptionError: bytes that were durable are missing or bad (with ``salvage`` they are
            reported instead).
    """
    last, scan = log.pieces[-1].segment, log.scan
    end = last.base + scan.offset
    mark = max(scan.synced, _newest_snapshot_mark(log.files))
    if scan.fault is not None:
        read = reader_of(log.files, last.name)
        mark = max(mark, newest_mark_behind(read, last, scan.offset))
    if mark > end:
        fault = scan.fault or "the file ends before what was written durably"
        error = log.damaged(last, scan.offset, fault)
        if not salvage:
            raise error
        return str(error)
    if scan.fault is not None:
        size = log.files.size(last.name)
        return (
            f"{last.name}: {size - scan.offset} bytes at {scan.offset} are not a whole commit "
            f"({scan.fault}); they were not durable, and are left out"
        )
    return None


def _newest_snapshot_mark(files: Files) -> int:
    """The position that the newest whole snapshot header says the log was durable up to."""
    for version in reversed(list_snapshots(files)):
        with contextlib.suppress(BadFrameError, OSError):
            return read_header(reader_of(files, snapshot_name(version)), 0, 0).synced
    return 0
