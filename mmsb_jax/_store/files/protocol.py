"""The file layer: all that the store asks of a disk, so that a test can put a faulty one beneath.

Names are relative paths with ``/``. Two layers: `DiskFiles`, a directory of a local file system,
and `MemoryFiles`, the same behaviour without a disk.

Where reading fails the error is a `LocationError` that says why; but for a file that is not there,
which is a `FileNotFoundError`. Where writing fails it is the system's: the writer knows what became
of the log.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

Buffer = bytes | bytearray | memoryview
"""What is written: anything with a contiguous buffer of bytes."""


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

    def is_there(self) -> bool:
        """Whether the file has a name still: what is written to it can be found again."""
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

    def rewrite(self, name: str, offset: int) -> None:
        """Write what stands from ``offset`` on again, in place, so that the next sync covers it.

        A sync that failed, in whatever process, is told of once: what it should have covered reads
        back, may not be on the disk, and a later sync does not look at it.
        """
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

    def publish(self, name: str, buffers: Iterable[Buffer]) -> None:
        """Put a whole file in place at once and durably: after a crash, the old one or the new.

        What ``buffers`` raises leaves the old one.
        """
        ...

    def copy(self, source: "Files", name: str, size: int) -> None:
        """Make ``name`` durably from the first ``size`` bytes of the file of that name there."""
        ...

    def share(self, source: "Files", name: str, size: int) -> None:
        """As `copy` of a whole file that nobody will write to any more: it may be the same file."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; it need not exist."""
        ...

    def close(self) -> None:
        """Give every handle back."""
        ...
