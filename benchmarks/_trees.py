"""States to commit: a bfloat16 model of 64 MB, and changes of a share of its elements."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

STATE_BYTES = 64 << 20


def bf16_tree(seed: int = 0) -> dict[str, Any]:
    """64 MB of normal bfloat16 weights in 32 leaves."""
    rng = np.random.default_rng(seed)
    elements = STATE_BYTES // 2 // 32
    return {
        f"layer{i:02}": jnp.asarray(
            rng.standard_normal((elements // 1024, 1024), np.float32).astype(ml_dtypes.bfloat16)
        )
        for i in range(32)
    }


def changed(tree: dict[str, Any], share: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Trees that each differ from the one before in ``share`` of the elements."""

    @jax.jit
    def step(tree: dict[str, Any], key: Any) -> dict[str, Any]:
        new = {}
        for i, (name, x) in enumerate(tree.items()):
            bits = jax.lax.bitcast_convert_type(x, jnp.uint16)
            hit = jax.random.uniform(jax.random.fold_in(key, i), x.shape) < share
            new[name] = jax.lax.bitcast_convert_type(
                jnp.where(hit, bits ^ jnp.uint16(1), bits), jnp.bfloat16
            )
        return new

    for i in range(rounds):
        tree = jax.block_until_ready(step(tree, jax.random.key(i)))
        yield tree
