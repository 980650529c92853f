"""Pieces: the parts of arrays that lie on one device each, and their words in the whole array."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.commit.draft import WordPatch
from mmsb_jax._store.state.state import word_count

_ALL = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of an array that one device holds, and that no other part holds too.

    Attributes:
        leaf: which of the leaves it is of.
        shape: its own.
        whole: that of the array.
        starts: where it begins in the array, along each dimension.
        nbytes: its bytes, as NumPy has them.
    """

    leaf: int
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    starts: tuple[int, ...]
    nbytes: int

    @property
    def words(self) -> int:
        """Words that it takes, the last filled with zeros."""
        return word_count(self.nbytes)

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return self.nbytes // math.prod(self.shape)

    def patch(self, words: np.ndarray, values: np.ndarray) -> WordPatch:
        """What some of its words (int64[n], ascending) become, as words of the array."""
        if self.shape == self.whole:
            return words, _mask_of(words, math.prod(self.whole) * self.item_bytes), values
        edges = [end * self.item_bytes for end in (self.starts[-1], self.shape[-1], self.whole[-1])]
        if all(edge % WORD_BYTES == 0 for edge in edges):  # no word of two rows, or of two pieces
            return self._in_array(words, WORD_BYTES), np.full(words.size, _ALL), values
        places = (words[:, None] * WORD_BYTES + np.arange(WORD_BYTES)).reshape(-1)
        is_in = places < self.nbytes
        return _words_of_bytes(self._in_array(places[is_in], 1), values.view(np.uint8)[is_in])

    def _in_array(self, places: np.ndarray, unit: int) -> np.ndarray:
        """Where units of so many bytes, of which a row is a whole number, stand in the array."""
        start, own, whole = (
            (*sizes[:-1], sizes[-1] * self.item_bytes // unit)
            for sizes in (self.starts, self.shape, self.whole)
        )
        row, column = np.divmod(places, own[-1])
        index = np.unravel_index(row, own[:-1]) if own[:-1] else ()
        moved = tuple(i + first for i, first in zip(index, start[:-1], strict=True))
        rows = np.ravel_multi_index(moved, whole[:-1]) if moved else 0
        return rows * whole[-1] + column + start[-1]


def pieces_of(leaf: int, array: jax.Array) -> Iterator[tuple[Any, Piece, jax.Array]]:
    """The pieces of an array, each with its device and as an array of that alone."""
    item_bytes = _item_bytes(array)
    for shard in array.addressable_shards:
        if shard.replica_id == 0 and shard.data.size:
            # The index of a key has the dimensions of its data too.
            starts = tuple(part.start or 0 for part in shard.index[: array.ndim])
            nbytes = shard.data.size * item_bytes
            piece = Piece(leaf, shard.data.shape, array.shape, starts, nbytes)
            yield shard.device, piece, shard.data


def _item_bytes(array: jax.Array) -> int:
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        data: Any = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), array.dtype))
        return data.size * data.dtype.itemsize
    return array.dtype.itemsize


def together(pieces: Sequence[Piece], raws: Sequence[np.ndarray]) -> np.ndarray:
    """The bytes of an array (uint8[nbytes]) from those of all its pieces."""
    first = pieces[0]
    if first.shape == first.whole:
        return raws[0]
    item_bytes = first.item_bytes
    whole = np.empty((*first.whole, item_bytes), np.uint8)
    for piece, raw in zip(pieces, raws, strict=True):
        part = tuple(
            slice(start, start + size)
            for start, size in zip(piece.starts, piece.shape, strict=True)
        )
        whole[part] = raw.reshape(*piece.shape, item_bytes)
    return whole.reshape(-1)


def merged(patches: Sequence[WordPatch]) -> WordPatch:
    """One patch of an array from those of its pieces; two may share a word, and no byte."""
    if len(patches) == 1:
        return patches[0]
    words, mask, data = (np.concatenate(part) for part in zip(*patches, strict=True))
    order = np.argsort(words, kind="stable")
    return _joined(words[order], mask[order], data[order])


def _joined(words: np.ndarray, mask: np.ndarray, data: np.ndarray) -> WordPatch:
    """The parts of one word, which stand side by side, as one."""
    firsts = np.flatnonzero(np.concatenate([[True], words[1:] != words[:-1]]))
    if firsts.size == words.size:
        return words, mask, data & mask
    masks, parts = np.bitwise_or.reduceat(mask, firsts), np.bitwise_or.reduceat(data & mask, firsts)
    return words[firsts], masks, parts


def _mask_of(words: np.ndarray, nbytes: int) -> np.ndarray:
    """The mask of whole words; of the last one of an array, as far as it goes."""
    mask = np.full(words.size, _ALL)
    if nbytes % WORD_BYTES:
        mask[words == nbytes // WORD_BYTES] = (1 << 8 * (nbytes % WORD_BYTES)) - 1
    return mask


def _words_of_bytes(places: np.ndarray, raw: np.ndarray) -> WordPatch:
    """Single bytes as words."""
    order = np.argsort(places, kind="stable")
    places, raw = places[order], raw[order]
    words, shift = places // WORD_BYTES, (places % WORD_BYTES * 8).astype(np.uint32)
    return _joined(words, np.uint32(0xFF) << shift, raw.astype(np.uint32) << shift)
