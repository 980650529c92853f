"""Opening a bus: where its log is, who may write it, and whether it is open here already."""

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mmsb_jax._arguments import check_choice, check_flag
from mmsb_jax._errors import ClosedError, LocationError
from mmsb_jax.bus._bus import Bus
from mmsb_jax.bus._engine import Engine
from mmsb_jax.core._layout import DEFAULT_PAGE_BYTES, check_page_bytes
from mmsb_jax.store._files import DiskFiles, Files, MemoryFiles
from mmsb_jax.store._fork import create_log, fork_log
from mmsb_jax.store._lock import WriterLock
from mmsb_jax.store._log import Log
from mmsb_jax.store._manifest import NAME as MANIFEST_NAME
from mmsb_jax.store._place import check_local, check_log_place, sync_path_to
from mmsb_jax.store._writer import Durability, check_durability, disk_error

# One process has one lock on a log: opening it again must give the bus that holds it.
_open_here: "weakref.WeakValueDictionary[str, Bus]" = weakref.WeakValueDictionary()
_opening = threading.RLock()


def open(
    path: str | os.PathLike[str] | None = None,
    mode: Literal["a", "r"] = "a",
    *,
    page_bytes: int | None = None,
    durability: Durability = "os",
    snapshots: bool = True,
    salvage: bool = False,
) -> Bus:
    """A bus: in memory without ``path``, else durable in that directory, made or recovered.

    Args:
        path: a directory ``….mmsb`` on a local file system. Opened twice in one process for
            writing, it is the same bus; closing it closes it for both.
        mode: ``"a"`` to write (one process at a time), ``"r"`` to read beside the writer.
        page_bytes: bytes of a page, a multiple of 128; 4096 for a new log. A log keeps its own.
        durability: when a commit returns: ``"os"`` after the write (survives the process),
            ``("group", ms)`` after the write and synced within ``ms`` milliseconds, ``"fsync"``
            after the sync (survives the machine).
        snapshots: whether snapshots are made by themselves, by logged bytes.
        salvage: with ``mode="r"``, open what is whole before a damage instead of refusing.

    Raises:
        LocationError: a URL, a network file system, no permission, a directory that is no log.
        LockedError: another live process writes it.
        CorruptionError: what was durable does not read back.
        FormatError: a newer format wrote it.

    Cost: reads the newest snapshot and the log behind it.

    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> bus.commit({"w": 1.0}).version
    1
    """
    check_choice("mode", mode, "a", "r")
    check_flag("snapshots", snapshots)
    check_flag("salvage", salvage)
    if salvage and mode != "r":
        raise ValueError("salvage=True needs mode='r': a damaged log is not written to")
    check_durability(durability)
    if page_bytes is not None:
        check_page_bytes(page_bytes)
    if path is None and mode == "r":
        raise ValueError("mode='r' reads the log of another bus: give the path of its directory")
    if path is None:
        files = MemoryFiles()
        create_log(files, page_bytes or DEFAULT_PAGE_BYTES)
        return _writing_bus(files, "the log in memory", None, durability, snapshots)
    if mode == "r":
        return _reading_bus(check_log_place(path), salvage)
    place = check_local(path)
    with _opening:
        key = os.path.realpath(place)
        known = _open_here.get(key)
        if known is not None and not _is_dead(known):
            _check_same(known, page_bytes, durability)
            return known
        if known is not None:
            _let_go(known)
        return _open_to_write(place, key, page_bytes, durability, snapshots)


def _is_dead(bus: Bus) -> bool:
    """Whether a bus of this process can never be written to again, or is of another log by now."""
    engine = bus._engine_or_none
    if bus.closed or engine is None:
        return True
    with contextlib.suppress(ClosedError):
        engine.writer.check_place()
        return False
    return True


def _let_go(bus: Bus) -> None:
    """Let a bus that is dead in this process give its log back, so that it can be opened again."""
    with contextlib.suppress(Exception):  # what is whole on disk is recovered
        bus.close()


def _check_same(bus: Bus, page_bytes: int | None, durability: Any) -> None:
    if page_bytes is not None and page_bytes != bus.page_bytes:
        raise ValueError(
            f"{bus.path} is open in this process with page_bytes={bus.page_bytes}; it cannot be "
            f"opened with page_bytes={page_bytes}"
        )
    if durability != "os" and durability != bus.durability:
        raise ValueError(
            f"{bus.path} is open in this process with durability={bus.durability!r}; close it "
            f"there before opening it with {durability!r}"
        )


def _reading_bus(place: Path, salvage: bool) -> Bus:
    files = DiskFiles(place)
    try:
        return Bus(Log(files, str(place), salvage), None, files, place)
    except PermissionError as error:
        raise disk_error(error, str(place)) from error


def _open_to_write(
    place: Path, key: str, page_bytes: int | None, durability: Durability, snapshots: bool
) -> Bus:
    """Open it, known in this process by ``key``: an interrupt behind this loses no open bus."""
    try:
        _make_directory(place)
        lock = WriterLock(place)
    except OSError as error:
        raise disk_error(error, str(place)) from error
    try:
        files = DiskFiles(place)
        if not is_log(files):
            create_log(files, page_bytes or DEFAULT_PAGE_BYTES)
        bus = _writing_bus(files, str(place), lock, durability, snapshots, place)
        if page_bytes is not None and page_bytes != bus.page_bytes:
            bus.close()
            raise ValueError(
                f"{place} has pages of {bus.page_bytes} bytes, and page_bytes={page_bytes} was "
                f"asked for. Leave it out: a log keeps the size that it was made with."
            )
        _open_here[key] = bus
    except OSError as error:
        lock.release()
        raise (
            error if isinstance(error, LocationError) else disk_error(error, str(place))
        ) from error
    except BaseException:
        _open_here.pop(key, None)
        lock.release()
        raise
    return bus


def _make_directory(place: Path) -> None:
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


def is_log(files: Files) -> bool:
    """Whether there is a manifest: it is written last when a log is made."""
    try:
        files.size(MANIFEST_NAME)
    except FileNotFoundError:
        return False
    return True


def _writing_bus(
    files: Files,
    name: str,
    lock: WriterLock | None,
    durability: Durability,
    snapshots: bool,
    place: Path | None = None,
) -> Bus:
    log = Log(files, name)
    engine = Engine(files, log, lock, durability, snapshots)
    return Bus(log, engine, files, place)


def fork(
    log: Log, version: int, path: Any, *, durability: Durability = "os", snapshots: bool = True
) -> Bus:
    """A bus over a log of its own that goes on behind ``version`` of ``log``; see `Bus.fork`."""
    check_durability(durability)
    if path is None:
        files = MemoryFiles()
        fork_log(log, version, files)
        return _writing_bus(files, "the log in memory", None, durability, snapshots)
    place = check_local(path)
    try:
        _make_directory(place)
        files = DiskFiles(place)
        if is_log(files):
            raise LocationError(f"{place} is a log already. Give a path where nothing is yet.")
        lock = WriterLock(place)
        try:
            _check_nothing_left(files, place)
            with _opening, _all_or_nothing(files):
                fork_log(log, version, files)
                bus = _writing_bus(files, str(place), lock, durability, snapshots, place)
                _open_here[os.path.realpath(place)] = bus
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        if isinstance(error, LocationError):
            raise
        raise disk_error(error, str(place)) from error
    return bus


def _check_nothing_left(files: DiskFiles, place: Path) -> None:
    for folder in ("log", "snapshots"):
        files.sync_names(folder)  # a fork that failed here may have left something, and removed it
    if files.names("log"):
        raise LocationError(
            f"{place} holds a part of a log without its manifest: a fork that a crash cut short, "
            f"or a log that lost it. Remove the directory if it is a fork, or give another path."
        )


@contextlib.contextmanager
def _all_or_nothing(files: DiskFiles) -> Iterator[None]:
    """Where making a log fails nothing is left of it, so that it can be tried again."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(MANIFEST_NAME)  # first: a log without its segments would be damage
            for name in list(files.made):  # to list a folder takes a descriptor, which may be it
                files.remove(name)
        raise
