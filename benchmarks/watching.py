"""Watching: what a watched function costs beside the same one that nobody watches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Rows
from mmsb_jax import programs
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, ratio_at_most

_LEAVES = 50


def rows(folder: Path, long: bool) -> Rows:
    """Calls that compile nothing, of one array and of a tree; then compilations."""
    del folder
    yield _call("call", "a call of one array that compiles nothing", jnp.ones(8))
    tree = {f"w{i}": jnp.ones(8) for i in range(_LEAVES)}
    yield _call("tree", f"a call of {_LEAVES} arrays that compiles nothing", tree)
    yield _compilation(rounds=15 if long else 7)


def _call(name: str, what: str, x: Any) -> Row:
    plain = jax.jit(lambda x: x)
    watched = programs.watch(plain)
    return compare(
        f"watching/{name}", what,
        Work("watched", lambda: watched(x), calls=2000),
        Work("the same, not watched", lambda: plain(x), calls=2000),
        rounds=25, must=None if name == "call" else ratio_at_most(1.1), aim=ratio_at_most(1.3),
    )  # fmt: skip


def _compilation(rounds: int) -> Row:
    """Each call is of another shape."""

    def sizes() -> Iterator[dict[str, np.ndarray]]:
        for size in range(1, 1_000):
            yield {f"w{i}": np.ones(size, np.float32) for i in range(_LEAVES)}

    def total(tree: Any) -> Any:
        return sum(jnp.sum(leaf) for leaf in tree.values())

    plain, watched = jax.jit(lambda x: total(x)), programs.watch(jax.jit(lambda x: total(x)))
    ours, others = sizes(), sizes()
    return compare(
        "watching/compilation", f"a call of {_LEAVES} arrays that compiles, and is explained",
        Work("watched", lambda: watched(next(ours))),
        Work("the same, not watched", lambda: plain(next(others))),
        rounds=rounds, must=ratio_at_most(1.2), aim=ratio_at_most(1.05),
    )  # fmt: skip
