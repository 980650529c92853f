"""Lineage: which log wrote which version, where a log takes in the commits of another.

A log that takes in another's commits keeps them as they were written, under the id of the log that
wrote them: so its chain and digests are the sender's. While it does, its lineage is *open*: the
versions to come are the sender's too. Its own next commit closes it. Both are one replacement of
the manifest, and right before and after it whatever the log's newest version is.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmsb_jax._base.errors import ClosedError
from mmsb_jax._store.log.segment import LogIds

if TYPE_CHECKING:
    from mmsb_jax._store.log.log import Log

OPEN = 2**64 - 1
"""Last version of a log whose commits are still to come."""


def closed(ids: LogIds, version: int) -> LogIds:
    """``ids`` where what follows ``version`` is the log's own."""
    if ids.of(version + 1) == ids.own:
        return ids
    return LogIds(tuple(_through(ids, version)), ids.own)


def opened(ids: LogIds, version: int, sender: LogIds) -> LogIds:
    """``ids`` where what follows ``version`` is the sender's."""
    lineage = _through(ids, version)
    coming = [(log_id, last) for log_id, last in sender.lineage if last > version]
    if not coming or coming[-1][1] != OPEN:
        coming.append((sender.own, OPEN))
    if lineage and lineage[-1][0] == coming[0][0]:
        del lineage[-1]
    return LogIds((*lineage, *coming), ids.own)


def _through(ids: LogIds, version: int) -> list[tuple[bytes, int]]:
    """Who wrote the versions up to ``version``, and who else made their segments."""
    if not version:
        return []
    kept = [(log_id, last) for log_id, last in ids.lineage if last < version]
    kept.append((ids.of(version), version))
    return kept + [entry for entry in ids.lineage if entry[1] == version and entry != kept[-1]]


def change_ids(log: "Log", ids: LogIds, poison: Callable[[str], ClosedError]) -> None:
    """Say durably which log wrote which version, where that is not said yet.

    Args:
        log: the log.
        ids: what is to be said.
        poison: called where nobody knows what is said now: a commit of either log could be read
            as one of another history then.

    Raises:
        OSError: the disk is full or fails; it is said as before.
        ClosedError: what ``poison`` returned.
    """
    known = log.manifest
    if ids is known.ids or ids == known.ids:
        return
    log.put_in_force(dataclasses.replace(known, ids=ids), poison)
