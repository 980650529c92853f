"""Making a log: first its segment, last its manifest, so that it is there as a whole or not at all.

In a place of its own (`make_directory`, `all_or_nothing`), or beside it, to be moved there
(`new_log`).
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import sync_path_to
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import LOG_FOLDER, MANIFEST_NAME, NO_SEGMENT
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, Segment
from mmsb_jax._store.writer.writer import disk_error

_LOG_ID_BYTES = 16


def is_log(files: Files) -> bool:
    """Whether there is a manifest: it is written last when a log is made."""
    try:
        files.size(MANIFEST_NAME)
    except FileNotFoundError:
        return False
    return True


def create_log(files: Files, page_bytes: int) -> None:
    """Make an empty log in an empty directory.

    The manifest is written last: without it the directory is not a log. What an earlier try left
    behind, a segment without a commit, is replaced.
    """
    for name in files.names(LOG_FOLDER):
        if files.size(name) > SEGMENT_FRAME_BYTES:
            raise LocationError(
                f"{name} is there and the manifest is not: this was a log. Restore the manifest "
                f"from a copy, or choose another path."
            )
    make_empty(files, page_bytes)


def make_empty(files: Files, page_bytes: int, ids: LogIds | None = None) -> None:
    """Make a log without a commit; the manifest comes last."""
    ids = ids or new_ids()
    first = Segment(ids.own, 1, NO_SEGMENT, first_version=1, base=0, chain=bytes(16), synced=0)
    files.publish(first.name, first.frame())
    Manifest(ids, page_bytes, time.time_ns()).publish(files)


def new_ids(lineage: Iterable[tuple[bytes, int]] = ()) -> LogIds:
    """The ids of a new log, whose early versions are those of ``lineage``."""
    return LogIds(tuple(lineage), os.urandom(_LOG_ID_BYTES))


def make_directory(place: Path) -> None:
    """An empty directory to make a log in, unless there is a log already."""
    if place.exists() and not place.is_dir():
        raise LocationError(f"{place} is a file. Expected a directory, or a path without anything.")
    place.mkdir(parents=True, exist_ok=True)
    if is_log(DiskFiles(place)):
        return
    known = {"lock", "lock.holder", "log", MANIFEST_NAME + ".draft"}  # a making cut short
    if not DiskFiles(place).names("snapshots"):
        known.add("snapshots")  # a fork that failed
    strange = sorted(entry.name for entry in place.iterdir() if entry.name not in known)
    if strange:
        raise LocationError(
            f"{place} is not a log (it has no manifest) and not empty: it holds {strange[0]!r}. "
            f"Expected a directory that mmsb.open made, or a path without anything."
        )
    sync_path_to(place)


def check_nothing_left(files: DiskFiles, place: Path) -> None:
    """Refuse a directory in which a log without its manifest is left."""
    for folder in ("log", "snapshots"):
        files.sync_names(folder)  # a fork that failed here may have left something, and removed it
    if files.names("log"):
        raise LocationError(
            f"{place} holds a part of a log without its manifest: a fork that a crash cut short, "
            f"or a log that lost it. Remove the directory if it is a fork, or give another path."
        )


@contextlib.contextmanager
def all_or_nothing(files: DiskFiles) -> Iterator[None]:
    """Where making a log fails nothing is left of it, so that it can be tried again."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(MANIFEST_NAME)  # first: a log without its segments would be damage
            for name in list(files.made):  # to list a folder takes a descriptor, which may be it
                files.remove(name)
        raise


def check_free(target: Path) -> None:
    """Refuse a place that something is at.

    Raises:
        LocationError: something is, and no empty directory; or below a file.
    """
    is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if os.path.lexists(target) and not is_empty:
        raise LocationError(
            f"{target} exists already. Expected a path where nothing is, or an empty directory."
        )
    above = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise LocationError(f"{above} is not a directory, so that {target} cannot be made.")


@contextlib.contextmanager
def new_log(target: Path) -> Iterator[DiskFiles]:
    """An empty directory beside ``target``, which takes its place when all went well.

    Raises:
        LocationError: the place is taken, or the disk refuses.
    """
    check_free(target)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        files = DiskFiles(draft)
        try:
            yield files
        finally:
            files.close()
        draft.rename(target)
        sync_path_to(target)
    except LocationError:
        raise  # it says what it is about: another log that is read, as a rule
    except OSError as error:
        raise disk_error(error, str(target)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
