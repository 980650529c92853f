"""The queue of commits that nobody waits for: bounded, in order, one thread."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from mmsb_jax._base.errors import ClosedError
from mmsb_jax._store.files.threads import Outcome, start_thread

MOST_WAITING = 2
"""Commits that have not landed when one more is put behind them."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A commit in the queue.

    Attributes:
        run: lands it, and calls what it is given with the commit.
        discard: called at its end.
        since: failures of the queue when it was made of what the one before it leaves.
        outcome: the caller's future.
        commit: the commit, once it has landed.
    """

    run: Callable[[Callable[[Any], None]], object]
    discard: Callable[[], None]
    since: int
    outcome: Outcome = field(default_factory=Outcome)
    is_begun: bool = False
    commit: Any = None

    def land(self, commit: Any) -> None:
        self.commit = commit


class CommitQueue:
    """Runs commits one after the other in a thread of its own.

    When one fails, those behind it fail too, and the next call of any kind raises what happened.
    Where no thread can be begun, it is run by who queues it.

    Args:
        recover: finishes, or drops, a landing that an interrupt cut short.

    Attributes:
        failures: how often a commit has failed.
    """

    def __init__(self, recover: Callable[[], object]) -> None:
        self._recover = recover
        self._entries: deque[_Entry] = deque()  # the first one stays until it is done
        self.failures = 0
        self._failure: BaseException | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._turn = threading.RLock()
        self._worker: object | None = None
        self._runner: int | None = None

    @property
    def is_run_here(self) -> bool:
        """Whether this very thread is at one of its commits, for which it cannot wait."""
        return self._runner == threading.get_ident()

    @property
    def depth(self) -> int:
        """Commits that have not landed yet."""
        return len(self._entries)

    @property
    def is_settled(self) -> bool:
        """Whether all has landed, and nothing is left to be told."""
        return not self._entries and self._failure is None

    def wait_for_room(self, most: int) -> bool:
        """Block while more than ``most`` commits have not landed; whether it did."""
        is_full = len(self._entries) > most
        while len(self._entries) > most:
            self._wait_for(0)
        self._raise_failure()
        return is_full

    def submit(
        self,
        run: Callable[[Callable[[Any], None]], object],
        discard: Callable[[], None],
        since: int,
    ) -> Outcome:
        """Run ``run`` after all that is queued; ``discard`` is called at its end, or instead.

        Args:
            run: is given a function to call with the commit, once that has landed.
            discard: what is to be done behind it.
            since: `failures` before it was looked at what is queued: it fails where one of these
                has failed meanwhile.
        """
        self._raise_failure()
        entry = _Entry(run, discard, since)
        self._entries.append(entry)
        self._call_worker()
        while self._worker is None and not entry.outcome.done():
            self._run_next()
        return entry.outcome

    def drain(self) -> None:
        """Return once everything queued has landed."""
        self.settle()
        self._raise_failure()

    def settle(self) -> None:
        """Let everything queued land; what fails is told by the next call."""
        while self._entries:
            self._wait_for(-1)

    def stop(self) -> None:
        """Let everything queued land, and end the thread; raises nothing."""
        self.settle()
        self._worker = None
        self._wake.put(None)

    def _wait_for(self, place: int) -> None:
        """Wait for the entry at ``place``; run the queue where there is no thread to do it."""
        try:
            entry = self._entries[place]
        except IndexError:
            return
        self._call_worker()
        if not entry.outcome.wait(until=lambda: self._worker is None):
            self._run_next()

    def _call_worker(self) -> None:
        """See that a thread is at work, or will be."""
        if self._worker is None:
            is_begun, worker = False, object()
            try:
                self._worker = worker
                is_begun = start_thread(lambda: self._work(worker), "mmsb-commits")
            finally:  # one that began though an interrupt came ends by itself
                self._worker = worker if is_begun else None
        self._wake.put(None)

    def _work(self, worker: object) -> None:
        while self._worker is worker:
            self._wake.get()
            while self._entries and self._worker is worker:
                self._run_next()

    def _run_next(self) -> None:
        """Run the first entry, and tell how it ended; nothing where there is none."""
        with self._turn:
            before, self._runner = self._runner, threading.get_ident()
            try:
                self._run_first()
            finally:
                self._runner = before

    def _run_first(self) -> None:
        if not self._entries:
            return
        entry = self._entries[0]
        if entry.since != self.failures and not entry.is_begun:
            self._drop_first(_behind())
            return
        try:
            self._land(entry)
        except BaseException as error:
            self._fail(error)
            if self._worker is None and not isinstance(error, Exception):
                self._failure = None  # an interrupt of the caller's, who runs it himself
                raise
            return
        self._entries.popleft()
        entry.discard()
        entry.outcome.resolve(entry.commit)

    def _land(self, entry: _Entry) -> None:
        if entry.is_begun:  # an interrupt cut it short
            self._recover()
        else:
            entry.is_begun = True
            entry.run(entry.land)
        if entry.commit is None:
            raise ClosedError("this commit was interrupted, and did not land. Commit it again.")

    def _fail(self, error: BaseException) -> None:
        """Let the first entry fail, and with it all that is behind it."""
        self.failures += 1
        self._failure = error
        self._drop_first(error)
        while self._entries and self._entries[0].since != self.failures:
            self._drop_first(_behind(f": {error!r}"))

    def _drop_first(self, error: BaseException) -> None:
        entry = self._entries.popleft()
        entry.discard()
        entry.outcome.resolve(None, error)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _behind(why: str = "") -> ClosedError:
    return ClosedError(f"this commit was behind one that failed, and did not land{why}")
