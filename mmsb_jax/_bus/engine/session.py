"""A session: what all parts of one bus share. Its log, its engine if it writes, and its lock."""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mmsb_jax._base.arguments import check_choice, check_number
from mmsb_jax._base.errors import ClosedError, CorruptionError, LocationError, VersionError
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.engine.engine import Engine, of_the_parent
from mmsb_jax._bus.engine.stats import Meter, Stats
from mmsb_jax._bus.events.events import Events
from mmsb_jax._bus.trees.places import Places
from mmsb_jax._compile.made import MadePrograms
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.files.threads import Threads
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.query.superseded import Spans, superseded_in
from mmsb_jax._store.state.state import StoredState, Table

Ref = int | str | Commit
"""A version: its number, a tag of it, or its commit."""

Lineage = Literal["living", "all"]

_MOST_HEADERS = 1000
"""So many behind, a reader begins anew at the newest snapshot."""


def number_of(log: Log, name: str, version: Any) -> int:
    """The number of a version that is there, given by a `Ref` as ``name``."""
    if isinstance(version, str):
        return log.tagged(version)
    if isinstance(version, Commit):
        return _number_of_commit(log, name, version)
    check_number(name, version)
    if version > log.version:
        raise log.no_version(version)
    return int(version)


def _number_of_commit(log: Log, name: str, commit: Commit) -> int:
    number = commit.version
    if number > log.version or log.row(number).time_ns != commit.time_ns:
        raise VersionError(
            f"{name} is a commit of another log: its version {number} is not that of "
            f"{log.place}. Give a commit, a version or a tag of it."
        )
    return number


class Session:
    """The log of a bus, opened.

    Args:
        log: the log.
        engine: what writes it; None for a reader.
        files: its directory.
        path: the same as a path; None in memory.
        places: where the arrays go that it gives.

    Attributes:
        page_bytes: bytes of a page.
        events: who listens to it.
        own_lock: its lock, to be taken through `lock`.
        threads: what large work is divided among.
    """

    def __init__(
        self,
        log: Log,
        engine: Engine | None,
        files: Files,
        path: Path | None,
        places: Places,
    ) -> None:
        self.log = log
        self.engine = engine
        self.files = files
        self.path = path
        self.places = places
        self.page_bytes: int = log.manifest.page_bytes
        self.own_lock = threading.RLock()
        self.events = Events(self.own_lock)
        self.threads = engine.threads if engine is not None else Threads()
        self._pid = os.getpid()
        self._reader_closed = False
        self._table: Table | None = None  # of a reader
        if engine is not None:
            engine.tell(self.events)

    @property
    def lock(self) -> threading.RLock:
        """The lock of the bus, to be taken with ``with``: no interrupt leaves it locked."""
        if self.is_forked:
            raise of_the_parent(self._pid)
        if self.engine is not None and self.engine.keeper is not None:
            self.engine.refuse_policy()
        return self.own_lock

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that opened it."""
        return os.getpid() != self._pid

    @property
    def closed(self) -> bool:
        """Whether it was closed, or must not be used any more."""
        if self.is_forked:
            return True
        return self._reader_closed or (self.engine is not None and not self.engine.is_open)

    def writing(self) -> Engine:
        """The engine of a bus that may be written to now."""
        if self.engine is None:
            raise ClosedError("this bus was opened with mode='r' and cannot be written to")
        self.engine.check_open()
        return self.engine

    def refresh(self) -> None:
        """Refuse a bus that is closed; a reader looks at what the writer has added."""
        if self.engine is not None:
            self.engine.check_open()
            self.engine.settle_own()
        elif self._reader_closed:
            raise ClosedError("this bus is closed. Open the log again.")
        else:
            with self.lock:
                self.log.refresh()

    def settle(self) -> None:
        """As `refresh`; and wait for what is queued."""
        self.refresh()
        if self.engine is not None:
            self.engine.settle()

    def head(self) -> StoredState:
        """The newest state, not to be changed."""
        self.settle()
        if self.engine is not None:
            return self.engine.head.state
        return self.log.head(executor=self.threads)

    def state_now(self, version: int, wanted: Callable[[str], bool] | None) -> StoredState:
        """A version, to be read at once: that of a writer's head goes on changing."""
        head = None if self.engine is None else self.engine.head
        if head is not None and head.is_saved and version == head.state.table.version:
            return head.state
        return self.log.state(version, wanted, executor=self.threads)

    def state_from(self, known: StoredState | None, version: int) -> StoredState:
        """As `state_now` of all arrays; made from ``known`` where it is nearer than a snapshot."""
        if known is not None and known.table.version <= version < self.log.version:
            since = known.table.version
            if not any(since < snapshot <= version for snapshot in self.log.snapshots()):
                with contextlib.suppress(CorruptionError, LocationError, VersionError):
                    return self.log.state_after(known, version, self.threads)
        return self.state_now(version, None)

    @property
    def durable_version(self) -> int:
        """The newest version that is known to survive a power cut."""
        if self.engine is not None:
            return self.engine.writer.durable_version
        self.refresh()
        return self.log.durable_version

    def version_of(
        self,
        version: Any,
        step: Any = None,
        time_ns: Any = None,
        lineage: Any = "living",
    ) -> int:
        """The number of a version, given by at most one of these; the newest for none.

        Args:
            version: a `Ref`.
            step, time_ns: the newest commit of that step, or not after that time.
            lineage: which commits count for these: ``"living"`` leaves the superseded ones out.
        """
        check_choice("lineage", lineage, "living", "all")
        given = {"version": version, "step": step, "time_ns": time_ns}
        chosen = {name: value for name, value in given.items() if value is not None}
        if len(chosen) > 1:
            raise ValueError(f"give one of version, step and time_ns; got {chosen}")
        if version is not None:
            return self.number_of("version", version)
        for name, value in chosen.items():
            check_number(name, value)
        if chosen:
            return self.log.last_with(step, time_ns, self.passed_over(lineage))
        return self.log.version

    def number_of(self, name: str, version: Any) -> int:
        """As the function `number_of`, of this log."""
        return number_of(self.log, name, version)

    def passed_over(self, lineage: Lineage) -> Spans:
        """The versions that do not count in a search."""
        return () if lineage == "all" else superseded_in(self.entries)

    @property
    def entries(self) -> Mapping[str, str]:
        """What is recorded of the graph, and of earlier versions, at the newest; not to be changed.

        Cost: for a reader, a look at the headers behind those that were looked at before.
        """
        if self.engine is not None:
            return self.engine.head.state.table.graph
        known, self._table = self._table, None
        self._table = self._newest_table(known)
        return self._table.graph

    def _newest_table(self, known: Table | None) -> Table:
        """The table of the newest version; ``known``, an earlier one, is brought forward to it."""
        log, newest = self.log, self.log.version
        if known is None or not log.kept_since - 1 <= known.version <= newest:
            return log.table(newest)
        if newest - known.version > _MOST_HEADERS or log.chain_at(known.version) != known.chain:
            return log.table(newest)
        log.advance_table(known, newest)
        return known

    def close_reader(self) -> None:
        """Let go of the files of a reader."""
        if not self._reader_closed:
            self._reader_closed = True
            self.threads.shutdown()
            self.files.close()

    def stats(self, programs: MadePrograms, copied_bytes: int, device_bytes: int) -> Stats:
        """What the bus holds and has done; a reader has committed nothing, and holds no state.

        Args:
            programs: programs compiled for commits that do not wait.
            copied_bytes: bytes of their copies.
            device_bytes: bytes that the bus holds on devices.
        """
        state, engine = self.head(), self.engine
        meter = engine.meter if engine is not None else Meter()
        derivations = engine.derivations if engine is not None else Derivations(state.table)
        keeper = None if engine is None else engine.keeper
        copier = None if engine is None else engine.copier
        sizes = [info.nbytes for info in state.table.arrays.values()]
        return Stats(
            version=self.log.version,
            durable_version=self.durable_version,
            arrays=len(sizes),
            pages=sum(-(-size // self.page_bytes) for size in sizes),
            state_bytes=sum(sizes),
            host_bytes=copied_bytes + (0 if engine is None else engine.head.held_bytes),
            device_bytes=device_bytes,
            segments=len(self.log.pieces),
            snapshots=len(self.log.snapshots()),
            snapshot_fault=engine.writer.snapshot_fault if engine is not None else None,
            keep_fault=None if keeper is None else keeper.fault,
            keep_runs=0 if keeper is None else keeper.runs,
            unranked=0 if keeper is None else keeper.unranked,
            copied_version=None if copier is None else copier.version,
            copy_fault=None if copier is None else copier.fault,
            queued=engine.queue.depth if engine is not None else 0,
            programs=programs,
            commits=meter.commits,
            unchanged_commits=meter.unchanged,
            unsaved_commits=meter.unsaved,
            changed_bytes=meter.changed_bytes,
            logged_bytes=meter.logged_bytes,
            moved_bytes=meter.moved_bytes,
            blocked_ms=meter.blocked_ns / 1e6,
            commit_ms_p50=meter.commit_ms(50),
            commit_ms_p99=meter.commit_ms(99),
            derived=len(derivations.flow.nodes),
            stale=len(derivations.stale_nodes()),
            edges=derivations.flow.graph.edge_count,
            depth=derivations.flow.graph.depth,
            wave_programs=derivations.machine.log.programs(),
            waves=meter.waves,
            functions_run=meter.functions_run,
            wave_ms_p50=meter.wave_ms(50),
            wave_ms_p99=meter.wave_ms(99),
            failed_handlers=len(self.events.failures),
        )
