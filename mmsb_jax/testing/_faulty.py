"""Faults: the Nth call fails, in the way asked for; and a bus on files that have some.

Two places to fail: `FaultyFiles` around any file layer, by what the store asks of it, and
`mmsb_jax.testing._disk.Disk` beneath the real one, by system calls.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mmsb_jax._bus.bus import Bus
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._store.files.protocol import AppendFile, Buffer, Files
from mmsb_jax._store.files.unreadable import unreadable
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.writer.create import create_log, is_log
from mmsb_jax._store.writer.durability.base import Durability


def open_on(files: Files, durability: Durability = "os", snapshots: bool = True) -> Bus:
    """The bus of the log in ``files``, as `mmsb_jax.open` opens one; without a lock."""
    log = Log(files, "the log")
    return Bus(log, Engine(files, log, None, durability, snapshots), files, None)


def make_and_open_on(files: Files, page_bytes: int, durability: Durability = "os") -> Bus:
    """As `open_on`; makes the log where there is none."""
    if not is_log(files):
        create_log(files, page_bytes)
    return open_on(files, durability, snapshots=False)


def disk_fault(code: int) -> OSError:
    """What the system raises."""
    return OSError(code, os.strerror(code))


@dataclass
class Faults:
    """Which calls fail.

    Attributes:
        fail_at: number of the first call that fails, from 0 on; None for none.
        last_at: number of the last one; None for that one alone.
        code: the error's number.
        is_short: whether a failing append leaves half of its bytes.
        kinds: which calls count.
        calls: the calls so far, by kind.
    """

    fail_at: int | None = None
    last_at: int | None = None
    code: int = errno.ENOSPC
    is_short: bool = False
    kinds: frozenset[str] = frozenset({"create", "append", "sync", "truncate", "publish"})
    calls: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fails(self, kind: str) -> bool:
        """Count a call; whether it is to fail."""
        if kind not in self.kinds:
            return False
        with self._lock:
            self.calls.append(kind)
            if self.fail_at is None:
                return False
            last = self.fail_at if self.last_at is None else self.last_at
            is_failing = self.fail_at <= len(self.calls) - 1 <= last
            if is_failing:
                self.failed.append(kind)
            return is_failing

    def arm(self, fail_at: int, last_at: int | None = None) -> None:
        """Count from now on."""
        with self._lock:
            self.calls.clear()
            self.failed.clear()
            self.fail_at, self.last_at = fail_at, last_at

    def disarm(self) -> None:
        """Let no call fail."""
        self.fail_at = None


class _FaultyFile:
    def __init__(self, inner: AppendFile, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def append(self, buffers: Sequence[Buffer]) -> None:
        if self._faults.fails("append"):
            if self._faults.is_short:
                whole = b"".join(buffers)
                self._inner.append([whole[: len(whole) // 2]])
            raise disk_fault(self._faults.code)
        self._inner.append(buffers)

    def sync(self) -> None:
        self._call("sync", self._inner.sync)

    def truncate(self, size: int) -> None:
        self._call("truncate", lambda: self._inner.truncate(size))

    def is_there(self) -> bool:
        return self._inner.is_there()

    def close(self) -> None:
        self._inner.close()

    def _call(self, kind: str, run: Callable[[], None]) -> None:
        if self._faults.fails(kind):
            raise disk_fault(self._faults.code)
        run()


class FaultyFiles:
    """Another file layer, some of whose calls fail."""

    def __init__(self, inner: Files, faults: Faults) -> None:
        self.inner, self._faults = inner, faults
        self.names, self.size = inner.names, inner.size
        self.copy, self.share = inner.copy, inner.share
        self.remove, self.close, self.rewrite = inner.remove, inner.close, inner.rewrite

    def create(self, name: str) -> AppendFile:
        """Kind ``create``."""
        self._may_fail("create")
        return _FaultyFile(self.inner.create(name), self._faults)

    def reopen(self, name: str) -> AppendFile:
        """Never fails."""
        return _FaultyFile(self.inner.reopen(name), self._faults)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Kind ``read``, which counts where it is asked for."""
        if self._faults.fails("read"):
            raise unreadable(disk_fault(self._faults.code), name)
        return self.inner.read(name, offset, size)

    def publish(self, name: str, buffers: Iterable[Buffer]) -> None:
        """Kind ``publish``: nothing of the file is there where it fails."""
        self._may_fail("publish")
        self.inner.publish(name, buffers)

    def _may_fail(self, kind: str) -> None:
        if self._faults.fails(kind):
            raise disk_fault(self._faults.code)
