"""The operations in plain JAX: what the kernels must equal, and what runs where there are none."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32, UInt32

from mmsb_jax._base.digest_mix import FIRST, GOLDEN, SALT, SECOND
from mmsb_jax.kernels.varying import varying_as

LINE_WORDS = 32
"""Words of a line: 128 bytes, one coalesced access of a GPU warp."""
TILE_LINES = 64
"""Lines that are counted together."""

Lines = UInt32[Array, "n 32"]
Words = UInt32[Array, " n"]
Counts = Int32[Array, " n"]


def scan(shadow: Lines, new: Lines, first: Int32[Array, "1"]) -> tuple[Lines, Words, Counts]:
    """See `mmsb_jax.kernels.scan`."""
    before = lax.dynamic_slice_in_dim(shadow, first[0], new.shape[0])
    place = jnp.uint32(1) << jnp.arange(LINE_WORDS, dtype=jnp.uint32)
    bits = jnp.where(before != new, place, jnp.uint32(0)).sum(1, dtype=jnp.uint32)
    each = lax.population_count(bits).astype(jnp.int32)
    # Where it is written follows from what was read, so that XLA reads all of a donated shadow
    # before it writes, and copies none of it: a barrier does not do that on a CPU (JAX 0.10.2).
    place = first[0] + jnp.minimum(each.min(), 0)
    return lax.dynamic_update_slice_in_dim(shadow, new, place, 0), bits, sum_tiles(each)


def sum_tiles(each: Counts) -> Counts:
    """The sum of each tile of lines; the last tile may be shorter."""
    tiles = jnp.pad(each, (0, -each.size % TILE_LINES)).reshape(-1, TILE_LINES)
    return tiles.sum(1, dtype=jnp.int32)


def fold(
    pool: UInt32[Array, "n w"],
    rows: Int32[Array, " s"],
    starts: Int32[Array, " s+1"],
    data: UInt32[Array, "m w"],
    mask: UInt32[Array, "m w"],
) -> tuple[UInt32[Array, "n w"], Int32[Array, " s"]]:
    """See `mmsb_jax.kernels.fold`. Cost: a round for each entry of the line that has most."""

    def merge(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        lines, last = state
        entry = starts[:-1] + i
        is_one = entry < starts[1:]
        entry = jnp.minimum(entry, data.shape[0] - 1)
        written = jnp.where(is_one[:, None], mask[entry], jnp.uint32(0))
        after = (lines & ~written) | (data[entry] & written)
        return after, jnp.where(jnp.any(after != lines, axis=1), entry, last)

    lines = pool.at[rows].get(mode="fill", fill_value=0)
    longest = (starts[1:] - starts[:-1]).max()
    begin = varying_as((lines, jnp.full(rows.shape, -1, jnp.int32)), pool, rows, data, mask)
    lines, last = lax.fori_loop(0, longest, merge, begin)
    is_there = rows < pool.shape[0]
    pool = pool.at[rows].set(lines, mode="drop", unique_indices=True, indices_are_sorted=True)
    return pool, jnp.where(is_there, last, -1)


def digest_lines(
    lines: Lines, first: Words, second: Words, seed: UInt32[Array, "2"]
) -> tuple[Words, Words, Counts, Counts]:
    """See `mmsb_jax.kernels.digest_lines`."""
    column = jnp.arange(LINE_WORDS, dtype=jnp.uint32)
    now = lanes(lines, column, seed[0], seed[1])
    flags = ((now[0] != first) | (now[1] != second)).astype(jnp.int32)
    return *now, flags, sum_tiles(flags)


def lanes(lines: Array, column: Array, seed: Array, other_seed: Array) -> tuple[Array, Array]:
    """Two sums of a mix of each word with its column: the digest of each line.

    The mix is a bijection, so that a line of which one word changes never keeps a sum.
    """
    key = mix((column + jnp.uint32(GOLDEN)) ^ seed)
    one = jnp.sum(mix(lines ^ key), axis=1, dtype=jnp.uint32)
    other = jnp.sum(mix((lines + key) ^ (jnp.uint32(SALT) ^ other_seed)), axis=1, dtype=jnp.uint32)
    return one, other


def sums_of_rows(*parts: UInt32[Array, "*n w"]) -> tuple[UInt32[Array, "*n"], ...]:
    """The sum along the last axis of each of ``parts``.

    In one reduction: what they have in common is computed once, where XLA would for each anew.
    """
    zeros = (varying_as(jnp.uint32(0), *parts),) * len(parts)
    axis = parts[0].ndim - 1
    return tuple(lax.reduce(parts, zeros, _add_each, (axis,)))


def _add_each(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(map(jnp.add, left, right))


def mix(words: Array) -> Array:
    """A bijection of words in which every bit depends on every bit (lowbias32)."""
    words = (words ^ (words >> 16)) * jnp.uint32(FIRST)
    words = (words ^ (words >> 15)) * jnp.uint32(SECOND)
    return words ^ (words >> 16)
