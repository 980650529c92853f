"""What each operation must do, whatever its form, in NumPy: tests and benchmarks check these laws.

Each takes a form and operands, and raises AssertionError where a bit differs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mmsb_jax.kernels.xla import LINE_WORDS, TILE_LINES

Form = Callable[..., Any]


def scan_law(form: Form, shadow: np.ndarray, new: np.ndarray, first: int = 0) -> None:
    """The shadow becomes the new lines; a bit is set where a word differs; counts count the bits.

    Args:
        form: ``form(shadow, new, first)``, ``first`` an ``int32[1]``.
        shadow: ``uint32[n, 32]``.
        new: ``uint32[m, 32]``.
        first: the first of the lines that they are written to.
    """
    after, bits, counts = map(np.asarray, form(shadow, new, np.array([first], np.int32)))
    part = slice(first, first + len(new))
    expected = shadow.copy()
    expected[part] = new
    differs = shadow[part] != new
    np.testing.assert_array_equal(after, expected)
    packed = np.packbits(differs, axis=1, bitorder="little").view(np.uint32)[:, 0]
    np.testing.assert_array_equal(bits, packed)
    np.testing.assert_array_equal(counts, _by_tile(differs.sum(1)))


def _by_tile(each: np.ndarray) -> np.ndarray:
    return np.add.reduceat(each, np.arange(0, len(each), TILE_LINES))


def fold_law(
    form: Form,
    pool: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    data: np.ndarray,
    mask: np.ndarray,
) -> None:
    """To fold is to write entry after entry, and to say of each line which last changed a byte.

    Args:
        form: `mmsb_jax.kernels.fold`, in any form.
        pool, rows, starts, data, mask: its operands.
    """
    expected, newest = pool.copy(), np.full(len(rows), -1, np.int32)
    for place, (row, start, stop) in enumerate(zip(rows, starts[:-1], starts[1:], strict=True)):
        for entry in range(start, stop) if row < len(pool) else ():
            line = (expected[row] & ~mask[entry]) | (data[entry] & mask[entry])
            if (line != expected[row]).any():
                newest[place] = entry
            expected[row] = line
    after, last = form(pool, rows, starts, data, mask)
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(last, newest)


def fold_is_an_action(
    form: Form,
    pool: np.ndarray,
    rows: np.ndarray,
    entries: tuple[np.ndarray, np.ndarray, np.ndarray],
    cut: np.ndarray,
) -> None:
    """To fold ``a ++ b`` is to fold ``a``, then ``b``.

    Args:
        form: as for `fold_law`.
        pool, rows: as there.
        entries: ``starts``, ``data``, ``mask`` of all entries.
        cut: where the entries of each row are cut in two.
    """
    starts, data, mask = entries
    both, _ = form(pool, rows, starts, data, mask)
    spans = list(zip(starts[:-1], cut, starts[1:], strict=True))
    parts = [[(a, b) for a, b, _ in spans], [(b, c) for _, b, c in spans]]
    for part in parts:
        order = np.concatenate([np.arange(a, b) for a, b in part]).astype(int)
        ends = np.cumsum([0, *(b - a for a, b in part)]).astype(np.int32)
        if order.size:
            pool, _ = form(pool, rows, ends, data[order], mask[order])
    np.testing.assert_array_equal(pool, both)


def digest_law(form: Form, before: np.ndarray, after: np.ndarray, seed: np.ndarray) -> None:
    """Equal lines have equal lanes, others are flagged, and counts count the flags.

    Args:
        form: `mmsb_jax.kernels.digest_lines`, in any form.
        before, after: ``uint32[n, 32]``.
        seed: ``uint32[2]``.
    """
    none = np.zeros(len(before), np.uint32)
    first, second, *_ = map(np.asarray, form(before, none, none, seed))
    now, other, flags, counts = map(np.asarray, form(after, first, second, seed))
    differs = (before != after).any(1)
    np.testing.assert_array_equal(flags, differs)
    np.testing.assert_array_equal(counts, _by_tile(differs))
    np.testing.assert_array_equal(now[~differs], first[~differs])
    np.testing.assert_array_equal(other[~differs], second[~differs])


# ----------------------------------------------------------------------------------------- operands


def random_lines(
    rng: np.random.Generator, lines: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lines before and after: a ``share`` of their words differs."""
    before = rng.integers(0, 2**32, (lines, LINE_WORDS), np.uint32)
    is_hit = rng.random(before.shape) < share
    mixed = rng.integers(1, 2**32, before.shape, np.uint32)
    return before, np.where(is_hit, before ^ mixed, before)


def random_entries(
    rng: np.random.Generator, pool_lines: int, segments: int, entries: int, width: int = LINE_WORDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``rows``, ``starts``, ``data``, ``mask`` of entries of a pool, single bytes of them written.

    Segments may be empty; some entries write what is there, or nothing.
    """
    rows = np.sort(rng.choice(pool_lines, segments, replace=False)).astype(np.int32)
    cuts = np.sort(rng.integers(0, entries + 1, segments - 1))
    starts = np.concatenate([[0], cuts, [entries]]).astype(np.int32)
    data = rng.integers(0, 4, (entries, width), np.uint32) * np.uint32(0x01010101)
    written = rng.integers(0, 2, (entries, width, 4), np.uint8) * np.uint8(255)
    written[rng.random(entries) < 0.2] = 0
    return rows, starts, data, written.view(np.uint32)[..., 0]
