"""The library as it is, on a GPU: transfers, commits, and the operations of the core."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import SingleDeviceSharding

import mmsb_jax as mmsb
from benchmarks._gpu_run import (
    GB,
    LINE_BYTES,
    MB,
    Figure,
    Rows,
    Run,
    carrying,
    change_lines,
    copied,
    lines_of,
    random_lines,
)
from mmsb_jax import algebra
from mmsb_jax.kernels import LINE_WORDS
from mmsb_jax.testing.graphs import kronecker

# ---------------------------------------------------------------------------------- to and from it


def transfers(run: Run) -> Rows:
    """To the host and back, four arrays at a time."""
    device = jax.devices()[0]
    pinned = SingleDeviceSharding(device, memory_kind="pinned_host")

    def async_copies(arrays: list[Any]) -> None:
        for array in arrays:
            array.copy_to_host_async()
        for array in arrays:
            np.asarray(array)

    ways: dict[str, Callable[[list[Any]], Any]] = {
        "np.asarray": lambda arrays: [np.asarray(array) for array in arrays],
        "copy_to_host_async, then np.asarray": async_copies,
        "device_put to pinned_host": lambda arrays: jax.block_until_ready(
            jax.device_put(arrays, pinned)
        ),
        "the same, then np.asarray": lambda arrays: [
            np.asarray(array) for array in jax.device_put(arrays, pinned)
        ],
    }
    for size in (MB, 16 * MB, 256 * MB, GB) if run.is_gpu else (MB // 16,):
        for what, way in ways.items():
            ms, spread = _timed_fresh(way, lambda i, size=size: random_lines(lines_of(size), i))
            yield Figure("transfers", what, "device to host", size, ms, spread, size)
        rng = np.random.default_rng(0)
        hosts = [rng.integers(0, 2**32, size // 4, np.uint32) for _ in range(4)]
        ms, spread = _timed_fresh(
            lambda arrays: jax.block_until_ready(jax.device_put(arrays, device)),
            lambda i, hosts=hosts: hosts[i % 4],
        )
        yield Figure("transfers", "device_put", "host to device", size, ms, spread, size)


def released(run: Run) -> Rows:
    """What it costs to donate an array whose bytes were read: JAX kept them on the host."""
    size = GB if run.is_gpu else MB
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    step(random_lines(lines_of(size), 9))
    for what, is_read in (("donated, never read", False), ("donated, its bytes read before", True)):
        found = []
        for i in range(5):
            array = jax.block_until_ready(random_lines(lines_of(size), i))
            if is_read:
                np.asarray(array)
            begun = time.perf_counter()
            after = step(array)
            found.append((time.perf_counter() - begun) * 1e3)
            jax.block_until_ready(after)
        yield Figure("transfers", what, "the caller's thread", size, statistics.median(found),
                     max(found) - min(found), size)  # fmt: skip


def _timed_fresh(
    way: Callable[[list[Any]], Any], make: Callable[[int], Any]
) -> tuple[float, float]:
    """(median, spread) in ms an array; JAX keeps what came to the host, so each is used once."""
    found = []
    for i in range(4):
        arrays = [jax.block_until_ready(make(4 * i + k)) for k in range(4)]
        begun = time.perf_counter()
        way(arrays)
        found.append((time.perf_counter() - begun) / 4 * 1e3)
    return statistics.median(found[1:]), max(found[1:]) - min(found[1:])


# --------------------------------------------------------------------------- the library as it is


def core(run: Run) -> Rows:
    """`diff`, `apply`, `replay` of 128-byte lines, and a sparse product."""
    state_bytes = GB if run.is_gpu else MB // 8
    lines = lines_of(state_bytes)
    versions = jnp.zeros(lines // 32, jnp.uint32)
    old = random_lines(lines, 1)
    before, after = (
        mmsb.Pages(x.reshape(-1, 1024), versions) for x in (old, change_lines(old, 0.01, 2))
    )
    blocks = 1 << (lines // 64).bit_length()
    diff = jax.jit(functools.partial(mmsb.diff, capacity=blocks))
    delta = diff(before, after)
    assert not delta.overflow
    ms, spread = run.timed(lambda: diff(before, after))
    changed = int(delta.count)
    yield Figure("core", "diff, 1% of the lines changed", "mmsb.diff", state_bytes, ms, spread,
                 2 * state_bytes + 2 * changed * LINE_BYTES)  # fmt: skip

    def bring(pages: Any, delta: Any) -> Any:
        return (apply(pages, delta, 1),)

    apply = jax.jit(mmsb.apply, donate_argnums=0)
    ms, spread = run.timed(carrying(bring, (copied(before),), (delta,)))
    yield Figure("core", f"apply of {changed:,} lines", "mmsb.apply", state_bytes, ms, spread,
                 4 * changed * LINE_BYTES)  # fmt: skip

    entries = 5_000 if run.is_gpu else 50
    log = _log(entries, lines)
    replay = jax.jit(mmsb.replay, donate_argnums=0)
    call = carrying(lambda pages, log: (replay(pages, log),), (copied(before),), (log,))
    ms, spread = run.timed(call)
    yield Figure("core", f"replay of {entries:,} lines", "mmsb.replay", state_bytes, ms, spread,
                 4 * entries * LINE_BYTES, f"{entries / ms / 1e3:.3f} M lines/s")  # fmt: skip

    n, row, col = kronecker(18 if run.is_gpu else 8)
    data = np.random.default_rng(1).integers(1, 256, len(row)).astype(np.float32)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    x = jnp.asarray(np.random.default_rng(2).integers(0, 100, n).astype(np.float32))
    matvec = jax.jit(algebra.min_plus.matvec)
    ms, spread = run.timed(lambda: matvec(A, x))
    yield Figure("core", f"min_plus matvec, Kronecker graph of {len(row):,} edges", "algebra",
                 8 * len(row), ms, spread, 8 * len(row) + 8 * n,
                 f"{len(row) / ms / 1e6:.2f} G edges/s")  # fmt: skip


def _log(entries: int, lines: int) -> Any:
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 2, (entries, LINE_WORDS, 4), np.uint8) * np.uint8(255)
    place = rng.integers(0, lines, entries)
    return mmsb.TLog(
        jnp.asarray(place // 32, jnp.int32),
        jnp.asarray(place % 32, jnp.int32),
        jnp.asarray(mask.view(np.uint32)[..., 0]),
        random_lines(entries, 4),
        jnp.arange(entries, dtype=jnp.int32),
        jnp.arange(1, entries + 1, dtype=jnp.int32),
        jnp.int32(entries),
        jnp.bool_(False),
        jnp.uint32(0),
    )


def commits(run: Run) -> Rows:
    """Commits of a bfloat16 model, with a shadow on the device and without one."""
    for state_bytes in (64 * MB, GB) if run.is_gpu else (MB,):
        tree = _bf16_tree(state_bytes)
        for shadow in (None, "bytes", "digest"):
            with (
                tempfile.TemporaryDirectory() as folder,
                mmsb.open(Path(folder) / "a.mmsb", shadow=shadow) as bus,
            ):
                yield from _commits_of(bus, tree, state_bytes, f"shadow={shadow!r}")


def _commits_of(bus: Any, tree: Any, state_bytes: int, way: str) -> Rows:
    begun = time.perf_counter()
    bus.commit(tree)
    ms = (time.perf_counter() - begun) * 1e3
    yield Figure("commits", "first commit", way, state_bytes, ms, 0, state_bytes)
    bus.commit(tree, wait=False).result()
    for share in (0.0, 0.0015, 0.011, 0.073, 1.0):
        yield from _commits(bus, tree, share, state_bytes, way)
    yield from _steps(bus, tree, state_bytes, way)
    begun = time.perf_counter()
    jax.block_until_ready(bus.checkout(version=2, like=tree))
    ms = (time.perf_counter() - begun) * 1e3
    yield Figure("commits", "checkout of an old version", way, state_bytes, ms, 0, state_bytes)


def _steps(bus: Any, tree: Any, state_bytes: int, way: str) -> Rows:
    """A step that turns 1.1 % of the elements, alone and with a commit that does not wait."""
    step = jax.jit(_changed, donate_argnums=0)
    for what, commits_each in (("a step alone", False), ("a step and its commit", True)):
        kept = jax.block_until_ready(copied(tree))
        times = []
        for seed in range(8):
            begun = time.perf_counter()
            kept = step(kept, 0.011, seed)
            if commits_each:
                bus.commit(kept, wait=False)
            jax.block_until_ready(kept)
            times.append((time.perf_counter() - begun) * 1e3)
        bus.sync()
        yield Figure("commits", what, way, state_bytes, statistics.median(times[2:]),
                     max(times[2:]) - min(times[2:]), state_bytes)  # fmt: skip


def _commits(bus: Any, tree: Any, share: float, state_bytes: int, way: str) -> Rows:
    found: dict[str, list[float]] = {}

    def note(name: str, begun: float) -> None:
        found.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)

    before = bus.stats().moved_bytes
    for seed in range(4):
        tree = jax.block_until_ready(_changed(tree, share, seed))
        begun = time.perf_counter()
        commit = bus.commit(tree)
        note("wait=True", begun)
        tree = jax.block_until_ready(_changed(tree, share, 10 + seed))
        begun = time.perf_counter()
        handle = bus.commit(tree, wait=False)
        note("wait=False, the caller's thread", begun)
        handle.result()
        note("wait=False, until it has landed", begun)
    moved = (bus.stats().moved_bytes - before) // 8
    said = f"logged {commit.logged_bytes:,} bytes, moved {moved:,}"
    what = f"{share:.2%} of the elements changed"
    for form, times in found.items():
        yield Figure("commits", what, f"{way}, {form}", state_bytes,
                     statistics.median(times[1:]), max(times[1:]) - min(times[1:]), state_bytes,
                     said if form == "wait=True" else "")  # fmt: skip


def _bf16_tree(state_bytes: int, leaves: int = 32) -> dict[str, jax.Array]:
    shape = (state_bytes // 2 // leaves // 1024, 1024)
    keys = jax.random.split(jax.random.key(0), leaves)
    return {
        f"layer{i:02}": jax.random.normal(key, shape, jnp.bfloat16) for i, key in enumerate(keys)
    }


@jax.jit
def _changed(tree: dict[str, jax.Array], share: float, seed: int) -> dict[str, jax.Array]:
    """New arrays, the last bit of a share of the elements turned."""
    new = {}
    for i, (name, leaf) in enumerate(tree.items()):
        key = jax.random.fold_in(jax.random.key(seed), i)
        is_hit = (jax.random.uniform(key, leaf.shape) < share).astype(jnp.uint16)
        bits = lax.bitcast_convert_type(leaf, jnp.uint16) ^ is_hit
        new[name] = lax.bitcast_convert_type(bits, jnp.bfloat16)
    return new
