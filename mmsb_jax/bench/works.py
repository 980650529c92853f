"""What the library does, as works to time: each makes a log of its own in ``folder``.

They are contexts: at their end the log is closed, and its files are removed.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from mmsb_jax.bench.measure import Work
from mmsb_jax.bench.states import State, changes

_ELEMENTS = 256  # 1 KB of float32


@contextlib.contextmanager
def bus_in(folder: Path, **options: Any) -> Iterator[mmsb.Bus]:
    """A bus in a directory of its own, which goes with it. It makes no snapshots by itself."""
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name,
        mmsb.open(Path(name, "log.mmsb"), **{"snapshots": False, **options}) as bus,
    ):
        yield bus


@contextlib.contextmanager
def small_write(bus: mmsb.Bus, calls: int = 50) -> Iterator[Work]:
    """`write` of 1 KB of which one byte is another."""
    bus.create("written", nbytes=1024)
    value, turn = np.zeros(1024, np.uint8), itertools.count()

    def write() -> mmsb.Commit | None:
        value[next(turn) % 1024] += 1
        return bus.write("written", value)

    yield Work("a write alone", write, calls=calls)


@contextlib.contextmanager
def small_apply(bus: mmsb.Bus, calls: int = 50) -> Iterator[Work]:
    """`apply` of a delta of four bytes to 1 KB."""
    bus.create("patched", nbytes=1024)
    bus.write("patched", np.ones(1024, np.uint8))
    region = bus.layout.region("patched")
    mask = np.zeros(1024, np.bool_)
    mask[5:9] = True
    deltas = itertools.cycle(
        jax.device_get(mmsb.Delta.from_bytes(region, mask, np.full(1024, k, np.uint8)))
        for k in (1, 2)
    )
    yield Work("bus.apply", lambda: bus.apply(next(deltas)), calls=calls)


@contextlib.contextmanager
def hop(folder: Path, held_bytes: int = 0, calls: int = 25) -> Iterator[tuple[Work, Work]]:
    """(a write of 1 KB with the recomputation of its child, the write of a childless 1 KB).

    Args:
        folder: where the log is.
        held_bytes: what else the bus holds.
        calls: as of a `Work`.
    """
    with bus_in(folder) as bus:
        if held_bytes:
            bus.create("held", nbytes=held_bytes)
            bus.write("held", np.ones(held_bytes, np.uint8))
        for name in ("source", "apart"):
            bus.create(name, (_ELEMENTS,))
        bus.derive("child", ["source"], lambda x: x + 1)
        value, turn = np.zeros(_ELEMENTS, np.float32), itertools.count(1)

        def write(name: str) -> None:
            number = next(turn)
            value[number % _ELEMENTS] = number
            bus.write(name, value)

        beside = f"; {held_bytes >> 20} MB on the bus" if held_bytes else ""
        yield (
            Work(f"the hop{beside}", lambda: write("source"), calls=calls),
            Work(f"the write alone{beside}", lambda: write("apart"), calls=calls),
        )


@contextlib.contextmanager
def commit(folder: Path, states: Iterable[State], **options: Any) -> Iterator[Work]:
    """`commit` of the next of ``states``; the first is committed before."""
    with bus_in(folder, **options) as bus:
        turn = iter(states)
        bus.commit(next(turn))
        yield Work("commit", lambda: bus.commit(next(turn)))


@contextlib.contextmanager
def commit_without_waiting(folder: Path, states: Iterable[State]) -> Iterator[Work]:
    """What ``commit(wait=False)`` takes of the caller's time; each lands before the next."""
    with bus_in(folder) as bus:
        turn = iter(states)
        for _ in range(2):  # the second compiles
            bus.commit(next(turn), wait=False).result()
        run = lambda: bus.commit(next(turn), wait=False)  # noqa: E731
        yield Work("commit(wait=False)", run, after=lambda landing: landing.result())


@contextlib.contextmanager
def old_checkout(folder: Path, state: State, commits: int, share: float = 0.001) -> Iterator[Work]:
    """`checkout` of the version that is ``commits`` behind its snapshot, its digest checked."""
    with bus_in(folder) as bus:
        bus.commit(state)
        bus.snapshot()
        for new in changes(state, share, commits):
            bus.commit(new)
        version = bus.version
        bus.commit(state)  # so that it is not the newest, which is in memory
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        yield Work(
            "checkout", lambda: jax.block_until_ready(bus.checkout(version=version, like=like))
        )


@contextlib.contextmanager
def restart(folder: Path, state: State, commits: int, share: float = 0.01) -> Iterator[Work]:
    """`open` and `resume` of a log with ``commits`` commits behind its snapshot."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name, "log.mmsb")
        with mmsb.open(path, snapshots=False) as bus:
            bus.commit(state)
            bus.snapshot()
            for new in changes(state, share, commits):
                bus.commit(new)

        def run() -> mmsb.Bus:
            bus = mmsb.open(path, snapshots=False)
            jax.block_until_ready(bus.resume(like))
            return bus

        yield Work("open + resume", run, after=lambda bus: bus.close())


def replay(lines: int, pool_bytes: int) -> Work:
    """`replay` of masked lines of 128 bytes, a hundred a commit, into a pool; a line's time."""
    page_words = 1024
    pages = pool_bytes // 4 // page_words
    log = masked_lines(lines, pages, page_words)
    program = jax.jit(mmsb.replay, donate_argnums=0)
    held = [mmsb.Pages(jnp.zeros((pages, page_words), jnp.uint32), jnp.zeros(pages, jnp.uint32))]

    def run() -> None:
        held[0] = jax.block_until_ready(program(held[0], log))

    return Work("replay", run, items=lines)


def masked_lines(lines: int, pages: int, page_words: int) -> mmsb.TLog:
    """A log of random bytes of random lines."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (lines, 32, 4), np.uint8) * np.uint8(255)
    commits = lines // 100
    return mmsb.TLog(
        jnp.asarray(rng.integers(0, pages, lines, np.int32)),
        jnp.asarray(rng.integers(0, page_words // 32, lines, np.int32)),
        jnp.asarray(mask.view(np.uint32)[..., 0]),
        jnp.asarray(rng.integers(0, 2**32, (lines, 32), np.uint32)),
        jnp.asarray(np.arange(lines, dtype=np.int32) // 100),
        jnp.asarray((np.arange(commits, dtype=np.int32) + 1) * 100),
        jnp.int32(commits),
        jnp.bool_(False),
        jnp.uint32(0),
    )
