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
from mmsb_jax.kernels import LINE_WORDS, scan
from mmsb_jax.kernels.select import rank, select, take

Sizes = tuple[int, ...]
"""Lines of each of several pieces, which stand end to end."""


def lines_of(nbytes: int) -> int:
    """Lines that so many bytes take."""
    return -(-nbytes // (4 * LINE_WORDS))


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


@functools.partial(jax.jit, static_argnames="sizes")
def rank_wanted(bits: Array, wanted: Array, sizes: Sizes) -> tuple[Array, Array, Array]:
    """The bits of the pieces that are ``wanted`` (bool[k]), and what `rank` says of them."""
    lines = jnp.repeat(wanted, jnp.array(sizes), total_repeat_length=sum(sizes))
    bits = jnp.where(lines, bits, jnp.uint32(0))
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
