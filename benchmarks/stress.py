"""Under load: many threads, long runs, bursts. Each log is verified at its end."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.peers import Rows
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, ratio_at_most
from mmsb_jax.bench.states import MB, noise

_THREADS, _WRITES = 8, 50


def rows(folder: Path, long: bool) -> Rows:
    """Threads that write at once; random writes; commits that do not wait for one another."""
    yield _threads(folder)
    yield from _random_writes(folder, 200_000 if long else 10_000)
    yield _burst(folder)


def _threads(folder: Path) -> Row:
    """Each thread writes an array of its own."""
    with works.bus_in(folder) as bus, ThreadPoolExecutor(_THREADS) as threads:
        for i in range(_THREADS):
            bus.create(f"x{i}", nbytes=1024)
        turn = itertools.count(1)

        def write(i: int) -> None:
            for _ in range(_WRITES):
                bus.write(f"x{i}", np.full(128, next(turn), np.uint64).view(np.uint8))

        def at_once() -> None:
            list(threads.map(write, range(_THREADS)))

        def one_by_one() -> None:
            for i in range(_THREADS):
                write(i)

        count = _THREADS * _WRITES
        row = compare(
            "stress/threads", f"{_THREADS} threads, {_WRITES} writes of 1 KB each; a write",
            Work("at once", at_once, items=count), Work("one thread", one_by_one, items=count),
            rounds=9, aim=ratio_at_most(2),
        )  # fmt: skip
        assert bus.verify()
        return row


def _random_writes(folder: Path, count: int) -> Iterator[Row]:
    """To 1,000 arrays of 64 bytes to 64 KB, a few bytes of one at a time."""
    rng = np.random.default_rng(0)
    arrays = [np.zeros(size, np.uint8) for size in (64 * 2 ** rng.integers(0, 11, 1_000)).tolist()]
    with works.bus_in(folder, snapshots=True) as bus:
        with bus.batch():
            for i, array in enumerate(arrays):
                bus.create(f"x{i}", nbytes=array.size)

        def write(i: int) -> None:
            array = arrays[i]
            array[rng.integers(0, array.size, 4)] += 1
            bus.write(f"x{i}", array)

        tenths = [_mean_s(write, rng.integers(0, 1_000, count // 10)) for _ in range(10)]
        logged = bus.stats().logged_bytes // count
        with limits.append(folder, logged, calls=100) as raw:
            raws = [raw.time_s() for _ in range(10)]
        what = f"{count:,} random writes to 1,000 arrays"
        yield Row("stress/random-writes", f"{what}; a write", "s", tenths, raw.name, raws)
        half = [statistics.median(tenths[:5])] * 5
        yield Row(
            "stress/drift", f"{what}: the second half", "s", tenths[5:], "the first half", half,
            aim=ratio_at_most(1.25),
        )  # fmt: skip
        assert bus.verify()


def _mean_s(write: Callable[[int], None], chosen: np.ndarray) -> float:
    begun = time.perf_counter()
    for i in chosen.tolist():
        write(i)
    return (time.perf_counter() - begun) / len(chosen)


def _burst(folder: Path) -> Row:
    """The caller goes on at once, until the queue is full."""
    states = itertools.cycle(noise(MB // 4))
    with works.bus_in(folder) as bus:
        bus.commit(next(states), wait=False).result()

        def burst() -> None:
            for landing in [bus.commit(next(states), wait=False) for _ in range(20)]:
                landing.result()

        def waiting() -> None:
            for _ in range(20):
                bus.commit(next(states))

        row = compare(
            "stress/burst", "20 commits of 256 KB without waiting, until all landed; each",
            Work("without waiting", burst, items=20), Work("waiting for each", waiting, items=20),
            rounds=3, aim=ratio_at_most(1.5),
        )  # fmt: skip
        assert bus.verify()
        return row
