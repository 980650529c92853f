"""One writer: ``flock`` decides; who holds it is written beside it, to inform only."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from pathlib import Path

from mmsb_jax._base.errors import LocationError, LockedError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._store.files.descriptor import Descriptor
from mmsb_jax._store.files.disk import OWN_FILE, asked
from mmsb_jax._store.files.unreadable import check_regular, unreadable

LOCK_NAME = "lock"
HOLDER_NAME = "lock.holder"


def boot_id() -> str:
    """The id of this boot of the machine; empty where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


_locked: "weakref.WeakSet[Descriptor]" = weakref.WeakSet()
_opening = threading.RLock()
"""Held where a file is opened, and by who forks: a child knows of every file that is locked."""


def _let_go_in_child() -> None:
    """Close the files in a forked child: a lock is its parent's, and ends with that."""
    _opening.release()
    for file in list(_locked):
        with contextlib.suppress(OSError):
            file.close()


os.register_at_fork(
    before=_opening.acquire,
    after_in_parent=_opening.release,
    after_in_child=_let_go_in_child,
)


def _lock_file(path: Path) -> Descriptor:
    """A file, locked as long as it is open; one that was replaced in the meantime is not it."""
    while True:
        with _opening:
            file = Descriptor(os, path, os.O_RDWR | os.O_CREAT | OWN_FILE)
            _locked.add(file)
        try:
            check_regular(path, os.fstat(file.number), is_written=True)
            fcntl.flock(file.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.number), os.lstat(path)):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


class WriterLock:
    """The right to write a log, held from construction until `release` or the process's end.

    Raises:
        LockedError: another holds it.
        LocationError: the lock cannot be had: permission, a disk without locks, something else in
            the place of its file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            self._file = _lock_file(root / LOCK_NAME)
        except BlockingIOError:
            raise LockedError(
                f"{root} is being written by {self._holder()}. One process writes a log at a "
                f"time: close it there, or open it here with mode='r'."
            ) from None
        except OSError as error:
            raise _no_lock(error, root) from error
        try:
            status = os.fstat(self._file.number)
            self._identity = (status.st_dev, status.st_ino)
            self._say_who()
        except BaseException:  # an interrupt, whose traceback may be kept, and this in it
            self._file.close()
            raise

    def is_in_place(self) -> bool:
        """Whether the lock is held, on the file that is at its path.

        Where it was let go of, deleted or replaced another process can take it, and write.

        Cost: one look at the directory.
        """
        if self._file.number < 0:
            return False
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
        try:
            file = Descriptor(os, self._root / HOLDER_NAME, os.O_RDONLY | OWN_FILE)
            holder = parse_json(os.read(file.number, 4096))
            return f"process {int(holder['pid'])} on {holder['host']!s}"
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            return "another process"

    def release(self) -> None:
        """Let another process write."""
        try:
            if self.is_in_place():  # else it is another's by now
                with contextlib.suppress(OSError):
                    (self._root / HOLDER_NAME).unlink()
        except LocationError:
            pass  # it informs only
        finally:
            with contextlib.suppress(OSError):  # closing unlocks it, where no child has it too
                if self._file.number >= 0:
                    fcntl.flock(self._file.number, fcntl.LOCK_UN)
            with contextlib.suppress(OSError):
                self._file.close()


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
