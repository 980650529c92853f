"""The engine of a bus that writes: the head, its log, the queue, the lock. It knows no trees."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from mmsb_jax._errors import ClosedError, MMSBError
from mmsb_jax.bus._queue import CommitQueue
from mmsb_jax.observe._stats import Meter
from mmsb_jax.store._files import Files
from mmsb_jax.store._head import Draft, Head, Landed
from mmsb_jax.store._lock import WriterLock
from mmsb_jax.store._log import Log
from mmsb_jax.store._writer import Durability, LogWriter


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
        self.queue = CommitQueue()
        self.lock = threading.RLock()
        self.threads = Threads()
        self.closed: str | None = None
        self._is_released = False
        self.durability = durability
        self._writer_lock = lock
        self._snapshots = snapshots
        self._pid = os.getpid()
        page_bytes = log.manifest.page_bytes
        self.page_bytes = page_bytes
        self.writer = LogWriter(log, durability)
        state = log.state(log.version, page_bytes=page_bytes, executor=self.threads)
        self.head = Head(state, self.writer, page_bytes, lambda: self.threads)

    @property
    def is_open(self) -> bool:
        """Whether it may be used, here and now."""
        return self.closed is None and os.getpid() == self._pid

    def check_open(self) -> None:
        """Refuse what comes after `close`, or in a forked child.

        Raises:
            ClosedError: with the reason.
        """
        if self.closed is not None:
            raise ClosedError(f"this bus is closed: {self.closed}. Open the log again.")
        if os.getpid() != self._pid:
            raise ClosedError(
                f"this bus belongs to process {self._pid}, which forked this one. Open it with "
                f"mode='r' here, or pass what is to be written to the parent."
            )

    def land(self, draft: Draft) -> Landed:
        """Commit ``draft`` now; the queue must be empty or this its thread."""
        with self.lock:
            begun = time.perf_counter_ns()
            landed = self._append(draft)
            self.meter.count_commit(landed, time.perf_counter_ns() - begun)
            if self._snapshots and self.head.snapshot_is_due:
                self._begin_snapshot()
            return landed

    def _append(self, draft: Draft) -> Landed:
        version = self.log.version
        try:
            return self.head.commit(draft)
        except BaseException as error:
            if self.log.version != version:
                # The log has the commit and the head may not: only the log is right.
                self.closed = f"the head could not follow the log ({error!r})"
            raise

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
        """Make a snapshot of the newest version, and wait for it."""
        with self.lock:
            version = self.log.version
        while True:
            future = self.writer.schedule_snapshot(self.page_bytes)
            future.result()
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
