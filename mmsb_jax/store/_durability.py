"""Durability: when a commit counts as done, and the thread that syncs a group of them."""

import contextlib
import threading
from collections.abc import Callable

from mmsb_jax._errors import ClosedError

Durability = str | tuple[str, float]
"""``"os"``, ``"fsync"`` or ``("group", milliseconds)``."""


def check_durability(durability: Durability) -> None:
    """Refuse what is not a durability."""
    match durability:
        case "os" | "fsync":
            return
        case ("group", float() | int() as interval_ms) if interval_ms > 0:
            return
    raise ValueError(
        f"durability={durability!r}: expected 'os', 'fsync' or ('group', milliseconds)"
    )


class GroupSync:
    """Syncs what was appended within an interval, in a thread of its own."""

    def __init__(self, sync: Callable[[], object], interval_s: float) -> None:
        self._sync = sync
        self._interval_s = interval_s
        self._work = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mmsb-group-sync", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to sync."""
        self._work.set()

    def stop(self) -> None:
        """End the thread; what is left is for the writer's last sync."""
        self._stopped.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._work.wait()
            # Half the interval to gather, the other half for the sync itself.
            self._stopped.wait(self._interval_s / 2)
            self._work.clear()
            with contextlib.suppress(ClosedError):  # the next append says so
                self._sync()
