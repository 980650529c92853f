"""``("group", milliseconds)``: a commit counts once it is written, and is synced soon after."""

import _thread
import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from mmsb_jax._base.errors import ClosedError, LocationError
from mmsb_jax._store.files.threads import start_thread
from mmsb_jax._store.writer.durability.base import Durability, DurabilityStrategy

_MOST_MS = 1e9


class GroupedDurability(DurabilityStrategy):
    """Survives the end of the machine after an interval; a thread syncs what came within it.

    The thread is begun with the first append. Where it cannot be, each append syncs. A sync that
    fails for a reason that says nothing about the disk is tried again after an interval.
    """

    form = "('group', milliseconds)"

    @classmethod
    def takes(cls, durability: object) -> bool:
        """As the base."""
        match durability if isinstance(durability, tuple) else None:
            case ("group", float() | int() as interval_ms):
                return 0 < interval_ms <= _MOST_MS
        return False

    def __init__(self, durability: Durability, sync: Callable[[], object]) -> None:
        _, interval_ms = durability
        self._sync = sync
        self._interval_s = float(interval_ms) / 1e3
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._stops: SimpleQueue[None] = SimpleQueue()
        self._is_called = self._is_alone = False
        self._end: _thread.LockType | None = None

    def appended(self) -> None:
        """As the base."""
        if self._is_alone:
            self._try()
        elif not self._is_called:
            if self._end is None and not self._begin():
                self._is_alone = True
                self._try()
                return
            try:
                self._is_called = True
                self._calls.put(True)
            except BaseException:
                self._is_called = False
                raise

    def _begin(self) -> bool:
        """Begin the thread; whether there is one."""
        is_begun, end = False, threading.Lock()
        end.acquire()
        try:
            self._end = end
            is_begun = start_thread(lambda: self._run(end), "mmsb-group-sync")
        finally:  # one that began though an interrupt came is a second one, and does no harm
            self._end = end if is_begun else None
        return is_begun

    def stop(self) -> None:
        """As the base."""
        end, self._is_alone = self._end, True
        self._stops.put(None)
        self._calls.put(False)
        self._calls.put(False)
        if end is not None:
            with end:
                self._end = None

    def _run(self, end: _thread.LockType) -> None:
        try:
            while self._calls.get():
                # Half the interval to gather, the other half for the sync itself.
                with contextlib.suppress(Empty):
                    self._stops.get(timeout=self._interval_s / 2)
                self._is_called = False
                try:
                    self._try()
                except Exception:  # such as no memory: nothing is lost, and it is tried again
                    self._calls.put(True)
        finally:
            end.release()

    def _try(self) -> None:
        with contextlib.suppress(ClosedError, LocationError):  # the next append says so
            self._sync()
