"""The queue of commits that nobody waits for: bounded, in order, one thread."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mmsb_jax._errors import ClosedError

_MOST_WAITING = 2


class CommitQueue:
    """Runs commits one after the other in a thread of its own.

    When one fails, those behind it fail too, and the next call of any kind raises what happened.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any], Callable[[], None]]] = deque()
        self._running = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def depth(self) -> int:
        """Commits that have not landed yet."""
        with self._changed:
            return len(self._waiting) + self._running

    @property
    def is_settled(self) -> bool:
        """Whether all has landed, and nothing is left to be told."""
        with self._changed:
            return not self._waiting and not self._running and self._failure is None

    def wait_for_room(self) -> None:
        """Block while the queue is full.

        Raises:
            what made an earlier commit fail.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._raise_failure()

    def submit(self, run: Callable[[], Any], discard: Callable[[], None]) -> Future[Any]:
        """Run ``run`` after all that is queued; ``discard`` is called instead if that fails."""
        future: Future[Any] = Future()
        with self._changed:
            self._raise_failure()
            self._waiting.append((future, run, discard))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mmsb-commits", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def drain(self) -> None:
        """Return once everything queued has landed.

        Raises:
            what made an earlier commit fail.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._running)
            self._raise_failure()

    def settle(self) -> None:
        """Let everything queued land; what fails is told by the next call."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._running)

    def stop(self) -> None:
        """Let everything queued land, and end the thread; raises nothing."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._running)
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._thread is not me)
                if not self._waiting:
                    return
                future, run, discard = self._waiting.popleft()
                self._running = True
                self._changed.notify_all()
            self._run(future, run, discard)

    def _run(
        self, future: Future[Any], run: Callable[[], Any], discard: Callable[[], None]
    ) -> None:
        try:
            result = run()
        except BaseException as error:
            self._fail(future, error)
        else:
            with self._changed:
                self._running = False
                self._changed.notify_all()
            future.set_result(result)
        finally:
            discard()

    def _fail(self, future: Future[Any], error: BaseException) -> None:
        with self._changed:
            behind, self._waiting = list(self._waiting), deque()
            self._failure = error
            self._running = False
            self._changed.notify_all()
        future.set_exception(error)
        for other, _, discard in behind:
            discard()
            other.set_exception(
                ClosedError(f"this commit was behind one that failed, and did not land: {error}")
            )
