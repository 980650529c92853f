"""Where the log of a bus is made, opened and forked, and who may write it; `_open` is for users."""

import contextlib
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mmsb_jax._base.errors import DivergenceError, LocationError
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._core.layout import DEFAULT_PAGE_BYTES
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import check_local, check_log_place, sync_path_to
from mmsb_jax._store.files.lock import WriterLock
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.names import LOG_FOLDER, MANIFEST_NAME, SNAPSHOT_FOLDER
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.copy import restore
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.writer.create import (
    all_or_nothing,
    check_free,
    check_nothing_left,
    create_log,
    is_log,
    make_directory,
)
from mmsb_jax._store.writer.durability.base import Durability
from mmsb_jax._store.writer.durability.choose import durability_strategy
from mmsb_jax._store.writer.writer import disk_error

B = TypeVar("B", bound=Any)
Make = Callable[[Log, Engine | None, Files, Path | None], B]

# One process has one lock on a log: opening it again must give the bus that holds it.
open_here: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
"""Key of a directory → the bus that writes the log in it."""
opening = threading.RLock()
"""Held while a log is opened to be written."""

_LOCKS = {"lock", "lock.holder"}


def key_of(place: Path) -> str:
    """What a directory is known by, whatever links lead to it."""
    return os.path.realpath(place)


def open_to_write(
    make: Make[B],
    place: Path,
    page_bytes: int | None,
    durability: Durability,
    snapshots: bool,
) -> B:
    """Open a log, which is made where there is none; an interrupt behind this loses no open bus.

    Args:
        make: what it is opened as, given log, engine, files and place.
        place: its directory.
        page_bytes: of a new log; what another must have; None for any.
        durability, snapshots: as for `mmsb_jax.open`.
    """
    try:
        make_directory(place)
        lock = WriterLock(place)
    except OSError as error:
        raise disk_error(error, str(place)) from error
    try:
        files = DiskFiles(place)
        if not is_log(files):
            create_log(files, page_bytes or DEFAULT_PAGE_BYTES)
        bus = open_files(make, files, str(place), lock, durability, snapshots, place)
        if page_bytes is not None and page_bytes != bus.page_bytes:
            bus.close()
            raise ValueError(
                f"{place} has pages of {bus.page_bytes} bytes, and page_bytes={page_bytes} was "
                f"asked for. Leave it out: a log keeps the size that it was made with."
            )
        open_here[key_of(place)] = bus
    except OSError as error:
        lock.release()
        raise (
            error if isinstance(error, LocationError) else disk_error(error, str(place))
        ) from error
    except BaseException:
        open_here.pop(key_of(place), None)
        lock.release()
        raise
    return bus


def restore_log(place: Path, copy: Path) -> None:
    """Make the log at ``place`` from a copy, where there is no log, and a copy is there.

    Raises:
        DivergenceError: there is a log that ends before its copy does.
    """
    if not is_log(there := DiskFiles(copy)):
        return
    try:
        if is_log(files := DiskFiles(place)):
            _refuse_behind(Log(files, str(place)), Log(there, str(copy)))
            return
        _restore(there, str(copy), place)
    except OSError as error:
        if isinstance(error, LocationError):
            raise
        raise disk_error(error, str(place)) from error


def _restore(copy: Files, name: str, place: Path) -> None:
    """Make it beside its place, where another try may have left something, and move it there."""
    with contextlib.suppress(OSError):  # of a log whose making was cut short
        if {entry.name for entry in place.iterdir()} <= _LOCKS:
            shutil.rmtree(place)
    check_free(place)
    draft = place.with_name(f".{place.name}.restored")
    draft.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(draft)
    try:
        files = DiskFiles(draft)
        for left in [MANIFEST_NAME, *files.names(LOG_FOLDER), *files.names(SNAPSHOT_FOLDER)]:
            files.remove(left)
        restore(copy, name, files)
        files.close()
    finally:
        lock.release()
    for left in _LOCKS:
        (draft / left).unlink(missing_ok=True)
    draft.rename(place)
    sync_path_to(place)


def _refuse_behind(log: Log, copy: Log) -> None:
    is_same = log.manifest.ids.own == copy.manifest.ids.own
    if is_same and log.version < copy.version:
        raise DivergenceError(
            f"{log.place} ends at version {log.version}, and its copy {copy.place} at "
            f"{copy.version}: the run has gone on elsewhere. Take this directory away to go on "
            f"from the copy, or open it without restore_from= and copy_to=."
        )


def open_files(
    make: Make[B],
    files: Files,
    name: str,
    lock: WriterLock | None,
    durability: Durability,
    snapshots: bool,
    place: Path | None = None,
) -> B:
    """What ``make`` makes of a log that is there, to be written."""
    log = Log(files, name)
    return make(log, Engine(files, log, lock, durability, snapshots), files, place)


@contextlib.contextmanager
def log_to_read(path: Any) -> Iterator[Log]:
    """The log in a directory, as a reader sees it, for as long as it is looked at."""
    place = check_log_place(path)
    files = DiskFiles(place)
    try:
        yield Log(files, str(place))
    except PermissionError as error:
        raise disk_error(error, str(place)) from error
    finally:
        files.close()


def fork(
    make: Make[B],
    log: Log,
    version: int,
    path: Any,
    *,
    shared_until: int | None,
    durability: Durability = "os",
    snapshots: bool = True,
) -> B:
    """A bus over a log of its own that goes on behind ``version`` of ``log``; see `Bus.fork`."""
    durability_strategy(durability)
    if path is None:
        files = MemoryFiles()
        fork_log(log, version, files)
        return open_files(make, files, "the log in memory", None, durability, snapshots)
    place = check_local(path)
    try:
        make_directory(place)
        files = DiskFiles(place)
        if is_log(files):
            raise LocationError(f"{place} is a log already. Give a path where nothing is yet.")
        lock = WriterLock(place)
        try:
            check_nothing_left(files, place)
            with opening, all_or_nothing(files):
                fork_log(log, version, files, shared_until)
                bus = open_files(make, files, str(place), lock, durability, snapshots, place)
                open_here[key_of(place)] = bus
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        if isinstance(error, LocationError):
            raise
        raise disk_error(error, str(place)) from error
    return bus
