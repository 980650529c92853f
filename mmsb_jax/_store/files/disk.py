"""A directory of a local file system, as a log uses it."""

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmsb_jax._base.errors import LocationError
from mmsb_jax._base.memory_limit import no_room
from mmsb_jax._store.files.descriptor import Descriptor
from mmsb_jax._store.files.protocol import AppendFile, Buffer, Files
from mmsb_jax._store.files.unreadable import check_regular, unreadable

Answer = TypeVar("Answer")


_MAX_BUFFERS_A_CALL = 512  # below IOV_MAX of every Linux
_OPEN_READERS = 64
_ENDINGS = (".seg", ".cut", ".arc", ".snap")
"""Of what is listed whatever it is: a pipe in the place of a segment is no missing segment."""
OWN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK
"""How a file of the log is opened: no link is followed, and no pipe is waited for."""
_FICLONE = 0x40049409
"""Linux's number for it (``linux/fs.h``)."""
_READ_BYTES = 1 << 20
"""What is read without asking first how much there is: a file may claim any size."""


class _DiskAppendFile:
    def __init__(self, system: Any, descriptor: Descriptor, folders: Sequence[Path]) -> None:
        self._os = system
        self._descriptor = descriptor
        self._unsynced_folders = list(folders)
        self._can_share = hasattr(system, "copy_file_range")

    def append(self, buffers: Sequence[Buffer]) -> None:
        waiting = [buffer for buffer in buffers if len(buffer)]
        while waiting:
            written = self._os.writev(self._descriptor.number, waiting[:_MAX_BUFFERS_A_CALL])
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = memoryview(waiting[0])[written:]

    def copy_range(self, source: int, size: int) -> None:
        """Append the first ``size`` bytes of ``source``, sharing blocks where the disk can."""
        done = 0
        while done < size:
            if self._can_share:
                try:
                    copied = self._os.copy_file_range(
                        source, self._descriptor.number, size - done, done
                    )
                except OSError:
                    copied = 0
                if not copied:  # also what some file systems answer that cannot do it
                    self._can_share = False
                    continue
            else:
                part = self._os.pread(source, min(size - done, 1 << 24), done)
                self.append([part])
                copied = len(part)
            if not copied:
                raise OSError(f"the source ends {size - done} bytes before it should")
            done += copied

    def clone(self, source: int) -> bool:
        """Become a file of the blocks of ``source``; False where the disk cannot do it."""
        try:
            fcntl.ioctl(self._descriptor.number, _FICLONE, source)
        except OSError:
            return False
        return True

    def sync(self) -> None:
        self._os.fdatasync(self._descriptor.number)
        while self._unsynced_folders:
            sync_folder(self._os, self._unsynced_folders[-1])
            self._unsynced_folders.pop()

    def truncate(self, size: int) -> None:
        self._os.ftruncate(self._descriptor.number, size)

    def is_there(self) -> bool:
        return self._os.fstat(self._descriptor.number).st_nlink > 0

    def close(self) -> None:
        self._descriptor.close()


def asked(path: Path, call: Callable[..., Answer], *arguments: Any) -> Answer:
    """What a call of the system about ``path`` answers."""
    while True:
        try:
            return call(*arguments)
        except InterruptedError:
            continue  # not every call is made again by Python
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(error, path) from error


@contextlib.contextmanager
def _closing(close: Callable[[], None]) -> Iterator[None]:
    """Close at the end; where something failed before, that is the error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            close()
        raise
    close()


class DiskFiles:
    """A directory of a local file system; symbolic links in it are not followed.

    Args:
        root: the directory.
        system: where the calls of `os` go; a test puts a disk that fails beneath.

    Attributes:
        made: the files that were made through this and not removed.
    """

    def __init__(self, root: Path, system: Any = os) -> None:
        self.root = root
        self.system = self._os = system
        self._readers: dict[str, Descriptor] = {}
        self._readers_lock = threading.Lock()
        self._removed_from: set[Path] = set()
        self.made: set[str] = set()
        self._can_clone = True

    def create(self, name: str) -> AppendFile:
        path = self.root / name
        self.made.add(name)
        make_folder(self._os, path.parent)
        return new_file(self._os, path)

    def reopen(self, name: str) -> AppendFile:
        path = self.root / name
        # Who made it may have died before its entry was synced; and so may who made the manifest.
        return self._append_file(path, os.O_WRONLY | os.O_APPEND, [self.root, path.parent])

    def rewrite(self, name: str, offset: int) -> None:
        descriptor = self._open_own(self.root / name, os.O_RDWR)  # O_APPEND: only at the end
        with _closing(descriptor.close):
            while part := self._os.pread(descriptor.number, _READ_BYTES, offset):
                offset += self._os.pwrite(descriptor.number, part, offset)

    def _append_file(self, path: Path, flags: int, folders: Sequence[Path]) -> _DiskAppendFile:
        if flags & os.O_EXCL:  # it is new: there is nothing to look at
            descriptor = Descriptor(self._os, path, flags)
        else:
            descriptor = self._open_own(path, flags)
        return _DiskAppendFile(self._os, descriptor, folders)

    def _open_own(self, path: Path, flags: int) -> Descriptor:
        """A descriptor to write a file of the log's own that is there; it must be no other."""
        try:
            descriptor = Descriptor(self._os, path, flags | OWN_FILE)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise unreadable(error, path) from error
            raise
        try:
            check_regular(path, self._os.fstat(descriptor.number), is_written=True)
        except BaseException:
            with contextlib.suppress(OSError):
                descriptor.close()
            raise
        return descriptor

    def _reader(self, name: str) -> Descriptor:
        if "/" not in name:  # the manifest: another process may put a new one in its place
            return self._open_to_read(self.root / name)
        with self._readers_lock:
            reader = self._readers.get(name)
            if reader is None:
                while len(self._readers) >= _OPEN_READERS:
                    del self._readers[next(iter(self._readers))]
                reader = self._readers[name] = self._open_to_read(self.root / name)
            return reader

    def _open_to_read(self, path: Path) -> Descriptor:
        """A descriptor that is closed when the last thread that reads through it lets go."""
        descriptor = asked(path, Descriptor, self._os, path, os.O_RDONLY | OWN_FILE)
        try:
            check_regular(path, asked(path, self._os.fstat, descriptor.number), is_written=False)
        except BaseException:
            descriptor.close()
            raise
        return descriptor

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        reader = self._reader(name)
        try:
            return self._read(reader.number, self.root / name, offset, size)
        finally:
            del reader  # an error that somebody keeps would keep the descriptor

    def _read(self, descriptor: int, path: Path, offset: int, size: int | None) -> bytes:
        if size is None or size > _READ_BYTES:
            there = max(0, asked(path, self._os.fstat, descriptor).st_size - offset)
            size = there if size is None else min(size, there)
        parts, left = [], size
        try:
            while left > 0:
                part = asked(path, self._os.pread, descriptor, min(left, 1 << 30), offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                left -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except MemoryError as error:
            raise no_room(size, f"a part of {path}") from error

    def size(self, name: str) -> int:
        reader = self._reader(name)  # held: it is closed when nobody holds it
        try:
            return asked(self.root / name, self._os.fstat, reader.number).st_size
        finally:
            del reader

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        try:
            self._refuse_link(path)
            found = asked(path, self._scan, path)
        except FileNotFoundError:
            return []
        return sorted(f"{folder}/{name}" for name in found)

    def _scan(self, path: Path) -> list[str]:
        """The files in a folder, and what stands where one of the log's should be."""
        with self._os.scandir(path) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name.endswith(_ENDINGS) or entry.is_file(follow_symlinks=False)
            ]

    def _refuse_link(self, folder: Path) -> None:
        """Refuse a folder that is elsewhere: every log is listed before a file in it is opened."""
        if not stat.S_ISDIR(asked(folder, self._os.lstat, folder).st_mode):
            raise LocationError(
                errno.ENOTDIR,
                f"{folder} is a link, or no folder. Links in a log are not followed; move the "
                f"folder itself to its place, or make the whole log a link.",
            )

    def publish(self, name: str, buffers: Iterable[Buffer]) -> None:
        path = self.root / name
        self.made.add(name)
        draft = path.with_name(path.name + ".draft")
        self._unlink(draft)
        handle = self.create(f"{name}.draft")
        try:
            with _closing(handle.close):
                for buffer in buffers:
                    handle.append((buffer,))
                handle.sync()
            # What was removed is not to come back beside the new file.
            for folder in list(self._removed_from):
                sync_folder(self._os, folder)
                self._removed_from.discard(folder)
            self._os.replace(draft, path)
            self.made.discard(f"{name}.draft")
        except BaseException:
            with contextlib.suppress(OSError):
                self._unlink(draft)
            raise
        self._forget(name)
        sync_folder(self._os, path.parent)

    def copy(self, source: Files, name: str, size: int) -> None:
        path = self.root / name
        self.made.add(name)
        make_folder(self._os, path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # O_APPEND forbids sharing
        handle = self._append_file(path, flags, [path.parent])
        try:
            with _closing(handle.close):
                if isinstance(source, DiskFiles):
                    reader = source._reader(name)
                    handle.copy_range(reader.number, size)
                else:
                    handle.append([source.read(name, 0, size)])
                handle.sync()
        except BaseException:
            with contextlib.suppress(OSError):
                self._unlink(path)
            raise

    def share(self, source: Files, name: str, size: int) -> None:
        if not (isinstance(source, DiskFiles) and self._shared(source, name)):
            self.copy(source, name, size)

    def _shared(self, source: "DiskFiles", name: str) -> bool:
        """Share a file; False where it is to be copied."""
        is_real = source._os is self._os is os
        return is_real and (self._cloned(source, name) or self._linked(source, name))

    def _cloned(self, source: "DiskFiles", name: str) -> bool:
        """Make a file of the same blocks (a reflink); False where the file system cannot."""
        if not self._can_clone:
            return False
        path, reader = self.root / name, source._reader(name)
        self.made.add(name)
        make_folder(self._os, path.parent)
        handle = self._append_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, [path.parent])
        try:
            with _closing(handle.close):
                self._can_clone = handle.clone(reader.number)
                if self._can_clone:
                    handle.sync()
        except BaseException:
            with contextlib.suppress(OSError):
                self._unlink(path)
            raise
        if not self._can_clone:
            self._unlink(path)
        return self._can_clone

    def _linked(self, source: "DiskFiles", name: str) -> bool:
        """Make another name of a file (a hard link); False where the file system cannot."""
        path, reader = self.root / name, source._reader(name)
        self.made.add(name)
        make_folder(self._os, path.parent)
        try:
            os.link(source.root / name, path, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # another file system, somebody else's file, as many names as there can be
            return False
        if not os.path.samestat(os.lstat(path), os.fstat(reader.number)):
            self._unlink(path)  # another file was put in its place meanwhile
            return False
        sync_folder(self._os, path.parent)
        return True

    def remove(self, name: str) -> None:
        path = self.root / name
        self._forget(name)
        with contextlib.suppress(FileNotFoundError):
            self._os.unlink(path)
            self._removed_from.add(path.parent)
        self.made.discard(name)

    def sync_names(self, folder: str) -> None:
        """Let what was removed from ``folder``, by whomever, stay removed; it need not exist."""
        with contextlib.suppress(FileNotFoundError):
            sync_folder(self._os, self.root / folder)

    def _unlink(self, path: Path) -> None:
        """Make room for a file; what is no folder goes, whatever it is, and is not followed."""
        with contextlib.suppress(FileNotFoundError):
            try:
                self._os.unlink(path)
            except OSError as error:
                if error.errno in (errno.EISDIR, errno.EPERM) and os.path.isdir(path):
                    raise LocationError(
                        errno.EISDIR,
                        f"{path} is a folder, where a file of the log should be. Take it away.",
                    ) from error
                raise

    def _forget(self, name: str) -> None:
        with self._readers_lock:
            self._readers.pop(name, None)

    def close(self) -> None:
        with self._readers_lock:
            self._readers.clear()


def new_file(system: Any, path: Path) -> AppendFile:
    """A new file in a folder that is there; the first sync enters it in that, durably."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
    return _DiskAppendFile(system, Descriptor(system, path, flags), [path.parent])


def make_folder(system: Any, folder: Path) -> None:
    """Make a folder, and what is missing above it, durably; it may be there."""
    try:
        system.mkdir(folder)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(system, folder.parent)
        system.mkdir(folder)
    sync_folder(system, folder.parent)


def sync_folder(system: Any, folder: Path) -> None:
    """Make the entries of a folder survive a power cut."""
    descriptor = asked(folder, Descriptor, system, folder, os.O_RDONLY | os.O_DIRECTORY)
    with _closing(descriptor.close):
        system.fsync(descriptor.number)
