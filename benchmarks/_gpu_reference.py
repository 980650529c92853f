"""What the kernels of `benchmarks._gpu_kernels` compute, in plain JAX, and as NumPy says it.

State is ``uint32[lines, 32]``: lines of 128 bytes, in tiles of 64. A *shadow* is the state as it
was at the last commit.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int32, UInt32

LINE_WORDS = 32
TILE_LINES = 64
GOLDEN, SALT = 0x9E3779B9, 0x5BD1E995

Lines = UInt32[Array, "n 32"]
Words = UInt32[Array, " n"]
Counts = Int32[Array, " n"]


def mix(word: Array) -> Array:
    """A bijection of words in which every bit depends on every bit."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


# ------------------------------------------------------------------------------- scan: what changed


def changed_bits(shadow: Lines, new: Lines) -> tuple[Words, Counts]:
    """(a bit for each word of a line that differs, differing words of each tile)."""
    place = jnp.uint32(1) << jnp.arange(LINE_WORDS, dtype=jnp.uint32)
    bits = jnp.where(shadow != new, place, jnp.uint32(0)).sum(1, dtype=jnp.uint32)
    counts = lax.population_count(bits).astype(jnp.int32).reshape(-1, TILE_LINES)
    return bits, counts.sum(1, dtype=jnp.int32)


def update(shadow: Lines, new: Lines) -> Lines:
    """The shadow after the commit; a program of its own, which writes into a donated shadow."""
    return lax.dynamic_update_slice(shadow, new, (0, 0))


def scan(shadow: Lines, new: Lines) -> tuple[Lines, Words, Counts]:
    """`changed_bits` and `update` in one program.

    The barrier stands between all reads of the donated shadow and the write: without it XLA copies
    the shadow first.
    """
    shadow, bits, counts = lax.optimization_barrier((shadow, *changed_bits(shadow, new)))
    return update(shadow, new), bits, counts


def numpy_scan(shadow: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`scan`, as NumPy says it."""
    differs = shadow != new
    bits = np.packbits(differs, axis=1, bitorder="little").view(np.uint32)[:, 0]
    return new, bits, differs.reshape(-1, TILE_LINES * LINE_WORDS).sum(1, dtype=np.int32)


# --------------------------------------------------------------------- digest: which lines changed


def digest(lines: Lines) -> tuple[Words, Words]:
    """Two lanes a line; equal lines have equal lanes."""
    key = mix(jnp.arange(LINE_WORDS, dtype=jnp.uint32) + jnp.uint32(GOLDEN))
    first = mix(lines ^ key).sum(1, dtype=jnp.uint32)
    return first, mix((lines + key) ^ jnp.uint32(SALT)).sum(1, dtype=jnp.uint32)


def digest_one_mix(lines: Lines) -> tuple[Words, Words]:
    """Two lanes from one mix of each word: its sum, and its sum with odd factors by place.

    One word that changes always shows: the mix is a bijection, and so is an odd factor.
    """
    column = jnp.arange(LINE_WORDS, dtype=jnp.uint32)
    mixed = mix(lines ^ mix(column + jnp.uint32(GOLDEN)))
    odd = mix(column) | jnp.uint32(1)
    return mixed.sum(1, dtype=jnp.uint32), (mixed * odd).sum(1, dtype=jnp.uint32)


def digest_update(new: Lines, first: Words, second: Words) -> tuple[Words, Words, Counts, Counts]:
    """(lanes of ``new``, 1 for each line that has others than before, such lines of each tile)."""
    now = digest(new)
    flags = ((now[0] != first) | (now[1] != second)).astype(jnp.int32)
    return *now, flags, flags.reshape(-1, TILE_LINES).sum(1, dtype=jnp.int32)


# -------------------------------------------------------------- compaction: the changed lines alone


def compact(flags: Counts, lines: Lines, counts: Counts, capacity: int) -> tuple[Counts, Lines]:
    """(places of the flagged lines, ascending; the lines), the first ``capacity`` of them.

    The flags of each tile are of no use here.
    """
    del counts
    place = jnp.nonzero(flags, size=capacity, fill_value=lines.shape[0])[0].astype(jnp.int32)
    return place, lines.at[place].get(mode="fill", fill_value=0)


# --------------------------------------------------------------- selection: the changed words alone


def rank(bits: Words) -> tuple[Counts, Counts]:
    """(changed words up to and with each line, changed words of each line)."""
    each = lax.population_count(bits).astype(jnp.int32)
    return jnp.cumsum(each), each


def select(
    shadow: Lines, bits: Words, ends: Counts, each: Counts, start: ArrayLike, size: int
) -> tuple[Words, Words]:
    """(places, values) of ``size`` changed words from the ``start``-th on, in order.

    Behind the last one they are those of some other word.
    """
    number = jnp.asarray(start, jnp.int32) + jnp.arange(size, dtype=jnp.int32)
    line = jnp.minimum(_first_above(ends, number), bits.shape[0] - 1)
    column = _place_of_bit(bits[line], number - (ends[line] - each[line]))
    column = jnp.minimum(column, LINE_WORDS - 1)
    place = line.astype(jnp.uint32) * LINE_WORDS + column.astype(jnp.uint32)
    return place, shadow.at[line, column].get(mode="clip")


def _first_above(ends: Counts, number: Counts) -> Counts:
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


# ---------------------------------------------------------- fold: entries of a log into their lines


def fold(pool: Lines, rows: Counts, starts: Counts, data: Lines, mask: Lines) -> Lines:
    """The pool after entries that are sorted by line: the last writer of each byte stays.

    Args:
        pool: the lines.
        rows: the lines that are written, ascending, each once.
        starts: where the entries of each begin, and where the last one's end; one longer.
        data: the bytes of the entries, in order.
        mask: ``0xFF`` at each byte that an entry writes.
    """

    def merge(i: Array, lines: Lines) -> Lines:
        entry = starts[:-1] + i
        is_one = (entry < starts[1:])[:, None]
        entry = jnp.minimum(entry, data.shape[0] - 1)
        written = jnp.where(is_one, mask[entry], jnp.uint32(0))
        return (lines & ~written) | (data[entry] & written)

    longest = (starts[1:] - starts[:-1]).max()
    lines = lax.fori_loop(0, longest, merge, pool.at[rows].get(mode="fill", fill_value=0))
    return pool.at[rows].set(lines, mode="drop", unique_indices=True, indices_are_sorted=True)


def numpy_fold(
    pool: np.ndarray, rows: np.ndarray, starts: np.ndarray, data: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """`fold`, entry by entry."""
    pool = pool.copy()
    for row, start, stop in zip(rows, starts[:-1], starts[1:], strict=True):
        for entry in range(start, stop):
            pool[row] = (pool[row] & ~mask[entry]) | (data[entry] & mask[entry])
    return pool
