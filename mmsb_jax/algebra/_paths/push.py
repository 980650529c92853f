"""Paths from one source by a queue of the nodes that changed.

A few hundred of them at a time carry their value over their edges, and what improves is queued,
once. It costs the edges of what changed, not all: right for meshes and road networks, of large
diameter and small degree.

In `min_plus` with no negative edge, nodes that are further than a moving threshold wait, so that
few carry a value that is not yet their last: the near and the far pile.

Source: Moore 1959; the piles, Davidson, Baxter, Garland and Owens 2014, after the delta-stepping of
Meyer and Sanders 2003.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from mmsb_jax.algebra._matrix.groups import Groups
from mmsb_jax.algebra._values import arithmetic
from mmsb_jax.algebra._values.operations import Operations, fold
from mmsb_jax.kernels.varying import varying_as

MOST_EDGES = 16
LEAST_NODES = 2048
_CHUNK = 512
# Means of an edge that a node may be beyond the nearest: measured on grids, where 1 takes twice as
# many steps and no piles at all ten times as many.
_STRIDE = 4
_SCATTERS: dict[Any, str] = {jnp.minimum: "min", jnp.maximum: "max", jnp.logical_or: "max"}


class _Queue(NamedTuple):
    """What is carried from one chunk to the next.

    Attributes:
        value, when: ``[n + 1]``: the last place is that of no node.
        ring: ``int32[n]``: the queue; a node is in it at most once.
        waits: ``bool[n + 1]``: whether a node is in it.
        owner: ``int32[n + 1]``: which of the edges to a node queues it.
        head, length: where the queue begins, how long it is.
        left: how many of the present round are left: what was queued when it began.
        rounds, step: rounds that are over, chunks that are.
        threshold: values that are worse wait for another round.
        best: ⊕ of those that were made to wait in this round.
        moved: whether any was not.
    """

    value: Array
    when: Array
    ring: Array
    waits: Array
    owner: Array
    head: Array
    length: Array
    left: Array
    rounds: Array
    step: Array
    threshold: Array
    best: Array
    moved: Array


def is_pushed(semiring: Operations, out_of: Groups) -> bool:
    """Whether to push: known from the layout, so that it is decided when a program is made."""
    most_edges = max((width for width, _ in out_of.buckets), default=0)
    large = out_of.place.shape[0] >= LEAST_NODES
    return large and 0 < most_edges <= MOST_EDGES and semiring.add in _SCATTERS


def push(
    semiring: Operations,
    values: Array,
    out_of: Groups,
    value: Array,
    when: Array,
    source: Array,
    most: Array,
) -> tuple[Array, Array, Array]:
    """The values of paths of at most ``most`` edges, when they came to be, and what still waits."""
    n = value.shape[0]
    zero = semiring.zero_of(value.dtype)
    stride = _stride(semiring, values)
    waits = stride != zero
    begun = jnp.asarray(source < n).astype(jnp.int32)
    start = _Queue(
        value=jnp.append(value, zero),
        when=jnp.append(when, jnp.int32(0)),
        ring=jnp.zeros(n, jnp.int32).at[0].set(source),
        waits=jnp.zeros(n + 1, bool).at[jnp.minimum(source, n)].set(True),
        owner=jnp.zeros(n + 1, jnp.int32),
        head=jnp.int32(0),
        length=begun,
        left=begun,
        rounds=jnp.int32(0),
        step=jnp.int32(1),
        threshold=jnp.where(waits, semiring.one_of(value.dtype), zero),
        best=jnp.asarray(zero),
        moved=jnp.bool_(False),
    )
    addresses = _addresses(out_of)

    def going(queue: _Queue) -> Array:
        # Where nodes wait, a round is no edge further; then there is no endless cycle either.
        return (queue.length > 0) & (waits | (queue.rounds < most))

    def advance(queue: _Queue) -> _Queue:
        return _advance(semiring, values, out_of, addresses, stride, queue)

    start = varying_as(start, start, values, out_of, source, most)
    end = lax.while_loop(going, advance, start)
    return end.value[:n], end.when[:n], end.waits[:n]


def _advance(
    semiring: Operations,
    values: Array,
    out_of: Groups,
    addresses: tuple[Array, Array, Array],
    stride: Array,
    queue: _Queue,
) -> _Queue:
    """One chunk of the queue."""
    n = queue.ring.shape[0]
    zero = semiring.zero_of(queue.value.dtype)
    lanes = jnp.arange(_CHUNK, dtype=jnp.int32)
    taken = jnp.minimum(queue.left, _CHUNK)
    node = jnp.where(lanes < taken, _at(queue.ring, (queue.head + lanes) % n), n)
    own = _at(queue.value, node)
    far = (node < n) & differs(semiring.add(own, queue.threshold), own)
    near = jnp.where(far, n, node)

    target, offered = _offers(semiring, values, out_of, addresses, near, own)
    before = _at(queue.value, target)
    # What is written follows from what was read, so that XLA writes in place.
    target, offered, before = lax.optimization_barrier((target, offered, before))
    offered = jnp.where(target == n, zero, semiring.add(before, offered))
    value = getattr(queue.value.at[target], _SCATTERS[semiring.add])(
        offered, mode="promise_in_bounds"
    )
    improved = differs(offered, before) & (target < n)
    when = queue.when.at[jnp.where(improved, target, n)].set(queue.step)

    # Of the edges that improved one node, one queues it, if it is not queued yet.
    waits = queue.waits.at[near].set(False)
    edges = jnp.arange(target.shape[0], dtype=jnp.int32)
    queues = improved & ~_at(waits, target)
    owner = queue.owner.at[jnp.where(queues, target, n)].set(edges)
    fresh = queues & (_at(owner, target) == edges)
    waits = waits.at[jnp.where(fresh, target, n)].set(True)

    again = jnp.concatenate([far, fresh])
    rank = jnp.cumsum(again, dtype=jnp.int32)
    place = jnp.where(again, (queue.head + queue.length + rank - 1) % n, n)
    ring = queue.ring.at[place].set(jnp.concatenate([node, target]), mode="drop")

    length, left = queue.length - taken + rank[-1], queue.left - taken
    far_values = jnp.where(far, own, zero)
    best = semiring.add(queue.best, fold(semiring, far_values, 0))
    moved = queue.moved | (near < n).any()
    ended = left == 0
    further = semiring.multiply(best, stride)
    return _Queue(
        value,
        when,
        ring,
        waits,
        owner,
        (queue.head + taken) % n,
        length,
        jnp.where(ended, length, left),
        queue.rounds + ended,
        queue.step + 1,
        jnp.where(ended & ~moved, further, queue.threshold),
        jnp.where(ended, zero, best),
        moved & ~ended,
    )


def _offers(
    semiring: Operations,
    values: Array,
    out_of: Groups,
    addresses: tuple[Array, Array, Array],
    node: Array,
    own: Array,
) -> tuple[Array, Array]:
    """What each node carries over each of its edges, and to whom; to no node where none is."""
    starts, strides, widths = addresses
    turns = jnp.arange(max(width for width, _ in out_of.buckets), dtype=jnp.int32)
    slot = _at(starts, node)[:, None] + turns * _at(strides, node)[:, None]
    there = turns < _at(widths, node)[:, None]
    slot = jnp.where(there, slot, 0)
    target = jnp.where(there, _at(out_of.met, slot), node.dtype.type(starts.shape[0] - 1))
    entry = slot if out_of.entry is None else _at(out_of.entry, slot)
    carried = jnp.broadcast_to(own[:, None], entry.shape)
    return target.reshape(-1), semiring.multiply(carried, _at(values, entry)).reshape(-1)


def _stride(semiring: Operations, values: Array) -> Array:
    """How far beyond the nearest a node may be without waiting. 0̄: nobody waits."""
    zero = jnp.asarray(semiring.zero_of(values.dtype))
    if semiring.multiply is not arithmetic.min_plus_multiply:
        return zero
    known = jnp.where(values == zero, 0, values).astype(jnp.float32)
    stride = jnp.sum(known) * np.float32(_STRIDE / values.shape[0])
    if not jnp.issubdtype(values.dtype, jnp.floating):
        # Rounded up, the largest integers would be none of the dtype.
        stride = jnp.minimum(stride, zero.astype(jnp.float32) / 2)
    return jnp.where((values < 0).any(), zero, stride.astype(values.dtype))


def _addresses(groups: Groups) -> tuple[Array, Array, Array]:
    """For each group, and for none behind them: its first slot, the step to its next, how many."""
    starts, strides, widths = [], [], []
    for slots, width, count in groups.spans():
        starts.append(jnp.arange(slots.start, slots.start + count, dtype=jnp.int32))
        strides.append(jnp.full(count, count, jnp.int32))
        widths.append(jnp.full(count, width, jnp.int32))
    nothing = jnp.zeros(1, jnp.int32)
    place = jnp.append(groups.place, groups.rows)
    first, step, count = (
        _at(jnp.concatenate([*column, nothing]), place) for column in (starts, strides, widths)
    )
    return first, step, count


def differs(new: Array, old: Array) -> Array:
    """Where a value changed; a NaN that stays one has not."""
    return (new != old) & ((new == new) | (old == old))


def _at(array: Array, index: Array) -> Array:
    return array.at[index].get(mode="promise_in_bounds")
