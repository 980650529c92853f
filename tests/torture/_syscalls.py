"""Calls of the system that fail beneath Python, in a process of their own, which goes on.

``LD_PRELOAD=shim.so python -m tests.torture._syscalls BUS COUNT SEED METHOD...``: each method is
called until ``COUNT`` of the system calls that it makes have failed, evenly chosen from all of them
and all ways to fail; 0 for all. What the process may die between is tried without its death: from
some call on none does anything, and what lies on the disk then is what a death would have left.
"""

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mmsb_jax as mmsb
from tests.torture._methods import DERIVING, METHODS, READERS, Trial, World, rotate
from tests.torture._session import Session, leaks, look, run_methods

KINDS = (
    "open", "read", "pread", "stat", "fstat", "scandir", "flock", "write", "writev", "pwrite",
    "fsync", "fdatasync", "rename", "unlink", "mkdir", "ftruncate", "copy_file_range", "create",
)  # fmt: skip
"""As in _shim.c."""

SYNCS = {"fsync", "fdatasync"}
POISONING = SYNCS | {"ftruncate"}
_WRITES = {"write", "writev", "pwrite", "copy_file_range"}
_READS = {"read", "pread"}
_ALL = frozenset(KINDS)
_ONCE, _ALWAYS, _HALF, _DEAD_BEFORE, _DEAD_AFTER = range(5)


@dataclass(frozen=True)
class Way:
    """A way to fail: which calls, how, and the number of the error."""

    kinds: frozenset[str]
    mode: int
    code: int = 0

    @property
    def mask(self) -> int:
        return sum(1 << KINDS.index(kind) for kind in self.kinds)

    @property
    def is_death(self) -> bool:
        return self.mode in (_DEAD_BEFORE, _DEAD_AFTER)


_TAKE_ROOM = frozenset(_WRITES | SYNCS | {"rename", "mkdir", "create"})
_TAKE_NUMBERS = frozenset({"open", "create", "scandir"})
_BY_NAME = frozenset({"open", "create", "stat", "scandir", "rename", "unlink", "mkdir"})
_SLOW = frozenset(_WRITES | _READS | SYNCS | {"open", "create", "flock", "ftruncate"})
WAYS = {
    "EIO": Way(_ALL, _ONCE, errno.EIO),
    "EIO for ever": Way(_ALL, _ALWAYS, errno.EIO),
    "ENOSPC": Way(_TAKE_ROOM, _ONCE, errno.ENOSPC),
    "ENOSPC until there is room": Way(_TAKE_ROOM, _ALWAYS, errno.ENOSPC),
    "EMFILE": Way(_TAKE_NUMBERS, _ONCE, errno.EMFILE),
    "EMFILE until some are closed": Way(_TAKE_NUMBERS, _ALWAYS, errno.EMFILE),
    "EACCES": Way(_BY_NAME, _ONCE, errno.EACCES),
    "EINTR": Way(_SLOW, _ONCE, errno.EINTR),
    "short": Way(frozenset(_WRITES | _READS), _HALF),
    # Not flock: who is dead has no lock.
    "death before": Way(_ALL - {"flock"}, _DEAD_BEFORE, errno.EIO),
    "death after": Way(_ALL - {"flock"}, _DEAD_AFTER, errno.EIO),
}


class Shim:
    """The functions of _shim.c, in this process."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._arm, self.disarm = library.shim_arm, library.shim_disarm
        self._arm.argtypes = (
            ctypes.c_char_p, ctypes.c_ulong, ctypes.c_long, ctypes.c_int, ctypes.c_int
        )  # fmt: skip
        self._watch = library.shim_watch
        self._watch.argtypes = (ctypes.c_char_p,)
        self._kind = library.shim_kind
        self._kind.argtypes = (ctypes.c_long,)
        self._seen, self._failed = library.shim_seen, library.shim_failed
        self._seen.restype = self._failed.restype = ctypes.c_long

    def watch(self, folder: Path) -> None:
        self._watch(str(folder).encode())

    def arm(self, folder: Path, way: Way, number: int) -> None:
        self._arm(str(folder).encode(), way.mask, number, way.mode, way.code)

    def calls(self) -> list[str]:
        """The kinds of the calls since it was armed."""
        return [KINDS[self._kind(number)] for number in range(self._seen())]

    @property
    def failed(self) -> int:
        return self._failed()


_COUNT = Way(_ALL, _ONCE)


class Failing(Session):
    """Calls of the system fail."""

    def __init__(self, *arguments: Any) -> None:
        self._folder: Path = arguments[-1]
        self._shim = Shim()
        self._shim.watch(self._folder)
        self._calls: list[str] = []
        self._way, self._kind, self._is_refused, self._is_unsynced = _COUNT, "", False, False
        self._threads, self._files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
        super().__init__(*arguments)

    def _try(self) -> None:
        super()._try()
        self._attempt(lambda: look(self.world.bus.close), None)
        self.report.faults.update(leaks(self._threads, self._files))
        self._files = set(os.listdir("/proc/self/fd"))
        self.world.open()

    def derives(self, name: str) -> bool:
        return name in DERIVING

    def cut(self, trial: Trial, moment: Any, done: list[Any]) -> None:
        name, number = ("", -1) if moment is None else moment
        self._way, self._is_unsynced = WAYS.get(name, _COUNT), False
        # Where nothing works any more, what was begun cannot be removed.
        trial.world.may_leave_drafts = self._way.mode in (_ALWAYS, _DEAD_BEFORE, _DEAD_AFTER)
        self._shim.arm(self._folder, self._way, number)
        try:
            done.append(trial.call())
        finally:
            if self._way.is_death:
                self._bury(trial, done)
            self._shim.disarm()
            calls = self._shim.calls()
            if moment is None:
                self._calls, self.report.places = calls, len(calls)
            else:
                self._kind = calls[number] if number < len(calls) else ""
                self._is_refused = not done
                outcome = "passed over" if done else "refused"
                self.report.found[outcome if self._shim.failed else "not met"] += 1
                if done and self._kind in SYNCS and self._way.code in (errno.EIO, errno.ENOSPC):
                    self._is_unsynced = self._way.mode in (_ONCE, _ALWAYS)
                    self._is_unsynced &= not self._may_fail_unseen(number)

    def _may_fail_unseen(self, number: int) -> bool:
        """Whether that sync is of a thing that is done once all that was asked for is durable.

        `close` says at last that all before was synced; `compact` tidies up when it is in force.
        """
        met = [kind for kind in self._calls if kind in self._way.kinds]
        last = max((place for place, kind in enumerate(met) if kind in SYNCS), default=-1)
        return (self.name == "close" and number == last) or self.name == "compact"

    def _is_told_next(self, world: World) -> bool:
        """Whether it was the group's own thread that synced: then the next call is refused."""
        try:
            world.bus.sync()
        except mmsb.ClosedError:
            return self.bus == "group"
        return False

    def _bury(self, trial: Trial, done: list[Any]) -> None:
        """Let go of everything, while nothing that is done has an effect."""
        for each in (trial.world.bus, self.world.bus, *done):
            if isinstance(each, mmsb.Bus):
                with contextlib.suppress(mmsb.MMSBError, OSError):
                    each.close()

    def moments(self, took: Sequence[float]) -> list[Any]:
        all_of_them = [
            (name, number)
            for name, way in WAYS.items()
            for number in range(sum(kind in way.kinds for kind in self._calls))
        ]
        if not self.count or self.count >= len(all_of_them):
            return all_of_them
        return sorted(self.rng.sample(all_of_them, self.count))

    def wrong_with(self, error: BaseException) -> str | None:
        told = f"{self._name_of_way()} came out as {error!r:.400}"
        if not isinstance(error, mmsb.MMSBError):
            return told
        if self._way.is_death:
            return None
        # That a part of a file cannot be read may be called damage: it is, if it stays so.
        may_be_damage = self._kind in _READS and self._way.code == errno.EIO
        right = (mmsb.LocationError, mmsb.ClosedError, *[mmsb.CorruptionError] * may_be_damage)
        if not isinstance(error, right):
            return told + ": of the disk, it is said to be of something else"
        if not _names(error, self._way.code):
            return told + f": without {os.strerror(self._way.code)!r}"
        if self.name in READERS and "othing was written" in str(error):
            return told + ": nobody wanted to write"
        return None

    def _name_of_way(self) -> str:
        return f"{next((n for n, w in WAYS.items() if w is self._way), '')} of {self._kind}"

    def may_be_closed(self) -> bool:
        return self._way.is_death or self._kind in POISONING or self._is_refused

    def _look(self, trial: Trial, done: list[Any], error: BaseException | None) -> None:
        if self._way.is_death:
            for world in {id(w): w for w in (trial.world, self.world)}.values():
                assert world.bus.closed, "close() does not close"
                world.open()
            if done and isinstance(done[0], mmsb.Bus):
                done = [None]
        elif error is not None and "wait=False" in self.name:
            with contextlib.suppress(mmsb.MMSBError):  # the next call tells it too
                trial.world.bus.sync()
        if self._is_unsynced and not self._is_told_next(trial.world):
            raise AssertionError("a sync failed, and the call returned as if it had not")
        version = trial.world.version
        try:
            super()._look(trial, done, error)
        except mmsb.ClosedError:
            if not self.may_be_closed():
                raise
            self.report.found["poisoned"] += 1
            self._reopen(trial, version)

    def _reopen(self, trial: Trial, version: int) -> None:
        """Open what takes no more writes again; a commit may be whole that was not acknowledged."""
        world = trial.world
        for each in {id(w): w for w in (world, self.world)}.values():
            with contextlib.suppress(mmsb.ClosedError):  # what was only made is not recorded
                each.bus.close()
            each.open()
        try:
            world.look([replace(world.state, commits=0)])
        except AssertionError:
            world.version = version
            world.look(trial.states)
        trial.finish(False, None)
        self._go_on()

    def _fault(self, told: str, error: BaseException | None) -> None:
        super()._fault(f"{self._name_of_way()}: {told}", error)


def _names(error: BaseException, code: int) -> bool:
    """Whether an error, or what caused it, says what the system answered."""
    text = os.strerror(code).lower()
    while error is not None:
        said = str(error).lower()
        if text in said or getattr(error, "errno", None) == code:
            return True
        if code == errno.ENOSPC and "full" in said:
            return True
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    bus, count, seed, *names = sys.argv[1:]
    methods = METHODS | READERS | {"rotate": rotate}

    def make(folder: Path) -> Session:
        return Failing(methods, "syscalls", bus, int(count), seed, folder)

    run_methods(make, "syscalls", bus, names)


if __name__ == "__main__":
    main()
