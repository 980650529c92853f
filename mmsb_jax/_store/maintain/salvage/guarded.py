"""Reading what may be damaged: a failing read says that bytes are lost, or that none could look."""

import errno
from typing import cast

from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.files.unreadable import unreadable
from mmsb_jax._store.format.frame import BadFrameError

_OF_THE_DISK = {
    getattr(errno, name)
    for name in ("EIO", "EBADMSG", "EUCLEAN", "ENODATA", "ENOENT")
    if hasattr(errno, name)
}
"""Answers that the bytes are lost: a bad sector, a checksum of the file system, no such file."""


def check_damage(error: BaseException, place: str) -> None:
    """Let pass what says that bytes are damaged."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno not in _OF_THE_DISK:
        raise unreadable(cause, cause.filename or place) from error


def guarded(files: Files, place: str) -> Files:
    """A directory that is only read, whatever in it is damaged.

    What the disk refuses to give is a bad frame; a file whose size it does not say is empty. A
    `LocationError` says that it could not be looked at.

    Args:
        files: the directory.
        place: what to call it in messages.
    """
    return cast("Files", _Guarded(files, place))


class _Guarded:
    def __init__(self, files: Files, place: str) -> None:
        self._files = files
        self._place = place

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        try:
            return self._files.read(name, offset, size)
        except OSError as error:
            check_damage(error, f"{self._place}/{name}")
            raise BadFrameError(f"the disk answers: {error.strerror}") from error

    def size(self, name: str) -> int:
        try:
            return self._files.size(name)
        except OSError as error:
            check_damage(error, f"{self._place}/{name}")
            return 0

    def names(self, folder: str) -> list[str]:
        try:
            return self._files.names(folder)
        except OSError as error:
            raise unreadable(error, self._place) from error
