"""The tree that a function would return, without its arrays."""

from collections.abc import Callable
from typing import Any

import equinox as eqx


def abstract_of(init: Callable[[], Any]) -> Any:
    """What ``init()`` returns, with a `jax.ShapeDtypeStruct` in the place of each array of JAX.

    One that a jitted function gives a sharding has it. All else is as the function makes it.
    """
    shapes = getattr(init, "eval_shape", None)  # a jitted one says where its results go
    return eqx.filter_eval_shape(init) if shapes is None else shapes()
