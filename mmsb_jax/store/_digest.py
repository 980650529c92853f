"""The digest of an array, in NumPy: two sums of a strong mix over its words.

The mix is lowbias32 (C. Wellons, "Prospecting for hash functions", 2018). Word ``w`` at index ``i``
of its array adds ``mix(w ^ k)`` to the first lane and ``mix((w + k) ^ SALT)`` to the second, with
``k = mix(i + GOLDEN)``, all modulo 2³²; a zero word adds nothing. Being sums, the lanes can be
kept up from changed words alone, and they survive a move of the array in the pool. A digest
finds drift and damage. It is not a signature: who wants a collision can make one.
"""

from concurrent.futures import Executor

import numpy as np
import xxhash

from mmsb_jax import _mix

GOLDEN, SALT = np.uint32(_mix.GOLDEN), np.uint32(_mix.SALT)
_FIRST, _SECOND = np.uint32(_mix.FIRST), np.uint32(_mix.SECOND)
_TILE_WORDS = 1 << 15  # 128 KiB a temporary: the whole mix stays in the second-level cache
_PART_WORDS = 1 << 20
_FEW_WORDS = 8
_WORD = 0xFFFFFFFF

Lanes = tuple[int, int]
"""Two sums modulo 2³²."""

ZERO: Lanes = (0, 0)
"""Digest of an array of zeros, of any size."""


def mix(words: np.ndarray, scratch: np.ndarray) -> None:
    """lowbias32 of ``words`` in place; ``scratch`` has the same shape."""
    for shift, factor in ((16, _FIRST), (15, _SECOND)):
        np.right_shift(words, shift, out=scratch)
        np.bitwise_xor(words, scratch, out=words)
        np.multiply(words, factor, out=words)
    np.right_shift(words, 16, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


def _lanes_of_tile(words: np.ndarray, index: np.ndarray) -> Lanes:
    """Lanes of one tile; ``index`` (uint32) is overwritten."""
    scratch = np.empty_like(index)
    _to_keys(index, scratch)
    return _lanes_with(words, index, scratch)


def _to_keys(index: np.ndarray, scratch: np.ndarray) -> None:
    """Make indices the keys that their words are mixed with, in place."""
    np.add(index, GOLDEN, out=index)
    mix(index, scratch)


def _lanes_with(words: np.ndarray, keys: np.ndarray, scratch: np.ndarray) -> Lanes:
    live = words != 0
    has_zeros = not live.all()
    mixed = np.bitwise_xor(words, keys)
    mix(mixed, scratch)
    if has_zeros:
        np.multiply(mixed, live, out=mixed)
    first = int(np.add.reduce(mixed, dtype=np.uint32))  # wraps, as it should
    np.add(words, keys, out=mixed)
    np.bitwise_xor(mixed, SALT, out=mixed)
    mix(mixed, scratch)
    if has_zeros:
        np.multiply(mixed, live, out=mixed)
    return first, int(np.add.reduce(mixed, dtype=np.uint32))


def _lanes_of_part(words: np.ndarray, start: int) -> Lanes:
    total = ZERO
    for tile in range(0, words.size, _TILE_WORDS):
        piece = words[tile : tile + _TILE_WORDS]
        first = start + tile
        index = np.arange(first, first + piece.size, dtype=np.uint64).astype(np.uint32)
        total = add(total, _lanes_of_tile(piece, index))
    return total


def digest_words(words: np.ndarray, start: int = 0, executor: Executor | None = None) -> Lanes:
    """Lanes of ``words`` (uint32[n]) that stand at indices ``start …`` of their array.

    Cost: about 1 ns a word and core; an ``executor`` shares parts of 4 MiB among its threads.
    """
    if executor is None or words.size <= _PART_WORDS:
        return _lanes_of_part(words, start)
    parts = range(0, words.size, _PART_WORDS)
    total = ZERO
    for lanes in executor.map(
        lambda part: _lanes_of_part(words[part : part + _PART_WORDS], start + part), parts
    ):
        total = add(total, lanes)
    return total


def digest_gained(old: np.ndarray, new: np.ndarray, index: np.ndarray) -> Lanes:
    """What the lanes gain where the words at ``index`` (int64[n]) go from ``old`` to ``new``."""
    if index.size > _FEW_WORDS:
        total = ZERO
        for tile in range(0, index.size, _TILE_WORDS):
            piece = slice(tile, tile + _TILE_WORDS)
            keys = index[piece].astype(np.uint32)
            scratch = np.empty_like(keys)
            _to_keys(keys, scratch)
            come = _lanes_with(new[piece], keys, scratch)
            total = add(total, subtract(come, _lanes_with(old[piece], keys, scratch)))
        return total
    first = second = 0
    for before, after, place in zip(old.tolist(), new.tolist(), index.tolist(), strict=True):
        key = _mix_one((place + _mix.GOLDEN) & _WORD)
        for word, sign in ((after, 1), (before, -1)):
            if word:
                first += sign * _mix_one(word ^ key)
                second += sign * _mix_one(((word + key) & _WORD) ^ _mix.SALT)
    return first & _WORD, second & _WORD


def _mix_one(word: int) -> int:
    """`mix` of one word: NumPy's calls cost more than a few words do."""
    word = ((word ^ (word >> 16)) * _mix.FIRST) & _WORD
    word = ((word ^ (word >> 15)) * _mix.SECOND) & _WORD
    return word ^ (word >> 16)


def add(left: Lanes, right: Lanes) -> Lanes:
    """Sum of two digests."""
    return (left[0] + right[0]) & 0xFFFFFFFF, (left[1] + right[1]) & 0xFFFFFFFF


def subtract(left: Lanes, right: Lanes) -> Lanes:
    """Difference of two digests."""
    return (left[0] - right[0]) & 0xFFFFFFFF, (left[1] - right[1]) & 0xFFFFFFFF


_STATE_MASK = (1 << 128) - 1


def state_term(array_id: int, schema: bytes, lanes: Lanes) -> int:
    """What one array adds to the digest of a state: xxh3-128 of its id, schema and lanes."""
    key = b"%d %d %d " % (array_id, lanes[0], lanes[1])
    return xxhash.xxh3_128_intdigest(key + schema)


def constant_term(name: str, value: str) -> int:
    """What one constant (a leaf kept by value) adds to the digest of a state."""
    return xxhash.xxh3_128_intdigest(b"constant " + name.encode() + b"\0" + value.encode())


def state_sum(total: int, added: int, removed: int = 0) -> int:
    """Digest of a state with one term put in and one taken out, modulo 2¹²⁸.

    A sum, so that a commit costs what changed and not the number of arrays.
    """
    return (total + added - removed) & _STATE_MASK
