"""The bus: versioned state behind one object. It holds the parts, and delegates."""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from mmsb_jax._base.arguments import check_choice, check_flag, show
from mmsb_jax._base.errors import InvalidDeltaError
from mmsb_jax._bus.arrays.changes import Made
from mmsb_jax._bus.commit import Annotation, TreeWriter, done
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.engine.stats import Meter, Stats
from mmsb_jax._bus.events.events import Event, Subscription
from mmsb_jax._bus.keeping import Keeping
from mmsb_jax._bus.shipping import Shipping
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._core.layout import Layout
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.files.threads import Threads
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit, read_extra_in_force
from mmsb_jax._store.state.state import StoredState

if TYPE_CHECKING:
    from mmsb_jax._core.tlog import TLog


class Bus(Shipping, Keeping):
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
        self._end = weakref.finalize(self, _end, engine, files, self._threads, self._made)

    # ------------------------------------------------------------------------------ its state

    @property
    def durability(self) -> Any:
        """When a commit returns: ``"os"``, ``"fsync"`` or ``("group", ms)``; None for a reader."""
        engine = self._engine_or_none
        return None if engine is None else engine.durability

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
                None leaves what was said before in force; `mmsb_jax.CLEAR` ends it.
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
        check_choice("structure", structure, "same", "new")
        check_flag("wait", wait)
        said = Annotation(step, source, note, extra)
        with self._events, self._lock:
            trees = self._writing()
            self._refuse_in_batch("commit")
            if not wait:
                pending = trees.enqueue(tree, said)
                if pending is not None:
                    return pending
            self._settle()
            commit = trees.commit(tree, said, structure == "new")
            return commit if wait else done(commit)

    def resume(self, state: Any, extra: Any = None) -> tuple[Any, Any]:
        """The newest commit as ``(tree, extra)``; what is passed, where the log is empty.

        The tree has the classes, functions and shardings of ``state``. From here on the bus knows
        that structure, as if it had committed it. The ``extra`` is the newest that any commit has
        said: one that says nothing of it (`write`, a derived array that was computed) leaves it as
        it was. Where none has said any, it is what is passed; where `mmsb_jax.CLEAR` ended it,
        None.

        Raises:
            StructureError: what was committed differs from ``state``; every path is named.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": 1.0}, extra={"next": 7})
        >>> bus.create("x", ())
        >>> _ = bus.write("x", 2.0)
        >>> bus.resume({"w": 0.0}, extra={"next": 0})
        ({'w': 1.0}, {'next': 7})
        """
        with self._events, self._lock:
            if self.version == 0 or not self._has_tree():
                return state, extra
            tree = checkouts.build_like(self._head(), state, None, None, "error")
            self._know(tree)
            known = read_extra_in_force(self._log, self._log.version)
            return tree, known.value if known.version else extra

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
        from mmsb_jax._core.tlog import TLog

        if not isinstance(log, TLog):
            raise TypeError(f"log={show(log)}: expected a TLog")
        with self._events, self._lock:
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
            place = self.layout if layout is None else layout
            patches = [self._patches_of(host[i], place) for i in range(int(host.count))]
            commits = []
            for patch in patches:
                changes = self._changes()
                changes.patch(patch)
                commits.append(self._land(changes, said))
            return commits

    # --------------------------------------------------------------------------- the whole log

    def snapshot(self) -> None:
        """Make a full copy of the newest version, so that a checkout has a near start."""
        with self._events, self._lock:
            engine = self._engine()
            self._refuse_in_batch("snapshot")
            self._settle()
            self._record_made()
            engine.snapshot()

    def sync(self) -> int:
        """Make every commit so far survive a power cut; returns the newest durable version."""
        with self._events, self._lock:
            engine = self._engine()
            self._refuse_in_batch("sync")
            self._settle()
            self._record_made()
            return engine.writer.sync()

    def subscribe(
        self,
        kind: str | Iterable[str],
        handler: Callable[[Event], Any],
        where: str | Sequence[str] | Callable[[Event], Any] | None = None,
    ) -> Subscription:
        """Call ``handler`` with the events of the commits that begin from now on.

        Args:
            kind: ``"commit"``, ``"changed"``, ``"created"``, ``"deleted"``, ``"resized"``,
                ``"recomputed"``, ``"stale"``, ``"delta"``, ``"device_sync"``, ``"compiler"``;
                several of them, or ``"*"``.
            handler: called with an `Event`, after the commit, on the thread that made it (for
                ``wait=False`` on a thread of the bus), one at a time, in the order of versions and
                subscriptions. It may use the bus. An exception in it is logged and kept; it stops
                neither the commit nor other handlers.
            where: patterns of arrays (``params/**``), or a function of the event.

        Returns:
            The subscription; ``.cancel()`` ends it, and so does leaving it as a context manager.

        Raises:
            ValueError, TypeError: no such kind; no function; no such ``where``.
            ClosedError: the bus is closed, or was opened with mode='r'.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> with bus.subscribe("changed", lambda event: print(event.array), where="w*"):
        ...     commit = bus.commit({"w": 1.0, "x": 2.0})
        w
        """
        self._engine()
        return self._events.subscribe(kind, handler, where)

    def stats(self) -> Stats:
        """What the bus holds and has done."""
        with self._events, self._lock:
            programs = 0 if self._trees is None else self._trees.programs
            return _stats_of(
                self._head(), self._log, self._engine_or_none, programs, self.page_bytes
            )

    def reset_stats(self) -> None:
        """Begin counting commits again."""
        self._engine().meter.reset()

    def close(self) -> None:
        """Let what is queued land, sync, and give the log back. A second call does nothing.

        Where an interrupt cuts it short, a second call goes on. In a forked child it does nothing:
        the bus is the parent's.

        Raises:
            whatever made a commit with ``wait=False`` fail; the bus is closed all the same.
        """
        if os.getpid() != self._pid:
            return
        engine = self._engine_or_none
        if engine is not None and engine.is_open:
            with self._events, self._lock:
                engine.queue.settle()
            self._events.drain()  # handlers may use the bus, as long as it is open
        try:
            with self._events, self._lock:
                if engine is not None:
                    engine.close([self._record_made])
                elif not self._reader_closed:
                    self._reader_closed = True
                    self._threads.shutdown()
                    self._files.close()
        finally:
            if engine is None or engine.is_released:
                self._end.detach()
                self._events.close()

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------- inside

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


def _stats_of(
    state: StoredState, log: Log, engine: Engine | None, programs: int, page_bytes: int
) -> Stats:
    """The counters of a bus; a reader has no engine and has committed nothing."""
    meter = engine.meter if engine is not None else Meter()
    durable = engine.writer.durable_version if engine is not None else log.durable_version
    derivations = engine.derivations if engine is not None else Derivations(state.table)
    graph = derivations.flow.graph
    events = engine.events if engine is not None else None
    sizes = [info.nbytes for info in state.table.arrays.values()]
    return Stats(
        version=log.version,
        durable_version=durable,
        arrays=len(sizes),
        pages=sum(-(-size // page_bytes) for size in sizes),
        state_bytes=sum(sizes),
        segments=len(log.pieces),
        snapshots=len(log.snapshots()),
        snapshot_fault=engine.writer.snapshot_fault if engine is not None else None,
        queued=engine.queue.depth if engine is not None else 0,
        programs=programs,
        commits=meter.commits,
        unchanged_commits=meter.unchanged,
        changed_bytes=meter.changed_bytes,
        logged_bytes=meter.logged_bytes,
        commit_ms_p50=meter.commit_ms(50),
        commit_ms_p99=meter.commit_ms(99),
        derived=len(derivations.flow.nodes),
        stale=len(derivations.stale_nodes()),
        edges=graph.edge_count,
        depth=graph.depth,
        wave_programs=derivations.machine.programs,
        waves=meter.waves,
        functions_run=meter.functions_run,
        wave_ms_p50=meter.wave_ms(50),
        wave_ms_p99=meter.wave_ms(99),
        failed_handlers=len(events.failures) if events is not None else 0,
    )
