"""One writer: ``flock`` decides; who holds it is written beside it, to inform only.

filelock closes the descriptor in a forked child, so that the lock stays with the parent.
"""

import contextlib
import errno
import io
import json
import os
import socket
import time
import weakref
from pathlib import Path

from filelock import FileLock, Timeout

from mmsb_jax._errors import LocationError, LockedError
from mmsb_jax.store._files import asked
from mmsb_jax.store._json import parse_json
from mmsb_jax.store._unreadable import check_regular, unreadable

LOCK_NAME = "lock"
HOLDER_NAME = "lock.holder"


def boot_id() -> str:
    """The id of this boot of the machine; empty where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class WriterLock:
    """The right to write a log, held from construction until `release` or the process's end.

    Raises:
        LockedError: another holds it.
        LocationError: the lock cannot be had: permission, a disk without locks, something else in
            the place of its file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity = (0, 0)
        self._descriptor = -1
        # No circle: one that an interrupt loses lets go of the file at once.
        me = weakref.proxy(self)
        # fallback_to_soft: a lock file that outlives its process would shut everybody out.
        self._lock = FileLock(
            root / LOCK_NAME,
            timeout=0,
            thread_local=False,
            fallback_to_soft=False,
            on_acquired=lambda descriptor: me._take(descriptor),
        )
        try:
            self._lock.acquire()
        except Timeout:
            raise LockedError(
                f"{root} is being written by {self._holder()}. One process writes a log at a "
                f"time: close it there, or open it here with mode='r'."
            ) from None
        except OSError as error:
            raise _no_lock(error, root) from error
        except BaseException:  # an interrupt, which may keep what filelock itself would need
            self._close()
            raise
        try:
            self._say_who()
        except BaseException:  # an interrupt: who holds it would never be known here
            self._let_go()
            raise

    def _take(self, descriptor: int) -> None:
        """Look at the file that is locked: it must be the log's own."""
        status = os.fstat(descriptor)
        check_regular(self._root / LOCK_NAME, status, is_written=True)
        self._identity, self._descriptor = (status.st_dev, status.st_ino), descriptor

    def _let_go(self) -> None:
        try:
            self._lock.release(force=True)  # also where an interrupt has begun to
        except OSError:
            # The system does not unlock it, and filelock keeps it open: closing unlocks it too.
            self._lock._context.lock_file_fd = None
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def _close(self) -> None:
        """Unlock the file by closing it."""
        context = self._lock._context
        descriptor, context.lock_file_fd = context.lock_file_fd, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def is_in_place(self) -> bool:
        """Whether the file that is locked is still the one at its path.

        Where it was deleted or replaced another process can lock the new one, and write.

        Raises:
            LocationError: the path cannot be looked at.

        Cost: one look at the directory.
        """
        path = self._root / LOCK_NAME
        try:
            status = asked(path, os.lstat, path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _say_who(self) -> None:
        """Write beside the lock who holds it, as far as that is possible: to inform only."""
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "boot": boot_id(),
            "since_ns": time.time_ns(),
        }
        path = self._root / HOLDER_NAME
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # a link, a pipe, another name of a file: not written to
            with path.open("x") as file:
                file.write(json.dumps(holder))

    def _holder(self) -> str:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with io.FileIO(os.open(self._root / HOLDER_NAME, flags)) as file:
                holder = parse_json(file.read(4096) or b"")
            return f"process {int(holder['pid'])} on {holder['host']!s}"
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            return "another process"

    def release(self) -> None:
        """Let another process write."""
        try:
            if self._lock.is_locked and self.is_in_place():  # else it is another's by now
                with contextlib.suppress(OSError):
                    (self._root / HOLDER_NAME).unlink()
        except LocationError:
            pass  # it informs only
        finally:
            self._let_go()


def _no_lock(error: OSError, root: Path) -> LocationError:
    if isinstance(error, LocationError):
        return error
    reasons = {
        errno.EACCES: "permission is denied. Change the permissions",
        errno.EROFS: "the file system is read-only. Use another place, or open it with mode='r'",
        errno.ENOSYS: "the file system has no locks. Use another place",
        errno.ENOLCK: "the file system has no locks. Use another place",
    }
    code = error.errno or 0
    if code in reasons:
        return LocationError(code, f"{root / LOCK_NAME} could not be locked: {reasons[code]}.")
    return unreadable(error, root / LOCK_NAME)
