"""Committing trees: what the caller gives, checked and copied, as a draft for the head."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.trees.staging import Staged, Stager, check_readable, raw_bytes
from mmsb_jax._bus.trees.tree import Reconciled, TreeShape, differences, reconcile
from mmsb_jax._bus.write.draft_builder import PendingArrays
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.query.commit import Commit


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
        self._stager = Stager()

    @property
    def programs(self) -> int:
        """Programs compiled for commits that do not wait."""
        return self._stager.compiled

    def commit(self, tree: Any, info: CommitInfo, allow_new: bool) -> Commit:
        """Commit ``tree`` and wait until it has landed; the queue must be empty."""
        shape, data, change = self._match(tree, allow_new)
        with jax.transfer_guard("allow"), room_for("the bytes of this commit"):
            contents = _read_all(data, shape.names, change.ids)
        draft = Draft(ops=self._pending.ops() + change.ops, contents=contents, values=change.values)

        def landed(commit: Commit) -> None:
            self._pending.specs.clear()
            if self.shape is not shape:
                shape.succeed(self.shape, commit.version)
            self.shape, self._ids = shape, change.ids

        return self._engine.land(info.fill(draft, info.numbers()), shape, landed=landed)

    def know(self, tree: Any) -> None:
        """Take the structure of ``tree`` for that of the next one, if it is that recorded."""
        self.shape, self._ids = self._known(tree) or (self.shape, self._ids)

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
        data = self.shape.data_of(tree) if self.shape is not None else None
        if data is None or self._pending:
            return None
        assert self.shape is not None
        shape = self.shape
        engine, ids, names, time_ns = self._engine, self._ids, shape.names, time.time_ns()
        for array in info.note_arrays:
            check_readable(array, "note")
        engine.queue.wait_for_room()
        labels = [*names, *(["note"] * len(info.note_arrays))]
        with room_for("the copy of this commit"):
            staged = self._stager.stage([*data, *info.note_arrays], labels)

        def run(landed: Callable[[Commit], None]) -> None:
            _land_staged(engine, staged, ids, info, time_ns, shape, landed)

        return engine.queue.submit(run, staged.release)

    def _match(self, tree: Any, allow_new: bool) -> tuple[TreeShape, list[Any], Reconciled]:
        data = self.shape.data_of(tree) if self.shape is not None else None
        if data is not None and self.shape is not None:
            return self.shape, data, Reconciled(ids=self._ids)
        shape = TreeShape(tree, self._engine.page_bytes)
        table = self._engine.head.state.table
        change = reconcile(table, shape, allow_new, self._pending.specs.keys(), self.shape)
        return shape, shape.data_leaves(tree), change

    def forget(self) -> None:
        """Look at the next tree anew: the table has changed without it."""
        self.shape, self._ids = None, []


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


def _read_all(data: list[Any], names: list[str], ids: list[int]) -> dict[int, np.ndarray]:
    """The bytes of every leaf; those on other devices travel side by side."""
    for leaf, name in zip(data, names, strict=True):
        if isinstance(leaf, jax.Array):
            check_readable(leaf, name)
            if not _is_on_cpu(leaf):
                leaf.copy_to_host_async()
    return {i: raw_bytes(leaf, name) for i, leaf, name in zip(ids, data, names, strict=True)}


def _is_on_cpu(leaf: Any) -> bool:
    return all(device.platform == "cpu" for device in leaf.devices())


def done(commit: Commit) -> "Future[Commit]":
    """A future of what is there already."""
    future: Future[Commit] = Future()
    future.set_result(commit)
    return future
