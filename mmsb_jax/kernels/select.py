"""The words that a scan found, counted and taken out. XLA does it well: there is no kernel."""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32, UInt32

from mmsb_jax.kernels.xla import LINE_WORDS, Counts, Lines, Words


def rank(bits: Words) -> tuple[Counts, Counts]:
    """How many words differ up to and with each line, and how many in it.

    Args:
        bits: ``uint32[n]``: a bit for each word of each line, of `scan`; fewer than 2³¹ in all.
    """
    each = lax.population_count(bits).astype(jnp.int32)
    return jnp.cumsum(each), each


def select(
    bits: Words, ends: Counts, each: Counts, start: Int32[Array, ""], size: int
) -> tuple[Counts, Counts]:
    """Line and column of ``size`` words that differ, from the ``start``-th on, ascending.

    Behind the last one they are those of some word.

    Args:
        bits: as of `rank`.
        ends, each: what `rank` gave.
        start: which of the words is the first.
        size: how many; static.
    """
    number = start + jnp.arange(size, dtype=jnp.int32)
    line = jnp.minimum(first_above(ends, number), bits.shape[0] - 1)
    column = _place_of_bit(bits[line], number - (ends[line] - each[line]))
    return line, jnp.minimum(column, LINE_WORDS - 1)


def take(lines: Lines, line: Counts, column: Counts) -> UInt32[Array, " n"]:
    """The words of ``lines`` at these places."""
    return lines.at[line, column].get(mode="clip")


def first_above(ends: Counts, number: Counts) -> Counts:
    """For each number the first place of ``ends``, ascending, that is above it."""
    # On a GPU "scan" is a loop of launches; on a CPU "scan_unrolled" takes minutes to compile.
    find = functools.partial(jnp.searchsorted, side="right")
    return lax.platform_dependent(
        ends,
        number,
        cuda=functools.partial(find, method="scan_unrolled"),
        default=functools.partial(find, method="scan"),
    ).astype(jnp.int32)


def _place_of_bit(word: Words, number: Counts) -> Counts:
    """Where the ``number``-th bit that is set stands: halves, by their population count."""
    place = jnp.zeros_like(number)
    for half in (16, 8, 4, 2, 1):
        low = (word >> place.astype(jnp.uint32)) & jnp.uint32((1 << half) - 1)
        below = lax.population_count(low).astype(jnp.int32)
        is_above = number >= below
        number = jnp.where(is_above, number - below, number)
        place = jnp.where(is_above, place + half, place)
    return place
