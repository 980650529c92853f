"""Committing trees: what the caller gives, checked and copied, as a draft for the head."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.memory_limit import is_out_of_memory, room_for
from mmsb_jax._bus.device.audit import missed, warn_of
from mmsb_jax._bus.device.policy import Shadowing, ShadowKeeper, no_room
from mmsb_jax._bus.device.shadow import FoundChanges, Shadow
from mmsb_jax._bus.device.transfer import start_fetch
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.engine.process import this_process
from mmsb_jax._bus.engine.queue import MOST_WAITING
from mmsb_jax._bus.saving.digests import Digesting
from mmsb_jax._bus.saving.parts import DueParts, PartsSaving
from mmsb_jax._bus.saving.policy import Moment, Saved, SavePolicies, Saving, parts_of, whole_of
from mmsb_jax._bus.saving.preemption import Preemption
from mmsb_jax._bus.trees.abstract import zeros_for
from mmsb_jax._bus.trees.living import LivingLeaves
from mmsb_jax._bus.trees.staging import Stager, check_readable, raw_bytes
from mmsb_jax._bus.trees.tree import Reconciled, TreeShape, differences, reconcile
from mmsb_jax._bus.write.draft_builder import PendingArrays
from mmsb_jax._bus.write.going_back import Origin
from mmsb_jax._compile.made import MadePrograms
from mmsb_jax._core.tree.leaves import is_deleted
from mmsb_jax._store.commit.draft import ArrayContent, Draft
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.annotations import is_annotation
from mmsb_jax._store.query.commit import Commit

_LARGE_BYTES = 256 << 20
"""A state of more is copied once at a time for commits that do not wait."""


@dataclass(frozen=True, slots=True)
class _Unsaved:
    """The newest tree, of which digests alone were logged; kept until another is committed.

    Attributes:
        said: what its caller said of it.
        version: of its commit.
        shape: its structure.
        data: its data leaves.
        ids: their arrays.
    """

    said: Draft
    version: int
    shape: TreeShape
    data: Sequence[Any]
    ids: Sequence[int]

    @classmethod
    def of(cls, draft: Draft, *rest: Any) -> "_Unsaved":
        """What remains of a commit: not the bytes of its parts."""
        return cls(replace(draft, contents={}), *rest)


class TreeWriter:
    """Commits trees; knows the structure that was committed last.

    Args:
        engine: lands the drafts.
        pending: arrays to record with the next structure.
        shadow: whether what was committed last is kept on devices; as for `mmsb_jax.open`.
        save: which commits have bytes; as for `mmsb_jax.open`.
        preemption: what is done about signals.

    Attributes:
        shape: structure of the newest tree; None before the first in this process.
    """

    def __init__(
        self,
        engine: Engine,
        pending: PendingArrays,
        shadow: Shadowing,
        save: SavePolicies | None,
        preemption: Preemption,
    ) -> None:
        self.shape: TreeShape | None = None
        self._engine = engine
        self._pending = pending
        self._ids: list[int] = []
        self._last: LivingLeaves | None = None  # of the newest commit with bytes
        self._newest: LivingLeaves | None = None
        self._saving = Saving(whole_of(save), _last_saved(engine.log))
        self._parts = PartsSaving(parts_of(save))
        self._preemption = preemption
        self._unsaved: _Unsaved | None = None
        self._expected: TreeShape | None = None
        self._origin: Origin | None = None
        self._stager = Stager()
        self._shadows = ShadowKeeper(shadow)

    @property
    def counts_nonfinite(self) -> bool:
        """Whether commits say how many numbers are infinite or none."""
        return self._saving.has_policy or self._engine.keeper is not None

    @property
    def programs(self) -> MadePrograms:
        """Programs compiled for commits that do not wait."""
        return self._stager.log.programs()

    def commit(
        self, tree: Any, info: CommitInfo, allow_new: bool, save: bool | None = None
    ) -> Commit:
        """Commit ``tree`` and wait until it has landed; the queue must be empty.

        Args:
            tree: the tree.
            info: what its caller says of it.
            allow_new: whether it may have another structure than recorded.
            save: whether its bytes are logged; None leaves it to the policy of the bus.
        """
        begun, moment = time.perf_counter_ns(), self._moment(info, save)
        self.give_up()
        shape, data, change, others = self._match(tree, allow_new)
        self._introduce(data)
        ops = self._pending.ops() + change.ops
        is_new = bool(ops or change.values or self._origin)
        due = None if moment is None or is_new else self._due(save, moment, shape)
        if moment is not None and due is not None:
            return self._commit_digests(info, shape, data, change.ids, due)
        is_audit = self._begin_audit()
        ids, last = change.ids, self._last
        places = range(len(data)) if is_audit else self._to_read(last, shape, data, ids, others)
        if ops:
            self._shadows.drop()  # it is of another structure
        found = None if ops else self._find(shape, data, places)
        with jax.transfer_guard("allow"), room_for("the bytes of this commit"):
            rest = places if is_audit else _without(places, found)
            contents = self._read(data, shape.names, rest)
            if found is not None:
                contents = self._with_found(found, contents, change.ids, shape.names, is_audit)
        draft = Draft(
            ops=ops,
            contents={change.ids[i]: contents[i] for i in places if i in contents},
            values=change.values,
        )
        info.fill(draft, info.numbers())
        if self.counts_nonfinite:
            draft.nonfinite = self._counting(data, places, shape, ids)
        if self._origin is not None:
            self._origin.enter(draft, self._engine.head.state.table.version + 1)
        leaves, shadow = LivingLeaves.of(data, places, self._last), self._shadows.shadow

        def landed(commit: Commit) -> None:
            self._pending.specs.clear()
            if self.shape is not shape:
                shape.succeed(self.shape, commit.version)
            self.shape, self._ids = shape, change.ids
            self._last = self._newest = leaves
            leaves.version = commit.version
            self._expected = self._origin = self._unsaved = None
            self._saving.note(commit, time.perf_counter_ns() - begun)
            if found is not None and shadow is not None:
                shadow.land(found, commit.version)

        commit = self._engine.land(draft, shape, landed=landed, is_whole=True)
        if found is None and (made := self._seed(shape, data)) is not None:
            made.land(None, commit.version)
        return commit

    def _counting(
        self, data: Sequence[Any], places: Sequence[int], shape: TreeShape, ids: Sequence[int]
    ) -> Callable[[], Mapping[int, int]]:
        """Begin to count what is not finite."""
        found = Digesting(data, places, shape.names)
        return lambda: {ids[i]: count for i, (*_, count) in found.rows().items()}

    def _introduce(self, data: Sequence[Any]) -> None:
        """Let the log say what this process computes with, once it commits a tree."""
        writer = self._engine.writer
        if not writer.process:
            writer.process = this_process(data)

    def _moment(self, info: CommitInfo, save: bool | None) -> Moment | None:
        """A commit that is about to be made; None where it has bytes in any case."""
        if save is None and not self._saving.has_policy:
            return None
        queue, last = self._engine.queue, self._saving.last(self._engine.queue.failures)
        version = self._engine.log.version + queue.depth + 1
        is_announced = self._preemption.is_announced(version if info.step is None else info.step)
        return Moment(info.step, version, time.time_ns(), last, self.is_busy, is_announced)

    def _due(self, save: bool | None, moment: Moment, shape: TreeShape) -> DueParts | None:
        """What a commit logs the bytes of; None for all.

        Args:
            save: what its caller said of it.
            moment: the commit.
            shape: its structure, that committed last.
        """
        engine = self._engine
        is_asked = save is None and engine.whole_is_due
        if is_asked or self._saving.wants(save, moment):
            return None
        if save is not None:
            return DueParts()
        due = self._parts.due(moment, engine.queue.failures, shape.names)
        return None if due.places and len(due.places) == len(shape.names) else due

    def _commit_digests(
        self,
        info: CommitInfo,
        shape: TreeShape,
        data: list[Any],
        ids: Sequence[int],
        due: DueParts,
    ) -> Commit:
        """Commit the digests of a tree, of the structure committed last, and the bytes of parts."""
        begun = time.perf_counter_ns()
        found, leaves = self._begin_digests(shape, data, ids)
        with jax.transfer_guard("allow"), room_for("the bytes of this commit"):
            contents = self._read(data, shape.names, due.places)
        by_id = {ids[i]: content for i, content in contents.items()}
        draft = info.fill(Draft(contents=by_id), info.numbers())

        def landed(commit: Commit) -> None:
            due.note(commit, time.perf_counter_ns() - begun)
            self.shape, self._ids, self._newest = shape, list(ids), leaves
            leaves.version = commit.version
            self._unsaved = _Unsaved.of(draft, commit.version, shape, data, ids)

        rows = {ids[i]: row for i, row in found.rows().items()}
        return self._engine.land_digests(rows, draft, landed)

    def _enqueue_digests(
        self,
        info: CommitInfo,
        shape: TreeShape,
        data: list[Any],
        due: DueParts,
        moment: Moment,
        failures: int,
    ) -> "Future[Commit]":
        """`_commit_digests`, without waiting."""
        engine, ids, time_ns = self._engine, self._ids, time.time_ns()
        found, leaves = self._begin_digests(shape, data, ids)
        places, count = due.places, len(due.places)
        names = [*(shape.names[i] for i in places), *(["note"] * len(info.note_arrays))]
        with room_for("the copy of this commit"):
            staged = self._stager.stage([*(data[i] for i in places), *info.note_arrays], names)

        def run(landed: Callable[[Commit], None]) -> None:
            begun = time.perf_counter_ns()

            def known(commit: Commit) -> None:
                due.note(commit, time.perf_counter_ns() - begun)
                leaves.version = commit.version
                self._unsaved = _Unsaved.of(draft, commit.version, shape, data, ids)
                landed(commit)

            with room_for("the bytes of this commit"):
                raws = map(staged.bytes_of, range(count))
                contents = {ids[i]: raw for i, raw in zip(places, raws, strict=True)}
            said = [staged.value_of(i).reshape(()) for i in range(count, len(names))]
            draft = info.fill(Draft(contents=contents, time_ns=time_ns), said)
            rows = {ids[i]: row for i, row in found.rows().items()}
            _deliver(engine, lambda: engine.land_digests(rows, draft, known))

        outcome = engine.queue.submit(run, staged.release, failures)
        due.expect(moment, failures)
        self._newest = leaves
        return outcome

    def _begin_digests(
        self, shape: TreeShape, data: list[Any], ids: Sequence[int]
    ) -> tuple[Digesting, LivingLeaves]:
        """The digests of the leaves that may be others than at the newest version; all leaves."""
        known = self._newest
        others = range(len(data)) if known is None else known.others(data)
        places = self._to_read(known, shape, data, ids, others)
        return Digesting(data, places, shape.names), LivingLeaves.of(data, places, known)

    def save_last(self) -> None:
        """Log the bytes of the newest tree, where only its digests were and it is as it was."""
        if (unsaved := self._unsaved) is None:
            return
        table, shape, ids = self._engine.head.state.table, unsaved.shape, unsaved.ids
        if table.version != unsaved.version or not all(map(_is_there, unsaved.data)):
            return
        rows = Digesting(unsaved.data, range(len(ids)), shape.names).rows()
        if any(rows[i][:2] != table.lanes_now(array_id) for i, array_id in enumerate(ids)):
            return  # arrays of NumPy that were changed since
        contents = self._read(unsaved.data, shape.names, range(len(ids)))
        draft = replace(
            unsaved.said,
            contents=dict(zip(ids, contents.values(), strict=True)),
            time_ns=None,
            nonfinite=lambda: {ids[i]: count for i, (*_, count) in rows.items()},
        )
        self._engine.land(draft, shape, is_whole=True)
        self._unsaved = None

    def warm_up(self, tree: Any) -> None:
        """Compile what commits of such a tree run, and keep on the devices what is committed of it.

        Args:
            tree: arrays of it may be `jax.ShapeDtypeStruct`; zeros stand for them meanwhile.
        """
        shape = TreeShape(tree, self._engine.page_bytes)
        leaves = shape.data_leaves(tree)
        with room_for("arrays like those of the commits to come"):
            data = list(map(zeros_for, leaves, shape.names))
            self._stager.stage(data, shape.names).release()
            rows = Digesting(data, range(len(data)), shape.names).rows()
        known = self._data_of(tree)
        if known is None or self.shape is None or not self._engine.head.is_saved:
            return
        table, version = self._engine.head.state.table, self._engine.head.state.table.version
        if all(rows[i][:2] == table.lanes_now(array_id) for i, array_id in enumerate(self._ids)):
            made = self._seed(self.shape, data)
            if made is not None:
                made.land(None, version)

    def _find(
        self, shape: TreeShape, data: Sequence[Any], places: Sequence[int]
    ) -> FoundChanges | None:
        """What has changed on devices; None where nothing there knows what was committed last."""
        shadow = self._shadows.shadow
        if shadow is None or not self._may_shadow() or not self._is_newest(shadow):
            self._shadows.drop()
            return None
        return self._shadows.find(shape, data, places)

    def _may_shadow(self) -> bool:
        """Whether a commit may leave out what has not changed: no array waits to be written."""
        derivations = self._engine.derivations
        return not (derivations.flow.gates or derivations.awaited)

    def _is_newest(self, shadow: Shadow) -> bool:
        """Whether nothing else has written what a shadow is of, and its own commit has landed."""
        if shadow.version is None:  # if one in the queue fails, those behind it do
            return shadow.is_queued and self._engine.queue.depth > 0
        bases, since = self._engine.head.state.table.bases, shadow.version
        return max(bases.values(), default=0) <= since or all(
            bases.get(self._ids[i], 0) <= since for i in shadow.leaves
        )

    def _seed(self, shape: TreeShape, data: Sequence[Any]) -> Shadow | None:
        """The shadow of what is committed now, where there is to be one."""
        if not self._may_shadow():
            self._shadows.drop()
            return None
        made = self._shadows.seed(shape, data)
        if made is not None:
            made.audited = self._engine.writer.snapshots_begun
        return made

    def _begin_audit(self) -> bool:
        """Whether this commit is to be compared in full too: the first after each snapshot."""
        shadow, begun = self._shadows.shadow, self._engine.writer.snapshots_begun
        if shadow is None or shadow.is_exact or shadow.audited == begun:
            return False
        shadow.audited = begun
        return True

    def _with_found(
        self,
        found: FoundChanges,
        contents: dict[int, ArrayContent],
        ids: Sequence[int],
        names: Sequence[str],
        is_audit: bool,
    ) -> dict[int, ArrayContent]:
        """``contents`` and what was found on devices; in an audit, which has all, that is checked.

        Called when the commit before has landed.
        """
        seen = self._received(found)
        if not is_audit:
            return contents | seen
        compared = {i: ids[i] for i in found.leaves}
        whole = {i: raw for i, raw in contents.items() if isinstance(raw, np.ndarray)}
        if leaves := missed(self._engine.head.state, compared, seen, whole):
            warn_of(names[i] for i in leaves)
        return contents

    def _received(self, found: FoundChanges) -> dict[int, ArrayContent]:
        """What was found on devices, brought to the host."""
        try:
            contents = found.contents()
        except jax.errors.JaxRuntimeError as error:
            self._shadows.drop()
            if is_out_of_memory(error):
                raise no_room(error) from error
            raise
        self._engine.meter.count_moved(found.moved_bytes)
        self._shadows.count(found)
        return contents

    def _read(
        self, data: Sequence[Any], names: list[str], places: Sequence[int]
    ) -> dict[int, ArrayContent]:
        """The bytes of the leaves at ``places``; those on other devices travel side by side."""
        started: dict[int, Any] = {}
        for i in places:
            leaf = data[i]
            if isinstance(leaf, jax.Array):
                check_readable(leaf, names[i])
                if _is_plain(leaf):
                    started[i] = start_fetch(leaf)
                elif not _is_on_cpu(leaf):
                    leaf.copy_to_host_async()
        moved = sum(data[i].nbytes for i in places if isinstance(data[i], jax.Array))
        self._engine.meter.count_moved(moved)
        return {i: raw_bytes(started.get(i, data[i]), names[i]) for i in places}

    @property
    def device_bytes(self) -> int:
        """Bytes that the shadow takes on devices."""
        return 0 if self._shadows.shadow is None else self._shadows.shadow.nbytes

    def know(self, tree: Any, origin: Origin | None = None) -> None:
        """Take the structure of ``tree`` for that of the next one; it may be other than recorded.

        Args:
            tree: what the caller goes on with.
            origin: the version that it was, where that is not the newest.
        """
        known = self._known(tree)
        self.shape, self._ids = known or (self.shape, self._ids)
        self._expected = None if known else TreeShape(tree, self._engine.page_bytes)
        self._origin, self._last, self._newest, self._unsaved = origin, None, None, None
        self._shadows.drop()

    def _known(self, tree: Any) -> tuple[TreeShape, list[int]] | None:
        shape = TreeShape(tree, self._engine.page_bytes)
        table = self._engine.head.state.table
        if differences(table, shape):
            return None
        change = reconcile(table, shape, False, self._pending.specs.keys())
        shape.is_recorded = not change.ops and not change.values
        shape.succeed(self.shape, table.version)
        return shape, change.ids

    def enqueue(
        self, tree: Any, info: CommitInfo, save: bool | None = None
    ) -> "Future[Commit] | None":
        """Commit ``tree`` without waiting; None where its structure has to be recorded first."""
        found = self._data_of(tree)
        if found is None or self._pending or self._origin is not None:
            return None
        data, others = found
        assert self.shape is not None
        shape = self.shape
        self._introduce(data)
        engine, time_ns = self._engine, time.time_ns()
        failures = engine.queue.failures
        for array in info.note_arrays:
            check_readable(array, "note")
        moment = self._moment(info, save)
        due = None if moment is None else self._due(save, moment, shape)
        if moment is not None and due is not None:
            self._wait_for_room(self._most_waiting if due.places else MOST_WAITING)
            return self._enqueue_digests(info, shape, data, due, moment, failures)
        self._wait_for_room(self._most_waiting)
        is_audit, ids, last = self._begin_audit(), self._ids, self._last
        places = range(len(data)) if is_audit else self._to_read(last, shape, data, ids, others)
        found = self._find(shape, data, places)
        rest = places if is_audit else _without(places, found)
        names = [*(shape.names[i] for i in rest), *(["note"] * len(info.note_arrays))]
        try:
            with room_for("the copy of this commit"):
                staged = self._stager.stage([*(data[i] for i in rest), *info.note_arrays], names)
        except BaseException:
            self._shadows.drop()
            raise
        if found is None:
            self._seed(shape, data)
        nonfinite = self._counting(data, places, shape, ids) if self.counts_nonfinite else None
        leaves, self._last = LivingLeaves.of(data, places, self._last), None
        shadow = self._shadows.shadow

        def run(landed: Callable[[Commit], None]) -> None:
            begun = time.perf_counter_ns()

            def known(commit: Commit) -> None:
                leaves.version = commit.version
                self._unsaved = None
                self._saving.note(commit, time.perf_counter_ns() - begun)
                if shadow is not None:
                    shadow.land(found, commit.version)
                landed(commit)

            with room_for("the bytes of this commit"):
                raws = list(map(staged.bytes_of, range(len(rest))))
                engine.meter.count_moved(sum(raw.nbytes for raw in raws))
                contents: dict[int, ArrayContent] = dict(zip(rest, raws, strict=True))
                if found is not None:
                    contents = self._with_found(found, contents, ids, shape.names, is_audit)
            said = [staged.value_of(i).reshape(()) for i in range(len(rest), len(names))]
            in_order = {ids[i]: contents[i] for i in places if i in contents}
            draft = Draft(contents=in_order, time_ns=time_ns, nonfinite=nonfinite)
            info.fill(draft, said)
            _deliver(engine, lambda: engine.land(draft, shape, landed=known, is_whole=True))

        def discard() -> None:
            staged.release()
            if found is not None:
                found.forget()

        try:
            outcome = engine.queue.submit(run, discard, failures)
        except Exception:
            discard()
            self._shadows.drop()
            raise
        self._last = self._newest = leaves
        if moment is not None:
            self._saving.expect(moment, failures)
        if shadow is not None:
            shadow.is_queued = True
        return outcome

    @property
    def _most_waiting(self) -> int:
        """How many commits may wait in front of one that does not wait, and copies."""
        return 0 if self._engine.head.state_bytes > _LARGE_BYTES else MOST_WAITING

    @property
    def is_busy(self) -> bool:
        """Whether a commit that does not wait would have to."""
        return self._engine.queue.depth > self._most_waiting

    def _wait_for_room(self, most: int) -> None:
        """Wait until no more than ``most`` commits have not landed."""
        engine, begun = self._engine, time.perf_counter_ns()
        if engine.queue.wait_for_room(most):
            engine.meter.count_blocked(time.perf_counter_ns() - begun)

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copies of commits that do not wait, and of the buffers for the next ones."""
        return self._stager.held_bytes

    def give_up(self) -> None:
        """Let go of the buffers that wait for a commit that does not wait."""
        self._stager.give_up()

    def _to_read(
        self,
        last: LivingLeaves | None,
        shape: TreeShape,
        data: list[Any],
        ids: Sequence[int],
        places: Sequence[int],
    ) -> Sequence[int]:
        """Which leaves may have changed: all but the arrays of JAX that a commit before had.

        An array of JAX does not change. It is read again where anything else has written what it
        was committed as, or the commit that had it may not have landed.

        Args:
            last: the leaves that were committed before.
            shape: the structure of the tree.
            data: its data leaves.
            ids: their arrays.
            places: the leaves that are not those.
        """
        engine, derivations = self._engine, self._engine.derivations
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
                if is_deleted(data[i]):
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
        table, expected = self._engine.head.state.table, self._expected
        allow_new = allow_new or (
            expected is not None and shape.fits(expected.leaves, expected.texts)
        )
        change = reconcile(table, shape, allow_new, self._pending.specs.keys(), self.shape)
        data = shape.data_leaves(tree)
        return shape, data, change, range(len(data))

    def went_back(self, shape: TreeShape | None, commit: Commit, took_ns: int) -> None:
        """Go on from a tree of ``shape``, which ``commit`` has made the newest again."""
        before = self.shape
        self.forget()
        self._unsaved = self._expected = self._origin = None
        self._saving.note(commit, took_ns)
        if shape is not None:
            shape = shape if shape is before else copy.copy(shape)
            shape.succeed(before, commit.version)
            ids = self._engine.head.state.table.ids
            self.shape, self._ids = shape, [ids[name] for name in shape.names]

    def forget(self) -> None:
        """Look at the next tree anew: the table has changed without it."""
        self.shape, self._ids, self._last, self._newest = None, [], None, None
        self._shadows.drop()


def _deliver(engine: Engine, land: Callable[[], Commit]) -> None:
    """Land a commit in the queue's thread, and let those who listen hear of it."""
    try:
        land()
    finally:
        if (events := engine.events) is not None:
            events.deliver_later()


def _last_saved(log: Log) -> Saved | None:
    """The newest commit with bytes of a log that is opened; None for none."""
    version = log.last_saved(log.version)
    while version >= log.kept_since and is_annotation(log, version):
        version = log.last_saved(version - 1)
    if version < log.kept_since:
        return None
    row = log.row(version)
    return Saved(version, row.step, row.time_ns, row.logged_bytes, 0)


def _without(places: Sequence[int], found: FoundChanges | None) -> Sequence[int]:
    """The leaves at ``places`` that were not compared on devices."""
    if found is None:
        return places
    compared = set(found.leaves)
    return [i for i in places if i not in compared]


def _is_plain(leaf: jax.Array) -> bool:
    """Whether one device other than the CPU has all of it, as numbers."""
    is_there = len(leaf.sharding.device_set) == 1 and not _is_on_cpu(leaf)
    return is_there and not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_there(leaf: Any) -> bool:
    return not (isinstance(leaf, jax.Array) and is_deleted(leaf))


def _is_on_cpu(leaf: Any) -> bool:
    return all(device.platform == "cpu" for device in leaf.devices())


def done(commit: Commit) -> "Future[Commit]":
    """A future of what is there already."""
    future: Future[Commit] = Future()
    future.set_result(commit)
    return future
