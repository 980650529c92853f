"""Threads that may fail to start, and that an interrupt in their caller cannot leave hanging.

`concurrent.futures` takes locks in Python code: a Ctrl-C between taking one and giving it back
keeps it for ever, and its pool queues a call before it finds that no thread can be started, so that
a call may run twice. Here a call belongs to whoever claims it first, a worker or the one that waits
for it, and locks are taken by ``with`` on the lock itself, which no interrupt can come between.
"""

import _thread
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any

from mmsb_jax._base.errors import ClosedError


def start_thread(run: Callable[[], object], name: str) -> bool:
    """Begin a daemon thread, and wait for nothing; False where there can be no more.

    `threading.Thread.start` waits, under a lock that the new thread takes too, and an interrupt
    there could leave it locked: so another thread, which no signal interrupts, calls it, and does
    the work itself where it cannot.
    """

    def start() -> None:
        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except BaseException:
            run()

    try:
        _thread.start_new_thread(start, ())
    except RuntimeError:
        return False
    return True


class Job(Future[Any]):
    """A call that a worker makes, or the thread that asks for its result, whoever comes first.

    An interrupt may end a call halfway, and the next one who asks makes it anew: it must be one
    that only sets.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call
        self._lock = threading.Lock()
        self._is_done = self._is_cancelled = False
        self._runner: int | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call, unless it was made; return once it is."""
        with self._lock:
            if not self._is_done and not self._is_cancelled:
                self._runner = threading.get_ident()
                try:
                    self._value = self._call()
                except Exception as error:
                    self._error = error
                self._is_done = True

    @property
    def is_run_here(self) -> bool:
        """Whether this very thread is at it, and cannot wait for it."""
        return not self._is_done and self._runner == threading.get_ident()

    def work(self) -> None:
        """Make the call, unless somebody else is at it."""
        if not self._lock.locked():
            self.run()

    def done(self) -> bool:
        return self._is_done

    def cancel(self) -> bool:
        self._is_cancelled = True
        return not self._is_done

    def result(self, timeout: float | None = None) -> Any:
        del timeout  # nobody bounds the work of a commit
        self.run()
        if self._error is not None:
            raise self._error
        return self._value


class Threads(Executor):
    """A pool of threads, begun when first used; the caller works too, alone where none can begin.

    Args:
        most: how many; as many as there are processors for None.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most or os.cpu_count() or 1
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._ends: list[_thread.LockType] = []
        self._is_full = False
        self._pid = os.getpid()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Run ``fn`` in a thread, or when its result is asked for, whichever comes first."""
        job = Job(lambda: fn(*args, **kwargs))
        if not self._is_full:
            self._begin()
        self._jobs.put(job)
        return job

    def again(self, job: Job) -> None:
        """See that a job is done, of which an interrupt may have ended the call."""
        self._jobs.put(job)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """As the built-in ``map``, but for the order in which calls begin."""
        del timeout, chunksize
        jobs = [self.submit(fn, *arguments) for arguments in zip(*iterables, strict=False)]
        return _results(jobs)

    @property
    def are_none(self) -> bool:
        """Whether no thread could be begun: what is submitted waits until somebody asks for it."""
        return not self._ends

    def _begin(self) -> None:
        """Begin one more thread; none once there are enough, or no more can be had."""
        self._is_full = len(self._ends) + 1 >= self._most
        end = threading.Lock()
        end.acquire()
        try:
            _thread.start_new_thread(_work, (self._jobs, end))
        except RuntimeError:  # a limit of the system, or Python ends
            self._is_full = True
        else:
            self._ends.append(end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads."""
        del cancel_futures
        self._is_full = True
        ends, self._ends = self._ends, []
        for _ in ends:
            self._jobs.put(None)
        if wait and os.getpid() == self._pid:
            for end in ends:
                with end:
                    pass


def _work(jobs: "SimpleQueue[Job | None]", end: Any) -> None:
    while (job := jobs.get()) is not None:
        job.work()
        del job  # its result belongs to who waits
    end.release()


def _results(jobs: list[Job]) -> Iterator[Any]:
    jobs.reverse()
    try:
        while jobs:
            yield jobs.pop().result()
    finally:
        for job in jobs:
            job.cancel()


class Outcome(Future[Any]):
    """The future of a commit; waiting for it takes no lock that an interrupt could keep."""

    _POLL_S = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()  # what is queued lands: it cannot be cancelled
        self._end = threading.Lock()
        self._end.acquire()
        self._is_done = False
        self._pid = os.getpid()

    def done(self) -> bool:
        return self._is_done

    def resolve(self, value: Any, error: BaseException | None = None) -> None:
        """Give the result, or what happened instead; once."""
        if self._is_done:
            return
        self._value, self._error = value, error
        self._is_done = True
        self._end.release()
        with contextlib.suppress(Exception):  # of a callback
            if error is None:
                super().set_result(value)
            else:
                super().set_exception(error)

    def wait(self, timeout: float | None = None, until: Callable[[], bool] = bool) -> bool:
        """Wait until it is done, or ``until`` says so; whether it is done."""
        while not (self._is_done or until()):
            if os.getpid() != self._pid:
                raise ClosedError(
                    f"this commit is one of process {self._pid}, which forked this one. Ask for it "
                    f"there."
                )
            left = self._POLL_S if timeout is None else min(timeout, self._POLL_S)
            if self._end.acquire(timeout=max(left, 0)):
                self._end.release()  # an interrupt before this keeps it: others look every 50 ms
            elif timeout is not None and (timeout := timeout - left) <= 0:
                break
        return self._is_done

    def result(self, timeout: float | None = None) -> Any:
        if not self.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.wait(timeout):
            raise TimeoutError
        return self._error
