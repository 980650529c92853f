"""The fold of every group: ``out[g] = ⊕ x[met] ⊗ values[entry]`` over the entries of group ``g``.

All sparse products are this one operation. Where ⊕ selects, its gradient is that of the entry that
won, the first of equals; elsewhere it is that of the operations.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mmsb_jax.algebra._matrix.groups import Groups, with_zero
from mmsb_jax.algebra._values.operations import Operations, fold

# XLA on a CPU reduces a short axis five times slower than it adds as many arrays (JAX 0.10.2).
_UNROLLED = 4


def pull(
    semiring: Operations, x: Array, values: Array, groups: Groups, x_first: bool = True
) -> Array:
    """⊕ over each group; 0̄ of an empty one.

    Args:
        semiring: the operations.
        x: ``[n]``, or ``[n, b]`` for ``b`` vectors at once.
        values: ``[slots + 1]`` of the matrix; the last one is read by padding.
        groups: what meets.
        x_first: whether ⊗ has ``x`` on the left.
    """
    if semiring.selective and jnp.issubdtype(x.dtype, jnp.floating) and x.ndim == 1:
        return _pull_winner(semiring, x_first, x, values, groups)
    return pull_forward(semiring, x_first, x, values, groups)


def pull_forward(
    semiring: Operations, x_first: bool, x: Array, values: Array, groups: Groups
) -> Array:
    """`pull` without a rule for its gradient."""
    zero = jnp.full((1, *x.shape[1:]), semiring.zero_of(x.dtype))
    extended = jnp.concatenate([x, zero])
    folded = [
        _fold(semiring, _product(semiring, x_first, extended, values, groups, span))
        for span in groups.spans()
    ]
    return _at(jnp.concatenate([*folded, zero]), groups.place)


def _at(array: Array, index: Array) -> Array:
    # The layout was made on the host, with every index inside.
    return array.at[index].get(mode="promise_in_bounds")


def _fold(semiring: Operations, products: Array) -> Array:
    """⊕ over the first axis, the width of a bucket."""
    if products.shape[0] > _UNROLLED:
        return fold(semiring, products, 0)
    return functools.reduce(semiring.add, list(products))


def _operands(extended: Array, values: Array, groups: Groups, span: tuple) -> tuple[Array, Array]:
    """What meets in a bucket: ``[width, groups]`` of ``x`` and of ``values``."""
    slots, width, count = span
    met = _at(extended, groups.met[slots].reshape(width, count))
    if groups.entry is None:
        own = values[slots].reshape(width, count)
    else:
        own = _at(values, groups.entry[slots].reshape(width, count))
    return met, own.reshape(own.shape + (1,) * (met.ndim - own.ndim))


def _product(
    semiring: Operations, x_first: bool, extended: Array, values: Array, groups: Groups, span: tuple
) -> Array:
    met, own = _operands(extended, values, groups, span)
    return semiring.multiply(met, own) if x_first else semiring.multiply(own, met)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pull_winner(
    semiring: Operations, x_first: bool, x: Array, values: Array, groups: Groups
) -> Array:
    return pull_forward(semiring, x_first, x, values, groups)


def _forward(
    semiring: Operations, x_first: bool, x: Array, values: Array, groups: Groups
) -> tuple[Array, tuple]:
    out = pull_forward(semiring, x_first, x, values, groups)
    return out, (x, values, groups, out)


def _backward(semiring: Operations, x_first: bool, kept: tuple, gradient: Array) -> tuple:
    x, values, groups, out = kept
    slot, found = winners(semiring, x_first, x, values, groups, out)
    met, entry = groups.met_at(slot), groups.entry_at(slot)
    extended = with_zero(semiring, x)
    pair = (_at(extended, met), _at(values, entry))

    def multiply(met: Array, own: Array) -> Array:
        return semiring.multiply(met, own) if x_first else semiring.multiply(own, met)

    to_x, to_values = jax.vjp(multiply, *pair)[1](jnp.where(found, gradient, 0))
    x_bar = jnp.zeros_like(extended).at[met].add(jnp.where(found, to_x, 0))[:-1]
    values_bar = jnp.zeros_like(values).at[entry].add(jnp.where(found, to_values, 0))
    return x_bar, values_bar, None


_pull_winner.defvjp(_forward, _backward)


def winners(
    semiring: Operations, x_first: bool, x: Array, values: Array, groups: Groups, out: Array
) -> tuple[Array, Array]:
    """For each group the slot whose product is ``out``, the first of equals, and whether one is.

    None is where ``out`` is 0̄: nothing arrived.
    """
    wanted = jnp.zeros(groups.rows + 1, out.dtype).at[groups.place].set(out)
    return select_slots(
        groups,
        lambda span, row: (
            _product(semiring, x_first, with_zero(semiring, x), values, groups, span) == wanted[row]
        ),
        found=out != semiring.zero_of(out.dtype),
    )


def select_slots(groups: Groups, test: Callable, found: Array) -> tuple[Array, Array]:
    """The first slot of each group that passes ``test``, and whether it does."""
    slots, passes, row = [], [], 0
    for span in groups.spans():
        where, _, count = span
        passed = test(span, slice(row, row + count))
        first = jnp.argmax(passed, axis=0).astype(jnp.int32)
        slots.append(where.start + first * count + jnp.arange(count, dtype=jnp.int32))
        passes.append(passed.any(axis=0))
        row += count
    if not slots:
        nothing = jnp.zeros(groups.place.shape, jnp.int32)
        return nothing, nothing.astype(bool)
    slots.append(jnp.zeros(1, jnp.int32))
    passes.append(jnp.zeros(1, bool))
    return (
        _at(jnp.concatenate(slots), groups.place),
        _at(jnp.concatenate(passes), groups.place) & found,
    )
