"""Commits of whole states: sparse, dense, unchanged; small, many-leaved, large; without waiting."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows, beside
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, figure_at_most, ratio_at_most
from mmsb_jax.bench.states import (
    MB,
    State,
    bf16_state,
    changes,
    noise,
    small_dense,
    there_and_back,
)


def rows(folder: Path, long: bool) -> Rows:
    """64 MB of bfloat16 first, then what is smaller, of more leaves, and larger."""
    yield from _sparse(folder)
    yield _unchanged(folder)
    yield from _dense(folder)
    yield _small_dense(folder)
    yield from _many_leaves(folder, long)
    yield _frozen(folder)
    yield from _without_waiting(folder)
    yield _first_commit(folder)
    yield from _large(folder, (2048 if long else 256) * MB)
    yield _growth_by_size()


def _sparse(folder: Path) -> Rows:
    state = bf16_state(64 * MB)
    states = [state, *changes(state, 0.01, 3)]
    changed = "commit of 64 MB of bfloat16, 1 % of the elements changed"
    what = f"durable {changed}"
    with works.commit(folder, there_and_back(states), durability="fsync") as commit:

        def beside_orbax() -> Rows:
            from benchmarks.peers import orbax

            with orbax.save(folder, there_and_back(states)) as save:
                yield compare(
                    "commit/sparse-orbax", what, commit, save,
                    rounds=7, must=ratio_at_most(1 / 10), aim=ratio_at_most(1 / 20),
                )  # fmt: skip
            yield Row(
                "commit/sparse-bytes", f"{what}: bytes", "B", [commit.run().logged_bytes],
                "Orbax's save", [orbax.saved_bytes(folder, state)],
                ratio_at_most(1 / 40), ratio_at_most(1 / 50),
            )  # fmt: skip

        def beside_safetensors() -> Rows:
            from benchmarks.peers import safetensors

            with safetensors.save(folder, there_and_back(states)) as save:
                yield compare("commit/sparse-safetensors", what, commit, save, rounds=7)

        yield from beside("Orbax", beside_orbax)
        yield from beside("safetensors", beside_safetensors)
        yield compare("commit/sparse-memcpy", what, commit, limits.memcpy(64 * MB))

    def caller_beside_orbax() -> Rows:
        from benchmarks.peers import orbax

        with (
            works.commit_without_waiting(folder, there_and_back(states)) as commit,
            orbax.save_without_waiting(folder, there_and_back(states)) as save,
        ):
            yield compare(
                "commit/no-wait-orbax", f"{changed}, without waiting: the caller's time",
                commit, save, rounds=7, must=ratio_at_most(1 / 2), aim=figure_at_most(1e-3),
            )  # fmt: skip

    yield from beside("Orbax", caller_beside_orbax)


def _unchanged(folder: Path) -> Row:
    state = bf16_state(64 * MB)
    same = [state, jax.tree.map(jnp.copy, state)]  # other objects: their bytes are compared
    with works.commit(folder, itertools.cycle(same)) as commit:
        return compare(
            "commit/unchanged", "commit of 64 MB, nothing changed",
            commit, limits.compared(64 * MB),
            rounds=15, must=ratio_at_most(1.5), aim=ratio_at_most(1.1),
        )  # fmt: skip


def _dense(folder: Path) -> Iterator[Row]:
    states = noise(64 * MB)
    what = "durable commit of 64 MB of noise, every byte changed"
    with (
        works.commit(folder, itertools.cycle(states), durability="fsync") as commit,
        limits.append(folder, 64 * MB, sync=True) as raw,
    ):
        yield compare(
            "commit/dense", what, commit, raw,
            rounds=7, must=ratio_at_most(1.3), aim=ratio_at_most(1.1),
        )  # fmt: skip
        logged_bytes = commit.run().logged_bytes
    yield Row("commit/dense-bytes", f"{what}: bytes", "B", [logged_bytes], "raw", [64 * MB])


def _small_dense(folder: Path) -> Row:
    states = small_dense()
    with (
        works.commit(folder, there_and_back(states)) as commit,
        limits.pickled(folder, states[0]) as pickled,
    ):
        return compare(
            "commit/small-dense", "commit of 304 KB in 25 leaves, every word changed",
            commit, pickled,
            rounds=101, warm=10, must=figure_at_most(0.6e-3), aim=figure_at_most(0.4e-3),
        )  # fmt: skip


def _many_leaves(folder: Path, long: bool) -> Iterator[Row]:
    """Leaves of 64 bytes, as NumPy arrays; the state is copied, so that each leaf is compared."""
    state = {f"x{i}": np.full(16, i, np.float32) for i in range(100_000)}
    other = state | {"x7": np.zeros(16, np.float32)}
    lookup = Work("a lookup of each leaf", lambda: [state[name] is other[name] for name in state])
    rounds = 5 if long else 3
    with works.bus_in(folder) as bus:
        bus.commit(state)
        turn = itertools.cycle([other, state])
        unchanged = Work("commit", lambda: bus.commit(state))
        one_leaf = Work("commit", lambda: bus.commit(next(turn)))
        yield compare(
            "commit/many-leaves-unchanged", "commit of 100,000 leaves of 64 B, nothing changed",
            unchanged, lookup, rounds=rounds, must=figure_at_most(0.2), aim=figure_at_most(0.05),
        )  # fmt: skip
        yield compare(
            "commit/many-leaves-one", "commit of 100,000 leaves of 64 B, one changed",
            one_leaf, lookup, rounds=rounds, must=figure_at_most(0.2), aim=figure_at_most(0.05),
        )  # fmt: skip
        version = bus.version
        diff = Work("diff", lambda: bus.diff(version - 1, version))
        yield compare(
            "commit/many-leaves-diff", "diff of two versions of 100,000 leaves of 64 B",
            diff, lookup, rounds=2 if long else 1, warm=0, must=figure_at_most(1),
        )  # fmt: skip

    def of_leaves(size: int) -> Work:
        leaves = dict(itertools.islice(state.items(), size))
        bus = buses.enter_context(works.bus_in(folder))
        bus.commit(leaves)
        return Work("commit", lambda: bus.commit(leaves))

    with contextlib.ExitStack() as buses:
        yield grow(
            "commit/growth-leaves", "unchanged commit, with its leaves",
            {size: of_leaves(size) for size in (300, 3_000, 100_000 if long else 30_000)},
            at_most=1.1, rounds=5,
        )  # fmt: skip


def _frozen(folder: Path) -> Row:
    """The arrays of the frozen part are the same objects in each commit."""
    frozen = {f"frozen{i}": jnp.full((4, MB), i, jnp.float32) for i in range(16)}
    trained = noise(10 * MB)
    with (
        works.commit(folder, itertools.cycle([frozen | part for part in trained])) as both,
        works.commit(folder, itertools.cycle(trained)) as alone,
    ):
        return compare(
            "commit/frozen", "commit of 256 MB that nothing touches and 10 MB that change",
            both, Work("commit of the 10 MB alone", alone.run), must=ratio_at_most(1.5),
        )  # fmt: skip


def _without_waiting(folder: Path) -> Iterator[Row]:
    """One of many leaves of 256 bytes changed."""
    for leaves, most_s in ((50, 0.2e-3), (500, 1e-3), (3_000, 5e-3)):
        state = {f"x{i}": jnp.full(64, i, jnp.float32) for i in range(leaves)}
        other = state | {"x7": jnp.zeros(64, jnp.float32)}
        begun = time.perf_counter()
        with works.commit_without_waiting(folder, itertools.cycle([state, other])) as commit:
            first_s = time.perf_counter() - begun
            yield compare(
                f"commit/no-wait-{leaves}",
                f"commit without waiting, one of {leaves:,} leaves changed: the caller's time",
                commit, limits.empty_program(lambda x: x, state),
                rounds=21 if leaves < 3_000 else 5, warm=3, must=figure_at_most(most_s),
            )  # fmt: skip
    yield Row(
        "commit/first-3000", "first two commits of these 3,000 leaves, with compilation", "s",
        [first_s], "limit", [2.0], figure_at_most(2),
    )  # fmt: skip


def _first_commit(folder: Path) -> Row:
    """With compilation: the shapes are new to this process."""
    odd = itertools.count(65, 8)

    def shapes() -> list[tuple[int, ...]]:
        k = next(odd)
        return [(k, 64), (k,), (256, k), (4 * k + 1,), (k, 256), (1000, k), (k, 3, 64)]

    def first_commit() -> float:
        kinds = shapes()
        state = {f"x{i}": jnp.zeros(kinds[i % 7], jnp.float32) for i in range(450)}
        jax.block_until_ready(state)
        with works.bus_in(folder) as bus:
            begun = time.perf_counter()
            bus.commit(state, wait=False).result()
            bus.commit(state, wait=False).result()
            return time.perf_counter() - begun

    def additions() -> float:
        arrays = [jnp.zeros(shape, jnp.float32) for shape in shapes()]
        begun = time.perf_counter()
        jax.block_until_ready([jax.jit(lambda x: x + 1)(x) for x in arrays])
        return time.perf_counter() - begun

    found = [(first_commit(), additions()) for _ in range(3)]
    return Row(
        "commit/first-450", "first two commits of 450 leaves of 7 shapes, with compilation", "s",
        [mine for mine, _ in found], "compiling x + 1 for 7 shapes", [peer for _, peer in found],
        figure_at_most(3), figure_at_most(1),
    )  # fmt: skip


def _large(folder: Path, nbytes: int) -> Rows:
    state = bf16_state(nbytes, leaves=16)
    states = [state, *changes(state, 0.01, 1)]
    what = f"durable commit of {nbytes >> 20:,} MB of bfloat16, 1 % of the elements changed"
    with works.commit(folder, itertools.cycle(states), durability="fsync") as commit:

        def beside_orbax() -> Rows:
            from benchmarks.peers import orbax

            with orbax.save(folder, itertools.cycle(states)) as save:
                yield compare(
                    "commit/large-orbax", what, commit, save, rounds=3,
                    must=ratio_at_most(1 / 10), aim=ratio_at_most(1 / 20),
                )  # fmt: skip

        yield from beside("Orbax", beside_orbax)
        yield compare("commit/large-memcpy", what, commit, limits.memcpy(nbytes), rounds=3)


def _growth_by_size() -> Row:
    """In memory: nothing is written but the commit's few bytes."""

    def of(nbytes: int) -> Work:
        value: State = {"x": np.ones(nbytes // 4, np.uint32)}
        bus = buses.enter_context(mmsb.open())
        bus.commit(value)
        return Work("commit", lambda: bus.commit(value))

    with contextlib.ExitStack() as buses:
        return grow(
            "commit/growth-bytes", "unchanged commit, with the bytes compared",
            {nbytes: of(nbytes) for nbytes in (MB, 10 * MB, 100 * MB)}, at_most=1.2, rounds=9,
        )  # fmt: skip
