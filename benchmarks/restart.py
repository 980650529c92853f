"""After a restart: opening a log, and the state and position of the newest commit."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows, beside
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, ratio_at_most
from mmsb_jax.bench.states import MB, bf16_state


def rows(folder: Path, long: bool) -> Rows:
    """A large state behind its snapshot; a long log of a small one."""
    yield from _resume(folder, (512 if long else 256) * MB)
    yield from _with_length(folder)


def _resume(folder: Path, nbytes: int) -> Rows:
    state = bf16_state(nbytes, leaves=16)
    what = f"open and resume {nbytes >> 20} MB, 8 commits of 1 % behind the snapshot"
    with works.restart(folder, state, 8) as restart:

        def beside_orbax() -> Rows:
            from benchmarks.peers import orbax

            with orbax.restore(folder, state) as restore:
                yield compare(
                    "restart/resume-orbax", what, restart, restore,
                    rounds=3, must=ratio_at_most(1),
                )  # fmt: skip

        yield from beside("Orbax", beside_orbax)
        with limits.read_file(folder, nbytes) as read:
            yield compare(
                "restart/resume-reading", what, restart, read, rounds=3, aim=ratio_at_most(2)
            )


def _with_length(folder: Path) -> Iterator[Row]:
    """Logs of commits of 4 KB: neither opening nor a commit asks how many there are.

    What opening reads is the tail: the commits since a segment began, which a snapshot ends.
    """
    lengths = (100, 1_000, 10_000)
    with contextlib.ExitStack() as stack:
        tails = {n: stack.enter_context(_log_of(folder, n, sealed=False)) for n in (50, 200, 1_000)}
        yield grow(
            "restart/growth-tail", "opening a log, with the commits since its newest segment began",
            {length: _opening(path) for length, path in tails.items()}, at_most=1.1, rounds=5,
        )  # fmt: skip
        paths = {n: stack.enter_context(_log_of(folder, n, sealed=True)) for n in lengths}
        yield grow(
            "restart/growth-open", "opening a log that was closed, with its commits",
            {length: _opening(path) for length, path in paths.items()}, at_most=0.4, rounds=9,
        )  # fmt: skip
        yield grow(
            "restart/growth-commit", "a commit of 4 KB, with the commits before it",
            {length: stack.enter_context(_committing(path)) for length, path in paths.items()},
            at_most=0.2, rounds=9,
        )  # fmt: skip


@contextlib.contextmanager
def _log_of(folder: Path, length: int, sealed: bool) -> Iterator[Path]:
    value = {"x": np.zeros(1024, np.uint32)}
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        path = Path(name, "log.mmsb")
        with mmsb.open(path, snapshots=False) as bus:
            for i in range(length):
                value["x"][i % 1024] += 1
                bus.commit(value)
            if sealed:
                bus._session.writing()._begin_snapshot()  # as a bus does by itself, by bytes
                bus.snapshot()
        yield path


def _opening(path: Path) -> Work:
    return Work("open", lambda: mmsb.open(path, snapshots=False), after=lambda bus: bus.close())


@contextlib.contextmanager
def _committing(path: Path) -> Iterator[Work]:
    value = {"x": np.zeros(1024, np.uint32)}

    def commit() -> None:
        value["x"][7] += 1
        bus.commit(value)

    with mmsb.open(path, snapshots=False) as bus:
        yield Work("commit", commit, calls=20)
