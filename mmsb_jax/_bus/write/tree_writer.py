"""Committing trees: what the caller gives, checked and copied, as a draft for the head."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.engine.queue import MOST_WAITING
from mmsb_jax._bus.trees.living import LivingLeaves
from mmsb_jax._bus.trees.staging import Staged, Stager, check_readable, raw_bytes
from mmsb_jax._bus.trees.tree import Reconciled, TreeShape, differences, reconcile
from mmsb_jax._bus.write.draft_builder import PendingArrays
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.query.commit import Commit

_LARGE_BYTES = 256 << 20
"""A state of more is copied once at a time for commits that do not wait."""


class TreeWriter:
    """Commits trees; knows the structure that was committed last.

    Args:
        engine: lands the drafts.
        pending: arrays to record with the next structure.

    Attributes:
        shape: structure of the newest tree; None before the first in this process.
    """

    def __init__(self, engine: Engine, pending: PendingArrays) -> None:
        self.shape: TreeShape | None = None
        self._engine = engine
        self._pending = pending
        self._ids: list[int] = []
        self._last: LivingLeaves | None = None
        self._stager = Stager()

    @property
    def programs(self) -> int:
        """Programs compiled for commits that do not wait."""
        return self._stager.compiled

    def commit(self, tree: Any, info: CommitInfo, allow_new: bool) -> Commit:
        """Commit ``tree`` and wait until it has landed; the queue must be empty."""
        self.give_up()
        shape, data, change, others = self._match(tree, allow_new)
        places = self._to_read(shape, data, change.ids, others)
        with jax.transfer_guard("allow"), room_for("the bytes of this commit"):
            contents = _read_all(data, shape.names, change.ids, places)
        draft = Draft(ops=self._pending.ops() + change.ops, contents=contents, values=change.values)
        leaves = LivingLeaves.of(data, places, self._last)

        def landed(commit: Commit) -> None:
            self._pending.specs.clear()
            if self.shape is not shape:
                shape.succeed(self.shape, commit.version)
            self.shape, self._ids = shape, change.ids
            self._last, leaves.version = leaves, commit.version

        return self._engine.land(info.fill(draft, info.numbers()), shape, landed=landed)

    def know(self, tree: Any) -> None:
        """Take the structure of ``tree`` for that of the next one, if it is that recorded."""
        self.shape, self._ids = self._known(tree) or (self.shape, self._ids)
        self._last = None

    def _known(self, tree: Any) -> tuple[TreeShape, list[int]] | None:
        shape = TreeShape(tree, self._engine.page_bytes)
        table = self._engine.head.state.table
        if differences(table, shape):
            return None
        change = reconcile(table, shape, False, self._pending.specs.keys())
        shape.is_recorded = not change.ops and not change.values
        shape.succeed(self.shape, table.version)
        return shape, change.ids

    def enqueue(self, tree: Any, info: CommitInfo) -> "Future[Commit] | None":
        """Commit ``tree`` without waiting; None where its structure has to be recorded first."""
        found = self._data_of(tree)
        if found is None or self._pending:
            return None
        data, others = found
        assert self.shape is not None
        shape = self.shape
        engine, time_ns = self._engine, time.time_ns()
        for array in info.note_arrays:
            check_readable(array, "note")
        self._wait_for_room()
        places = self._to_read(shape, data, self._ids, others)
        ids, names = [self._ids[i] for i in places], [shape.names[i] for i in places]
        labels = [*names, *(["note"] * len(info.note_arrays))]
        with room_for("the copy of this commit"):
            staged = self._stager.stage([*(data[i] for i in places), *info.note_arrays], labels)
        leaves, self._last = LivingLeaves.of(data, places, self._last), None

        def run(landed: Callable[[Commit], None]) -> None:
            def known(commit: Commit) -> None:
                leaves.version = commit.version
                landed(commit)

            _land_staged(engine, staged, ids, info, time_ns, shape, known)

        try:
            outcome = engine.queue.submit(run, staged.release)
        except Exception:
            staged.release()
            raise
        self._last = leaves
        return outcome

    def _wait_for_room(self) -> None:
        """Wait until there is room for one more copy of the state."""
        engine, begun = self._engine, time.perf_counter_ns()
        is_large = engine.head.state_bytes > _LARGE_BYTES
        if engine.queue.wait_for_room(0 if is_large else MOST_WAITING):
            engine.meter.count_blocked(time.perf_counter_ns() - begun)

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copies of commits that do not wait, and of the buffers for the next ones."""
        return self._stager.held_bytes

    def give_up(self) -> None:
        """Let go of the buffers that wait for a commit that does not wait."""
        self._stager.give_up()

    def _to_read(
        self, shape: TreeShape, data: list[Any], ids: list[int], places: Sequence[int]
    ) -> Sequence[int]:
        """Which leaves may have changed: all but the arrays of JAX that the last commit had.

        An array of JAX does not change. It is read again where anything else has written what it
        was committed as, or the commit that had it may not have landed.
        """
        last, engine, derivations = self._last, self._engine, self._engine.derivations
        if last is None or shape is not self.shape or derivations.flow.gates or derivations.awaited:
            return range(len(data))
        if last.version is None and not engine.queue.depth:
            return range(len(data))
        if last.version is not None:
            since, bases = last.version, engine.head.state.table.bases
            if max(bases.values(), default=0) > since:
                written = (i for i, k in enumerate(ids) if bases.get(k, 0) > since)
                places = sorted({*places, *written})
        if len(places) < len(data):
            kept = np.ones(len(data), bool)
            kept[places] = False
            for i in kept.nonzero()[0].tolist():
                if data[i].is_deleted():
                    check_readable(data[i], shape.names[i])
        return places

    def _data_of(self, tree: Any) -> tuple[list[Any], Sequence[int]] | None:
        """As `TreeShape.data_of` of the structure that was committed last."""
        return None if self.shape is None else self.shape.data_of(tree, self._last)

    def _match(
        self, tree: Any, allow_new: bool
    ) -> tuple[TreeShape, list[Any], Reconciled, Sequence[int]]:
        found = self._data_of(tree)
        if found is not None and self.shape is not None:
            data, others = found
            return self.shape, data, Reconciled(ids=self._ids), others
        shape = TreeShape(tree, self._engine.page_bytes)
        table = self._engine.head.state.table
        change = reconcile(table, shape, allow_new, self._pending.specs.keys(), self.shape)
        data = shape.data_leaves(tree)
        return shape, data, change, range(len(data))

    def forget(self) -> None:
        """Look at the next tree anew: the table has changed without it."""
        self.shape, self._ids, self._last = None, [], None


def _land_staged(
    engine: Engine,
    staged: Staged,
    ids: list[int],
    info: CommitInfo,
    time_ns: int,
    shape: TreeShape,
    landed: Callable[[Commit], None],
) -> None:
    """What the queue's thread does: read the copies, land them."""
    with room_for("the bytes of this commit"):
        contents = {array_id: staged.bytes_of(i) for i, array_id in enumerate(ids)}
    count = len(ids)
    numbers = [staged.value_of(count + i).reshape(()) for i in range(len(info.note_arrays))]
    draft = info.fill(Draft(contents=contents, time_ns=time_ns), numbers)
    try:
        engine.land(draft, shape, landed=landed)
    finally:
        if (events := engine.events) is not None:
            events.deliver_later()


def _read_all(
    data: list[Any], names: list[str], ids: list[int], places: Sequence[int]
) -> dict[int, np.ndarray]:
    """The bytes of the leaves at ``places``; those on other devices travel side by side."""
    for i in places:
        leaf = data[i]
        if isinstance(leaf, jax.Array):
            check_readable(leaf, names[i])
            if not _is_on_cpu(leaf):
                leaf.copy_to_host_async()
    return {ids[i]: raw_bytes(data[i], names[i]) for i in places}


def _is_on_cpu(leaf: Any) -> bool:
    return all(device.platform == "cpu" for device in leaf.devices())


def done(commit: Commit) -> "Future[Commit]":
    """A future of what is there already."""
    future: Future[Commit] = Future()
    future.set_result(commit)
    return future
