"""Calls of a bus that the system gives too little, in a process of their own, which goes on.

``python -m tests.torture._limits LIMIT FOLDER COUNT SEED METHOD...``: ``LIMIT`` is

- ``descriptors``: no more than a few more may be opened (RLIMIT_NOFILE);
- ``file size``: no file may grow by more than a little (RLIMIT_FSIZE);
- ``room``: the file system has a little room left; ``inodes``: a few files;
- ``threads``: a few more threads may be started (RLIMIT_NPROC; the process gives up being root).
"""

import contextlib
import errno
import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mmsb_jax as mmsb
from tests.torture._methods import DERIVING, METHODS, READERS, Trial
from tests.torture._session import Session, run_methods

SYSTEM = 65_531  # a user and a group that nobody is
_MOST_LEFT = {
    "descriptors": 12,
    "file size": 20_000,
    "room": 40_000,
    "inodes": 6,
    "threads": 3,
}


class Limited(Session):
    """Calls get less than they need."""

    def __init__(self, *arguments: Any) -> None:
        self._folder: Path = arguments[-1]
        self._fillers = itertools.count()
        self.limit: Callable[[int], contextlib.AbstractContextManager[None]] = {
            "descriptors": self._descriptors,
            "file size": self._file_size,
            "room": self._room,
            "inodes": self._inodes,
            "threads": self._threads_left,
        }[arguments[1]]
        super().__init__(*arguments)

    def cut(self, trial: Trial, moment: Any, done: list[Any]) -> None:
        with contextlib.nullcontext() if moment is None else self.limit(moment):
            done.append(trial.call())

    def moments(self, took: Sequence[float]) -> list[Any]:
        most = _MOST_LEFT[self.how]
        return [self.rng.randrange(most) for _ in range(self.count)]

    def wrong_with(self, error: BaseException) -> str | None:
        told = f"came out as {error!r:.400}"
        if isinstance(error, mmsb.LocationError | mmsb.ClosedError):
            return None
        return told

    def may_be_closed(self) -> bool:
        return True

    def derives(self, name: str) -> bool:
        return name in DERIVING

    def _look(self, trial: Trial, done: list[Any], error: BaseException | None) -> None:
        if error is not None and "wait=False" in self.name:
            with contextlib.suppress(mmsb.MMSBError):  # the next call tells it too
                trial.world.bus.sync()
        super()._look(trial, done, error)

    # --------------------------------------------------------------------------- the limits

    @contextlib.contextmanager
    def _descriptors(self, left: int) -> Iterator[None]:
        used = {int(number) for number in os.listdir("/proc/self/fd")}
        free = (number for number in itertools.count() if number not in used)
        limit = next(itertools.islice(free, left, None))
        with _limited(resource.RLIMIT_NOFILE, limit):
            yield

    @contextlib.contextmanager
    def _file_size(self, left: int) -> Iterator[None]:
        sizes = [path.stat().st_size for path in self._folder.rglob("*") if path.is_file()]
        with _limited(resource.RLIMIT_FSIZE, self.rng.choice([left, max(sizes) + left])):
            yield

    @contextlib.contextmanager
    def _room(self, left: int) -> Iterator[None]:
        filler = self._folder / f"filler{next(self._fillers)}"
        with filler.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(512))
            file.truncate(max(0, file.tell() - left))
        try:
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def _inodes(self, left: int) -> Iterator[None]:
        folder = self._folder / f"filler{next(self._fillers)}"
        made: list[Path] = []
        try:
            folder.mkdir()
            while True:
                path = folder / str(len(made))
                path.touch()
                made.append(path)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        for path in made[len(made) - left :]:
            path.unlink()
        try:
            yield
        finally:
            for path in made:
                path.unlink(missing_ok=True)
            folder.rmdir()

    @contextlib.contextmanager
    def _threads_left(self, left: int) -> Iterator[None]:
        with _limited(resource.RLIMIT_NPROC, len(os.listdir("/proc/self/task")) + left):
            yield


@contextlib.contextmanager
def _limited(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def main() -> None:
    limit, folder, count, seed, *names = sys.argv[1:]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if limit == "threads":
        os.chmod(folder, 0o777)
        os.setgid(SYSTEM)
        os.setuid(SYSTEM)
    methods = METHODS | READERS

    def make(place: Path) -> Session:
        return Limited(methods, limit, "fsync", int(count), seed, place)

    run_methods(make, limit, "fsync", names, Path(folder))


if __name__ == "__main__":
    main()
