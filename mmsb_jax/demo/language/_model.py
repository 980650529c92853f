"""A decoder-only transformer over bytes, in plain JAX, and the sizes that it comes in."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Params = dict[str, Any]
_BYTES = 256


@dataclass(frozen=True)
class ModelSize:
    """A model, and the run that trains it.

    Attributes:
        name: what it is asked for by.
        width, depth, heads: of the transformer.
        context: bytes of text that it sees.
        batch: texts in a step.
        rate: Adam's learning rate.
        steps: steps of the run.
        save_every: steps from one commit with bytes to the next.
    """

    name: str
    width: int
    depth: int
    heads: int
    context: int
    batch: int
    rate: float
    steps: int
    save_every: int


SIZES = {
    size.name: size
    for size in (
        ModelSize("tiny", 16, 1, 2, 16, 4, 1e-2, steps=40, save_every=10),
        ModelSize("small", 64, 2, 4, 64, 16, 3e-3, steps=400, save_every=50),
        ModelSize("20m", 512, 7, 8, 128, 8, 3e-4, steps=200, save_every=50),
    )
}


def init(size: ModelSize, key: Array, dtype: Any) -> Params:
    """Parameters to begin with."""
    keys = iter(jax.random.split(key, 2 + 4 * size.depth))

    def normal(*shape: int) -> Array:
        return (jax.random.normal(next(keys), shape) * shape[0] ** -0.5).astype(dtype)

    def block() -> Params:
        return {
            "norm": jnp.ones((2, size.width), dtype),
            "attend": normal(size.width, 3 * size.width),
            "join": normal(size.width, size.width),
            "up": normal(size.width, 4 * size.width),
            "down": normal(4 * size.width, size.width),
        }

    return {
        "tokens": normal(_BYTES, size.width),
        "places": normal(size.context, size.width),
        "blocks": [block() for _ in range(size.depth)],
        "norm": jnp.ones(size.width, dtype),
    }


def logits(
    params: Params, text: Int[Array, "batch length"], heads: int
) -> Float[Array, "batch length 256"]:
    """What comes next at each place of each text; computed in float32, whatever is kept."""
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    x = params["tokens"][text] + params["places"][: text.shape[1]]
    for block in params["blocks"]:
        x = x + _attention(_normed(x, block["norm"][0]) @ block["attend"], heads) @ block["join"]
        x = x + jax.nn.gelu(_normed(x, block["norm"][1]) @ block["up"]) @ block["down"]
    return _normed(x, params["norm"]) @ params["tokens"].T


def _normed(x: Array, scale: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def _attention(joined: Array, heads: int) -> Array:
    batch, length, _ = joined.shape
    parts = jnp.split(joined, 3, axis=-1)
    query, key, value = (part.reshape(batch, length, heads, -1) for part in parts)
    return jax.nn.dot_product_attention(query, key, value, is_causal=True).reshape(
        batch, length, -1
    )
