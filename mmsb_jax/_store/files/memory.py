"""Files in memory: as `DiskFiles`, without a disk."""

import errno
import os
import threading
from collections.abc import Iterable, Sequence

from mmsb_jax._store.files.protocol import AppendFile, Buffer, Files


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

    def is_there(self) -> bool:
        """Memory keeps what it is given."""
        return True

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

    def rewrite(self, name: str, offset: int) -> None:
        """Memory has no doubts."""

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

    def publish(self, name: str, buffers: Iterable[Buffer]) -> None:
        self._files[name] = _MemoryFile(b"".join(buffers))

    def copy(self, source: Files, name: str, size: int) -> None:
        self._files[name] = _MemoryFile(source.read(name, 0, size))

    def share(self, source: Files, name: str, size: int) -> None:
        self.copy(source, name, size)

    def remove(self, name: str) -> None:
        self._files.pop(name, None)

    def close(self) -> None:
        """Memory has no handles."""
