"""The core's programs lower for a GPU on a machine that has none."""

import jax
import jax.numpy as jnp
import pytest

from mmsb_jax import (
    Layout,
    Pages,
    TLog,
    apply,
    compose,
    diff,
    digest,
    invert,
    replay,
    update_digest,
)
from mmsb_jax.testing import strategies

TREE = {
    "w": jnp.zeros((3, 5), jnp.bfloat16),
    "i": jnp.zeros(5, jnp.int4),
    "c": jnp.zeros(2, jnp.complex64),
    "t": jnp.zeros(3, bool),
    "k": jax.random.key(0),
}
LAYOUT = Layout.of(TREE, page_bytes=128)
PAGES = Pages(jnp.zeros((5, 32), jnp.uint32), jnp.zeros(5, jnp.uint32))
DELTA = strategies.delta_of({(1, 3): 7}, 4, 32)
LOG = TLog.empty(2, 8).append(DELTA)
BATCH = jax.tree.map(lambda x: jnp.stack([x, x]), PAGES)

CASES = {
    "pack": (LAYOUT.pack, TREE),
    "unpack": (LAYOUT.unpack, PAGES),
    "set": (lambda pages, x: LAYOUT.set(pages, "w", x, version=3), PAGES, TREE["w"]),
    "diff": (lambda old, new: diff(old, new, capacity=4), PAGES, PAGES),
    "apply": (apply, PAGES, DELTA),
    "compose": (compose, DELTA, DELTA),
    "invert": (invert, PAGES, DELTA),
    "append": (TLog.append, LOG, DELTA),
    "replay": (replay, PAGES, LOG),
    "digest": (lambda pages: digest(pages, LAYOUT), PAGES),
    "update_digest": (
        lambda pages, delta: update_digest(digest(pages, LAYOUT), pages, LAYOUT, delta),
        PAGES,
        DELTA,
    ),
    "vmap of apply": (jax.vmap(apply, (0, None)), BATCH, DELTA),
    "vmap of replay": (jax.vmap(replay, (0, None)), BATCH, LOG),
    "vmap of diff": (jax.vmap(lambda old, new: diff(old, new, capacity=4)), BATCH, BATCH),
}


@pytest.mark.parametrize("name", CASES)
def test_operation_lowers_for_cuda(name):
    function, *args = CASES[name]
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert "func.func public @main" in text
    assert "ui32" in text
