"""Durability: when a commit counts as done, and the thread that syncs a group of them."""

import _thread
import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import ClosedError, LocationError
from mmsb_jax._store.files.threads import start_thread

Durability = str | tuple[str, float]
"""``"os"``, ``"fsync"`` or ``("group", milliseconds)``."""


def check_durability(durability: Durability) -> None:
    """Refuse what is not a durability."""
    match durability if isinstance(durability, str | tuple) else None:
        case "os" | "fsync":
            return
        case ("group", float() | int() as interval_ms) if interval_ms > 0:
            return
    raise ValueError(
        f"durability={show(durability)}: expected 'os', 'fsync' or ('group', milliseconds)"
    )


class GroupSync:
    """Syncs what was appended within an interval, in a thread of its own.

    The thread is begun with the first append. Where it cannot be, each append syncs.
    """

    def __init__(self, sync: Callable[[], object], interval_s: float) -> None:
        self._sync = sync
        self._interval_s = interval_s
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._is_called = self._is_alone = False
        self._end: _thread.LockType | None = None

    def wake(self) -> None:
        """There is something to sync."""
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
        """End the thread; what is left is for the writer's last sync."""
        end, self._is_alone = self._end, True
        self._calls.put(False)
        self._calls.put(False)
        if end is not None:
            with end:
                self._end = None

    def _run(self, end: _thread.LockType) -> None:
        while self._calls.get():
            # Half the interval to gather, the other half for the sync itself.
            time.sleep(self._interval_s / 2)
            self._is_called = False
            self._try()
        end.release()

    def _try(self) -> None:
        with contextlib.suppress(ClosedError, LocationError):  # the next append says so
            self._sync()
