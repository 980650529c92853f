"""Replay on the device: budget 5."""

import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from benchmarks._measure import Row, median_ms

_POOL_BYTES, _PAGE_WORDS, _LINES = 128 << 20, 1024, 200_000


def rows() -> Iterator[Row]:
    """200,000 masked lines of 128 bytes into a pool of 128 MB."""
    rng = np.random.default_rng(0)
    pages = _POOL_BYTES // 4 // _PAGE_WORDS
    mask = rng.integers(0, 2, (_LINES, 32, 4), np.uint8) * np.uint8(255)
    commits = _LINES // 100
    log = mmsb.TLog(
        jnp.asarray(rng.integers(0, pages, _LINES, np.int32)),
        jnp.asarray(rng.integers(0, _PAGE_WORDS // 32, _LINES, np.int32)),
        jnp.asarray(mask.view(np.uint32)[..., 0]),
        jnp.asarray(rng.integers(0, 2**32, (_LINES, 32), np.uint32)),
        jnp.asarray(np.arange(_LINES, dtype=np.int32) // 100),
        jnp.asarray((np.arange(commits, dtype=np.int32) + 1) * 100),
        jnp.int32(commits),
        jnp.bool_(False),
        jnp.uint32(0),
    )
    replay = jax.jit(mmsb.replay, donate_argnums=0)
    base = mmsb.Pages(jnp.zeros((pages, _PAGE_WORDS), jnp.uint32), jnp.zeros(pages, jnp.uint32))
    found = []
    for _ in range(9):
        begun = time.perf_counter_ns()
        base = jax.block_until_ready(replay(base, log))
        found.append((time.perf_counter_ns() - begun) / 1e9)
    lines = _LINES / statistics.median(found[2:]) / 1e6

    # The limit: NumPy moves the same bytes, line by line, without a mask.
    pool = np.zeros((pages * _PAGE_WORDS // 32, 32), np.uint32)
    place = np.asarray(log.page).astype(np.int64) * (_PAGE_WORDS // 32) + np.asarray(log.block)
    data = np.asarray(log.data)

    def scatter() -> None:
        pool[place] = data

    limit = _LINES / median_ms(scatter, 7, 2) / 1e3
    yield Row("5", "replay of masked 128-byte lines, 128 MB pool", lines, "M lines/s",
              "NumPy scatter, unmasked", limit, "≥ 10 M/s", "25 M/s", lines >= 10)  # fmt: skip
