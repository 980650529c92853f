"""Why something could not be read, and what to do: the error of the system, in the library's words.

Such an error says nothing of what the file holds: it is never damage.
"""

import errno
import os
import stat
from pathlib import Path

from mmsb_jax._base.errors import LocationError

_REASONS = {
    errno.EMFILE: "this process has too many files open. Close readers, or raise `ulimit -n`",
    errno.ENFILE: "the machine has too many files open. Close some",
    errno.EACCES: "permission is denied. Change the permissions",
    errno.EPERM: "permission is denied. Change the permissions",
    errno.ENOMEM: "the system has no memory for it. Free some",
    errno.ELOOP: "it is a symbolic link; symbolic links in a log are not followed. Move the file "
    "itself to its place",
    errno.ENOTDIR: "a part of its path is no folder. Put the folder back",
}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}


def unreadable(error: OSError, path: Path | str) -> LocationError:
    """The error for a call about ``path`` that failed; what to do is in it."""
    if isinstance(error, LocationError):
        return error
    code = error.errno or 0
    answer = os.strerror(code) if code else str(error)
    reason = _REASONS.get(code, f"{answer}. See to the disk")
    return LocationError(
        code, f"{path} could not be read: {reason}, and try again. Nothing was changed."
    )


def check_regular(path: Path | str, status: os.stat_result, is_written: bool) -> None:
    """Refuse what is no file of the log's own; it is open, and was not waited for.

    Args:
        path: what to call it.
        status: what the system says of it.
        is_written: whether it is to be written: another name of it may belong to something else.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise LocationError(
            errno.EINVAL,
            f"{path} is {kind}, where a file of the log should be. Take it away; what was there is "
            f"in a copy of the log, if anywhere.",
        )
    if is_written and status.st_nlink > 1:
        raise LocationError(
            errno.EMLINK,
            f"{path} has {status.st_nlink} names (hard links): what is written to it would change "
            f"the others. Put a copy in its place: cp FILE COPY && mv COPY FILE.",
        )
