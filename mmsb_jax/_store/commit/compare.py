"""Changes: what a commit does to each array, found by comparing words.

Everything here is a fixed rule of the bytes before and after, so that the same commits give the
same log. Nothing is altered until `ArrayChange.put`, which runs when the log has the commit.

Large arrays are cut into tiles that fit the cache. Small ones are laid end to end, a *batch* at a
time, and treated as one: a call of NumPy costs more than a small array does.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.choose import prefers_sparse
from mmsb_jax._store.encoding.dense import encode_dense
from mmsb_jax._store.encoding.digest import (
    FEW_WORDS,
    Lanes,
    add,
    digest_gained,
    digest_words,
    starts_of,
)
from mmsb_jax._store.encoding.sparse import count_few, encode_sparse
from mmsb_jax._store.format.chunk import Chunk, Coding
from mmsb_jax._store.format.record import FULL, ArrayInfo

_TILE_WORDS = 1 << 17
"""Words compared at a time: both sides and the flags stay in the second-level cache."""
_JOB_WORDS = 1 << 20
"""Words a thread takes at a time."""
_BATCH_WORDS = 1 << 14
"""Words of small arrays that are treated as one."""

_UNSIGNED = {size: np.dtype(f"<u{size}") for size in (1, 2, 4)}


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
        fresh: whether the log holds no record of the array yet.
        is_alone: whether its record must stand alone, being no sparse one.
        coding: how a dense record of it is coded; None where a sample is to choose.
        differing: words that differ, once it is compared.
        spans: the tiles with a change; none is the whole array.
        picked: the changed words; None where the change is dense.
        items: changed elements, where the change is not dense.
        changed_bytes: bytes that differ; known once it is recorded, as are the following.
        before: the digest before it.
        lanes: the digest after it.
        pages: pages with a changed byte.
        chunks, flags: its record.
        unit: bytes of an element for the codec.
        nbytes: bytes of the array.
    """

    info: ArrayInfo
    old: np.ndarray
    new: np.ndarray | None
    fresh: bool = False
    is_alone: bool = False
    coding: Coding | None = None
    differing: int = 0
    spans: tuple[ChangedTile, ...] = ()
    picked: ChangedWords | None = None
    items: int = 0
    changed_bytes: int = 0
    before: Lanes = (0, 0)
    lanes: Lanes = (0, 0)
    pages: np.ndarray | None = None
    chunks: Sequence[Chunk] = ()
    flags: int = 0
    unit: int = field(init=False)
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.unit = unit_of_dtype(self.info.dtype)
        self.nbytes = self.info.nbytes

    @property
    def is_small(self) -> bool:
        """Whether it is treated together with others."""
        return self.old.size <= _BATCH_WORDS

    def is_sparse_with(self, items: int) -> bool:
        """Whether it is to be written element by element, ``items`` of them."""
        return prefers_sparse(items, self.unit, self.nbytes)

    def locate(self) -> None:
        """Find the changed elements, where they are few enough to be written one by one."""
        if self.is_sparse_with(self.differing):
            picked = join_picked([self._changed_in(span) for span in self.spans])
            _share_out([self], picked, [self.differing])

    def _changed_in(self, span: ChangedTile) -> ChangedWords:
        """The changed words of a tile."""
        if span.picked is not None:
            return span.picked
        old, new = self.old[span.first : span.end], self.whole()[span.first : span.end]
        return _pick(old, new, old != new, span.first)

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
        words = self.old.copy()
        words[self.picked.words] = self.picked.values
        return words

    @property
    def is_sparse(self) -> bool:
        """Whether it is written element by element."""
        return self.picked is not None and not self.is_alone

    def encode(self, executor: Callable[[], Executor]) -> None:
        """Make the chunks and flags of its record; ``executor`` compresses side by side."""
        if self.is_sparse:
            assert self.picked is not None
            self.chunks = encode_sparse(*elements_of(self.picked, self.unit), self.unit)
            return
        raw = self.words_after().view(np.uint8)[: self.nbytes]
        before = None if self.is_alone else self.old.view(np.uint8)[: raw.size]
        self.chunks, is_full = encode_dense(raw, before, self.unit, executor, self.coding)
        self.flags = FULL if is_full else 0

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

    def put(self) -> None:
        """Make the words of the head those after the change."""
        if self.picked is not None:
            self.old[self.picked.words] = self.picked.values
        else:
            self.old[...] = self.new


def distinct_pages(words: np.ndarray, page_words: int) -> np.ndarray:
    """The pages of ``words`` (ascending), each once."""
    if words[-1] < 1 << 32:
        words = words.astype(np.uint32)  # NumPy divides these ten times as fast
    pages = words // page_words
    first = np.empty(pages.size, bool)
    first[0] = True
    np.not_equal(pages[1:], pages[:-1], out=first[1:])
    return pages[first]


def patch(change: ArrayChange, words: np.ndarray, values: np.ndarray) -> bool:
    """Make ``change`` that of ``words`` (ascending) to ``values``; whether a byte differs.

    Cost: what is patched, not the array; a patch of most of an array is taken as a whole array.
    """
    before = change.old[words]
    differ = before != values
    words, values, before = words[differ], values[differ], before[differ]
    change.differing = words.size
    if words.size:
        _share_out([change], ChangedWords(words, values, before ^ values), [words.size])
        if change.picked is None:
            change.new = change.old.copy()
            change.new[words] = values
    return bool(words.size)


def compare(
    changes: Sequence[ArrayChange], page_bytes: int, executor: Callable[[], Executor]
) -> list[ArrayChange]:
    """Those of ``changes`` in which a byte differs, with what differs found.

    Cost: one read of both sides, shared among the executor's threads where they are large.
    """
    if len(changes) == 1 and changes[0].is_small:
        _compare_one(changes[0])
        return [change for change in changes if change.differing]
    large = []
    for batch in batches_of(changes):
        if batch[0].is_small:
            _compare_batch(batch)
        else:
            large += batch
    if large:
        _compare_large(large, page_bytes // WORD_BYTES, executor)
    return [change for change in changes if change.differing]


def _compare_large(
    changes: Sequence[ArrayChange], page_words: int, executor: Callable[[], Executor]
) -> None:
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
            picked = _pick(old[first:end], new[first:end], differ, first) if few else None
            yield ChangedTile(first, end, count, picked)


def _pick(old: np.ndarray, new: np.ndarray, differ: np.ndarray, first: int) -> ChangedWords:
    """The words where ``differ``, of an array or of a tile that begins at ``first``."""
    (words,) = differ.nonzero()
    values = new[words]
    mixed = old[words]
    mixed ^= values
    if first:
        words += first
    return ChangedWords(words, values, mixed)


def join_picked(parts: Sequence[ChangedWords]) -> ChangedWords:
    return (
        parts[0]
        if len(parts) == 1
        else ChangedWords(*map(np.concatenate, zip(*parts, strict=True)))
    )


def batches_of(changes: Iterable[ArrayChange]) -> Iterator[list[ArrayChange]]:
    """Small changes in batches of one unit; a large one alone, one of no bytes left out."""
    batches: dict[int, list[ArrayChange]] = {}
    sizes: dict[int, int] = {}
    for change in changes:
        unit, words = change.unit, change.old.size
        if not words:
            continue
        size = sizes.get(unit, 0) + words
        if size > _BATCH_WORDS or unit not in batches:
            if unit in batches:
                yield batches[unit]
            batches[unit], size = [], words
        batches[unit].append(change)
        sizes[unit] = size
    yield from batches.values()


def join(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors end to end."""
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def count_nonzero_each(vector: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """How many are not 0 in each part of ``vector``; the parts have ``sizes``."""
    if len(sizes) == 1:
        return [int(np.count_nonzero(vector))]
    return np.add.reduceat(vector != 0, starts_of(sizes), dtype=np.int64).tolist()


def _compare_batch(batch: Sequence[ArrayChange]) -> None:
    """Find what differs in small arrays, as `_compare_span` and `ArrayChange.locate` do in one."""
    sizes = [change.old.size for change in batch]
    old, new = join([change.old for change in batch]), join([change.whole() for change in batch])
    differ = old != new
    few, firsts, counts = [], [], []
    first = 0
    for change, size, count in zip(batch, sizes, count_nonzero_each(differ, sizes), strict=True):
        if count:
            change.differing = count
            if change.is_sparse_with(count):
                few.append(change)
                firsts.append(first)
                counts.append(count)
            else:
                differ[first : first + size] = False
        first += size
    if few:
        picked = _pick(old, new, differ, 0)
        if len(batch) > 1:
            picked.words[...] -= np.repeat(firsts, counts)
        _share_out(few, picked, counts)


def _compare_one(change: ArrayChange) -> None:
    """`_compare_batch` of one array."""
    old, new = change.old, change.whole()
    (words,) = (old != new).nonzero()
    change.differing = words.size
    if words.size and change.is_sparse_with(words.size):
        values, mixed = new[words], old[words]
        mixed ^= values
        _share_out([change], ChangedWords(words, values, mixed), [words.size])


def _share_out(changes: Sequence[ArrayChange], picked: ChangedWords, sizes: Sequence[int]) -> None:
    """Give each change its changed words, unless their elements are too many to be written so.

    Args:
        changes: of one unit.
        picked: their words, those of one behind those of another.
        sizes: how many each has.
    """
    words, values, mixed = picked
    items, differing = _counts(mixed, changes[0].unit, sizes)
    stop = 0
    for change, size, count, changed_bytes in zip(changes, sizes, items, differing, strict=True):
        start, stop = stop, stop + size
        if change.is_sparse_with(count):
            part = slice(start, stop)
            change.picked = ChangedWords(words[part], values[part], mixed[part])
            change.items, change.changed_bytes = count, changed_bytes


def _counts(mixed: np.ndarray, unit: int, sizes: Sequence[int]) -> tuple[Sequence[int], list[int]]:
    """The elements, and the bytes, that differ in each part of ``mixed``."""
    if len(sizes) == 1 and mixed.size <= FEW_WORDS:
        items, differing = count_few(mixed.tobytes(), unit)
        return [items], [differing]
    items = sizes
    if unit < WORD_BYTES:
        each = WORD_BYTES // unit
        items = count_nonzero_each(mixed.view(_UNSIGNED[unit]), [each * size for size in sizes])
    differing = list(items)
    if unit > 1:
        differing = count_nonzero_each(mixed.view(np.uint8), [WORD_BYTES * size for size in sizes])
    return items, differing


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
