"""The tree of the paths that won: who came before whom, the gradient along it, and cycles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from mmsb_jax.algebra._matrix.groups import Groups, with_zero
from mmsb_jax.algebra._matrix.pull import pull_forward, select_slots, winners
from mmsb_jax.algebra._matrix.sparse import SparseMatrix
from mmsb_jax.algebra._paths.fixpoint import Found, settle
from mmsb_jax.algebra._values.operations import Operations, fold


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def best(
    semiring: Operations,
    predecessors: bool,
    values: Array,
    into: Groups,
    out_of: Groups,
    source: Array,
) -> tuple[Array, Array | None, Array]:
    """The values, with predecessors where they are wanted, and whether there was no end."""
    found = settle(semiring, values, into, out_of, source)
    before = None
    if predecessors:
        before, _, _ = before_each(semiring, values, into, found, source)
    return found.value, before, found.endless


def _forward(
    semiring: Operations,
    predecessors: bool,
    values: Array,
    into: Groups,
    out_of: Groups,
    source: Array,
) -> tuple[tuple, tuple]:
    found = settle(semiring, values, into, out_of, source)
    before, slot, has = before_each(semiring, values, into, found, source)
    shown = before if predecessors else None
    return (found.value, shown, found.endless), (values, into, found.value, before, slot, has)


def _backward(semiring: Operations, predecessors: bool, kept: tuple, gradients: tuple) -> tuple:
    """To the edge into each node, all that flows through the node from the tree behind it."""
    values, into, value, before, slot, has = kept
    entry = into.entry_at(slot)
    parent = jnp.where(has, before, value.shape[0])
    pair = with_zero(semiring, value)[parent], values[entry]
    _, pull_back = jax.vjp(semiring.multiply, *pair)

    def through(flow: Array) -> tuple[Array, Array]:
        to_parent, to_edge = pull_back(flow)
        return jnp.where(has, to_parent, 0), jnp.where(has, to_edge, 0)

    def going(state: tuple) -> Array:
        _, flow, step = state
        return (flow != 0).any() & (step < value.shape[0])

    def advance(state: tuple) -> tuple:
        total, flow, step = state
        flow = jnp.zeros_like(flow).at[parent].add(through(flow)[0], mode="drop")
        return total + flow, flow, step + 1

    start = gradients[0], gradients[0], jnp.int32(0)
    total, _, _ = lax.while_loop(going, advance, start)
    return jnp.zeros_like(values).at[entry].add(through(total)[1]), None, None, None


best.defvjp(_forward, _backward)


def before_each(
    semiring: Operations, values: Array, into: Groups, found: Found, source: Array
) -> tuple[Array, Array, Array]:
    """For each node the one before it on a best path (−1 for none), the edge's slot, whether.

    An edge i → j is *tight* where ``value[i] ⊗ A[i, j]`` is ``value[j]``. Of the tight ones, that
    whose ``i`` had its value first: earlier than ``j``, so that no cycle closes, a tight one of no
    length included. Where a sum was rounded to the value that it had, none is earlier; then the
    ``i`` of best value is taken, which is better than ``j``.
    """
    value, when = found.value, found.when
    n, latest = value.shape[0], np.iinfo(np.int32).max
    has = (value != semiring.zero_of(value.dtype)) & (jnp.arange(n) != source)
    of_row = jnp.zeros(into.rows + 1, jnp.int32).at[into.place].set(jnp.arange(n, dtype=jnp.int32))
    extended = with_zero(semiring, value)
    when_extended = jnp.append(when, jnp.int32(latest))

    def tight(span: tuple, rows: slice) -> tuple[Array, Array, Array]:
        slots, width, count = span
        met = into.met[slots].reshape(width, count)
        own = values[slots] if into.entry is None else values[into.entry[slots]]
        product = semiring.multiply(extended[met], own.reshape(width, count))
        return (product == value[of_row[rows]]) & (met < n), extended[met], when_extended[met]

    def wanted(span: tuple, rows: slice) -> Array:
        is_tight, theirs, since = tight(span, rows)
        first = jnp.min(jnp.where(is_tight, since, latest), axis=0)
        by_time = is_tight & (since == first)
        theirs = jnp.where(is_tight, theirs, semiring.zero_of(value.dtype))
        by_value = is_tight & (theirs == fold(semiring, theirs, 0))
        return jnp.where(first < when[of_row[rows]], by_time, by_value)

    slot, passes = select_slots(into, wanted, has)
    before = into.met_at(slot)
    return jnp.where(passes, before, -1), slot, passes


def cycle_of(semiring: Operations, A: SparseMatrix, source: Array) -> list[int]:
    """The nodes of a cycle that makes its paths better without end, in order.

    Whose value got better in the last of n steps did so over an edge from a node whose value got
    better in the step before: walked back, n such edges pass some node twice.
    """
    before, node = (np.asarray(part) for part in _chase(semiring, A, source))
    node = int(node)
    for _ in range(A.shape[0]):
        node = int(before[node])
    cycle = [node]
    while (node := int(before[node])) != cycle[0]:
        cycle.append(node)
    return cycle[::-1]


@functools.partial(jax.jit, static_argnums=0)
def _chase(semiring: Operations, A: SparseMatrix, source: Array) -> tuple[Array, Array]:
    """n steps of pull that keep who came before whom, and a node that changed in the last."""
    n, into = A.shape[0], A.into_columns()
    first = jnp.full(n, semiring.zero_of(A.dtype)).at[source].set(semiring.one_of(A.dtype))

    def step(_: Array, state: tuple) -> tuple:
        value, before, _ = state
        arrived = pull_forward(semiring, True, value, A.values, into)
        better = semiring.add(value, arrived)
        changed = better != value
        slot, _ = winners(semiring, True, value, A.values, into, arrived)
        return better, jnp.where(changed, into.met_at(slot), before), changed

    state = first, jnp.full(n, -1, jnp.int32), jnp.zeros(n, bool)
    _, before, changed = lax.fori_loop(0, n, step, state)
    return before, jnp.argmax(changed)
