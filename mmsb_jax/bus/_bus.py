"""The bus: versioned state behind one object. It holds the parts, and delegates."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from mmsb_jax._errors import ClosedError, InvalidDeltaError
from mmsb_jax.bus import _checkout as checkouts
from mmsb_jax.bus._arrays import new_spec, patches_of
from mmsb_jax.bus._changes import Changes, Made, name_taken
from mmsb_jax.bus._commit import Annotation, TreeWriter, commit_of, done
from mmsb_jax.bus._engine import Engine, Threads
from mmsb_jax.bus._reading import Reading
from mmsb_jax.bus._tree import TreeShape
from mmsb_jax.core._layout import Layout
from mmsb_jax.observe._stats import Stats
from mmsb_jax.store._commit import Commit, read_extra
from mmsb_jax.store._files import Files
from mmsb_jax.store._head import Draft
from mmsb_jax.store._log import Log
from mmsb_jax.store._record import ArrayInfo

if TYPE_CHECKING:
    from mmsb_jax.core._delta import Delta
    from mmsb_jax.core._tlog import TLog


class Bus(Reading):
    """Versioned state: commit pytrees, check any version out, write single arrays.

    `mmsb_jax.open` makes one. Thread-safe. What it returns is the caller's own: it may be donated
    or changed.

    Attributes:
        path: directory of the log; None in memory.
        page_bytes: bytes of a page.
        recovered: what recovery found and left out when the log was opened; empty when all was
            well.
    """

    def __init__(self, log: Log, engine: Engine | None, files: Files, path: Path | None) -> None:
        super().__init__(log, engine, files, path)
        self._made = Made()
        self._layout: Layout | None = None
        self._batch: Changes | None = None
        self._trees = TreeWriter(engine, self._made) if engine is not None else None
        self._end = weakref.finalize(self, _end, engine, files, self._threads, self._made)

    # ------------------------------------------------------------------------------ its state

    @property
    def durability(self) -> Any:
        """When a commit returns: ``"os"``, ``"fsync"`` or ``("group", ms)``; None for a reader."""
        engine = self._engine_or_none
        return None if engine is None else engine.durability

    @property
    def _shape(self) -> TreeShape | None:
        return None if self._trees is None else self._trees.shape

    def _arrays(self) -> list[ArrayInfo]:
        return [*super()._arrays(), *map(self._made.info, self._made.specs)]

    @property
    def layout(self) -> Layout:
        """Where each array stands in the pool that deltas speak of; a snapshot of the table.

        ``bus.layout.pack(tree)`` packs the committed tree, where nothing but it is on the bus.
        """
        with self._lock:
            self._settle()
            if self._layout is None or self._engine_or_none is None:
                self._layout = super().layout
            return self._layout

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        if self.closed:
            return f"<Bus {where}, closed>"
        mode = "" if self._engine_or_none is not None else ", reading"
        return f"<Bus {where}: version {self._log.version}{mode}>"

    # ------------------------------------------------------------------------------- committing

    def commit(
        self,
        tree: Any,
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        extra: Any = None,
        wait: bool = True,
        structure: Literal["same", "new"] = "same",
    ) -> Any:
        """Make ``tree`` the newest version.

        Args:
            tree: a pytree of arrays, Python numbers, strings, None, functions. Once this returns,
                every array of it may be donated or changed.
            step: the caller's own number, to find the commit by; may repeat.
            source: who commits.
            note: JSON, and 0-d arrays; at most 64 KiB.
            extra: JSON or bytes of any length, kept beside the tree (the position of an iterator).
            wait: False returns at once, while the copy is written by a thread. A commit that
                records a structure (the first one) lands before this returns.
            structure: ``"new"`` records another structure than the one before.

        Returns:
            The `Commit`; with ``wait=False`` a future of it (``.result()``).

        Raises:
            StructureError: another structure, shape or dtype than recorded (every path is named);
                a leaf that cannot be recorded; an array that was donated or is traced.
            LocationError: the disk is full or fails. Nothing has changed.
            whatever made an earlier commit with ``wait=False`` fail.

        Cost: one comparison of the bytes, and the bytes that changed, encoded and written.
        """
        if structure not in ("same", "new"):
            raise ValueError(f"structure={structure!r}: expected 'same' or 'new'")
        said = Annotation(step, source, note, extra)
        with self._lock:
            trees = self._writing()
            self._refuse_in_batch("commit")
            if not wait:
                pending = trees.enqueue(tree, said)
                if pending is not None:
                    return pending
            self._settle()
            shape = trees.shape
            commit = trees.commit(tree, said, structure == "new")
            if trees.shape is not shape:
                self._layout = None
            return commit if wait else done(commit)

    def resume(self, state: Any, extra: Any = None) -> tuple[Any, Any]:
        """The newest commit as ``(tree, extra)``; what is passed, where the log is empty.

        The tree has the classes, functions and shardings of ``state``.

        Raises:
            StructureError: what was committed differs from ``state``; every path is named.
        """
        with self._lock:
            if self.version == 0 or not self._has_tree():
                return state, extra
            version = self._log.version
            tree = checkouts.build_like(self._head(), state, None, None, "error")
            return tree, read_extra(self._log, version)

    def _refuse_in_batch(self, verb: str) -> None:
        if self._batch is not None:
            raise ClosedError(f"{verb} inside a batch: end the batch first")

    def _has_tree(self) -> bool:
        table = self._head().table
        return bool(table.values) or any(info.member for info in table.arrays.values())

    def extend(
        self, log: "TLog", *, source: str = "", layout: Layout | None = None
    ) -> list[Commit]:
        """Commit the entries of a log of the device, one commit each.

        Args:
            log: entries, of one branch (of a batch, pick one first).
            source: who commits.
            layout: the layout that the entries were made with; ``bus.layout`` for None. Its arrays
                are found here by name.

        Raises:
            InvalidDeltaError: the log overflowed, has a batch, or writes outside of the arrays.
                Nothing was committed.
        """
        with self._lock:
            self._refuse_in_batch("extend")
            host = jax.device_get(log)
            if np.ndim(host.count):
                raise InvalidDeltaError(
                    f"the log has a batch of shape {np.shape(host.count)}. Pick one of it first: "
                    f"jax.tree.map(lambda x: x[i], log)."
                )
            if host.overflow:
                raise InvalidDeltaError(
                    f"the log overflowed after {int(host.count)} entries: the next found no room "
                    f"in {host.ends.size} commits and {host.page.size} blocks. Make a larger one."
                )
            said = Annotation(None, source, None, None)
            self._writing()
            self._settle()
            place = layout or self.layout
            patches = [self._patches_of(host[i], place) for i in range(int(host.count))]
            commits = []
            for patch in patches:
                changes = self._changes()
                changes.patch(patch)
                commits.append(self._land(changes, said))
            return commits

    # --------------------------------------------------------------------------- arrays by name

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
            if not engine.queue.is_settled:
                self._settle()
            if self._batch is not None:
                self._batch.create(name, spec)
                return
            made = self._made.specs
            if name in made or name in table.ids or name in table.values:
                raise name_taken(name)
            made[name] = (table.next_id + len(made), spec)
            self._layout = None

    def read(self, name: str) -> Any:
        """The newest value of one array; inside a batch, the one written in it.

        Raises:
            ArrayNotFoundError: no array has that name; the message says which are near.

        Cost: one copy of its bytes.
        """
        with self._lock:
            state = self._head()
            changes = self._batch
            if changes is None:
                if name not in self._made.specs:
                    return checkouts.read_array(state, checkouts.find_array(state, name))
                changes = Changes(state, self._made)
            info = changes.find(name)
            return checkouts.array_of(info, changes.bytes_of(info))

    def write(
        self, name: str, value: Any, *, step: int | None = None, source: str = "", note: Any = None
    ) -> Commit | None:
        """Replace the bytes of one array: a commit; inside a batch, None.

        Raises:
            ArrayNotFoundError, StructureError: no such array; another shape or dtype.
        """
        said = Annotation(step, source, note, None)
        return self._change(lambda changes: changes.write(name, value), said)

    def delete(self, name: str, *, source: str = "") -> Commit | None:
        """Delete one array that was made by name: a commit; inside a batch, None.

        Raises:
            ArrayNotFoundError, StructureError: no such array; one of the committed tree.
        """
        with self._lock:
            self._engine()
            self._settle()
            if self._batch is None and name in self._made.specs:
                self._record_made(source)
        said = Annotation(None, source, None, None)
        return self._change(lambda changes: changes.delete(name), said)

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
        with self._lock:
            self._engine()
            self._settle()
            patches = self._patches_of(delta, layout or self.layout)
            return self._change(lambda changes: changes.patch(patches), said)

    @contextlib.contextmanager
    def batch(
        self, *, step: int | None = None, source: str = "", note: Any = None
    ) -> Iterator["Bus"]:
        """Inside, writes are gathered; at its end they are one commit. An exception drops them.

        The batch holds the bus: other threads wait until it ends.
        """
        said = Annotation(step, source, note, None)
        with self._lock:
            self._engine()
            self._settle()
            if self._batch is not None:
                raise ClosedError("a batch inside a batch: end the first one first")
            self._batch = Changes(self._engine().head.state, self._made, owns=True)
            try:
                yield self
                changes, self._batch = self._batch, None
                self._land(changes, said)
            finally:
                self._batch = None

    def _change(self, make: Callable[[Changes], None], said: Annotation) -> Commit | None:
        """Make a change of arrays by name: now, or at the end of the batch."""
        with self._lock:
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
        if draft.ops:
            self._layout = None
        landed = engine.land(said.fill(draft, said.numbers()))
        self._made.specs.clear()
        return commit_of(engine, draft, landed)

    def _record_made(self, source: str = "") -> None:
        if self._made:
            self._land(self._changes(), Annotation(None, source, None, None))

    def _patches_of(self, delta: "Delta", layout: Layout) -> Any:
        changes = self._batch or self._changes()
        return patches_of(delta, layout, changes.find)

    # --------------------------------------------------------------------------- the whole log

    def snapshot(self) -> None:
        """Make a full copy of the newest version, so that a checkout has a near start."""
        with self._lock:
            engine = self._engine()
            self._refuse_in_batch("snapshot")
            self._settle()
            self._record_made()
            engine.snapshot()

    def sync(self) -> int:
        """Make every commit so far survive a power cut; returns the newest durable version."""
        with self._lock:
            engine = self._engine()
            self._refuse_in_batch("sync")
            self._settle()
            self._record_made()
            return engine.writer.sync()

    def stats(self) -> Stats:
        """What the bus holds and has done."""
        with self._lock:
            programs = 0 if self._trees is None else self._trees.programs
            return Stats.of(
                self._head(), self._log, self._engine_or_none, programs, self.page_bytes
            )

    def reset_stats(self) -> None:
        """Begin counting commits again."""
        self._engine().meter.reset()

    def close(self) -> None:
        """Let what is queued land, sync, and give the log back. A second call does nothing.

        Raises:
            whatever made a commit with ``wait=False`` fail; the bus is closed all the same.
        """
        with self._lock:
            engine = self._engine_or_none
            self._end.detach()
            if engine is not None:
                engine.close([self._record_made])
            elif not self._reader_closed:
                self._reader_closed = True
                self._threads.shutdown()
                self._files.close()

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------- inside

    def _engine(self) -> Engine:
        """The engine of a bus that may be written to now."""
        engine = self._engine_or_none
        if engine is None:
            raise ClosedError("this bus was opened with mode='r' and cannot be written to")
        engine.check_open()
        return engine

    def _writing(self) -> TreeWriter:
        self._engine()
        assert self._trees is not None
        return self._trees


def _end(engine: Engine | None, files: Files, threads: Threads, made: Made) -> None:
    """What is left to do for a bus that nobody closed: when it goes, or the process does."""
    if engine is not None:

        def record_made() -> None:
            if made:
                engine.land(Draft(ops=made.ops()))

        with contextlib.suppress(Exception):
            engine.close([record_made])
    else:
        threads.shutdown()
        files.close()
