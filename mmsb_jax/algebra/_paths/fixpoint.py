"""The fixed point ``d = e ⊕ d A`` of paths from one source.

Every node folds all that arrives at it, step after step, until nothing changes: a step costs all
edges, and there are as many as the best paths have edges. That is right for graphs of small
diameter. Where no node has more than 16 edges out of it, `_push` does better.

Source: Bellman 1958, Ford 1956.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array

from mmsb_jax.algebra._instances import lor_land
from mmsb_jax.algebra._matrix.groups import Groups
from mmsb_jax.algebra._matrix.pull import pull_forward
from mmsb_jax.algebra._paths.push import differs, is_pushed, push
from mmsb_jax.algebra._values.operations import Operations
from mmsb_jax.kernels.varying import varying_as


class Found(NamedTuple):
    """Where a search ended.

    Attributes:
        value: ``[n]``.
        when: ``int32[n]``: the step in which each value came to be; 0 at the source, the largest
            integer for what has no path.
        endless: ``bool[]``: whether values kept getting better, and hold the semiring's marker.
    """

    value: Array
    when: Array
    endless: Array


def settle(
    semiring: Operations,
    values: Array,
    into: Groups,
    out_of: Groups,
    source: Array,
    limit: Any = None,
) -> Found:
    """Paths from ``source``, of at most ``limit`` edges; of any number for None."""

    @custom_vmap
    def search(values: Array, into: Groups, out_of: Groups, source: Array, limit: Any) -> Found:
        return _search(semiring, values, into, out_of, source, limit)

    @search.def_vmap
    def _(axis_size: int, batched: list, *args: Any) -> Any:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))

        def one_by_one(*args: Any) -> Found:
            # In a batch each would wait for the slowest, and its gathers cost more than alone.
            def lane(i: Array) -> Found:
                return search(
                    *jax.tree.map(lambda leaf, axis: leaf if axis is None else leaf[i],
                                  args, axes, is_leaf=lambda leaf: leaf is None)
                )  # fmt: skip

            return lax.map(lane, jnp.arange(axis_size))

        def together(*args: Any) -> Found:
            return jax.vmap(functools.partial(_search, semiring), axes)(*args)

        found = lax.platform_dependent(*args, cpu=one_by_one, default=together)
        return found, jax.tree.map(lambda _: True, found)

    return search(values, into, out_of, source, limit)


def _search(
    semiring: Operations, values: Array, into: Groups, out_of: Groups, source: Array, limit: Any
) -> Found:
    n = into.place.shape[0]
    most = jnp.int32(n) if limit is None else jnp.minimum(limit, n).astype(jnp.int32)
    # By comparing, which of no nodes finds none; an index into nothing is refused.
    begins = jnp.arange(n, dtype=jnp.int32) == source
    first = jnp.where(begins, semiring.one_of(values.dtype), semiring.zero_of(values.dtype))
    never = jnp.where(begins, jnp.int32(0), jnp.int32(np.iinfo(np.int32).max))
    if is_pushed(semiring, out_of):
        value, when, changed = push(semiring, values, out_of, first, never, source, most)
    else:
        value, when, changed = _pull(semiring, values, into, first, never, most)
    if limit is not None or semiring.bounded:
        return Found(value, when, jnp.bool_(False))
    # What still changes after as many steps as there are nodes has gone round a cycle.
    endless = changed.any()
    marker = semiring.endless_of(value.dtype)
    value = lax.cond(
        endless,
        lambda: jnp.where(led_to(changed, values, into), marker, value),
        lambda: value,
    )
    return Found(value, when, endless)


def _pull(
    semiring: Operations, values: Array, into: Groups, value: Array, when: Array, most: Array
) -> tuple[Array, Array, Array]:
    def going(state: tuple) -> Array:
        _, _, changed, step = state
        return changed.any() & (step < most)

    def advance(state: tuple) -> tuple:
        value, when, _, step = state
        better = semiring.add(value, pull_forward(semiring, True, value, values, into))
        changed = differs(better, value)
        return better, jnp.where(changed, step + 1, when), changed, step + 1

    state = value, when, jnp.ones(value.shape, bool), jnp.int32(0)
    state = varying_as(state, state, values, into, most)
    value, when, changed, _ = lax.while_loop(going, advance, state)
    return value, when, changed


def led_to(start: Array, values: Array, into: Groups) -> Array:
    """Which nodes a walk from those in ``start`` leads to, themselves included."""
    ones = jnp.ones(values.shape, bool)
    n = start.shape[0]
    when = jnp.zeros(n, jnp.int32)
    return _pull(lor_land, ones, into, start, when, jnp.int32(n))[0]
