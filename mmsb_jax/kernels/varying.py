"""What varies from device to device under ``shard_map``, and has to be said of a loop's state."""

from typing import Any

import jax
from jax import lax


def varying_as(value: Any, *others: Any) -> Any:
    """``value``, of a type that varies over every axis over which one of ``others`` does.

    Outside of ``shard_map``, and where it does not check, ``value`` itself.
    """
    axes = frozenset().union(*map(_axes_of, jax.tree_util.tree_leaves(others)))

    def cast(leaf: Any) -> Any:
        missing = axes - _axes_of(leaf)
        return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree_util.tree_map(cast, value) if axes else value


def _axes_of(leaf: Any) -> frozenset[Any]:
    kind = getattr(jax.typeof(leaf), "manual_axis_type", None)
    return getattr(kind, "varying", frozenset())
