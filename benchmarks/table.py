"""Page tables on the device: a thousand forks of a state, each of which changes some pages."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, figure_at_most
from mmsb_jax.bench.states import MB

_FORKS, _CHANGED = 1_000, 4
_STATE_BYTES, _PAGE_BYTES = 64 * MB, 4096
_ROOM = _STATE_BYTES // _PAGE_BYTES + _FORKS * _CHANGED


def rows(folder: Path, long: bool) -> Rows:
    """Time and memory of the forks of one state."""
    layout = mmsb.Layout.of({"w": jax.ShapeDtypeStruct((_STATE_BYTES // 4,), jnp.float32)})
    state = layout.pack({"w": jnp.ones(_STATE_BYTES // 4, jnp.float32)})
    held: dict[str, Any] = {"table": mmsb.PageTable.of(state, _FORKS + 1, _ROOM)}
    whole: dict[str, Any] = {"state": state.words}
    del state
    rng = np.random.default_rng(0)
    pages = [rng.permutation(layout.pages)[:_CHANGED] for _ in range(_FORKS)]
    places = jnp.asarray(np.array(pages, np.int32))
    words = jnp.arange(_FORKS * _CHANGED * 1024, dtype=jnp.uint32).reshape(_FORKS, _CHANGED, 1024)
    search = jax.jit(_search, donate_argnums=0)
    copy = jax.jit(lambda words: words.at[0, 0].add(1))

    def run_search() -> None:
        held["table"] = jax.block_until_ready(search(held["table"], places, words))
        assert not held["table"].overflow

    def run_copy() -> None:
        whole["copy"] = jax.block_until_ready(copy(whole["state"]))

    yield compare(
        "table/forks",
        f"{_FORKS:,} forks of 64 MB, each changing {_CHANGED} pages, and given back; a fork",
        Work("fork, scatter, release", run_search, items=_FORKS),
        Work("a copy of the state, with one word changed", run_copy),
        rounds=7, warm=1, must=figure_at_most(1e-3), aim=figure_at_most(2e-4),
    )  # fmt: skip
    table = held["table"]
    yield Row(
        "table/memory", f"{_FORKS:,} forks of 64 MB, each with {_CHANGED} pages of its own", "B",
        [sum(leaf.nbytes for leaf in jax.tree.leaves(table))],
        "the state, and the pages that changed",
        [_STATE_BYTES + _FORKS * _CHANGED * _PAGE_BYTES],
        figure_at_most(200e6), figure_at_most(160e6),
    )  # fmt: skip


def _search(table: mmsb.PageTable, places: Any, words: Any) -> mmsb.PageTable:
    """Fork branch 0, change pages of each fork, and give the forks back."""
    forks = jnp.arange(1, _FORKS + 1)
    table = table.fork(0, into=forks)
    table = table.scatter(forks[:, None], places, words)
    return table.release(forks)
