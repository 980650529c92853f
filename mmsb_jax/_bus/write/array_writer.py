"""Writing arrays by name, and gathering what a batch asks for."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mmsb_jax._base.errors import ClosedError, InvalidDeltaError
from mmsb_jax._bus.derive.transaction import GraphEdit
from mmsb_jax._bus.device.policy import Shadowing
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.session import Session
from mmsb_jax._bus.events.events import is_held
from mmsb_jax._bus.saving.policy import SavePolicies
from mmsb_jax._bus.saving.preemption import Preemption
from mmsb_jax._bus.trees.tree import TreeShape
from mmsb_jax._bus.write.array_specs import word_patches_of
from mmsb_jax._bus.write.batch import Batch
from mmsb_jax._bus.write.draft_builder import DraftBuilder, PendingArrays, name_taken
from mmsb_jax._bus.write.going_back import Origin
from mmsb_jax._bus.write.rows import RowTable
from mmsb_jax._bus.write.straight import StraightLine
from mmsb_jax._bus.write.tree_writer import TreeWriter
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._store.query.commit import Commit

if TYPE_CHECKING:
    from mmsb_jax._core.delta import Delta
    from mmsb_jax._core.tlog import TLog

Make = Callable[[DraftBuilder], None]


class ArrayWriter:
    """What a bus knows of its arrays by name: those made and not recorded yet, and their layout.

    Every method is called with the lock of the bus held.

    Args:
        session: the bus.
        shadow, save: as for `mmsb_jax.open`.

    Attributes:
        trees: what commits its trees; None for a reader.
        preemption: what is done about signals that announce the end.
        pending: arrays that enter the log with the next commit.
    """

    def __init__(self, session: Session, shadow: Shadowing, save: SavePolicies | None) -> None:
        self._session = session
        self.pending = PendingArrays()
        self.trees: TreeWriter | None = None
        self.preemption = Preemption(save, self._save_now)
        if session.engine is not None:
            self.trees = TreeWriter(session.engine, self.pending, shadow, save, self.preemption)
        self._known: TreeShape | None = None  # of a reader
        self._rows = RowTable(session.page_bytes)
        self._layout: tuple[TreeShape | None, int, int, Layout] | None = None
        self._open_batch: Batch | None = None
        self._line: StraightLine | None = None
        self._turn = threading.Condition(session.own_lock)  # only to see who has it

    @property
    def shape(self) -> TreeShape | None:
        """The structure that was committed last, or resumed; None where none is known."""
        return self._known if self.trees is None else self.trees.shape

    def know(self, tree: Any, origin: Origin | None = None) -> None:
        """Take up a tree that the caller goes on with, as `TreeWriter.know`."""
        if self.trees is not None:
            self.trees.know(tree, origin)
        else:
            self._known = TreeShape(tree, self._session.page_bytes)

    def forget(self) -> None:
        """Look at the table anew: it has changed without this."""
        if self.trees is not None:
            self.trees.forget()

    @property
    def counts_nonfinite(self) -> bool:
        """As `TreeWriter.counts_nonfinite`."""
        return self.trees is not None and self.trees.counts_nonfinite

    def went_back(self, shape: TreeShape | None, commit: Commit, took_ns: int) -> None:
        """As `TreeWriter.went_back`; arrays that were made and not recorded are no more."""
        self.pending.specs.clear()
        if self.trees is not None:
            self.trees.went_back(shape, commit, took_ns)

    def layout(self) -> Layout:
        """The layout of all arrays; that of a writer is kept as long as these stay."""
        arrays, engine = self._session.head().table.arrays.values(), self._session.engine
        shape, count = self.shape, len(self.pending.specs)
        structure = 0 if engine is None else engine.head.structure
        if self._layout is not None and engine is not None:
            *made_for, known = self._layout
            if made_for[0] is shape and made_for[1:] == [structure, count]:
                return known
        layout = self._rows.layout([*arrays, *map(self.pending.info, self.pending.specs)], shape)
        self._layout = shape, structure, count, layout
        return layout

    # ----------------------------------------------------------------------------- single arrays

    def create(self, name: str, spec: LeafSpec) -> None:
        """Make an array of zeros, in the batch or with the next commit."""
        engine = self._session.writing()
        table = engine.head.state.table
        if not engine.is_settled:
            self._session.settle()
        engine.check_saved()
        if self.batch is not None:
            self.batch.create(name, spec)
            return
        made = self.pending.specs
        if name in made or name in table.ids or name in table.values:
            raise name_taken(name)
        made[name] = (table.next_id + len(made), spec)

    def change(self, make: Make, info: CommitInfo) -> Commit | None:
        """Make a change: now, or at the end of the batch."""
        engine = self._session.writing()
        if self.batch is not None:
            make(self.batch)
            return None
        if not engine.is_settled:
            self._session.settle()
        changes = DraftBuilder(engine.head.state, self.pending)
        make(changes)
        return self.land(changes, info)

    def write(self, name: Any, value: Any, info: CommitInfo) -> Commit | None:
        """Replace the bytes of an array: now, or at the end of the batch."""
        if (line := self._straight()) is not None:
            commit = line.write(name, value, info)
            if commit is not None:
                return commit
        return self.change(lambda changes: changes.write(name, value), info)

    def apply(self, delta: Any, layout: Layout | None, info: CommitInfo) -> Commit | None:
        """Commit a delta: now, or at the end of the batch."""
        self._session.writing()
        if (line := self._straight()) is not None:
            commit = line.apply(delta, self.layout() if layout is None else layout, info)
            if commit is not None:
                return commit
        self._session.settle()
        patches = self.patches_of(delta, layout)
        return self.change(lambda changes: changes.patch(patches), info)

    def _straight(self) -> StraightLine | None:
        """Where a commit of few bytes goes; None in a batch, or while arrays are to be recorded."""
        engine = self._session.writing()
        if self._open_batch is not None or self.pending.specs:
            return None
        if not engine.is_settled:
            self._session.settle()
        if self._line is None:
            self._line = StraightLine(engine)
        return self._line

    def edit_graph(self, edit: GraphEdit, info: CommitInfo) -> Commit | None:
        """Change what is derived: now, or at the end of the batch."""
        return self.change(lambda changes: changes.edit_graph(edit), info)

    def changes(self) -> DraftBuilder:
        """Changes of the head as it is, none yet."""
        return DraftBuilder(self._session.writing().head.state, self.pending)

    def land(self, changes: DraftBuilder, info: CommitInfo) -> Commit:
        """Commit changes, and the arrays that were made."""
        engine = self._session.writing()
        filled = info.fill(changes.draft(), info.numbers())
        return engine.land(filled, self.shape, changes.graph, self._recorded)

    def _recorded(self, commit: Commit) -> None:
        self.pending.specs.clear()

    def finish(self) -> None:
        """Record what would be lost when the bus is closed: a tree without bytes, arrays made."""
        if self.trees is not None:
            self.trees.save_last()
        self.record_pending()

    def _save_now(self) -> bool:
        """Log the newest tree, durably, in whatever thread; whether its bytes are there now."""
        session, engine = self._session, self._session.engine
        assert engine is not None
        with session.events, session.lock:
            session.settle()
            if self.trees is not None:
                self.trees.save_last()
            engine.writer.sync()
            engine.copy_all()
            return engine.head.is_saved

    def answer_preemption(self) -> None:
        """Behind a commit: where the end is announced, see that its bytes are durable."""
        if self.preemption.is_due and self._save_now():
            self.preemption.saved()

    def record_pending(self, source: str = "") -> None:
        """Commit the arrays that were made, if there are any."""
        if self.pending:
            self.land(self.changes(), CommitInfo(None, source, None, None))

    # -------------------------------------------------------------------------------- deltas

    def patches_of(self, delta: "Delta", layout: Layout | None) -> Any:
        """What a delta writes, array by array; ``layout`` is that of the bus for None."""
        changes = self.batch or self.changes()
        return word_patches_of(delta, self.layout() if layout is None else layout, changes.find)

    def extend(
        self, log: "TLog", layout: Layout | None, said: Callable[[int], list[CommitInfo]]
    ) -> list[Commit]:
        """Commit the entries of a log of the device, all of which are looked at first.

        Args:
            log: the log.
            layout: as for `patches_of`.
            said: what the caller says of so many entries.
        """
        host = jax.device_get(log)
        if np.ndim(host.count):
            raise InvalidDeltaError(
                f"the log has a batch of shape {np.shape(host.count)}. Pick one of it first: "
                f"jax.tree.map(lambda x: x[i], log)."
            )
        newest = self._session.writing().head.state.table.version
        if host.overflow:
            raise _overflowed(host, newest, self.layout() if layout is None else layout)
        infos = said(int(host.count))
        self._session.settle()
        place = self.layout() if layout is None else layout
        patches = [self.patches_of(host[i], place) for i in range(int(host.count))]
        commits = []
        for patch, info in zip(patches, infos, strict=True):
            changes = self.changes()
            changes.patch(patch)
            commits.append(self.land(changes, info))
        return commits

    # -------------------------------------------------------------------------------- batches

    @property
    def batch(self) -> DraftBuilder | None:
        """What a batch has gathered; None outside of one."""
        return None if self._open_batch is None else self._open_batch.changes

    def begin_batch(self, batch: Batch) -> None:
        """Begin a batch, which holds the bus until `drop_batch`."""
        with self._session.events, self._session.lock:
            engine = self._session.writing()
            self._session.settle()
            if self._open_batch is not None:
                raise ClosedError("a batch inside a batch: end the first one first")
            batch.changes = DraftBuilder(engine.head.state, self.pending, owns=True)
            self._open_batch, batch.is_open = batch, True
            self._session.own_lock.acquire()

    def end_batch(self, batch: Batch, is_whole: bool) -> None:
        """Commit what a batch has gathered, if it is whole, and let go of the bus."""
        with self._session.events:
            try:
                if is_whole:
                    changes, batch.changes = batch.changes, None
                    self.land(changes, batch.info)
            finally:
                self.drop_batch(batch)

    def drop_batch(self, batch: Batch) -> None:
        """Let go of the bus, and of what was gathered, as far as that is not done."""
        if not batch.is_open:
            return
        if self._open_batch is batch:
            self._open_batch = None
        if is_held(self._turn):
            self._session.own_lock.release()
        batch.is_open = False


def _overflowed(log: "TLog", newest: int, layout: Layout) -> InvalidDeltaError:
    """The error for a log, on the host, that overflowed."""
    count, commits, blocks = int(log.count), log.ends.size, log.page.size
    left = blocks - (int(log.ends[count - 1]) if count else 0)
    is_divided = not layout.page_words % log.block_words
    most = f" of at most {layout.capacity(None, log.block_words)}" * is_divided
    why = (
        f"there is room for {commits} commits"
        if count == commits
        else f"{left} of {blocks} blocks were left for a delta{most}, or its own capacity was short"
    )
    return InvalidDeltaError(
        f"the log overflowed after {count} entries: the next, entry {count}, which would be "
        f"version {newest + count + 1}, found no room: {why}. Make a larger one."
    )
