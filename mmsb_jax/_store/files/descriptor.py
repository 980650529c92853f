"""A file descriptor that no interrupt loses, but for one in its finalizer."""

import contextlib
import os
from pathlib import Path
from typing import Any


class Descriptor:
    """An open file, closed by `close` or when nobody holds this any more.

    What `os.open` returns is a number, and Python may raise a `KeyboardInterrupt` before anything
    keeps it. `list.extend` over `map` runs in C, where Python does not look for signals: the list
    has the number, or nothing was opened. Closing takes it out in the same way.

    Args:
        system: where the calls of `os` go.
        path, flags, mode: as `os.open` takes them.
    """

    def __init__(self, system: Any, path: Path, flags: int, mode: int = 0o644) -> None:
        self._system = system
        self._kept: list[int] = []
        self._kept.extend(map(system.open, (path,), (flags | os.O_CLOEXEC,), (mode,)))

    @property
    def number(self) -> int:
        """The number that the system knows it by; -1 once it is closed."""
        return self._kept[0] if self._kept else -1

    def close(self) -> None:
        """Give it back; may be repeated, and by another thread."""
        with contextlib.suppress(IndexError):  # it was
            any(map(self._system.close, map(self._kept.pop, (0,))))

    def __del__(self) -> None:
        try:  # noqa: SIM105 - in few steps: an interrupt in here is lost, and the file stays open
            any(map(self._system.close, map(self._kept.pop, (0,))))
        except (AttributeError, IndexError, OSError):  # cut short when it was opened; closed
            pass
