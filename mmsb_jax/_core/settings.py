"""The user's settings of JAX, set aside where bytes move; and whether we are being traced."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
from jax.core import Tracer


@contextmanager
def any_settings() -> Iterator[None]:
    """Inside, the user's settings of JAX neither stop nor change a move of bytes."""
    with (
        jax.transfer_guard("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        _no_mesh(),
    ):
        yield


def _no_mesh() -> AbstractContextManager[Any]:
    """No mesh in scope, so that pages and constants do not take its axes into their types."""
    if jax.sharding.get_abstract_mesh().empty:
        return nullcontext()
    try:
        return jax.set_mesh(None)  # pyright: ignore[reportArgumentType]
    except ValueError:  # inside a transformation the mesh is a part of the program
        return nullcontext()


def is_traced(tree: Any) -> bool:
    """Whether any leaf is a tracer, that is, whether we are inside a JAX transformation."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree_util.tree_leaves(tree))
