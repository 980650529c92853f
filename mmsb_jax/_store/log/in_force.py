"""What is in force at a version: the newest ``extra`` and step that a commit has said up to it.

A commit that says nothing of them leaves them as they were. The index tells which commits have said
something; that of an older log does not, and its commits are looked at, once, newest first. Where a
compaction, or a late join, has left the commit behind, a snapshot carries its ``extra``.

And the process that commits: a PROCESS frame in each segment, before its first commit there, says
what it computes with.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mmsb_jax._base.errors import VersionError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._store.format.frame import BadFrameError, Kind, read_meta, reader_of, walk_frames
from mmsb_jax._store.format.record import EXTRA_IS_JSON
from mmsb_jax._store.state.snapshot import Extra, read_snapshot_extra

if TYPE_CHECKING:
    from mmsb_jax._store.log.log import Log


class InForce(NamedTuple):
    """An ``extra`` in force.

    Attributes:
        version: the commit that gave it; 0 where no commit did.
        blob: its bytes; None where there is none.
        is_json: whether they are JSON.
    """

    version: int
    blob: bytes | None
    is_json: bool


def extra_in_force(log: "Log", version: int) -> InForce:
    """The ``extra`` in force at a version that the log has.

    Cost: a look at the indexes, whatever lies between; for a log whose indexes do not tell, once, a
    look at its commits.
    """
    return log.retry_if_compacted(lambda: _in_force(log, version))


def _in_force(log: "Log", version: int) -> InForce:
    if 0 < version < log.first_version:
        raise log.no_version(version)
    giver = _giver(log, version)
    if giver >= log.kept_since or giver in log.kept:
        blob, flags = log.extra(giver)
        return InForce(giver, blob, bool(flags & EXTRA_IS_JSON))
    carried = _carried(log, giver, version)
    if carried is not None:
        return InForce(carried.version, carried.blob(), carried.is_json)
    if giver:
        raise VersionError(
            f"the extra in force at version {version} was given by version {giver}, whose data "
            f"were dropped when the log was compacted. Commit with extra=… to go on with another."
        )
    return InForce(0, None, False)


def stored_extra(log: "Log", version: int) -> Extra | None:
    """The ``extra`` in force at ``version`` as it is stored, for a snapshot to carry."""
    giver = log.retry_if_compacted(lambda: _giver(log, version))
    if giver < log.kept_since:
        return log.retry_if_compacted(lambda: _carried(log, giver, version))
    found = log.find(giver)
    extra = Extra.of(found.record, log.chunks_of(found))
    return None if extra is None else extra._replace(version=giver)


def carries_extra(log: "Log", version: int, extra: Extra | None) -> bool:
    """Whether ``extra``, that of the snapshot of ``version``, is all that is in force there."""
    giver = log.retry_if_compacted(lambda: _giver(log, version))
    return not giver or (extra is not None and (extra.version or version) == giver)


def step_in_force(log: "Log", version: int) -> int | None:
    """The newest step that a commit up to ``version`` has said; None where none has."""
    for part in reversed(log.parts):
        step = log.index_of(part).newest_step(version)
        if step is not None:
            return step
    return None


def _giver(log: "Log", version: int) -> int:
    """The newest commit up to ``version`` that says an ``extra``; 0 where none does."""
    for part in reversed(log.parts):
        index = log.index_of(part)
        while (candidate := index.newest_extra(version)) is not None:
            known = index.says_extra(candidate)
            if known is None:
                known = log.record(candidate).extra_span() is not None
                index.note_extra(candidate, known)
            if known:
                return candidate
    return 0


def _carried(log: "Log", giver: int, version: int) -> Extra | None:
    """What a snapshot up to ``version`` carries of ``giver``, or of a commit before the log."""
    if not giver and log.kept_since == 1:
        return None  # every commit is here, and none gave one
    for snapshot in log.snapshots():
        if giver <= snapshot <= version:
            extra = read_snapshot_extra(log.files, snapshot, log.manifest.ids)
            given_by = 0 if extra is None else extra.version or snapshot
            if extra is not None and (given_by == giver or not giver):
                return extra._replace(version=given_by)
    return None


MAX_PROCESS_BYTES = 1 << 16
_CUT = "…"
"""How a text ends that was too long."""


def encode_process(said: Mapping[str, str]) -> bytes:
    """The meta of a PROCESS frame; texts are cut where they would be too long."""
    most = MAX_PROCESS_BYTES // (8 * (1 + len(said)))
    cut = {
        name: text if len(text) <= most else text[: most - 1] + _CUT for name, text in said.items()
    }
    return json.dumps(cut, sort_keys=True).encode()


def says(said: str, text: str) -> bool:
    """Whether ``said``, which a log says of a process and may be cut, is ``text``."""
    return said == text or (said.endswith(_CUT) and text.startswith(said.removesuffix(_CUT)))


def process_at(log: "Log", version: int) -> dict[str, str]:
    """What is known of the process that made a version; empty where nothing was said.

    Cost: the headers of a part of a segment.
    """
    return log.retry_if_compacted(lambda: _process_at(log, version))


def _process_at(log: "Log", version: int) -> dict[str, str]:
    if version < log.kept_since:
        return {}
    found = log.find(version)
    segment = found.piece.segment
    if found.record.log_id != segment.log_id:
        return {}  # taken from another log
    read, newest = reader_of(log.files, segment.name), None
    try:
        for offset, header in walk_frames(read, segment.base, 0, found.offset):
            if header.kind == Kind.PROCESS:
                newest = read_meta(read, offset, header)
        said = {} if newest is None else parse_json(newest)
    except (BadFrameError, ValueError):
        return {}
    is_table = isinstance(said, dict) and all(isinstance(text, str) for text in said.values())
    return said if is_table else {}
