"""The engine of a bus that writes: the head, its log, the queue, the lock. It knows no trees."""

import contextlib
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from mmsb_jax._errors import ClosedError, MMSBError, RecomputeError
from mmsb_jax.bus._derive import Derivations
from mmsb_jax.bus._events import Events, events_of
from mmsb_jax.bus._queue import CommitQueue
from mmsb_jax.bus._step import GraphChange, Step
from mmsb_jax.bus._tree import TreeShape
from mmsb_jax.observe._stats import Meter
from mmsb_jax.store._commit import Commit, read_extra
from mmsb_jax.store._files import Files
from mmsb_jax.store._head import Draft, Head, Landed
from mmsb_jax.store._intake import take
from mmsb_jax.store._lock import WriterLock
from mmsb_jax.store._log import Log
from mmsb_jax.store._patches import patches_of
from mmsb_jax.store._record import OpCode
from mmsb_jax.store._stream import Shipped
from mmsb_jax.store._writer import Durability, LogWriter, disk_error


class Threads(Executor):
    """A pool of threads, made when first used, that runs in the caller once Python shuts down."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn`` in a thread; here where there can be no more threads."""
        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(os.cpu_count(), "mmsb")
            return self._pool.submit(fn, *args, **kwargs)
        except RuntimeError:
            future: Future[Any] = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)


class Engine:
    """What stands behind a bus that writes.

    Args:
        files: the log's directory.
        log: the log in it, opened.
        lock: the right to write it; None in memory.
        durability: when a commit counts as done.
        snapshots: whether snapshots are made by themselves, by logged bytes.
    """

    def __init__(
        self,
        files: Files,
        log: Log,
        lock: WriterLock | None,
        durability: Durability,
        snapshots: bool,
    ) -> None:
        self.files = files
        self.log = log
        self.meter = Meter()
        self._events: weakref.ref[Events] | None = None
        self.queue = CommitQueue()
        self.lock = threading.RLock()
        self.threads = Threads()
        self.closed: str | None = None
        self._is_released = False
        self._deriving: int | None = None  # the thread that computes derived arrays now
        self.durability = durability
        self._writer_lock = lock
        self._snapshots = snapshots
        self._pid = os.getpid()
        page_bytes = log.manifest.page_bytes
        self.page_bytes = page_bytes
        self.writer = LogWriter(log, durability)
        state = log.state(log.version, page_bytes=page_bytes, executor=self.threads)
        self.head = Head(state, self.writer, page_bytes, lambda: self.threads)
        self.derivations = Derivations(state.table)

    def tell(self, events: Events) -> None:
        """Post what commits do to ``events``. Not held: its handlers may hold the bus."""
        self._events = weakref.ref(events)

    @property
    def events(self) -> Events | None:
        """Where to post what commits do; None where nobody can listen any more."""
        return None if self._events is None else self._events()

    @property
    def is_open(self) -> bool:
        """Whether it may be used, here and now."""
        return self.closed is None and os.getpid() == self._pid

    def check_open(self) -> None:
        """Refuse what comes after `close`, or in a forked child.

        Raises:
            ClosedError: with the reason.
            RecomputeError: the function of a derived array calls the bus.
        """
        if self._deriving == threading.get_ident():
            raise RecomputeError(
                "the function of a derived array uses the bus. What it reads must be its "
                "arguments, so that a change of it is seen: name the arrays in inputs=."
            )
        if self.closed is not None:
            raise ClosedError(f"this bus is closed: {self.closed}. Open the log again.")
        if os.getpid() != self._pid:
            raise ClosedError(
                f"this bus belongs to process {self._pid}, which forked this one. Open it with "
                f"mode='r' here, or pass what is to be written to the parent."
            )

    def land(
        self, draft: Draft, shape: TreeShape | None = None, change: GraphChange | None = None
    ) -> Commit:
        """Commit ``draft`` now; the queue must be empty or this its thread.

        Args:
            draft: what to commit.
            shape: structure of the committed tree after it; None where it is not known.
            change: what to do to the graph in the same commit.
        """
        return self._land(draft, lambda: self._append(draft, shape, change))

    def take(self, shipped: Shipped, place: str) -> Commit:
        """Land a commit that another log wrote, as it is: no function runs.

        Args:
            shipped: the commit; the queue must be empty.
            place: what to call where it comes from.

        Raises:
            what `mmsb_jax.store._intake.take` does; nothing has changed then.
        """
        record = shipped.record
        said = Draft(ops=record.ops, step=record.step, source=record.source, note=record.note)
        return self._land(said, lambda: (take(self.head, shipped, place), None))

    def _land(self, said: Draft, append: Callable[[], tuple[Landed, Step | None]]) -> Commit:
        """Append a commit, count it, and tell of it."""
        with self.lock:
            begun, events = time.perf_counter_ns(), self.events
            audience, version = () if events is None else events.audience, self.log.version
            try:
                landed, step = append()
            except BaseException as error:
                if self.log.version != version:
                    # The log has the commit and the head may not: only the log is right.
                    self.closed = f"the head could not follow the log ({error!r})"
                raise
            self.meter.count_commit(landed, time.perf_counter_ns() - begun)
            if step is not None and step.wave.ran:
                self.meter.count_wave(len(step.wave.ran), step.wave_ns)
            if self._snapshots and self.head.snapshot_is_due:
                self._begin_snapshot()
            commit = self._commit_of(said, landed)
            if events is not None and audience:
                about = events_about(said, step, commit)
                events.post(events_of(commit, audience, about), audience)
            return commit

    def look_anew(self) -> None:
        """Take up from the table what is derived: another log has written to it."""
        before, self.derivations = self.derivations, Derivations(self.head.state.table)
        self.derivations.is_deferred = before.is_deferred
        self.derivations.attach_from(before, self.head.state.table, None)

    def _commit_of(self, draft: Draft, landed: Landed) -> Commit:
        log, writer, version = self.log, self.writer, landed.version
        return Commit(
            version=version,
            step=draft.step,
            time_ns=landed.time_ns,
            source=draft.source,
            note=json.loads(draft.note) if draft.note else None,
            changed=landed.changed,
            changed_bytes=landed.changed_bytes,
            logged_bytes=landed.logged_bytes,
            _extra=lambda: read_extra(log, version),
            _patches=lambda: patches_of(log, version),
            _durable_version=lambda: writer.durable_version,
        )

    def _append(
        self, draft: Draft, shape: TreeShape | None, change: GraphChange | None
    ) -> tuple[Landed, Step | None]:
        step = None
        self._deriving = threading.get_ident()
        try:
            step = self.derivations.prepare(self.head.state.table, draft, change, shape)
            landed = self.head.commit(draft, None if step is None else step.follow)
        except BaseException:
            if step is not None:
                step.undo()
            raise
        finally:
            self._deriving = None
        if step is not None:
            step.done()
        return landed, step

    def _begin_snapshot(self) -> None:
        # A snapshot saves time later. That it cannot be made now is no reason to fail a commit
        # that has landed: `stats` tells, and the next commit tries again.
        try:
            sealed = self.writer.rotate()
            self.head.begin_segment()
            self.writer.schedule_snapshot(self.page_bytes, sealed)
        except (MMSBError, RuntimeError) as error:  # no thread can be made while Python ends
            self.writer.snapshot_fault = str(error)

    def snapshot(self) -> None:
        """Make a snapshot of the newest version, and wait for it.

        Raises:
            LocationError, ClosedError: the disk fails; log and state are as they were.
        """
        with self.lock:
            version = self.log.version
        while True:
            future = self.writer.schedule_snapshot(self.page_bytes)
            try:
                future.result()
            except OSError as error:
                raise disk_error(error, self.log.place) from error
            if version == 0 or version in self.log.snapshots() or self.log.version != version:
                return

    def close(self, finish: Iterable[Callable[[], None]] = ()) -> None:
        """Let what is queued land, run ``finish``, sync, and let go of everything."""
        if self._is_released:
            return
        self._is_released = True
        if os.getpid() != self._pid:
            self.closed = "it belongs to the process that opened it"
            return
        failure: BaseException | None = None
        steps = [self.queue.drain] if self.closed else [self.queue.drain, *finish]
        for step in steps:
            try:
                step()
            except BaseException as error:
                failure = failure or error
        self.queue.stop()
        self.closed = "it was closed"
        with contextlib.ExitStack() as stack:
            if self._writer_lock is not None:
                stack.callback(self._writer_lock.release)
            stack.callback(self.files.close)
            stack.callback(self.threads.shutdown)
            self.writer.close()
        if failure is not None:
            raise failure


def events_about(
    draft: Draft, step: Step | None, commit: Commit
) -> dict[str, list[tuple[Any, ...]]]:
    """What a commit did, by kind of event; see `mmsb_jax.bus._events.events_of`."""
    made: dict[OpCode, list[tuple[Any, ...]]] = {code: [] for code in OpCode}
    for op in draft.ops:
        made[op.code].append((op.info.name,))
    about: dict[str, list[tuple[Any, ...]]] = {
        "deleted": made[OpCode.DELETE],
        "created": made[OpCode.CREATE],
        "resized": made[OpCode.UPDATE],
        "delta": [()] if draft.patches else [],
    }
    return about if step is None else about | step.about(commit.changed)
