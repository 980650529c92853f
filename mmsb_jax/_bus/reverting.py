"""Reverting: an earlier state is committed again, as the newest."""

import time

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.session import Session
from mmsb_jax._bus.trees.checkout import known_shape
from mmsb_jax._bus.write.array_writer import ArrayWriter
from mmsb_jax._bus.write.going_back import Origin, draft_of_state, same_since
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.query.superseded import superseded_in


def revert(
    session: Session, arrays: ArrayWriter, version: int, keeps_extra: bool, info: CommitInfo
) -> Commit:
    """Commit the state of ``version`` again; the lock of the bus is held.

    Args:
        session: the bus.
        arrays: what writes its arrays.
        version: an earlier version.
        keeps_extra: whether the step and the ``extra`` stay those of the newest version.
        info: what the caller says of the commit.
    """
    begun, engine, log = time.perf_counter_ns(), session.writing(), session.log
    if not version:
        raise log.no_version(0)
    log.check_state(version)
    head = engine.head.state.table
    same = same_since(head, log.table(version))
    then = log.state(version, lambda name: name not in same, executor=session.threads)
    with room_for("the state to go back to"):
        draft = draft_of_state(head, then, arrays.counts_nonfinite)
    info.fill(draft, info.numbers())
    is_of_bytes = not (draft.ops or draft.values)
    origin = Origin.of(log, version, superseded_in(then.table.graph))
    (origin.with_newest(log) if keeps_extra else origin).enter(draft, log.version + 1)
    shape = known_shape(then, arrays.shape)

    def landed(commit: Commit) -> None:
        arrays.went_back(shape, commit, time.perf_counter_ns() - begun)
        if not is_of_bytes:
            engine.look_anew(shape)

    return engine.land_as_is(draft, landed)
