"""Changed words: which, what they become, and how many elements and bytes differ in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmsb_jax._base.words import WORD_BYTES

_UNSIGNED = {size: np.dtype(f"<u{size}") for size in (1, 2, 4)}
_LOW_BITS, _ONES = np.uint32(0x7F7F7F7F), np.uint32(0x01010101)


class ChangedWords(NamedTuple):
    """Changed words, ascending.

    Attributes:
        words: which (int64[m]).
        values: what they are after (uint32[m]).
        mixed: what differs in them (uint32[m]).
    """

    words: np.ndarray
    values: np.ndarray
    mixed: np.ndarray

    def part(self, span: slice | np.ndarray) -> "ChangedWords":
        """Some of them."""
        return ChangedWords(self.words[span], self.values[span], self.mixed[span])


def words_after(old: np.ndarray, picked: ChangedWords) -> np.ndarray:
    """All words of an array (uint32[n]) after some have changed, in a copy."""
    words = old.copy()
    words[picked.words] = picked.values
    return words


def pick(old: np.ndarray, new: np.ndarray, words: np.ndarray) -> ChangedWords:
    """The changed words at ``words``."""
    values = new[words]
    mixed = old[words]
    mixed ^= values
    return ChangedWords(words, values, mixed)


def join_picked(parts: Sequence[ChangedWords]) -> ChangedWords:
    """Changed words end to end."""
    return (
        parts[0]
        if len(parts) == 1
        else ChangedWords(*map(np.concatenate, zip(*parts, strict=True)))
    )


def changed_of(old: np.ndarray, words: np.ndarray, values: np.ndarray) -> ChangedWords:
    """Those of ``words`` (ascending) that ``values`` change."""
    mixed = old[words] ^ values
    differ = mixed != 0
    return ChangedWords(words[differ], values[differ], mixed[differ])


def differing_bytes(mixed: np.ndarray) -> np.ndarray:
    """How many bytes of each word are not 0 (uint32[n])."""
    # The high bit of a byte is set where one of its others, or itself, is.
    flags = mixed & _LOW_BITS
    flags += _LOW_BITS
    flags |= mixed
    flags >>= np.uint32(7)
    flags &= _ONES
    flags *= _ONES
    flags >>= np.uint32(24)
    return flags


def differing_halves(mixed: np.ndarray) -> np.ndarray:
    """How many halves of each word are not 0 (uint32[n])."""
    high = mixed >> np.uint32(16) != 0
    return high.astype(np.uint32) + (mixed & np.uint32(0xFFFF) != 0)


def sum_each(counts: np.ndarray, starts: np.ndarray | Sequence[int]) -> np.ndarray:
    """The sums (int64[k]) of the parts of ``counts`` (unsigned[n]) that begin at ``starts``."""
    return np.add.reduceat(counts, starts, dtype=np.uint32).astype(np.int64)


def elements_of(picked: ChangedWords, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """The changed elements (int64[k]) of changed words, and their bytes after (uint8[k, unit])."""
    words, values, mixed = picked
    if unit == WORD_BYTES:
        return words, values.view(np.uint8).reshape(-1, unit)
    shift = (WORD_BYTES // unit).bit_length() - 1
    (places,) = (mixed.view(_UNSIGNED[unit]) != 0).nonzero()
    rows = places >> shift
    elements = ((words[rows] - rows) << shift) + places
    return elements, values.view(_UNSIGNED[unit])[places].view(np.uint8).reshape(-1, unit)
