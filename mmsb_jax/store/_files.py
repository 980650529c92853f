"""The file layer: all that the store asks of a disk, so that a test can put a faulty one beneath.

Names are relative paths with ``/``. Two layers: `DiskFiles`, a directory of a local file system,
and `MemoryFiles`, the same behaviour without a disk.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Buffer = bytes | bytearray | memoryview
"""What is written: anything with a contiguous buffer of bytes."""

_MAX_BUFFERS_A_CALL = 512  # below IOV_MAX of every Linux
_NEW_FILE_MODE = 0o644
_OPEN_READERS = 64
_READ_BYTES = 1 << 20
"""What is read without asking first how much there is: a file may claim any size."""


class AppendFile(Protocol):
    """A file that only grows."""

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write all of ``buffers`` at the end; on an error any part of them may be there."""
        ...

    def sync(self) -> None:
        """Return once every byte appended so far would survive a power cut."""
        ...

    def truncate(self, size: int) -> None:
        """Take back what a failed `append` may have left behind ``size``."""
        ...

    def close(self) -> None:
        """Give the handle back."""
        ...


class Files(Protocol):
    """A directory."""

    def create(self, name: str) -> AppendFile:
        """A new file, durably entered in its directory once it is synced; it must not exist."""
        ...

    def reopen(self, name: str) -> AppendFile:
        """An existing file, to append to."""
        ...

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer at the end of the file."""
        ...

    def size(self, name: str) -> int:
        """Bytes of the file."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files in ``folder``, each with the folder before it."""
        ...

    def publish(self, name: str, buffers: Sequence[Buffer]) -> None:
        """Put a whole file in place at once and durably: after a crash, the old one or the new."""
        ...

    def copy(self, source: "Files", name: str, size: int) -> None:
        """Make ``name`` durably from the first ``size`` bytes of the file of that name there."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; it need not exist."""
        ...

    def close(self) -> None:
        """Give every handle back."""
        ...


class _DiskAppendFile:
    def __init__(self, descriptor: int, folder: Path | None) -> None:
        self._descriptor = descriptor
        self._unsynced_folder = folder
        self._can_share = hasattr(os, "copy_file_range")

    def append(self, buffers: Sequence[Buffer]) -> None:
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while views:
            written = os.writev(self._descriptor, views[:_MAX_BUFFERS_A_CALL])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def copy_range(self, source: int, size: int) -> None:
        """Append the first ``size`` bytes of ``source``, sharing blocks where the disk can."""
        done = 0
        while done < size:
            if self._can_share:
                try:
                    copied = os.copy_file_range(source, self._descriptor, size - done, done)
                except OSError:
                    copied = 0
                if not copied:  # also what some file systems answer that cannot do it
                    self._can_share = False
                    continue
            else:
                part = os.pread(source, min(size - done, 1 << 24), done)
                self.append([part])
                copied = len(part)
            if not copied:
                raise OSError(f"the source ends {size - done} bytes before it should")
            done += copied

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        if self._unsynced_folder is not None:
            _sync_folder(self._unsynced_folder)
            self._unsynced_folder = None

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Descriptor:
    """A file descriptor, closed when the last thread that reads through it lets go."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class DiskFiles:
    """A directory of a local file system; files in it that are symbolic links are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._readers: dict[str, _Descriptor] = {}
        self._readers_lock = threading.Lock()

    def create(self, name: str) -> AppendFile:
        path = self.root / name
        _make_folder(path.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return _DiskAppendFile(os.open(path, flags, _NEW_FILE_MODE), path.parent)

    def reopen(self, name: str) -> AppendFile:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return _DiskAppendFile(os.open(self.root / name, flags), None)

    def _reader(self, name: str) -> _Descriptor:
        with self._readers_lock:
            reader = self._readers.get(name)
            if reader is None:
                while len(self._readers) >= _OPEN_READERS:
                    del self._readers[next(iter(self._readers))]
                reader = self._readers[name] = _Descriptor(self.root / name)
            return reader

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        reader = self._reader(name)
        if size is None or size > _READ_BYTES:
            there = max(0, os.fstat(reader.number).st_size - offset)
            size = there if size is None else min(size, there)
        parts = []
        while size > 0:
            try:
                part = os.pread(reader.number, min(size, 1 << 30), offset)
            except OSError as error:
                error.filename = str(self.root / name)
                raise
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, name: str) -> int:
        return os.fstat(self._reader(name).number).st_size

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(f"{folder}/{name}" for name in files)

    def publish(self, name: str, buffers: Sequence[Buffer]) -> None:
        path = self.root / name
        draft = path.with_name(path.name + ".draft")
        draft.unlink(missing_ok=True)
        handle = self.create(f"{name}.draft")
        try:
            with contextlib.closing(handle):
                handle.append(buffers)
                handle.sync()
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self._forget(name)
        _sync_folder(path.parent)

    def copy(self, source: Files, name: str, size: int) -> None:
        path = self.root / name
        _make_folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # O_APPEND forbids sharing
        handle = _DiskAppendFile(os.open(path, flags, _NEW_FILE_MODE), path.parent)
        try:
            with contextlib.closing(handle):
                if isinstance(source, DiskFiles):
                    handle.copy_range(source._reader(name).number, size)
                else:
                    handle.append([source.read(name, 0, size)])
                handle.sync()
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        self._forget(name)
        (self.root / name).unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        with self._readers_lock:
            self._readers.pop(name, None)

    def close(self) -> None:
        with self._readers_lock:
            self._readers.clear()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _MemoryFile:
    """Bytes that grow; they cannot while somebody reads them, hence the lock."""

    def __init__(self, content: bytes = b"") -> None:
        self._content = bytearray(content)
        self._lock = threading.Lock()

    def append(self, buffers: Sequence[Buffer]) -> None:
        with self._lock:
            for buffer in buffers:
                if len(buffer):
                    self._content += memoryview(buffer).cast("B")

    def sync(self) -> None:
        """Memory has nothing to sync."""

    def truncate(self, size: int) -> None:
        with self._lock:
            del self._content[size:]

    def close(self) -> None:
        """Memory has no handles."""

    def read(self, offset: int, size: int | None) -> bytes:
        with self._lock, memoryview(self._content) as view:
            return bytes(view[offset : None if size is None else offset + size])

    def __len__(self) -> int:
        return len(self._content)


class MemoryFiles:
    """A directory in memory: the log of a bus without a path."""

    def __init__(self) -> None:
        self._files: dict[str, _MemoryFile] = {}

    def create(self, name: str) -> AppendFile:
        if name in self._files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        return self._files.setdefault(name, _MemoryFile())

    def reopen(self, name: str) -> AppendFile:
        return self._file(name)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        return self._file(name).read(offset, size)

    def size(self, name: str) -> int:
        return len(self._file(name))

    def _file(self, name: str) -> _MemoryFile:
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def names(self, folder: str) -> list[str]:
        return sorted(name for name in list(self._files) if name.rpartition("/")[0] == folder)

    def publish(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._files[name] = _MemoryFile(b"".join(buffers))

    def copy(self, source: Files, name: str, size: int) -> None:
        self._files[name] = _MemoryFile(source.read(name, 0, size))

    def remove(self, name: str) -> None:
        self._files.pop(name, None)

    def close(self) -> None:
        """Memory has no handles."""
