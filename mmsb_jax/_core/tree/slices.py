"""Slices: the blocks of an array's bytes that a slice of it lies in, and what it writes in each.

What is computed is in proportion to the slice, not to the array. Bytes are taken as units of 1, 2
or 4 of them, as the dtype allows; an element of more is several, along an axis of its own.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32, UInt, UInt32

_MOST_UNITS = 2**32 - 1


class SliceBlocks(NamedTuple):
    """Where a slice lies, in blocks of the array's bytes.

    Attributes:
        block: ``uint32[capacity]``: numbers of the blocks, ascending; 0 behind those in use.
        mask, data: ``uint32[capacity, block_words]``: as of a delta; zero behind those in use.
        in_use: ``int32[]``: how many blocks; 0 where the slice does not lie within the array.
        is_inside: ``bool[]``: whether it does.
    """

    block: UInt32[Array, " capacity"]
    mask: UInt32[Array, "capacity block_words"]
    data: UInt32[Array, "capacity block_words"]
    in_use: Int32[Array, ""]
    is_inside: Bool[Array, ""]


class SliceGrid(NamedTuple):
    """What is known of a slice before it is known where it begins.

    A *run* is what lies in one piece: the slice's part of the last axis that it does not take
    whole, with all axes behind.

    Attributes:
        shape, lengths: of the array and of the slice, in units.
        strides: units from one place of each axis to the next.
        run: units of a run.
        run_axes: axes along which there are runs, one behind the other.
        block_units: units of a block.
        run_blocks: blocks that a run lies in at most.
        capacity: blocks that the slice lies in at most.
    """

    shape: tuple[int, ...]
    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    run: int
    run_axes: int
    block_units: int
    run_blocks: int
    capacity: int

    @classmethod
    def of(cls, shape: tuple[int, ...], lengths: tuple[int, ...], block_units: int) -> "SliceGrid":
        """The grid of a slice of ``lengths`` of an array of ``shape``, neither of them empty."""
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        whole = len(shape)
        while whole and shape[whole - 1] == lengths[whole - 1]:
            whole -= 1
        run_axes = max(whole - 1, 0)
        step = strides[run_axes] if whole else 0  # runs begin at multiples of it
        run = lengths[run_axes] * strides[run_axes]
        ahead = block_units - math.gcd(step, block_units)  # units of a block in front of a run
        run_blocks = _ceil(ahead + run, block_units)
        axes = range(run_axes)
        span = run + sum((lengths[axis] - 1) * strides[axis] for axis in axes)
        runs = math.prod(lengths[axis] for axis in axes)
        capacity = min(
            runs * run_blocks,
            _ceil(ahead + span, block_units),
            _ceil(math.prod(shape), block_units),
        )
        return cls(shape, lengths, strides, run, run_axes, block_units, run_blocks, capacity)

    @property
    def is_countable(self) -> bool:
        """Whether all units of the array's blocks have a number of 32 bits."""
        blocks = _ceil(math.prod(self.shape), self.block_units)
        return blocks * self.block_units <= _MOST_UNITS


def slice_blocks(
    grid: SliceGrid, units: UInt[Array, "..."], start: tuple[Int32[Array, ""], ...]
) -> SliceBlocks:
    """The blocks that ``units`` of a slice that begins at ``start`` lie in."""
    inside = jnp.bool_(True)
    for first, length, end in zip(start, grid.lengths, grid.shape, strict=True):
        inside &= (first >= 0) & (first <= end - length)
    first = [jnp.where(inside, place, 0).astype(jnp.uint32) for place in start]
    block, count = _blocks_of_runs(grid, first)
    places = block[:, None] * np.uint32(grid.block_units) + jnp.arange(
        grid.block_units, dtype=jnp.uint32
    )
    is_live = jnp.arange(grid.capacity, dtype=jnp.int32) < count
    written, found = is_live[:, None] & inside, jnp.zeros_like(places)
    rest = places
    for axis, stride in enumerate(grid.strides):
        place, rest = rest // np.uint32(stride), rest % np.uint32(stride)
        # A place before the slice wraps around, and is behind it.
        inner = place - first[axis]
        written &= inner < grid.lengths[axis]
        found = found * np.uint32(grid.lengths[axis]) + inner
    taken = units.reshape(-1).at[found].get(mode="clip")
    ones, none = units.dtype.type(np.iinfo(units.dtype).max), units.dtype.type(0)
    mask = _as_words(jnp.where(written, ones, none))
    data = _as_words(jnp.where(written, taken, none))
    count = jnp.where(inside, count, 0)
    return SliceBlocks(jnp.where(is_live & inside, block, 0), mask, data, count, inside)


def _blocks_of_runs(
    grid: SliceGrid, start: list[UInt32[Array, ""]]
) -> tuple[UInt32[Array, " capacity"], Int32[Array, ""]]:
    """The blocks of all runs, each once and ascending, and how many these are."""
    first = jnp.zeros(1, jnp.uint32)
    for place, stride in zip(start, grid.strides, strict=True):
        first = first + place * np.uint32(stride)
    for axis in range(grid.run_axes):
        steps = jnp.arange(grid.lengths[axis], dtype=jnp.uint32) * np.uint32(grid.strides[axis])
        first = (first[:, None] + steps).reshape(-1)
    size = np.uint32(grid.block_units)
    begin, end = first // size, (first + np.uint32(grid.run - 1)) // size
    block = begin[:, None] + jnp.arange(grid.run_blocks, dtype=jnp.uint32)
    is_new = block <= end[:, None]
    # A run begins in the block in which the one before it ends, or behind it.
    is_new = is_new.at[1:, 0].set(begin[1:] != end[:-1])
    is_new, block = is_new.reshape(-1), block.reshape(-1)
    slot = jnp.where(is_new, jnp.cumsum(is_new, dtype=jnp.int32) - 1, grid.capacity)
    found = jnp.zeros(grid.capacity, jnp.uint32).at[slot].set(block, mode="drop")
    return found, is_new.sum(dtype=jnp.int32)


def _as_words(units: UInt[Array, "blocks units"]) -> UInt32[Array, "blocks words"]:
    each = 4 // units.dtype.itemsize
    if each == 1:
        return units
    return lax.bitcast_convert_type(units.reshape(units.shape[0], -1, each), jnp.uint32)


def _ceil(count: int, each: int) -> int:
    return -(-count // each)
