"""Trees without their arrays: what a function would return, and arrays in the place of such."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from mmsb_jax._base.errors import StructureError


def abstract_of(init: Callable[[], Any]) -> Any:
    """What ``init()`` returns, with a `jax.ShapeDtypeStruct` in the place of each array of JAX.

    One that a jitted function gives a sharding has it. All else is as the function makes it.
    """
    shapes = getattr(init, "eval_shape", None)  # a jitted one says where its results go
    return eqx.filter_eval_shape(init) if shapes is None else shapes()


def zeros_for(leaf: Any, name: str) -> Any:
    """An array of zeros in the place of a `jax.ShapeDtypeStruct`, and where that says; else it."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise StructureError(f"{name} is a key without its bytes. Expected the key itself.")
    make = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=leaf.sharding)
    return make()
