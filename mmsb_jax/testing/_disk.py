"""A disk that is simulated under the real file layer, and what may be left of it after a crash.

`Disk` answers the system calls that `mmsb_jax._store.files.disk.DiskFiles` makes, so that its
drafts, renames and syncs are tried and not a copy of them. It keeps a journal of everything that
changed it; so one run gives the crash at each of its moments.

The model. What a sync covered is there. Of what it did not cover:

- each write may be there, or not, or some of its sectors of 512 bytes and not the others; a sector
  may be as any of the writes to it left it; where a file grew and its bytes did not land, there are
  zeros, or what some other file left on the disk;
- the size of a file may be any that it had meanwhile, or stop at a sector between;
- each creation, renaming and removal may have happened or not, in any order. The sync of a file
  does not cover its name: that of its folder does. A renaming alone is atomic.

A sync of a file that fails leaves the same to chance, and later ones do not cover what it should
have: the system tells of a failure once. (Of folders it does not forget: a file system whose own
journal fails takes no more writes.)
"""

import errno
import itertools
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, NamedTuple

from mmsb_jax.testing._faulty import Faults, disk_fault

SECTOR_BYTES = 512
_ROOT = 0
_FIRST_DESCRIPTOR = 1 << 20  # none that the real system would give


class _Write(NamedTuple):
    node: int
    offset: int
    data: bytes


class _Cut(NamedTuple):
    """A truncation."""

    node: int
    size: int


class _Link(NamedTuple):
    """A new file or folder."""

    folder: int
    name: str
    node: int
    is_folder: bool


class _Unlink(NamedTuple):
    folder: int
    name: str
    node: int


class _Rename(NamedTuple):
    folder: int
    old: str
    new: str
    node: int


class _Sync(NamedTuple):
    """A sync of a file or folder; one that failed covers nothing, and of a file it is the last."""

    node: int
    failed: bool


class _Note(NamedTuple):
    """What the test knew at this moment."""

    fact: Any


_Entry = _Write | _Cut | _Link | _Unlink | _Rename | _Sync | _Note


@dataclass(slots=True)
class _Contents:
    """Files by number, and folders: names and the numbers behind them."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})

    def copy(self) -> "_Contents":
        files = {node: bytearray(content) for node, content in self.files.items()}
        return _Contents(files, {node: dict(names) for node, names in self.folders.items()})

    def change(self, entry: _Entry) -> None:
        """What an entry of the journal does, as the system shows it."""
        match entry:
            case _Write(node, offset, data):
                content = self.files[node]
                content[offset : offset + len(data)] = data
            case _Cut(node, size):
                content = self.files[node]
                content[:] = content[:size].ljust(size, b"\0")
            case _Link(folder, name, node, is_folder):
                if is_folder:
                    self.folders.setdefault(node, {})
                else:
                    self.files.setdefault(node, bytearray())
                self.folders[folder][name] = node
            case _Unlink() | _Rename():
                _change_names(self.folders[entry.folder], entry)
            case _Sync() | _Note():
                pass


def _change_names(names: dict[str, int], entry: _Link | _Unlink | _Rename) -> None:
    match entry:
        case _Link(_, name, node, _):
            names[name] = node
        case _Unlink(_, name, node):
            if names.get(name) == node:
                del names[name]
        case _Rename(_, old, new, node):
            if names.get(old) == node:
                del names[old]
            names[new] = node


class Disk:
    """A disk in memory: what `DiskFiles` takes for the system.

    Attributes:
        journal: everything that changed it, in order, and the notes of the test.
        faults: which calls fail; kinds are the names of the calls.
    """

    def __init__(self, contents: _Contents | None = None, faults: Faults | None = None) -> None:
        self._durable = _Contents() if contents is None else contents
        self._now = self._durable.copy()
        self.journal: list[_Entry] = []
        self.faults = Faults(kinds=CALLS) if faults is None else faults
        self._newest = max([*self._now.files, *self._now.folders])
        self._descriptors: dict[int, int] = {}
        self._next_descriptor = itertools.count(_FIRST_DESCRIPTOR)
        self._lock = threading.RLock()

    # --------------------------------------------------------------------------- what a test does

    def note(self, fact: Any) -> None:
        """Write down what is known now; `facts` tells it of any moment."""
        with self._lock:
            self.journal.append(_Note(fact))

    def facts(self, until: int | None = None) -> list[Any]:
        """What was noted before a moment, in order."""
        return [entry.fact for entry in self.journal[:until] if isinstance(entry, _Note)]

    def after_process_death(self, until: int | None = None) -> "Disk":
        """The disk at a moment, for the next process: nothing is lost, and nothing was synced."""
        disk = Disk(self._durable)
        for entry in self.journal[:until]:
            disk._record(entry)
        return disk

    def after_machine_death(self, rng: random.Random, until: int | None = None) -> "Disk":
        """What the disk may hold when the machine died at a moment."""
        left = self._durable.copy()
        unsynced: dict[int, list[Any]] = {}
        for entry in self.journal[:until]:
            match entry:
                case _Note():
                    continue
                case _Sync(node, True) if node in left.folders:
                    continue
                case _Sync(node, failed):
                    waiting = unsynced.pop(node, [])
                    choose = _Crash(rng, left) if failed else _everything
                    _settle(left, node, waiting, choose)
                case _Write() | _Cut():
                    unsynced.setdefault(entry.node, []).append(entry)
                case _Link():
                    kind: dict[int, Any] = left.folders if entry.is_folder else left.files
                    kind[entry.node] = {} if entry.is_folder else bytearray()
                    unsynced.setdefault(entry.folder, []).append(entry)
                case _Unlink() | _Rename():
                    unsynced.setdefault(entry.folder, []).append(entry)
        crash = _Crash(rng, left)
        for node, waiting in unsynced.items():
            _settle(left, node, waiting, crash)
        return Disk(left)

    # ------------------------------------------------------------------------- what the system does

    def open(self, path: Any, flags: int, mode: int = 0) -> int:
        """A descriptor; files are opened to append or to read, folders to be synced."""
        with self._lock:
            folder, name = self._place(path)
            node = self._now.folders[folder].get(name) if name else folder
            if flags & os.O_CREAT:
                if node is not None:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
                self._may_fail("create")
                node = self._new_number()
                self._record(_Link(folder, name, node, False))
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if not flags & os.O_CREAT:
                self._may_fail("open")
            descriptor = next(self._next_descriptor)
            self._descriptors[descriptor] = node
            return descriptor

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        del self._descriptors[descriptor]

    def writev(self, descriptor: int, buffers: Sequence[Any]) -> int:
        """Append, all of it; a failing call that is to be short leaves a half, as a full disk."""
        with self._lock:
            node, data = self._descriptors[descriptor], b"".join(buffers)
            offset = len(self._now.files[node])
            if self.faults.fails("writev"):
                if self.faults.is_short and len(data) > 1:
                    self._record(_Write(node, offset, data[: len(data) // 2]))
                raise disk_fault(self.faults.code)
            self._record(_Write(node, offset, data))
            return len(data)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        """Write within a file."""
        with self._lock:
            self._may_fail("pwrite")
            self._record(_Write(self._descriptors[descriptor], offset, data))
            return len(data)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Bytes of a file."""
        with self._lock:
            self._may_fail("pread")
            content = self._now.files[self._descriptors[descriptor]]
            return bytes(content[offset : offset + size])

    def fstat(self, descriptor: int) -> Any:
        """The size of a file, which is one and has one name."""
        with self._lock:
            self._may_fail("fstat")
            size = len(self._now.files[self._descriptors[descriptor]])
            return SimpleNamespace(st_size=size, st_mode=stat.S_IFREG, st_nlink=1)

    def fdatasync(self, descriptor: int) -> None:
        """Sync a file."""
        self._sync(descriptor, "fdatasync")

    def fsync(self, descriptor: int) -> None:
        """Sync a folder."""
        self._sync(descriptor, "fsync")

    def ftruncate(self, descriptor: int, size: int) -> None:
        """Cut a file."""
        with self._lock:
            self._may_fail("ftruncate")
            self._record(_Cut(self._descriptors[descriptor], size))

    def mkdir(self, path: Any) -> None:
        """Make a folder."""
        with self._lock:
            folder, name = self._place(path)
            if not name or name in self._now.folders[folder]:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            self._may_fail("mkdir")
            self._record(_Link(folder, name, self._new_number(), True))

    def replace(self, source: Any, target: Any) -> None:
        """Rename within a folder."""
        with self._lock:
            folder, old = self._place(source)
            other, new = self._place(target)
            assert folder == other, "the model knows renaming within a folder only"
            if old not in self._now.folders[folder]:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
            self._may_fail("replace")
            self._record(_Rename(folder, old, new, self._now.folders[folder][old]))

    def unlink(self, path: Any) -> None:
        """Remove a name."""
        with self._lock:
            folder, name = self._place(path)
            node = self._now.folders[folder].get(name)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self._may_fail("unlink")
            self._record(_Unlink(folder, name, node))

    def rmdir(self, path: Any) -> None:
        """Remove an empty folder."""
        with self._lock:
            folder, name = self._place(path)
            node = self._now.folders[folder].get(name)
            if node not in self._now.folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if self._now.folders[node]:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
            self._may_fail("rmdir")
            self._record(_Unlink(folder, name, node))

    @contextmanager
    def scandir(self, path: Any) -> Iterator[Iterator[Any]]:
        """The names in a folder."""
        with self._lock:
            self._may_fail("scandir")
            folder, name = self._place(path)
            node = self._now.folders[folder].get(name) if name else folder
            if node not in self._now.folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            names = dict(self._now.folders[node])
        yield (_DirectoryEntry(name, child in self._now.files) for name, child in names.items())

    def stat(self, path: Any) -> Any:
        """What a name stands for: its kind, and the device, of which there is one."""
        with self._lock:
            folder, name = self._place(path)
            node = self._now.folders[folder].get(name) if name else folder
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            content = self._now.files.get(node)
            return SimpleNamespace(
                st_mode=stat.S_IFDIR if content is None else stat.S_IFREG,
                st_dev=0,
                st_ino=node,
                st_size=len(content or b""),
                st_mtime_ns=0,
                st_ctime_ns=0,
            )

    def lstat(self, path: Any) -> Any:
        """As `stat`: there are no links."""
        return self.stat(path)

    def _place(self, path: Any) -> tuple[int, str]:
        """The folder that a path stands in, and its name there; empty for the root."""
        parts = PurePath(path).parts[1:]
        node = _ROOT
        for part in parts[:-1]:
            node = self._now.folders[node].get(part)
            if node not in self._now.folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return node, parts[-1] if parts else ""

    def _sync(self, descriptor: int, kind: str) -> None:
        with self._lock:
            failed = self.faults.fails(kind)
            self._record(_Sync(self._descriptors[descriptor], failed))
            if failed:
                raise disk_fault(self.faults.code)

    def _may_fail(self, kind: str) -> None:
        if self.faults.fails(kind):
            raise disk_fault(self.faults.code)

    def _new_number(self) -> int:
        return self._newest + 1

    def _record(self, entry: _Entry) -> None:
        self.journal.append(entry)
        self._now.change(entry)
        if isinstance(entry, _Link):
            self._newest = entry.node


CALLS = frozenset(
    {
        *("create", "writev", "pwrite", "fdatasync", "fsync", "ftruncate"),
        *("mkdir", "replace", "unlink", "rmdir"),
    }
)
"""The calls that change the disk, by which `Faults` counts."""
READ_CALLS = frozenset({"open", "fstat", "pread", "scandir"})
"""The calls that do not; ``open`` without making a file."""


class _DirectoryEntry:
    def __init__(self, name: str, is_file: bool) -> None:
        self.name, self._is_file = name, is_file

    def is_file(self, follow_symlinks: bool = True) -> bool:
        return self._is_file


# ------------------------------------------------------------------------------------- the crash


_Choose = Callable[[Any, list[Any]], Any]
"""Makes of something durable, and what was done to it since, what is left of both."""


def _settle(left: _Contents, node: int, waiting: list[Any], choose: _Choose) -> None:
    kind: dict[int, Any] = left.files if node in left.files else left.folders
    kind[node] = choose(kind[node], waiting)


def _everything(durable: Any, waiting: list[Any]) -> Any:
    if isinstance(durable, dict):
        for entry in waiting:
            _change_names(durable, entry)
        return durable
    return _landed(durable, waiting, lambda sector: len(waiting), None)


class _Crash:
    """Leaves to chance what of unsynced changes is kept."""

    def __init__(self, rng: random.Random, contents: _Contents) -> None:
        self._rng = rng
        self._contents = contents

    def __call__(self, durable: Any, waiting: list[Any]) -> Any:
        if not waiting:
            return durable
        if isinstance(durable, dict):
            return self._names(durable, waiting)
        return self._content(durable, waiting)

    def _names(self, durable: dict[str, int], waiting: list[Any]) -> dict[str, int]:
        kept = {
            "none": list,
            "all": lambda: waiting,
            "first": lambda: waiting[: self._rng.randrange(len(waiting))],
            "any": lambda: self._rng.sample(waiting, self._rng.randint(0, len(waiting))),
        }[self._mood()]()
        for entry in kept:
            _change_names(durable, entry)
        return durable

    def _content(self, durable: bytearray, waiting: list[Any]) -> bytearray:
        rng, count = self._rng, len(waiting)
        mood = self._mood()
        if mood == "none":
            return durable
        if mood == "all":
            return _everything(durable, waiting)
        if mood == "first":  # and the one behind is torn
            place = rng.randrange(count)
            through = _memo(lambda sector: place + rng.randint(0, 1))
            size = self._size(durable, waiting[: place + 1])
        else:
            through = _memo(lambda sector: rng.randint(0, count))
            size = self._size(durable, waiting)
        return _landed(durable, waiting, through, size, self._left_over)

    def _mood(self) -> str:
        return self._rng.choice(("none", "all", "first", "any", "any"))

    def _size(self, durable: bytearray, waiting: list[Any]) -> int:
        """Any size that the file had, or a sector's end between."""
        sizes = [len(durable)]
        for entry in waiting:
            grown = entry.offset + len(entry.data) if isinstance(entry, _Write) else entry.size
            sizes.append(max(sizes[-1], grown) if isinstance(entry, _Write) else grown)
        low, high = min(sizes) // SECTOR_BYTES + 1, max(sizes) // SECTOR_BYTES
        if low <= high and self._rng.random() < 0.5:
            return SECTOR_BYTES * self._rng.randint(low, high)
        return self._rng.choice(sizes[-2:] if self._rng.random() < 0.7 else sizes)

    def _left_over(self) -> bytes:
        """What a sector holds that was given to a file and not written: zeros, mostly."""
        contents = list(self._contents.files.values())
        old = self._rng.choice(contents)
        if self._rng.random() < 0.7 or len(old) < SECTOR_BYTES:
            return bytes(SECTOR_BYTES)
        start = SECTOR_BYTES * self._rng.randrange(len(old) // SECTOR_BYTES)
        return bytes(old[start : start + SECTOR_BYTES])


def _memo(choose: Callable[[int], int]) -> Callable[[int], int]:
    """The same answer for the same sector."""
    known: dict[int, int] = {}

    def ask(sector: int) -> int:
        if sector not in known:
            known[sector] = choose(sector)
        return known[sector]

    return ask


def _landed(
    durable: bytearray,
    waiting: list[Any],
    through: Callable[[int], int],
    size: int | None,
    left_over: Callable[[], bytes] | None = None,
) -> bytearray:
    """A file in which each sector is as the first ``through(sector)`` changes left it."""
    content = bytearray(durable)
    length = len(durable)
    for number, entry in enumerate(waiting):
        if isinstance(entry, _Cut):
            length = entry.size
            for start, end in _sectors(entry.size, len(content)):
                if number < through(start // SECTOR_BYTES):
                    content[start:end] = bytes(end - start)
            continue
        stop = entry.offset + len(entry.data)
        length = max(length, stop)
        content.extend(bytes(max(0, stop - len(content))))
        for start, end in _sectors(entry.offset, stop):
            if number < through(start // SECTOR_BYTES):
                content[start:end] = entry.data[start - entry.offset : end - entry.offset]
    size = length if size is None else size
    content = content[:size].ljust(size, b"\0")
    if left_over is not None:
        first = -(-len(durable) // SECTOR_BYTES) * SECTOR_BYTES
        for start, end in _sectors(first, size):
            if not through(start // SECTOR_BYTES):
                content[start:end] = left_over()[: end - start]
    return content


def _sectors(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of ``start … stop`` that lie in one sector each."""
    while start < stop:
        end = min(stop, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, end
        start = end
