"""Opening a bus: where its log is, who may write it, and whether it is open here already."""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any, Literal

from mmsb_jax._base.arguments import check_choice, check_flag
from mmsb_jax._base.errors import ClosedError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._bus.device.policy import Shadowing, check_shadow
from mmsb_jax._bus.opening import key_of, open_files, open_here, open_to_write, opening, restore_log
from mmsb_jax._bus.saving.keep import KeepPolicy, check_keep
from mmsb_jax._bus.saving.policy import SavePolicies, check_policy
from mmsb_jax._bus.trees.places import check_place
from mmsb_jax._core.layout import DEFAULT_PAGE_BYTES, check_page_bytes
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import as_place, check_local, check_log_place
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.writer.create import create_log
from mmsb_jax._store.writer.durability.base import Durability
from mmsb_jax._store.writer.durability.choose import durability_strategy
from mmsb_jax._store.writer.writer import disk_error


def open(
    path: str | os.PathLike[str] | None = None,
    mode: Literal["a", "r"] = "a",
    *,
    page_bytes: int | None = None,
    durability: Durability = "os",
    snapshots: bool = True,
    shadow: Shadowing = "auto",
    memory_kind: str | None = None,
    save: SavePolicies | None = None,
    keep: KeepPolicy | None = None,
    copy_to: str | os.PathLike[str] | None = None,
    restore_from: str | os.PathLike[str] | None = None,
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
        shadow: whether what was committed last of the tree is kept on its devices too, so that a
            commit moves what changed to the host, and no more. ``"bytes"`` keeps it; ``"digest"``
            keeps a digest of each 128 bytes, a sixteenth of the memory, for changes that come in
            blocks: lines come whole, and a change is missed once in 2⁶⁴ (found and warned of at
            the next snapshot); None keeps nothing; ``"auto"`` keeps the bytes on GPUs of which
            they take less than a tenth of the memory that was never used. It is not a part of the
            log: the bytes logged are the same.
        memory_kind: in which memory of the default device the bus puts the arrays of JAX that it
            gives (``"device"``, ``"pinned_host"``, ``"unpinned_host"``), where nothing else says
            so (``like=``, `Bus.move`); None for the device's own.
        save: which commits of a tree log bytes, and not digests alone: `Every` so many steps or
            seconds, `AtMost` at a price, several of them joined by ``|``, or a function of a
            `Moment`; None for all. The first, one that changes the structure, and the newest when
            the bus is closed always do. A dict of patterns and policies saves parts of the tree
            more often than the whole, which is ``"**"``:
            ``{"params/**": Every(steps=10), "**": Every(steps=500)}``.
        keep: which versions keep their bytes: `Keep` the newest, some of the older ones, the
            `Best`, or a function from the commits that have bytes to those that are to have them
            on; None for all. The newest is always kept, and what a tag names. The others are given
            up by whole segments of the log, in the background, as it grows; what their commits say
            stays.
        copy_to: a directory, also on a network file system, in which a copy of the log is kept: its
            files are copied there in the background as they are sealed, and the rest when the bus
            is closed, or a signal of ``save=`` comes. It is a log, and whole at every moment.
        restore_from: a directory of such a copy, from which the log at ``path`` is made where there
            is none. Where there is no copy either, the log begins empty: so the same call serves
            every start of a run.
        salvage: with ``mode="r"``, open what is whole before a damage instead of refusing.

    Raises:
        LocationError: a URL, a network file system, no permission, a directory that is no log.
        LockedError: another live process writes it.
        DivergenceError: the copy is ahead of the log, or went another way.
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
    check_shadow(shadow)
    check_place("memory_kind", memory_kind)
    check_policy(save)
    check_keep(keep)
    make = functools.partial(Bus, shadow=shadow, memory_kind=memory_kind, save=save, keep=keep)
    if salvage and mode != "r":
        raise ValueError("salvage=True needs mode='r': a damaged log is not written to")
    durability_strategy(durability)
    if page_bytes is not None:
        check_page_bytes(page_bytes)
    if path is None and (copy_to is not None or restore_from is not None):
        raise ValueError("copy_to= and restore_from= are of a log on disk: give its path")
    if mode == "r" and (copy_to is not None or restore_from is not None):
        raise ValueError("mode='r' writes no files: open for writing to copy or to restore")
    if path is None and mode == "r":
        raise ValueError("mode='r' reads the log of another bus: give the path of its directory")
    if path is None:
        files = MemoryFiles()
        create_log(files, page_bytes or DEFAULT_PAGE_BYTES)
        return open_files(make, files, "the log in memory", None, durability, snapshots)
    if mode == "r":
        return _reading_bus(check_log_place(path), salvage, memory_kind)
    place = check_local(path)
    copy = _elsewhere("copy_to", copy_to, place)
    source = _elsewhere("restore_from", restore_from, place)
    with opening:
        known = open_here.get(key_of(place))
        if known is not None and not _is_dead(known):
            _check_same(known, page_bytes, durability)
            _check_choice_of(known, "shadow", shadow, "auto")
            _check_choice_of(known, "memory_kind", memory_kind, None)
            _check_choice_of(known, "save", save, None)
            _check_choice_of(known, "keep", keep, None)
            _check_choice_of(known, "copy_to", copy, None)
            return known
        if known is not None:
            _let_go(known)
        if source is not None:
            restore_log(place, source)
        make = functools.partial(make, copy_to=copy)
        return open_to_write(make, place, page_bytes, durability, snapshots)


def _elsewhere(name: str, path: Any, log: Path) -> Path | None:
    """A directory on whatever file system, but not within the log."""
    if path is None:
        return None
    place = as_place(name, path)
    if place == log or log in place.parents:
        raise ValueError(f"{name}={str(place)!r} is within the log itself, {log}")
    return place


def _is_dead(bus: Bus) -> bool:
    """Whether a bus of this process can never be written to again, or is of another log by now."""
    engine = bus._session.engine
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


def _check_choice_of(bus: Bus, name: str, asked: Any, default: Any) -> None:
    now = bus._choices[name]
    if asked != default and asked != now:
        raise ValueError(
            f"{bus.path} is open in this process with {name}={now!r}; close it there before "
            f"opening it with {name}={asked!r}"
        )


def _reading_bus(place: Path, salvage: bool, memory_kind: str | None) -> Bus:
    files = DiskFiles(place)
    try:
        log = Log(files, str(place), salvage)
        return Bus(log, None, files, place, memory_kind=memory_kind)
    except PermissionError as error:
        raise disk_error(error, str(place)) from error
