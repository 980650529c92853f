"""The writing half of a bus: arrays by name, deltas, batches."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mmsb_jax._base.errors import ClosedError
from mmsb_jax._bus.arrays.batch import Batch, BatchManager
from mmsb_jax._bus.arrays.changes import Changes, Made, name_taken
from mmsb_jax._bus.arrays.names import new_spec, patches_of
from mmsb_jax._bus.commit import Annotation, TreeWriter
from mmsb_jax._bus.derive.transaction import GraphChange
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.events.events import is_held
from mmsb_jax._bus.reading import Reading
from mmsb_jax._bus.trees.tree import TreeShape
from mmsb_jax._core.layout import Layout
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit

if TYPE_CHECKING:
    from mmsb_jax._core.delta import Delta


class Writing(Reading):
    """What a bus that writes can do with single arrays."""

    def __init__(self, log: Log, engine: Engine | None, files: Files, path: Path | None) -> None:
        super().__init__(log, engine, files, path)
        self._made = Made()
        self._layout: Layout | None = None
        self._layout_shape: TreeShape | None = None
        self._open_batch: Batch | None = None
        self._turn = threading.Condition(self._own_lock)  # only to see who has it
        self._resumed: TreeShape | None = None
        self._trees = None if engine is None else TreeWriter(engine, self._made)
        if engine is not None:
            engine.tell(self._events)

    @property
    def _shape(self) -> TreeShape | None:
        return self._resumed if self._trees is None else self._trees.shape

    def _know(self, tree: Any) -> None:
        """Take the structure of a tree that is the newest version."""
        if self._trees is not None:
            self._trees.know(tree)
        else:
            self._resumed = TreeShape(tree, self.page_bytes)

    def _arrays(self) -> list[ArrayInfo]:
        return [*super()._arrays(), *map(self._made.info, self._made.specs)]

    @property
    def layout(self) -> Layout:
        """Where each array stands in the pool that deltas speak of; a snapshot of the table.

        ``bus.layout.pack(tree)`` packs the committed tree, where nothing but it is on the bus.
        """
        with self._events, self._lock:
            self._settle()
            known = None if self._engine_or_none is None else self._layout
            if known is None or self._layout_shape is not self._shape:
                known = self._layout = super().layout
                self._layout_shape = self._shape
            return known

    def create(
        self,
        name: str,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        *,
        nbytes: int | None = None,
    ) -> None:
        """Make an array of zeros: ``shape`` and ``dtype`` (float32 for None), or ``nbytes`` raw.

        It is recorded with the next commit, or by `sync`, `snapshot` and `close`.

        Raises:
            StructureError: a name that is taken, a shape or dtype that no array can have.

        Cost: about a microsecond; its bytes are made when they are first written.
        """
        spec = new_spec(name, shape, dtype, nbytes)
        with self._lock:
            engine = self._engine()
            table = engine.head.state.table
            if not engine.is_settled:
                self._settle()
            if self._batch is not None:
                self._batch.create(name, spec)
                return
            made = self._made.specs
            if name in made or name in table.ids or name in table.values:
                raise name_taken(name)
            made[name] = (table.next_id + len(made), spec)
            self._layout = None

    def write(
        self, name: str, value: Any, *, step: int | None = None, source: str = "", note: Any = None
    ) -> Commit | None:
        """Replace the bytes of one array: a commit; inside a batch, None.

        Raises:
            ArrayNotFoundError, StructureError: no such array; another shape or dtype.
        """
        said = Annotation(step, source, note, None)
        return self._change(lambda changes: changes.write(name, value), said)

    def resize(
        self,
        name: str,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        *,
        nbytes: int | None = None,
        source: str = "",
    ) -> Commit | None:
        """Give one array another shape or dtype: its first bytes stay, new ones are zero.

        Raises:
            ArrayNotFoundError, StructureError: no such array; one of the committed tree; no shape.
        """
        said = Annotation(None, source, None, None)
        return self._change(lambda changes: changes.resize(name, shape, dtype, nbytes), said)

    def clone(self, name: str, copy: str, *, source: str = "") -> Commit | None:
        """Make the array ``copy`` with the shape, dtype and bytes of ``name``.

        Raises:
            ArrayNotFoundError, StructureError: no such array; the name is taken.
        """
        said = Annotation(None, source, None, None)
        return self._change(lambda changes: changes.clone(name, copy), said)

    def apply(
        self,
        delta: "Delta",
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        layout: Layout | None = None,
    ) -> Commit | None:
        """Commit a delta that was made by hand, or by `mmsb_jax.diff`.

        Args:
            delta: what to write.
            step, source, note: as in `commit`.
            layout: the layout that it was made with; ``bus.layout`` for None.

        Raises:
            InvalidDeltaError: it overflowed, has a batch, or writes outside of the arrays; the
                message names the byte. Nothing has changed.

        Cost: the bytes of the delta.
        """
        said = Annotation(step, source, note, None)
        with self._events, self._lock:
            self._engine()
            self._settle()
            patches = self._patches_of(delta, self.layout if layout is None else layout)
            return self._change(lambda changes: changes.patch(patches), said)

    def batch(
        self, *, step: int | None = None, source: str = "", note: Any = None
    ) -> BatchManager[Self]:
        """Inside, writes are gathered; at its end they are one commit. An exception drops them.

        The batch holds the bus: other threads wait until it ends.
        """
        return BatchManager(self, Annotation(step, source, note, None))

    def _begin_batch(self, batch: Batch) -> None:
        with self._events, self._lock:
            self._engine()
            self._settle()
            if self._open_batch is not None:
                raise ClosedError("a batch inside a batch: end the first one first")
            batch.changes = Changes(self._engine().head.state, self._made, owns=True)
            self._open_batch, batch.is_open = batch, True
            self._own_lock.acquire()  # until `_drop_batch`

    def _end_batch(self, batch: Batch, is_whole: bool) -> None:
        with self._events:
            try:
                if is_whole:
                    changes, batch.changes = batch.changes, None
                    self._land(changes, batch.said)
            finally:
                self._drop_batch(batch)

    def _drop_batch(self, batch: Batch) -> None:
        """Let go of the bus, and of what was gathered, as far as that is not done."""
        if not batch.is_open:
            return
        if self._open_batch is batch:
            self._open_batch = None
        if is_held(self._turn):
            self._own_lock.release()
        batch.is_open = False

    @property
    def _batch(self) -> Changes | None:
        """What a batch has gathered; None outside of one."""
        return None if self._open_batch is None else self._open_batch.changes

    def _change(self, make: Callable[[Changes], None], said: Annotation) -> Commit | None:
        """Make a change of arrays by name: now, or at the end of the batch."""
        with self._events, self._lock:
            self._engine()
            if self._batch is not None:
                make(self._batch)
                return None
            self._settle()
            changes = self._changes()
            make(changes)
            return self._land(changes, said)

    def _changes(self) -> Changes:
        return Changes(self._engine().head.state, self._made)

    def _land(self, changes: Changes, said: Annotation) -> Commit:
        engine, draft = self._engine(), changes.draft()

        def landed(commit: Commit) -> None:
            self._made.specs.clear()
            if draft.ops:  # those of derived arrays among them
                self._layout = None

        filled = said.fill(draft, said.numbers())
        return engine.land(filled, self._shape, changes.graph, landed)

    def _land_graph(self, change: GraphChange, said: Annotation) -> Commit | None:
        return self._change(lambda changes: changes.change_graph(change), said)

    def _record_made(self, source: str = "") -> None:
        if self._made:
            self._land(self._changes(), Annotation(None, source, None, None))

    def _patches_of(self, delta: "Delta", layout: Layout) -> Any:
        changes = self._batch or self._changes()
        return patches_of(delta, layout, changes.find)

    def _refuse_in_batch(self, verb: str) -> None:
        if self._batch is not None:
            raise ClosedError(f"{verb} inside a batch: end the batch first")

    def _engine(self) -> Engine:
        """The engine of a bus that may be written to now."""
        engine = self._engine_or_none
        if engine is None:
            raise ClosedError("this bus was opened with mode='r' and cannot be written to")
        engine.check_open()
        return engine
