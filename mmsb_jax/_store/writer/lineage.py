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
from mmsb_jax._store.format.chain import LogIds

if TYPE_CHECKING:
    from mmsb_jax._store.log.log import Log


def change_ids(log: "Log", ids: LogIds, poison: Callable[[str], ClosedError]) -> None:
    """Say durably which log wrote which version, where that is not said yet.

    Args:
        log: the log.
        ids: what is to be said.
        poison: called where nobody knows what is said now: a commit of either log could be read
            as one of another history then.
    """
    known = log.manifest
    if ids is known.ids or ids == known.ids:
        return
    log.replace_manifest(dataclasses.replace(known, ids=ids), poison)
