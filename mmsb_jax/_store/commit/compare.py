"""Changes: what a commit does to each array, found by comparing words.

Everything here is a fixed rule of the bytes before and after, so that the same commits give the
same log. Nothing is altered until `put`, which runs when the log has the commit.

Large arrays are compared one by one, cut into tiles that fit the cache; small ones in lots.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.commit.changed import (
    ChangedWords,
    changed_of,
    elements_of,
    join_picked,
    pick,
    words_after,
)
from mmsb_jax._store.commit.lots import (
    Compared,
    DenseLot,
    SparseLot,
    compare_small,
    lots_of_patches,
)
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.choose import prefers_sparse
from mmsb_jax._store.encoding.dense import encode_dense
from mmsb_jax._store.encoding.digest import FEW_WORDS, Lanes, add, digest_gained, digest_words
from mmsb_jax._store.encoding.group import SMALL_BYTES
from mmsb_jax._store.encoding.sparse import count_few, encode_sparse
from mmsb_jax._store.format.chunk import Chunk, Chunks, Coding
from mmsb_jax._store.format.record import FULL, ArrayInfo, records_of

_TILE_WORDS = 1 << 17
"""Words compared at a time: both sides and the flags stay in the second-level cache."""
_JOB_WORDS = 1 << 20
"""Words a thread takes at a time."""


class ChangedTile(NamedTuple):
    """A tile with a change.

    Attributes:
        first, end: its words.
        changed: words changed.
        picked: which, where they are few.
    """

    first: int
    end: int
    changed: int
    picked: ChangedWords | None = None


@dataclass(slots=True, eq=False)
class ArrayChange:
    """What a commit does to one array.

    Attributes:
        info: the array.
        old: its words before (uint32[n]); they belong to the head.
        new: its words after; None where only a patch of it is known.
        is_alone: whether its record must stand alone, being no sparse one.
        differing: words that differ, once it is compared.
        spans: the tiles with a change; none is the whole array.
        picked: the changed words; None where the change is dense.
        items: changed elements, where the change is not dense.
        changed_bytes: bytes that differ; known once it is recorded, as are the following.
        before: the digest before it.
        lanes: the digest after it.
        pages: pages with a changed byte.
        chunks: those of its record.
        flags: of its record.
        unit: bytes of an element for the codec.
        nbytes: bytes of the array.
    """

    info: ArrayInfo
    old: np.ndarray
    new: np.ndarray | None
    is_alone: bool = False
    differing: int = 0
    spans: tuple[ChangedTile, ...] = ()
    picked: ChangedWords | None = None
    items: int = 0
    changed_bytes: int = 0
    before: Lanes = (0, 0)
    lanes: Lanes = (0, 0)
    pages: np.ndarray | None = None
    chunks: Sequence[Chunk | Chunks] = ()
    flags: int = 0
    unit: int = field(init=False)
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.unit = unit_of_dtype(self.info.dtype)
        self.nbytes = self.info.nbytes

    @property
    def infos(self) -> list[ArrayInfo]:
        """The array."""
        return [self.info]

    def is_sparse_with(self, items: int) -> bool:
        """Whether it is to be written element by element, ``items`` of them."""
        return prefers_sparse(items, self.unit, self.nbytes)

    def locate(self) -> None:
        """Find the changed elements, where they are few enough to be written one by one."""
        if self.is_sparse_with(self.differing):
            self.take(join_picked([self._changed_in(span) for span in self.spans]))

    def take(self, picked: ChangedWords) -> None:
        """Take up the changed words, if their elements are few enough."""
        items, changed_bytes = _counts(picked.mixed, self.unit)
        if self.is_sparse_with(items):
            self.picked, self.items, self.changed_bytes = picked, items, changed_bytes

    def _changed_in(self, span: ChangedTile) -> ChangedWords:
        """The changed words of a tile."""
        if span.picked is not None:
            return span.picked
        old, new = self.old[span.first : span.end], self.whole()[span.first : span.end]
        return _picked_in(old, new, old != new, span.first)

    def whole(self) -> np.ndarray:
        """All words after it, of an array that was compared."""
        assert self.new is not None
        return self.new

    def words_after(self) -> np.ndarray:
        """All words of the array after the change; not to be written to.

        Cost: nothing where the whole array is known; a copy of it for a patch.
        """
        if self.new is not None:
            return self.new
        assert self.picked is not None
        return words_after(self.old, self.picked)

    @property
    def is_sparse(self) -> bool:
        """Whether it is written element by element."""
        return self.picked is not None and not self.is_alone

    def encode(self, executor: Callable[[], Executor]) -> None:
        """Make the chunks and flags of its record; ``executor`` compresses side by side."""
        if self.is_sparse:
            assert self.picked is not None
            self.chunks = (encode_sparse(*elements_of(self.picked, self.unit), self.unit),)
            return
        raw = self.words_after().view(np.uint8)[: self.nbytes]
        before = None if self.is_alone else self.old.view(np.uint8)[: raw.size]
        chunks = self.chunks = encode_dense(raw, before, self.unit, executor)
        is_mixed = any(chunk.coding is Coding.XOR_GROUP for chunk in chunks)
        self.flags = 0 if is_mixed else FULL

    def finish(self, page_words: int) -> None:
        """Compute the digest after, from that before, the bytes changed and the pages changed.

        Done twice it is the same: it only sets.
        """
        if self.picked is not None:
            words, values, mixed = self.picked
            self.lanes = add(self.before, digest_gained(values ^ mixed, values, words))
            self.pages = distinct_pages(words, page_words)
            return
        new = self.whole()
        self.lanes = digest_words(new)
        flags, changed_bytes = np.zeros(-(-new.size // page_words), bool), 0
        for start, stop, *_ in self.spans or (ChangedTile(0, new.size, self.differing),):
            mixed = self.old[start:stop] ^ new[start:stop]
            pages = np.logical_or.reduceat(mixed != 0, np.arange(0, stop - start, page_words))
            flags[start // page_words :][: pages.size] = pages
            changed_bytes += int(np.count_nonzero(mixed.view(np.uint8)))
        self.changed_bytes = changed_bytes
        self.pages = np.flatnonzero(flags)

    def rows(self, bases: Mapping[int, int]) -> np.ndarray:
        """Its record (RECORD[1])."""
        count = sum(1 if isinstance(chunk, Chunk) else len(chunk.table) for chunk in self.chunks)
        base = bases.get(self.info.id, 0)
        row = (self.info.id, base, *self.lanes, self.changed_bytes, count, self.flags)
        return records_of([row])

    def put(self, page_versions: Mapping[int, np.ndarray], page_words: int, version: int) -> None:
        """Make the words of the head those after the change."""
        del page_words
        if self.picked is not None:
            self.old[self.picked.words] = self.picked.values
        else:
            self.old[...] = self.new
        page_versions[self.info.id][self.pages] = version


def distinct_pages(words: np.ndarray, page_words: int) -> np.ndarray:
    """The pages of ``words`` (ascending), each once."""
    if words[-1] < 1 << 32:
        words = words.astype(np.uint32)  # NumPy divides these ten times as fast
    pages = words // page_words
    first = np.empty(pages.size, bool)
    first[0] = True
    np.not_equal(pages[1:], pages[:-1], out=first[1:])
    return pages[first]


class ArrayAfter(NamedTuple):
    """What is known of one changed array: its words before, after (or None), and which changed."""

    old: np.ndarray
    new: np.ndarray | None
    picked: ChangedWords | None

    def words_after(self) -> np.ndarray:
        """All words of the array after the change; not to be written to."""
        if self.new is not None:
            return self.new
        assert self.picked is not None
        return words_after(self.old, self.picked)

    def changed_words(self) -> np.ndarray:
        """Which words changed, ascending."""
        if self.picked is not None:
            return self.picked.words
        return np.flatnonzero(self.old != self.new)


@dataclass(slots=True)
class Changes:
    """What a commit changes.

    Attributes:
        lots: small arrays of which few elements change.
        dense: small arrays of which many do.
        large: the others.
    """

    lots: list[SparseLot] = field(default_factory=list)
    dense: list[DenseLot] = field(default_factory=list)
    large: list[ArrayChange] = field(default_factory=list)

    def __iadd__(self, other: "Changes") -> "Changes":
        self.lots += other.lots
        self.dense += other.dense
        self.large += other.large
        return self

    def found(self) -> dict[str, ArrayAfter]:
        """What is known of each array, by its name."""
        sparse = {
            array.info.name: ArrayAfter(array.old, array.new, picked)
            for lot in self.lots
            for array, picked in lot.each()
        }
        many = (array for lot in self.dense for array in lot.arrays)
        dense = {array.info.name: ArrayAfter(array.old, array.new, None) for array in many}
        large = {c.info.name: ArrayAfter(c.old, c.new, c.picked) for c in self.large}
        return sparse | dense | large


def patch(change: ArrayChange, words: np.ndarray, values: np.ndarray) -> bool:
    """Make ``change`` that of ``words`` (ascending) to ``values``; whether a byte differs.

    Cost: what is patched, not the array; a patch of most of an array is taken as a whole array.
    """
    picked = changed_of(change.old, words, values)
    change.differing = picked.words.size
    if change.differing:
        change.take(picked)
        if change.picked is None:
            change.new = words_after(change.old, picked)
    return bool(change.differing)


class Patched(NamedTuple):
    """An array of which some words are written.

    Attributes:
        array: the array.
        words: which words (int64[n], ascending).
        values: what they become (uint32[n]); they may be what they were.
    """

    array: Compared
    words: np.ndarray
    values: np.ndarray


def patched(patches: Iterable[Patched]) -> Changes:
    """What patches change; arrays in which no byte differs are left out.

    Cost: what is patched, not the arrays.
    """
    changes, small = Changes(), list[tuple[Compared, ChangedWords]]()
    for array, words, values in patches:
        if array.info.nbytes <= SMALL_BYTES:
            picked = changed_of(array.old, words, values)
            small += [(array, picked)] if picked.words.size else []
        else:
            change = ArrayChange(array.info, array.old, None)
            changes.large += [change] if patch(change, words, values) else []
    changes.lots, changes.dense = lots_of_patches(small)
    return changes


def compare(
    arrays: Iterable[Compared], page_bytes: int, executor: Callable[[], Executor]
) -> Changes:
    """What differs in arrays; those in which nothing does are left out.

    Cost: one read of both sides, shared among the executor's threads where they are large.
    """
    small, large = list[Compared](), list[ArrayChange]()
    for array in arrays:
        if array.info.nbytes <= SMALL_BYTES:
            small.append(array)
        else:
            large.append(ArrayChange(*array))
    lots, dense = compare_small(small)
    if large:
        compare_large(large, page_bytes // WORD_BYTES, executor)
    return Changes(lots, dense, [change for change in large if change.differing])


def compare_large(
    changes: Sequence[ArrayChange], page_words: int, executor: Callable[[], Executor]
) -> None:
    """Find what differs in arrays, of any size."""
    is_one_job = sum(change.old.size for change in changes) <= _JOB_WORDS
    run = map if is_one_job else executor().map
    jobs = list(_bundle(changes, max(1, _TILE_WORDS // page_words) * page_words))
    for bundle, results in zip(jobs, run(_compare_bundle, jobs), strict=True):
        for (change, *_), spans in zip(bundle, results, strict=True):
            change.spans += spans
            change.differing += sum(span.changed for span in spans)
    for _ in run(ArrayChange.locate, [change for change in changes if change.differing]):
        pass


_Job = tuple[ArrayChange, int, int, int]  # change, first word, end, words a tile


def _bundle(changes: Iterable[ArrayChange], tile: int) -> Iterator[list[_Job]]:
    """Spans of about `_JOB_WORDS` words together, each within one array."""
    job_words = _JOB_WORDS // tile * tile or tile
    bundle: list[_Job] = []
    size = 0
    for change in changes:
        for start in range(0, change.old.size, job_words):
            stop = min(start + job_words, change.old.size)
            bundle.append((change, start, stop, tile))
            size += stop - start
            if size >= job_words:
                yield bundle
                bundle, size = [], 0
    if bundle:
        yield bundle


def _compare_bundle(bundle: list[_Job]) -> list[tuple[ChangedTile, ...]]:
    return [tuple(_compare_span(*job)) for job in bundle]


def _compare_span(change: ArrayChange, start: int, stop: int, tile: int) -> Iterator[ChangedTile]:
    """The tiles of ``start … stop`` with a change."""
    old, new = change.old, change.whole()
    for first in range(start, stop, tile):
        end = min(first + tile, stop)
        differ = old[first:end] != new[first:end]
        count = int(np.count_nonzero(differ))
        if count:
            # While the tile is in the cache, and unless it is too dense for single elements.
            few = count * 4 < end - first
            picked = _picked_in(old[first:end], new[first:end], differ, first) if few else None
            yield ChangedTile(first, end, count, picked)


def _picked_in(old: np.ndarray, new: np.ndarray, differ: np.ndarray, first: int) -> ChangedWords:
    """The words where ``differ``, of a tile that begins at ``first``."""
    picked = pick(old, new, differ.nonzero()[0])
    picked.words[...] += first
    return picked


def _counts(mixed: np.ndarray, unit: int) -> tuple[int, int]:
    """The elements, and the bytes, that differ in words of which each does."""
    if mixed.size <= FEW_WORDS:
        return count_few(mixed.tobytes(), unit)
    changed_bytes = int(np.count_nonzero(mixed.view(np.uint8)))
    return int(np.count_nonzero(mixed.view(f"<u{unit}"))), changed_bytes
