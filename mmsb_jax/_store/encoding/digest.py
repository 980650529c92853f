"""The digest of an array, in NumPy: two sums of a strong mix over its words.

The mix is lowbias32 (C. Wellons, "Prospecting for hash functions", 2018). Word ``w`` at index ``i``
of its array adds ``mix(w ^ k)`` to the first lane and ``mix((w + k) ^ SALT)`` to the second, with
``k = mix(i + GOLDEN)``, all modulo 2³²; a zero word adds nothing. Being sums, the lanes can be
kept up from changed words alone, and they survive a move of the array in the pool. A digest
finds drift and damage. It is not a signature: who wants a collision can make one.
"""

import functools
import itertools
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
import xxhash

from mmsb_jax._base import digest_mix

GOLDEN, SALT = np.uint32(digest_mix.GOLDEN), np.uint32(digest_mix.SALT)
_FIRST, _SECOND = np.uint32(digest_mix.FIRST), np.uint32(digest_mix.SECOND)
_TILE_WORDS = 1 << 15
"""Words mixed at a time, and at most those of arrays that are digested together: what is made of
them on the way stays in the second-level cache."""
_PART_WORDS = 1 << 20
_KEPT_WORDS = 1 << 22
"""Words of an array whose keys are kept: 16 MB, once there is an array so large."""
FEW_WORDS = 8
"""So many words are digested one by one."""
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


def _keys(index: np.ndarray) -> np.ndarray:
    """Make indices (uint32) the keys that their words are mixed with, in place."""
    np.add(index, GOLDEN, out=index)
    mix(index, np.empty_like(index))
    return index


@functools.lru_cache(maxsize=128)
def _keys_from(start: int) -> np.ndarray:
    """The keys of a tile that begins at ``start``; kept for 16 MB of the tiles of any array."""
    keys = _keys(np.arange(start, start + _TILE_WORDS, dtype=np.uint64).astype(np.uint32))
    keys.flags.writeable = False
    return keys


def _first_keys() -> np.ndarray:
    """The keys of the first words of any array."""
    return _keys_from(0)


def _keys_of_tile(start: int, size: int) -> np.ndarray:
    if start < _KEPT_WORDS and start % _TILE_WORDS == 0:
        return _keys_from(start)[:size]
    return _keys(np.arange(start, start + size, dtype=np.uint64).astype(np.uint32))


def _keys_of(index: np.ndarray) -> np.ndarray:
    """The keys of the words at ``index`` (int64[n], not empty)."""
    if index.max() < _TILE_WORDS:
        return _first_keys()[index]
    return _keys(index.astype(np.uint32))


def _lanes_of(
    words: np.ndarray, keys: np.ndarray, starts: Sequence[int], room: np.ndarray | None = None
) -> np.ndarray:
    """Lanes (uint32[2, parts]) of the parts of ``words`` that begin at ``starts``.

    ``room`` (uint32[2, 2, n or more]) is overwritten.
    """
    if room is None:
        room = np.empty((2, 2, words.size), np.uint32)
    mixed, scratch = room[:, :, : words.size]
    np.bitwise_xor(words, keys, out=mixed[0])
    second = np.add(words, keys, out=mixed[1])
    np.bitwise_xor(second, SALT, out=second)
    mix(mixed, scratch)
    live = words != 0
    if not live.all():
        np.multiply(mixed, live, out=mixed)
    return np.add.reduceat(mixed, starts, axis=1, dtype=np.uint32)  # wraps, as it should


def _lanes_of_span(words: np.ndarray, start: int) -> Lanes:
    total = ZERO
    room = np.empty((2, 2, min(words.size, _TILE_WORDS)), np.uint32)
    for tile in range(0, words.size, _TILE_WORDS):
        piece = words[tile : tile + _TILE_WORDS]
        keys = _keys_of_tile(start + tile, piece.size)
        (lanes,) = _pairs(_lanes_of(piece, keys, (0,), room))
        total = add(total, lanes)
    return total


def _pairs(lanes: np.ndarray) -> list[Lanes]:
    first, second = lanes.tolist()
    return list(zip(first, second, strict=True))


def digest_words(words: np.ndarray, start: int = 0, executor: Executor | None = None) -> Lanes:
    """Lanes of ``words`` (uint32[n]) that stand at indices ``start …`` of their array.

    Cost: about 1 ns a word and core; an ``executor`` shares parts of 4 MiB among its threads.
    """
    if executor is None or words.size <= _PART_WORDS:
        return _lanes_of_span(words, start)
    parts = range(0, words.size, _PART_WORDS)
    total = ZERO
    for lanes in executor.map(
        lambda part: _lanes_of_span(words[part : part + _PART_WORDS], start + part), parts
    ):
        total = add(total, lanes)
    return total


def digest_each(words: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Lanes (uint32[2, arrays]) of arrays of ``sizes`` words, none empty, that lie end to end.

    Cost: that of `digest_words`, and little for each array.
    """
    if len(sizes) == 1:
        return np.array(digest_words(words), np.uint32).reshape(2, 1)
    keys = np.concatenate([_keys_of_tile(0, size) for size in sizes])
    return _lanes_of(words, keys, starts_of(sizes))


def starts_of(sizes: Sequence[int]) -> list[int]:
    """Where each of several vectors begins that lie end to end."""
    return list(itertools.accumulate(sizes[:-1], initial=0))


def digest_gained(old: np.ndarray, new: np.ndarray, index: np.ndarray) -> Lanes:
    """What the lanes gain where the words at ``index`` (int64[n]) go from ``old`` to ``new``."""
    total = ZERO
    for tile in range(0, index.size, _TILE_WORDS // 2):
        piece = slice(tile, tile + _TILE_WORDS // 2)
        (gained,) = _pairs(gained_each(old[piece], new[piece], index[piece], index[piece].shape))
        total = add(total, gained)
    return total


def gained_each(
    old: np.ndarray, new: np.ndarray, index: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """`digest_gained` of several arrays, the words of one behind those of another.

    Args:
        old, new: the words before and after.
        index: where in its array each stands.
        sizes: how many there are of each array, at least one.

    Returns:
        What the lanes gain (uint32[2, arrays]), modulo 2³².
    """
    if index.size <= FEW_WORDS and len(sizes) == 1:
        gained = gained_by_few(old.tolist(), new.tolist(), index.tolist())
        return np.array(gained, np.uint32).reshape(2, 1)
    keys = _keys_of(index)
    words, keys = np.concatenate((new, old)), np.concatenate((keys, keys))
    lanes = _lanes_of(words, keys, starts_of([*sizes, *sizes]))
    count = len(sizes)
    return lanes[:, :count] - lanes[:, count:]


def gained_by_few(old: list[int], new: list[int], index: list[int]) -> Lanes:
    """`digest_gained` of a few words: NumPy's calls cost more than they do."""
    first = second = 0
    for before, after, place in zip(old, new, index, strict=True):
        key = _mix_one((place + digest_mix.GOLDEN) & _WORD)
        if after:
            first += _mix_one(after ^ key)
            second += _mix_one(((after + key) & _WORD) ^ digest_mix.SALT)
        if before:
            first -= _mix_one(before ^ key)
            second -= _mix_one(((before + key) & _WORD) ^ digest_mix.SALT)
    return first & _WORD, second & _WORD


def _mix_one(word: int) -> int:
    """`mix` of one word."""
    word = ((word ^ (word >> 16)) * digest_mix.FIRST) & _WORD
    word = ((word ^ (word >> 15)) * digest_mix.SECOND) & _WORD
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
