"""Going back: a commit goes on from an older version than the newest, or is its state again."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._bus.saving.digests import count_not_finite
from mmsb_jax._bus.trees.compare import is_same_kind
from mmsb_jax._bus.trees.tree import spec_of
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.log.in_force import extra_in_force, step_in_force
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.annotations import are_annotations
from mmsb_jax._store.query.superseded import Spans, entry_of
from mmsb_jax._store.state.state import StoredState, Table

_NOTHING = b"null"


@dataclass(frozen=True, slots=True)
class Origin:
    """The version that the next commit goes on from.

    Attributes:
        version: which.
        superseded: the versions that are superseded as seen from it.
        step: the step in force there.
        extra: the ``extra`` in force there; None where there is none.
        extra_is_json: whether that is JSON.
        ends_extra: whether there is none, and one was given later, which is in force no more.
    """

    version: int
    superseded: Spans
    step: int | None
    extra: bytes | None
    extra_is_json: bool
    ends_extra: bool

    @classmethod
    def of(cls, log: Log, version: int, superseded: Spans) -> Self:
        """A version of a log, which has newer ones; it sees some versions as superseded."""
        known = extra_in_force(log, version)
        step = log.retry_if_compacted(lambda: step_in_force(log, version))
        ends_extra = known.blob is None and extra_in_force(log, log.version).blob is not None
        return cls(version, superseded, step, known.blob, known.is_json, ends_extra)

    def with_newest(self, log: Log) -> Self:
        """It with the step and the ``extra`` that are in force now, to be said again."""
        known = extra_in_force(log, log.version)
        step = log.retry_if_compacted(lambda: step_in_force(log, log.version))
        said = {"extra": known.blob, "extra_is_json": known.is_json, "ends_extra": False}
        return replace(self, step=step, **said)

    def enter(self, draft: Draft, version: int) -> None:
        """Let the draft of ``version`` say that it goes on from here, and what is in force then."""
        if self.version < version - 1:
            draft.values |= entry_of(self.superseded, self.version, version)
        if draft.step is None:
            draft.step = self.step
        if draft.extra is None and self.ends_extra:
            draft.extra, draft.extra_is_json = _NOTHING, True
        elif draft.extra is None:
            draft.extra, draft.extra_is_json = self.extra, self.extra_is_json


def same_since(head: Table, then: Table) -> Set[str]:
    """The arrays of ``then``, an earlier version, that no commit with bytes has touched since."""
    return {
        info.name
        for array_id, info in then.arrays.items()
        if head.arrays.get(array_id) == info and head.bases.get(array_id, 0) <= then.version
    }


def draft_of_state(head: Table, then: StoredState, counts: bool) -> Draft:
    """What makes an earlier state the newest one again: arrays, constants, and the graph.

    Args:
        head: the table of the newest version.
        then: the earlier state; arrays that it does not hold the bytes of are the same now.
        counts: whether the commit is to say how many numbers are infinite or none.
    """
    draft, next_id = Draft(), head.next_id
    earlier, contents, typed = then.table, dict[int, np.ndarray](), dict[int, np.ndarray]()
    for info in head.arrays.values():
        old_id = earlier.ids.get(info.name)
        if old_id is None or not _may_become(info, earlier.arrays[old_id]):
            draft.ops.append(Op(OpCode.DELETE, info))
    gone = {op.info.name for op in draft.ops}
    for old_id, info in earlier.arrays.items():
        now_id = None if info.name in gone else head.ids.get(info.name)
        becomes = replace(info, id=next_id if now_id is None else now_id)
        if now_id is None:
            draft.ops.append(Op(OpCode.CREATE, becomes))
            next_id += 1
        elif head.arrays[now_id] != becomes:
            draft.ops.append(Op(OpCode.UPDATE, becomes))
        if old_id in then.words:
            contents[becomes.id] = then.bytes_of(old_id)
            typed[becomes.id] = contents[becomes.id].view(parse_dtype(info.dtype))
    draft.contents = contents
    if counts:
        draft.nonfinite = lambda: {i: count_not_finite(array) for i, array in typed.items()}
    draft.values = _changed(head.values, earlier.values) | _changed(head.graph, earlier.graph)
    return draft


def _may_become(now: ArrayInfo, then: ArrayInfo) -> bool:
    """Whether an array stays, and is given another shape or dtype where it has; else it is new."""
    if now.member or then.member:
        return now.member == then.member and is_same_kind(spec_of(now), spec_of(then))
    return True


def _changed(now: Mapping[str, str], then: Mapping[str, str]) -> dict[str, str | None]:
    """The entries to set, or to take away; what was said of versions later stays."""
    return {
        name: then.get(name)
        for name in now.keys() | then.keys()
        if now.get(name) != then.get(name) and not are_annotations([name])
    }
