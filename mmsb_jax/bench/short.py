"""The short benchmark: what the library costs on this machine, beside what nothing can beat."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import compare
from mmsb_jax.bench.row import Row
from mmsb_jax.bench.states import MB, bf16_state, changes, noise, small_dense, there_and_back

COUNT = 12
"""How many rows there are."""


def rows(folder: Path, state_bytes: int = 64 * MB) -> Iterator[Row]:
    """All of it, in less than a minute; ``folder`` holds its logs meanwhile."""
    yield from _small(folder)
    yield from _commits(folder, state_bytes)
    yield from _back(folder, state_bytes)
    yield _replay(state_bytes // 2)


def _small(folder: Path) -> Iterator[Row]:
    """Changes of a few bytes, in a log on disk, beside an append of as many bytes."""
    with ExitStack() as stack:
        bus = stack.enter_context(works.bus_in(folder, page_bytes=1024))
        write = stack.enter_context(works.small_write(bus))
        apply = stack.enter_context(works.small_apply(bus))
        hop, _ = stack.enter_context(works.hop(folder))
        logged_bytes = write.run().logged_bytes
        raw = stack.enter_context(limits.append(folder, logged_bytes, calls=50))
        what = "write of 1 KB, its child recomputed, both logged"
        yield compare("short/hop", what, hop, raw, rounds=21)
        yield compare("short/write", "write of a byte to 1 KB, logged", write, raw, rounds=21)
        yield compare("short/apply", "a delta of 4 bytes to 1 KB, logged", apply, raw, rounds=21)
    with ExitStack() as stack:
        bus = stack.enter_context(works.bus_in(folder, page_bytes=1024, durability="fsync"))
        write = stack.enter_context(works.small_write(bus, calls=1))
        raw = stack.enter_context(limits.append(folder, logged_bytes, sync=True))
        what = "write of a byte to 1 KB, on the disk when it returns"
        yield compare("short/write-synced", what, write, raw, rounds=51)


def _commits(folder: Path, nbytes: int) -> Iterator[Row]:
    """Commits of whole states."""
    dense = small_dense()
    with (
        works.commit(folder, there_and_back(dense)) as commit,
        limits.pickled(folder, dense[0]) as pickled,
    ):
        what = "commit of 304 KB in 25 leaves, every word changed"
        yield compare("short/commit-small", what, commit, pickled, rounds=51, warm=5)
    size = f"{nbytes // MB} MB"
    state = bf16_state(nbytes)
    sparse = [state, *changes(state, 0.01, 3)]
    copy = limits.memcpy(nbytes)
    with works.commit(folder, there_and_back(sparse)) as commit:
        what = f"commit of {size} of bfloat16, 1 % of the elements changed"
        yield compare("short/commit-sparse", what, commit, copy)
    with works.commit_without_waiting(folder, there_and_back(sparse)) as commit:
        what = "the same without waiting: the caller's time"
        yield compare("short/commit-no-wait", what, commit, copy)
    with works.commit(folder, iter(lambda: state, None)) as commit:
        what = f"commit of the same {size} again"
        yield compare("short/commit-unchanged", what, commit, limits.compared(nbytes))
    with (
        works.commit(folder, there_and_back(noise(nbytes)), durability="fsync") as commit,
        limits.append(folder, nbytes, sync=True) as raw,
    ):
        what = f"commit of {size} of noise, every byte changed, on the disk when it returns"
        yield compare("short/commit-dense", what, commit, raw, rounds=5)


def _back(folder: Path, nbytes: int) -> Iterator[Row]:
    """States back from the log."""
    state, size = bf16_state(nbytes), f"{nbytes // MB} MB"
    with limits.read_file(folder, nbytes) as read:
        with works.old_checkout(folder, state, 20) as checkout:
            what = f"checkout of {size}, 20 commits of 0.1 % behind its snapshot"
            yield compare("short/checkout", what, checkout, read, rounds=7)
        with works.restart(folder, state, 8) as restart:
            what = f"open and resume {size}, 8 commits of 1 % behind the snapshot"
            yield compare("short/restart", what, restart, read, rounds=7)


def _replay(pool_bytes: int) -> Row:
    """Lines of deltas into pages, within a program."""
    lines = pool_bytes // 640
    scatter = limits.scatter(lines, pool_bytes)
    what = "replay of masked lines of 128 bytes on the device, a line"
    return compare("short/replay", what, works.replay(lines, pool_bytes), scatter)
