"""The short benchmark: what the library costs on this machine, beside what nothing can beat."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, figure_at_most, ratio_at_most
from mmsb_jax.bench.states import MB, bf16_state, changes, noise, small_dense, there_and_back


def rows(folder: Path) -> Iterator[Row]:
    """All of it, in less than a minute; ``folder`` holds its logs meanwhile, up to 1 GB."""
    yield from _small(folder)
    yield from _commits(folder)
    yield from _back(folder)
    yield _replay()


def _small(folder: Path) -> Iterator[Row]:
    """Changes of a few bytes, in a log on disk, beside an append of as many bytes."""
    with ExitStack() as stack:
        bus = stack.enter_context(works.bus_in(folder, page_bytes=1024))
        write = stack.enter_context(works.small_write(bus))
        apply = stack.enter_context(works.small_apply(bus))
        hop, _ = stack.enter_context(works.hop(folder))
        logged_bytes = write.run().logged_bytes
        raw = stack.enter_context(limits.append(folder, logged_bytes, calls=50))
        yield compare(
            "write", "write of a byte to 1 KB, logged", write, raw,
            rounds=21, must=figure_at_most(50e-6),
        )  # fmt: skip
        yield compare(
            "apply", "a delta of 4 bytes to 1 KB, logged", apply, raw,
            rounds=21, must=figure_at_most(50e-6),
        )  # fmt: skip
        yield compare(
            "hop", "write of 1 KB, its child recomputed, both logged", hop, raw,
            rounds=21, must=figure_at_most(60e-6),
        )  # fmt: skip
    with ExitStack() as stack:
        bus = stack.enter_context(works.bus_in(folder, page_bytes=1024, durability="fsync"))
        write = stack.enter_context(works.small_write(bus, calls=1))
        raw = stack.enter_context(limits.append(folder, logged_bytes, sync=True))
        yield compare("write-synced", "the write, durable when it returns", write, raw, rounds=51)


def _commits(folder: Path) -> Iterator[Row]:
    """Commits of whole states."""
    dense = small_dense()
    with (
        works.commit(folder, there_and_back(dense)) as commit,
        limits.pickled(folder, dense[0]) as pickled,
    ):
        yield compare(
            "commit-small", "commit of 304 KB in 25 leaves, every word changed", commit, pickled,
            rounds=51, warm=5, must=figure_at_most(0.6e-3),
        )  # fmt: skip
    state = bf16_state(64 * MB)
    sparse = [state, *changes(state, 0.01, 3)]
    copy = limits.memcpy(64 * MB)
    with works.commit(folder, there_and_back(sparse)) as commit:
        what = "commit of 64 MB of bfloat16, 1 % of the elements changed"
        yield compare("commit-sparse", what, commit, copy)
    with works.commit_without_waiting(folder, there_and_back(sparse)) as commit:
        what = "the same without waiting: the caller's time"
        yield compare("commit-no-wait", what, commit, copy)
    with works.commit(folder, iter(lambda: state, None)) as commit:
        what = "commit of the same 64 MB again"
        yield compare("commit-unchanged", what, commit, limits.compared(64 * MB))
    with (
        works.commit(folder, there_and_back(noise(64 * MB)), durability="fsync") as commit,
        limits.append(folder, 64 * MB, sync=True) as raw,
    ):
        yield compare(
            "commit-dense", "durable commit of 64 MB of noise, every byte changed", commit, raw,
            rounds=5, must=ratio_at_most(1.3),
        )  # fmt: skip


def _back(folder: Path) -> Iterator[Row]:
    """States back from the log."""
    state = bf16_state(64 * MB)
    with ExitStack() as stack:
        read = stack.enter_context(limits.read_file(folder, 64 * MB))
        checkout = stack.enter_context(works.old_checkout(folder, state, 20))
        what = "checkout of 64 MB, 20 commits of 0.1 % behind its snapshot"
        yield compare("checkout", what, checkout, read, rounds=7)
        restart = stack.enter_context(works.restart(folder, state, 8))
        what = "open and resume 64 MB, 8 commits of 1 % behind the snapshot"
        yield compare("restart", what, restart, read, rounds=7)


def _replay() -> Row:
    """Lines of deltas into pages, within a program."""
    lines, pool_bytes = 50_000, 32 * MB
    pool = np.zeros((pool_bytes // 128, 32), np.uint32)
    rng = np.random.default_rng(0)
    place = rng.integers(0, len(pool), lines)
    data = rng.integers(0, 2**32, (lines, 32), np.uint32)

    def scatter() -> None:
        pool[place] = data

    what = "replay of masked lines of 128 bytes on the device, a line"
    beside = Work("NumPy's scatter, unmasked", scatter, items=lines)
    return compare(
        "replay", what, works.replay(lines, pool_bytes), beside, must=figure_at_most(100e-9)
    )
