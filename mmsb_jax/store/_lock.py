"""One writer: ``flock`` decides; who holds it is written beside it, to inform only.

filelock closes the descriptor in a forked child, so that the lock stays with the parent.
"""

import contextlib
import io
import json
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from mmsb_jax._errors import LockedError
from mmsb_jax.store._json import parse_json

LOCK_NAME = "lock"
HOLDER_NAME = "lock.holder"


def boot_id() -> str:
    """The id of this boot of the machine; empty where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _open_no_link(path: Path, write: bool) -> io.FileIO:
    """A file that is not followed where it is a link: the directory may come from a stranger."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if write else os.O_RDONLY | os.O_NONBLOCK
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    return io.FileIO(descriptor, "w" if write else "r")


class WriterLock:
    """The right to write a log, held from construction until `release` or the process's end."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # fallback_to_soft: a lock file that outlives its process would shut everybody out.
        self._lock = FileLock(
            root / LOCK_NAME, timeout=0, thread_local=False, fallback_to_soft=False
        )
        try:
            self._lock.acquire()
        except Timeout:
            raise LockedError(
                f"{root} is being written by {self._holder()}. One process writes a log at a "
                f"time: close it there, or open it here with mode='r'."
            ) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "boot": boot_id(),
            "since_ns": time.time_ns(),
        }
        with contextlib.suppress(OSError), _open_no_link(root / HOLDER_NAME, write=True) as file:
            file.write(json.dumps(holder).encode())

    def _holder(self) -> str:
        try:
            with _open_no_link(self._root / HOLDER_NAME, write=False) as file:
                holder = parse_json(file.read(4096))
            return f"process {int(holder['pid'])} on {holder['host']!s}"
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            return "another process"

    def release(self) -> None:
        """Let another process write."""
        with contextlib.suppress(OSError):
            (self._root / HOLDER_NAME).unlink()
        self._lock.release()
