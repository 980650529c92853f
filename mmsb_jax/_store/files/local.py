"""Where a log may lie: on a local file system, where locks and syncs mean what they say."""

import contextlib
import os
import re
import stat
from pathlib import Path

from mmsb_jax._base.arguments import path_text
from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files.disk import sync_folder
from mmsb_jax._store.files.unreadable import unreadable

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_NETWORK = {
    "9p", "afs", "ceph", "cifs", "fuse.gcsfuse", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "beegfs",
}  # fmt: skip


def check_log_place(path: AnyPath) -> Path:
    """The directory of a log that is there, to be opened."""
    place = check_local(path)
    try:
        is_directory = stat.S_ISDIR(os.stat(place).st_mode)
    except FileNotFoundError:
        is_directory = False
    except OSError as error:
        raise unreadable(error, place) from error
    if not is_directory:
        raise LocationError(
            f"{place} is not a directory. Give the directory that mmsb.open(path) made."
        )
    return place


def as_place(name: str, path: AnyPath) -> Path:
    """``path``, given as ``name``, as an absolute path of whatever file system."""
    text = path_text(name, path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise LocationError(
            f"{text} is a URL. A log lies in a directory of a file system: give its path, or that "
            f"at which it is mounted."
        )
    try:
        return Path(text).expanduser().absolute()
    except (OSError, RuntimeError) as error:  # no such user; the working directory is gone
        raise LocationError(f"{text} is no path: {error}") from error


def check_local(path: AnyPath) -> Path:
    """``path`` as an absolute path on a local file system."""
    place = as_place("path", path)
    kind = file_system_of(place)
    if kind in _NETWORK:
        raise LocationError(
            f"{place} lies on {kind}, a network file system, where a lock and a sync do not mean "
            f"what they say. Use a local disk, and copy the directory when it is closed."
        )
    return place


def sync_path_to(place: Path) -> None:
    """Make the way to a new directory survive a power cut: every entry on it, of its file system.

    Who made a directory above may have died before its entry was synced. One that may not be read
    cannot be synced; it is left out.
    """
    resolved = Path(os.path.realpath(place))
    device = resolved.stat().st_dev
    for folder in resolved.parents:
        if folder.stat().st_dev != device:
            return
        with contextlib.suppress(PermissionError):
            sync_folder(os, folder)


def file_system_of(place: Path) -> str:
    """Name of the file system that holds ``place``; empty where the system does not tell."""
    resolved = os.path.realpath(place)
    best, kind = "", ""
    try:
        mounts = os.fsdecode(Path("/proc/self/mounts").read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""  # a system without it
    except OSError as error:
        raise unreadable(error, "/proc/self/mounts") from error
    for line in filter(None, mounts.split("\n")):
        fields = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
