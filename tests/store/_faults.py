"""A file layer with faults: the Nth call that changes the disk fails, in the way asked for."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmsb_jax.store._files import AppendFile, Buffer, Files


def disk_fault(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@dataclass
class Faults:
    """Which calls fail.

    Attributes:
        fail_at: number of the first call that fails, from 0 on; None for none.
        last_at: number of the last one.
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

    def fails(self, kind: str) -> bool:
        """Count a call; whether it is to fail."""
        if kind not in self.kinds:
            return False
        self.calls.append(kind)
        if self.fail_at is None:
            return False
        last = self.fail_at if self.last_at is None else self.last_at
        return self.fail_at <= len(self.calls) - 1 <= last

    def arm(self, fail_at: int, last_at: int | None = None) -> None:
        """Count from now on."""
        self.calls.clear()
        self.fail_at, self.last_at = fail_at, last_at

    def disarm(self) -> None:
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
        self.names, self.size, self.copy = inner.names, inner.size, inner.copy
        self.remove, self.close = inner.remove, inner.close

    def create(self, name: str) -> AppendFile:
        if self._faults.fails("create"):
            raise disk_fault(self._faults.code)
        return _FaultyFile(self.inner.create(name), self._faults)

    def reopen(self, name: str) -> AppendFile:
        return _FaultyFile(self.inner.reopen(name), self._faults)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        if self._faults.fails("read"):
            raise disk_fault(self._faults.code)
        return self.inner.read(name, offset, size)

    def publish(self, name: str, buffers: Sequence[Buffer]) -> None:
        if self._faults.fails("publish"):
            raise disk_fault(self._faults.code)
        self.inner.publish(name, buffers)
