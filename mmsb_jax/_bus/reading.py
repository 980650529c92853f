"""The reading half of a bus: what can be asked of its log, and changes nothing."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from mmsb_jax._base.arguments import (
    check_choice,
    check_flag,
    check_function,
    check_number,
    check_text,
)
from mmsb_jax._base.errors import ClosedError
from mmsb_jax._bus.arrays.rows import Rows
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.events.events import Events
from mmsb_jax._bus.opening import fork
from mmsb_jax._bus.query.history import History
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._bus.trees.tree import TreeShape
from mmsb_jax._core.layout import Layout
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.files.threads import Threads
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.log.in_force import step_in_force
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.verify import VerifyReport, verify
from mmsb_jax._store.query.commit import Commit, read_commit, read_extra_in_force
from mmsb_jax._store.query.diff import diff_versions
from mmsb_jax._store.state.state import StoredState

if TYPE_CHECKING:
    from mmsb_jax._bus.query.diff import VersionDiff


class Reading:
    """What every bus can do, also one that was opened with ``mode="r"``.

    Attributes:
        path: directory of the log; None in memory.
        page_bytes: bytes of a page.
        recovered: what recovery found and left out when the log was opened; empty when all was
            well.
    """

    def __init__(self, log: Log, engine: Engine | None, files: Files, path: Path | None) -> None:
        self.path = path
        self.page_bytes: int = log.manifest.page_bytes
        self.recovered: list[str] = list(log.recovered)
        self._log = log
        self._engine_or_none = engine
        self._files = files
        self._pid = os.getpid()
        self._own_lock = threading.RLock()
        self._events = Events(self._own_lock)
        self._rows = Rows(self.page_bytes)
        self._reader_closed = False
        self._threads = engine.threads if engine is not None else Threads()

    @property
    def _lock(self) -> threading.RLock:
        """The lock of the bus, to be taken with ``with``: no interrupt leaves it locked.

        Raises:
            ClosedError: in a forked child, where a thread that is not there may hold it.
        """
        if os.getpid() != self._pid:
            raise ClosedError(
                f"this bus belongs to process {self._pid}, which forked this one. Open it with "
                f"mode='r' here, or pass what is to be written to the parent."
            )
        return self._own_lock

    @property
    def _shape(self) -> TreeShape | None:
        """The structure last committed by this object; None where it commits nothing."""
        return None

    def _arrays(self) -> list[ArrayInfo]:
        """The arrays of the newest version."""
        return list(self._head().table.arrays.values())

    @property
    def layout(self) -> Layout:
        """Where each array stands in the pool that deltas speak of; a snapshot of the table.

        ``bus.layout.pack(tree)`` packs the committed tree, where nothing but it is on the bus.
        """
        with self._lock:
            return self._rows.layout(self._arrays(), self._shape)

    @property
    def closed(self) -> bool:
        """Whether it was closed, or must not be used any more."""
        engine = self._engine_or_none
        if os.getpid() != self._pid:
            return True
        return self._reader_closed or (engine is not None and not engine.is_open)

    @property
    def version(self) -> int:
        """The newest version; 0 for an empty log. A reader sees what the writer has added."""
        self._refresh()
        return self._log.version

    @property
    def durable_version(self) -> int:
        """The newest version that is known to survive a power cut."""
        engine = self._engine_or_none
        if engine is not None:
            return engine.writer.durable_version
        self._refresh()
        return self._log.durable_version

    def tree(self) -> Any:
        """The newest version, in the structure last committed here; else a dict by name."""
        with self._lock:
            return self._build(self._head(), None, None)

    def checkout(
        self,
        *,
        version: int | str | None = None,
        step: int | None = None,
        time_ns: int | None = None,
        arrays: Sequence[str] | None = None,
        like: Any = None,
        missing: Literal["error", "keep"] = "error",
    ) -> Any:
        """The state at a version, a step (its newest commit) or a time; the newest for none.

        Args:
            version, step, time_ns: which; at most one. A tag is a version. ``time_ns`` finds the
                newest commit that is not later.
            arrays: patterns (``params/**``); a subtree where one holds them, else a dict by name.
            like: a tree that gives classes, functions and shardings, and whose paths, shapes and
                dtypes are checked. `jax.ShapeDtypeStruct` will do.
            missing: ``"keep"`` takes paths that are not recorded from ``like``, with a warning.

        Raises:
            VersionError: no such version, step or time, or a compaction dropped its data; the
                message names the nearest.
            ArrayNotFoundError: a pattern that selects nothing.
            StructureError: ``like`` differs; every path is named.
            CorruptionError: what was written does not read back, or its digest differs.

        Cost: the nearest snapshot and the log behind it, of the arrays selected.
        """
        check_choice("missing", missing, "error", "keep")
        wanted = checkouts.wanted_names(arrays)
        with self._lock:
            self._settle()
            chosen = self._version_of(version, step, time_ns)
            state = self._log.state(chosen, wanted, executor=self._threads)
            checkouts.check_selection(state, arrays)
            if like is not None:
                return checkouts.build_like(state, like, wanted, arrays, missing, _PARTS)
            return self._build(state, wanted, arrays)

    def _build(
        self,
        state: StoredState,
        wanted: Callable[[str], bool] | None,
        arrays: Sequence[str] | None,
    ) -> Any:
        shape = checkouts.known_shape(state, self._shape)
        if shape is not None:
            return checkouts.build_known(state, shape, wanted, arrays)
        return checkouts.build_flat(state, wanted)

    def _version_of(self, version: Any, step: Any, time_ns: Any) -> int:
        given = {"version": version, "step": step, "time_ns": time_ns}
        chosen = {name: value for name, value in given.items() if value is not None}
        if len(chosen) > 1:
            raise ValueError(f"give one of version, step and time_ns; got {chosen}")
        if version is not None:
            return self._number_of("version", version)
        for name, value in chosen.items():
            check_number(name, value)
        if chosen:
            return self._log.last_with(step, time_ns)
        return self._log.version

    def _number_of(self, name: str, version: Any) -> int:
        """The number of a version that is there, given by it or by a tag as ``name``."""
        if isinstance(version, str):
            return self._log.tagged(version)
        check_number(name, version)
        if version > self._log.version:
            raise self._log.no_version(version)
        return int(version)

    def extra(self, version: int | str | None = None) -> Any:
        """The ``extra`` in force at a version (or tag; the newest for None): JSON, bytes or None.

        It is the newest that a commit up to there has said: one that says nothing of it leaves it
        as it was. What a commit itself has said is `Commit.extra`.

        Raises:
            VersionError: no such version or tag; or a compaction dropped the commit that gave it.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": 1.0}, extra={"next": 7})
        >>> commit = bus.commit({"w": 2.0})
        >>> commit.extra, bus.extra()
        (None, {'next': 7})
        """
        with self._lock:
            self._settle()
            return read_extra_in_force(self._log, self._version_of(version, None, None)).value

    @property
    def step(self) -> int | None:
        """The newest step that a commit has said; one that says none leaves it as it was.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": 1.0}, step=10)
        >>> _ = bus.commit({"w": 2.0})
        >>> bus.step
        10
        """
        with self._lock:
            self._settle()
            log = self._log
            return log.steadily(lambda: step_in_force(log, log.version))

    def log(
        self,
        array: str | None = None,
        source: str | None = None,
        since: int | None = None,
        until: int | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[Commit]:
        """Commits, oldest first; reads none of their bytes.

        Args:
            array: those that changed it.
            source: those of one source.
            since, until: versions, both included.
            start_ns, end_ns: times; the first included, the second not.

        Raises:
            VersionError: a negative version or time.
        """
        numbers = {"since": since, "until": until, "start_ns": start_ns, "end_ns": end_ns}
        for name, value in numbers.items():
            if value is not None:
                check_number(name, value)
        for name, value in (("array", array), ("source", source)):
            if value is not None:
                check_text(name, value, "a name")
        with self._lock:
            self._settle()
            versions = list(self._log.select(array, source, since, until, start_ns, end_ns))
        return (read_commit(self._log, v, lambda: self.durable_version) for v in versions)

    def diff(self, old: int | str, new: int | str) -> "VersionDiff":
        """What differs between two versions, array by array; prints as a table.

        A tag is a version; 0 is the empty state. ``.delta`` is the `Delta` between them.

        Raises:
            VersionError: no such version or tag, or a compaction dropped its data.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for value in (1, 2):
        ...     _ = bus.commit({"w": np.full(3, value, np.float32)})
        >>> _ = bus.tag("first", 1)
        >>> print(bus.diff("first", 2).summary())
        version 1 → 2: 1 of 1 arrays differ, 6 bytes
        """
        from mmsb_jax._bus.query.diff import version_diff

        with self._lock:
            self._settle()
            before, after = self._number_of("old", old), self._number_of("new", new)
            found = diff_versions(self._log, before, after, executor=self._threads)
            return version_diff(
                found, lambda: (self._log.state(before), self._log.state(after)), self.layout
            )

    def history(self, array: str) -> History:
        """The versions of one array, read as they are asked for.

        Raises:
            ArrayNotFoundError: no array has, or had, that name.
        """
        check_text("array", array, "the name of an array")
        with self._lock:
            self._settle()
            history = History(self._log, array)
            if not history.versions:
                checkouts.find_array(self._head(), array)
            return history

    def fork(self, path: Any = None, *, version: int | str | None = None, **options: Any) -> Self:
        """As `Deriving.fork`, without what is derived."""
        with self._lock:
            self._settle()
            chosen = self._version_of(version, None, None)
            return fork(type(self), self._log, chosen, path, **options)

    def verify(
        self, progress: Callable[[int, int], None] | None = None, *, deep: bool = False
    ) -> VerifyReport:
        """As `Deriving.verify`, without what is derived."""
        check_function("progress", progress)
        check_flag("deep", deep)
        with self._lock:
            self._settle()
            return verify(self._log, progress, self._threads, deep)

    def _refresh(self) -> None:
        engine = self._engine_or_none
        if engine is not None:
            engine.check_open()
            engine.settle_own()
        elif self._reader_closed:
            raise ClosedError("this bus is closed. Open the log again.")
        else:
            with self._lock:
                self._log.refresh()

    def _settle(self) -> None:
        """Wait for what is queued; a reader looks at what the writer has added."""
        self._refresh()
        engine = self._engine_or_none
        if engine is not None:
            engine.settle()

    def _head(self) -> StoredState:
        """The newest state, not to be changed."""
        self._settle()
        engine = self._engine_or_none
        if engine is not None:
            return engine.head.state
        return self._log.state(self._log.version, executor=self._threads)


_PARTS = "; arrays=[…] selects a part, missing='keep' takes from `like` what is not recorded"
