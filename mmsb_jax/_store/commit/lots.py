"""Lots: small arrays that a commit changes, taken together, what is known of them in columns.

A call of NumPy costs more than a small array does, and so does an object for each. So their words
are laid end to end, about as many as the cache holds, and compared, counted, digested and encoded
as one.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsb_jax._store.commit.changed import (
    ChangedWords,
    differing_bytes,
    differing_halves,
    elements_of,
    join_picked,
    sum_each,
    words_after,
)
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.choose import prefers_sparse
from mmsb_jax._store.encoding.digest import Lanes, digest_each, gained_each
from mmsb_jax._store.encoding.group import LOT_WORDS, group_chunks
from mmsb_jax._store.encoding.sparse import sparse_chunks
from mmsb_jax._store.format.chunk import Chunks, Coding
from mmsb_jax._store.format.record import FULL, RECORD, ArrayInfo

_KEPT_LOTS = 64
"""So many lots of a commit are kept as they were laid end to end: 32 MB."""


class Compared(NamedTuple):
    """An array of the head beside what it becomes.

    Attributes:
        info: the array.
        old: its words before (uint32[n]); they belong to the head.
        new: its words after; None where only a patch of it is known.
    """

    info: ArrayInfo
    old: np.ndarray
    new: np.ndarray | None


@dataclass(slots=True, eq=False)
class SparseLot:
    """Small arrays of one unit of which few elements change.

    Attributes:
        arrays: which.
        unit: bytes of an element.
        counts: changed words of each (int64[k]).
        picked: these words, those of one array behind those of another.
        items, changed_bytes: elements, and bytes, that differ in each (int64[k]).
        lanes: the digest after it (uint32[2, k]); known once it is recorded.
        chunks: their chunks, one each, together; known then too.
    """

    arrays: list[Compared]
    unit: int
    counts: np.ndarray
    picked: ChangedWords
    items: np.ndarray = field(init=False)
    changed_bytes: np.ndarray = field(init=False)
    lanes: np.ndarray = field(init=False)
    chunks: Sequence[Chunks] = field(init=False)

    def __post_init__(self) -> None:
        starts, mixed = np.cumsum(self.counts) - self.counts, self.picked.mixed
        self.changed_bytes = sum_each(differing_bytes(mixed), starts)
        self.items = self.counts
        if self.unit == 1:
            self.items = self.changed_bytes
        elif self.unit == 2:
            self.items = sum_each(differing_halves(mixed), starts)

    @property
    def infos(self) -> list[ArrayInfo]:
        """Which arrays."""
        return [array.info for array in self.arrays]

    def each(self) -> Iterator[tuple[Compared, ChangedWords]]:
        """The arrays with their changed words."""
        stop = 0
        for array, count in zip(self.arrays, self.counts.tolist(), strict=True):
            start, stop = stop, stop + count
            yield array, self.picked.part(slice(start, stop))

    def split(self, is_in: np.ndarray) -> tuple["SparseLot | None", list[Compared]]:
        """The lot of the arrays for which ``is_in`` (bool[k]), and the others as they become."""
        if is_in.all():
            return self, []
        others = [
            array if array.new is not None else array._replace(new=words_after(array.old, picked))
            for (array, picked), stays in zip(self.each(), is_in.tolist(), strict=True)
            if not stays
        ]
        if len(others) == len(self.arrays):
            return None, others
        arrays = [a for a, stays in zip(self.arrays, is_in.tolist(), strict=True) if stays]
        picked = self.picked.part(np.repeat(is_in, self.counts))
        return SparseLot(arrays, self.unit, self.counts[is_in], picked), others

    def record(self, before: Sequence[Lanes]) -> None:
        """Make chunks and digests, where these were ``before``."""
        words, values, mixed = self.picked
        elements = elements_of(self.picked, self.unit)
        self.chunks = (sparse_chunks(*elements, self.unit, self.items.tolist()),)
        self.lanes = np.array(before, np.uint32).T
        self.lanes = self.lanes + gained_each(values ^ mixed, values, words, self.counts.tolist())

    def rows(self, bases: Mapping[int, int]) -> np.ndarray:
        """Their records (RECORD[k])."""
        return _rows(self.infos, bases, self.lanes, self.changed_bytes, 0)

    def put(self, page_versions: Mapping[int, np.ndarray], page_words: int, version: int) -> None:
        """Make the words of the head those after the change."""
        (words, values, _), stop = self.picked, 0
        for (info, old, _), count in zip(self.arrays, self.counts.tolist(), strict=True):
            start, stop = stop, stop + count
            places = words[start:stop]
            old[places] = values[start:stop]
            versions = page_versions[info.id]
            if versions.size == 1:
                versions[0] = version
            else:
                versions[places // page_words] = version


@dataclass(slots=True, eq=False)
class DenseLot:
    """Small arrays of one unit that are written whole.

    Attributes:
        arrays: which.
        unit: bytes of an element.
        joined: their words after, end to end, and what differs in them (uint32[n]); None where
            these are still to be laid so.
        is_alone: whether nothing is before their records to build on.
        lanes, chunks, changed_bytes: as of a `SparseLot`.
        is_full: whether the records need nothing that was before.
    """

    arrays: list[Compared]
    unit: int
    joined: tuple[np.ndarray, np.ndarray] | None = None
    is_alone: bool = False
    lanes: np.ndarray = field(init=False)
    chunks: Sequence[Chunks] = field(init=False)
    changed_bytes: np.ndarray = field(init=False)
    is_full: bool = field(init=False)
    _touched: np.ndarray = field(init=False)

    @property
    def infos(self) -> list[ArrayInfo]:
        """Which arrays."""
        return [array.info for array in self.arrays]

    def record(self, page_words: int) -> None:
        """Make chunks and digests."""
        sizes = np.array([array.old.size for array in self.arrays])
        starts = np.cumsum(sizes) - sizes
        new, mixed = self.joined or _joined(self.arrays)
        extents = np.array([array.info.nbytes for array in self.arrays])
        self.changed_bytes = sum_each(differing_bytes(mixed), starts)
        self.lanes = digest_each(new, sizes.tolist())
        chunks = group_chunks(new, None if self.is_alone else mixed, self.unit, extents)
        self.chunks, self.joined = (chunks,), None
        self.is_full = int(chunks.table["coding"][0]) != Coding.XOR_GROUP
        if sizes.max() <= page_words:
            self._touched = np.ones(sizes.size, bool)
            return
        pages = -(-sizes // page_words)
        rows = np.arange(pages.sum()) - np.repeat(np.cumsum(pages) - pages, pages)
        firsts = np.repeat(starts, pages) + page_words * rows
        self._touched = np.logical_or.reduceat(mixed != 0, firsts)

    def split(self, is_alone: Sequence[bool]) -> "list[DenseLot]":
        """Itself, or two: of the arrays whose records stand alone, and of those that do not."""
        self.is_alone = is_alone[0]
        if len(set(is_alone)) == 1:
            return [self]
        parts = [
            [a for a, stands in zip(self.arrays, is_alone, strict=True) if stands is alone]
            for alone in (False, True)
        ]
        return [DenseLot(part, self.unit, is_alone=k == 1) for k, part in enumerate(parts)]

    def rows(self, bases: Mapping[int, int]) -> np.ndarray:
        """Their records (RECORD[k])."""
        return _rows(self.infos, bases, self.lanes, self.changed_bytes, FULL * self.is_full)

    def put(self, page_versions: Mapping[int, np.ndarray], page_words: int, version: int) -> None:
        """Make the words of the head those after the change."""
        stop = 0
        for array in self.arrays:
            array.old[...] = _after(array)
            versions = page_versions[array.info.id]
            start, stop = stop, stop + versions.size
            versions[self._touched[start:stop]] = version


def _rows(
    infos: Sequence[ArrayInfo],
    bases: Mapping[int, int],
    lanes: np.ndarray,
    changed_bytes: np.ndarray,
    flags: int,
) -> np.ndarray:
    rows, ids = np.zeros(len(infos), RECORD), [info.id for info in infos]
    rows["id"], rows["base"] = ids, [bases.get(array_id, 0) for array_id in ids]
    rows["lane0"], rows["lane1"] = lanes
    rows["changed"], rows["chunks"], rows["flags"] = changed_bytes, 1, flags
    return rows


def _after(array: Compared) -> np.ndarray:
    assert array.new is not None
    return array.new


def _join(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors end to end."""
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def _joined(arrays: Sequence[Compared]) -> tuple[np.ndarray, np.ndarray]:
    """The words after of arrays, end to end, and what differs in them."""
    new, old = _join([_after(array) for array in arrays]), _join([array.old for array in arrays])
    return new, np.bitwise_xor(old, new, out=old if len(arrays) > 1 else None)


def _batches(arrays: Iterable[Compared]) -> Iterator[tuple[int, list[Compared]]]:
    """Arrays of one unit, of about `LOT_WORDS` words together; one of no bytes is left out."""
    units: dict[int, list[Compared]] = {}
    sizes: dict[int, int] = {}
    for array in arrays:
        unit, words = unit_of_dtype(array.info.dtype), array.old.size
        if not words:
            continue
        size = sizes.get(unit, 0) + words
        if size > LOT_WORDS and unit in units:
            yield unit, units.pop(unit)
            size = words
        units.setdefault(unit, []).append(array)
        sizes[unit] = size
    yield from units.items()


_Joined = tuple[list[Compared], tuple[np.ndarray, np.ndarray]]
"""Arrays that were laid end to end; their words after, and what differs in them."""


def compare_small(arrays: Iterable[Compared]) -> tuple[list[SparseLot], list[DenseLot]]:
    """What differs in small arrays: few elements, or many."""
    sparse, dense, kept = list[SparseLot](), list[Compared](), dict[int, _Joined]()
    for unit, batch in _batches(arrays):
        joined = _joined(batch)
        lot, many = _compare_batch(batch, unit, *joined)
        sparse += [] if lot is None else [lot]
        dense += many
        if len(many) == len(batch) and len(kept) < _KEPT_LOTS:
            kept[id(batch[0])] = batch, joined
    # What is a group does not depend on what was compared beside it.
    lots = dense_lots(dense)
    for lot in lots:
        batch, joined = kept.get(id(lot.arrays[0]), ([], None))
        is_same = len(batch) == len(lot.arrays) and all(map(operator.is_, batch, lot.arrays))
        lot.joined = joined if is_same else None
    return sparse, lots


def _compare_batch(
    batch: list[Compared], unit: int, new: np.ndarray, mixed: np.ndarray
) -> tuple[SparseLot | None, list[Compared]]:
    """The arrays of which few elements change, and those of which many do."""
    if not mixed.any():
        return None, []
    sizes = np.array([array.old.size for array in batch])
    starts = np.cumsum(sizes) - sizes
    counts = sum_each((mixed != 0).view(np.uint8), starts)
    extents = np.array([array.info.nbytes for array in batch])
    is_few = prefers_sparse(counts, unit, extents)
    is_dense = ~is_few
    is_few &= counts != 0
    lot = None
    if is_few.any():
        (words,) = mixed.nonzero()
        if is_dense.any():
            words = words[np.repeat(is_few, counts)]
        rows = is_few.nonzero()[0]
        counts = counts[rows]
        picked = ChangedWords(words, new[words], mixed[words])
        if len(batch) > 1:
            words -= np.repeat(starts[rows], counts)
        lot = SparseLot([batch[k] for k in rows.tolist()], unit, counts, picked)
        # Where an element is less than a word, more of them may have changed than words.
        is_in = prefers_sparse(lot.items, unit, extents[rows])
        lot, _ = lot.split(is_in)
        is_dense[rows[~is_in]] = True
    return lot, [batch[k] for k in is_dense.nonzero()[0].tolist()]


def lots_of_patches(
    patches: Iterable[tuple[Compared, ChangedWords]],
) -> tuple[list[SparseLot], list[DenseLot]]:
    """As `compare_small`, of small arrays whose changed words are known, at least one each."""
    known = {array.info.id: (array, picked) for array, picked in patches}
    sparse, dense = list[SparseLot](), list[Compared]()
    for unit, batch in _batches(array for array, _ in known.values()):
        parts = [known[array.info.id][1] for array in batch]
        counts = np.array([part.words.size for part in parts])
        lot = SparseLot(batch, unit, counts, join_picked(parts))
        extents = np.array([array.info.nbytes for array in batch])
        kept, others = lot.split(prefers_sparse(lot.items, unit, extents))
        sparse += [] if kept is None else [kept]
        dense += others
    return sparse, dense_lots(dense)


def dense_lots(arrays: Iterable[Compared]) -> list[DenseLot]:
    """Small arrays that are written whole, in lots."""
    return [DenseLot(batch, unit) for unit, batch in _batches(arrays)]
