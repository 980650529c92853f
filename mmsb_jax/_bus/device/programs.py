"""The programs of a shadow: they keep it, and find on the device what a commit changes.

They are made once a process. What is donated is written in place.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from mmsb_jax._core.tree.words import to_words
from mmsb_jax.kernels import LINE_WORDS, digest_lines, scan
from mmsb_jax.kernels.select import first_above, rank, select, take


def lines_of(nbytes: int) -> int:
    """Lines that so many bytes take."""
    return -(-nbytes // (4 * LINE_WORDS))


_words = jax.jit(to_words)


def without_wide_types(array: Array) -> Array:
    """An array of 64-bit elements as its words, since the programs know no such; another itself."""
    if array.dtype.name not in ("int64", "uint64", "float64", "complex128"):
        return array
    with jax.enable_x64(True):
        return _words(array)


def _lines(array: Array) -> Array:
    words = to_words(array)
    return jnp.pad(words, (0, -words.size % LINE_WORDS)).reshape(-1, LINE_WORDS)


@jax.jit
def seed(arrays: Sequence[Array]) -> Array:
    """The lines of arrays, end to end: a shadow."""
    return jnp.concatenate([_lines(array) for array in arrays])


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def find(
    shadow: Array, bits: Array, counts: Array, places: Array, arrays: Sequence[Array]
) -> tuple[Array, Array, Array]:
    """Compare arrays with a shadow, and bring it up to them.

    Args:
        shadow: as it was; donated, as are the next two.
        bits: a bit for each of its words; those of these arrays are set where they differ.
        counts: how many words of each of its pieces differ; those of these arrays are set.
        places: first line, and number, of the piece that each array is (int32[k, 2]).
        arrays: the arrays.
    """
    for place, array in zip(places, arrays, strict=True):
        shadow, found, each = scan(shadow, _lines(array), place[0])
        bits = lax.dynamic_update_slice_in_dim(bits, found, place[0], 0)
        counts = counts.at[place[1]].set(each.sum(dtype=jnp.int32))
    return shadow, bits, counts


@jax.jit
def rank_wanted(bits: Array, wanted: Array, firsts: Array) -> tuple[Array, Array, Array]:
    """The bits of the pieces that are ``wanted``, and what `rank` says of them.

    Args:
        bits: of all pieces.
        wanted: which of the pieces (bool[k]).
        firsts: where each begins, and where the last ends (int32[k + 1]). Not a constant: XLA would
            compute with it for seconds, to save microseconds.
    """
    steps = jnp.zeros(bits.shape[0] + 1, jnp.int32)
    steps = steps.at[firsts[:-1]].add(wanted.astype(jnp.int32))
    steps = steps.at[firsts[1:]].add(-wanted.astype(jnp.int32))
    bits = jnp.where(jnp.cumsum(steps)[:-1] > 0, bits, jnp.uint32(0))
    return bits, *rank(bits)


@functools.partial(jax.jit, static_argnames="size")
def take_words(
    shadow: Array, found: tuple[Array, Array, Array], start: Array, size: int
) -> tuple[Array, Array]:
    """``size`` of the changed words from the ``start``-th on: which of the shadow, and values.

    Args:
        shadow: after the commit.
        found: what `rank_wanted` gave.
        start: the first of the changed words.
        size: how many.
    """
    line, column = select(*found, start, size)
    return line.astype(jnp.uint32) * LINE_WORDS + column.astype(jnp.uint32), take(
        shadow, line, column
    )


@functools.partial(jax.jit, static_argnames="lines")
def cut(shadow: Array, first: Array, lines: int) -> Array:
    """Some lines of a shadow."""
    return lax.dynamic_slice_in_dim(shadow, first, lines)


Lanes = tuple[Array, Array]
"""The two lanes of each line of several pieces, which stand end to end."""


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def find_lines(
    lanes: Lanes,
    flags: Array,
    counts: Array,
    key: Array,
    places: Array,
    arrays: Sequence[Array],
) -> tuple[Lanes, Array, Array]:
    """Compare arrays with the digests of their lines, and bring these up to them.

    Args:
        lanes: as they were; donated, as are the next two.
        flags: 1 for each line that differs; those of these arrays are set.
        counts: how many lines of each piece differ; those of these arrays are set.
        key: of the digests.
        places: first line, and number, of the piece that each array is (int32[k, 2]).
        arrays: the arrays.
    """
    for place, array in zip(places, arrays, strict=True):
        lines = _lines(array)
        old = [lax.dynamic_slice_in_dim(lane, place[0], lines.shape[0]) for lane in lanes]
        first, second, differs, _ = digest_lines(lines, *old, key)
        lanes = (
            lax.dynamic_update_slice_in_dim(lanes[0], first, place[0], 0),
            lax.dynamic_update_slice_in_dim(lanes[1], second, place[0], 0),
        )
        flags = lax.dynamic_update_slice_in_dim(flags, differs.astype(flags.dtype), place[0], 0)
        counts = counts.at[place[1]].set(differs.sum(dtype=jnp.int32))
    return lanes, flags, counts


@functools.partial(jax.jit, static_argnames="size")
def take_lines(
    array: Array, flags: Array, first: Array, start: Array, size: int
) -> tuple[Array, Array]:
    """``size`` of the flagged lines of an array from the ``start``-th on: which, and their words.

    Args:
        array: the array.
        flags: of `find_lines`.
        first: the first line of the array among the flags.
        start: the first of the flagged lines.
        size: how many.
    """
    lines = _lines(array)
    own = lax.dynamic_slice_in_dim(flags, first, lines.shape[0])
    number = start + jnp.arange(size, dtype=jnp.int32)
    line = first_above(jnp.cumsum(own, dtype=jnp.int32), number)
    return line, lines.at[line].get(mode="clip")


@functools.partial(jax.jit, static_argnames="lines")
def cut_lines(array: Array, first: Array, lines: int) -> Array:
    """Some lines of an array."""
    return lax.dynamic_slice_in_dim(_lines(array), first, lines)
