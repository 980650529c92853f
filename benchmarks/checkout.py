"""States back from the log: of old versions, of the newest in the writer, one array alone."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Rows, beside
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, ratio_at_most
from mmsb_jax.bench.states import MB, bf16_state, changes


def rows(folder: Path, long: bool) -> Rows:
    """An old version, the newest one, one array, and the way from the snapshot."""
    yield from _old(folder)
    yield from _newest(folder)
    yield from _one_array(folder, (2048 if long else 256) * MB)
    yield _bisection(folder, 10_000 if long else 1_000)
    yield _growth(folder, (10, 100, 1_000) if long else (4, 20, 100))


def _old(folder: Path) -> Rows:
    """What each commit changes is small, as in fine-tuning at a low rate."""
    state = bf16_state(64 * MB)
    what = "checkout of 64 MB, 100 commits of 0.1 % behind its snapshot, digest checked"
    with works.old_checkout(folder, state, 100) as checkout:

        def beside_orbax() -> Rows:
            from benchmarks.peers import orbax

            with orbax.restore(folder, state) as restore:
                yield compare(
                    "checkout/old-orbax", what, checkout, restore,
                    rounds=7, must=ratio_at_most(1), aim=ratio_at_most(1 / 3),
                )  # fmt: skip

        yield from beside("Orbax", beside_orbax)
        with limits.read_file(folder, 64 * MB) as read:
            yield compare("checkout/old-reading", what, checkout, read, rounds=5)


def _newest(folder: Path) -> Iterator[Row]:
    """In the bus that writes."""
    nbytes = 256 * MB
    state = bf16_state(nbytes)
    with works.bus_in(folder) as bus:
        bus.commit(state)
        tree = Work("tree()", lambda: jax.block_until_ready(bus.tree()))
        checkout = Work("checkout()", lambda: jax.block_until_ready(bus.checkout()))
        copies = Work("a copy by JAX", lambda: jax.block_until_ready(jax.tree.map(jnp.copy, state)))
        yield compare(
            "checkout/newest", "checkout() of the newest version in the writer, 256 MB",
            checkout, tree, rounds=5, must=ratio_at_most(1.2),
        )  # fmt: skip
        yield compare(
            "checkout/tree", "tree() of 256 MB", tree, copies,
            rounds=5, must=ratio_at_most(2), aim=ratio_at_most(1.5),
        )  # fmt: skip


def _one_array(folder: Path, nbytes: int) -> Iterator[Row]:
    state = bf16_state(nbytes, leaves=64)
    wanted = nbytes // 64
    with works.bus_in(folder) as bus, limits.read_file(folder, wanted) as read:
        bus.commit(state)
        bus.snapshot()
        for new in changes(state, 0.001, 4):
            bus.commit(new)
        one = Work("one array", lambda: bus.checkout(version=4, arrays=["layer07"]))
        whole = Work("the whole state", lambda: bus.checkout(version=4))
        what = f"checkout of one array of {wanted >> 20} MB of an old version of {nbytes >> 20} MB"
        yield compare("checkout/one-array-reading", what, one, read, rounds=7)
        yield compare(
            "checkout/one-array-whole", what, one, whole, rounds=3, aim=ratio_at_most(1 / 8)
        )


def _bisection(folder: Path, versions: int) -> Row:
    """The peer is what one would write without it, where the state is one array."""
    state, wrong = {"x": np.zeros(MB // 16, np.uint32)}, versions * 2 // 3
    with works.bus_in(folder, snapshots=True) as bus:
        rng = np.random.default_rng(0)
        for number in range(versions):
            state["x"][rng.integers(0, MB // 16, 64)] += 1
            state["x"][0] = number
            bus.commit(state)

        def is_bad(value: np.ndarray) -> bool:
            return bool(value[0] >= wrong)

        search = Work("bisect", lambda: bus.bisect(lambda tree: is_bad(tree["x"]), like=state))
        history = bus.history("x")
        scan = Work("a scan of history", lambda: next(v for v in history if is_bad(v.value)))
        return compare(
            "checkout/bisect", f"bisect of {versions:,} versions of 256 KB, wrong at two thirds",
            search, scan, rounds=3, aim=ratio_at_most(1 / 2),
        )  # fmt: skip


def _growth(folder: Path, distances: tuple[int, ...]) -> Row:
    state = {"x": np.zeros(MB, np.uint32)}
    with works.bus_in(folder) as bus:
        bus.commit(state)
        bus.snapshot()
        rng = np.random.default_rng(0)
        for _ in range(max(distances) + 1):
            state["x"][rng.integers(0, MB, 1_000)] += 1
            bus.commit(state)

        def at(distance: int) -> Work:
            return Work("checkout", lambda: bus.checkout(version=1 + distance))

        return grow(
            "checkout/growth-distance", "checkout of 4 MB, with the commits behind its snapshot",
            {distance: at(distance) for distance in distances}, at_most=1.1, rounds=5,
        )  # fmt: skip
