"""Changes: what a commit does to each array, found by comparing words and encoded for the log.

Everything here is a fixed rule of the bytes before and after, so that the same commits give the
same log. Nothing is altered until `Change.put`, which runs when the log has the commit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsb_jax.store._codec import Chunk, encode_dense, encode_sparse, prefers_sparse, unit_of_dtype
from mmsb_jax.store._digest import Lanes, add, digest_gained, digest_words
from mmsb_jax.store._record import FULL, ArrayInfo

_TILE_WORDS = 1 << 17
"""Words compared at a time: both sides and the flags stay in the second-level cache."""
_JOB_WORDS = 1 << 20
"""Words a thread takes at a time."""

_FINISH_WORDS = 1 << 12
"""Changed words from which an array is worth a turn of another thread."""

WORD_BYTES = 4


_UNSIGNED = {size: np.dtype(f"<u{size}") for size in (1, 2, 4)}


class Span(NamedTuple):
    """A tile with a change.

    Attributes:
        first, end: its words.
        changed: words changed.
        words: which (int64[changed]), where they are few; else None, as are the following.
        values: these words after (uint32[changed]).
        mixed: what differs in them (uint32[changed]).
    """

    first: int
    end: int
    changed: int
    words: np.ndarray | None = None
    values: np.ndarray | None = None
    mixed: np.ndarray | None = None


def as_words(raw: np.ndarray) -> np.ndarray:
    """The bytes of an array (uint8[n]) as words, the last one filled with zeros.

    Cost: nothing where n is a multiple of 4; else one copy.
    """
    if raw.size % WORD_BYTES == 0:
        return raw.view(np.uint32)
    words = np.zeros(-(-raw.size // WORD_BYTES), np.uint32)
    words.view(np.uint8)[: raw.size] = raw
    return words


@dataclass(slots=True)
class Change:
    """What a commit does to one array.

    Attributes:
        info: the array.
        old: its words before (uint32[n]); they belong to the head.
        new: its words after; None where only a patch of it is known.
        fresh: whether the log holds no record of the array yet.
        spans: the tiles with a change.
        words: changed words, ascending (int64[m]); None where the change is dense.
        values: the changed words after (uint32[m]).
        mixed: what differs in them (uint32[m]).
        places: which elements of ``values`` changed (int64[k]).
        changed_bytes: bytes that differ; known after `finish`.
        lanes: the digest after it; known after `finish`.
        pages: pages with a changed byte; known after `finish`.
    """

    info: ArrayInfo
    old: np.ndarray
    new: np.ndarray | None
    fresh: bool = False
    spans: list[Span] = field(default_factory=list)
    words: np.ndarray | None = None
    values: np.ndarray | None = None
    mixed: np.ndarray | None = None
    places: np.ndarray | None = None
    changed_bytes: int = 0
    lanes: Lanes = (0, 0)
    pages: np.ndarray | None = None

    @property
    def unit(self) -> int:
        """Bytes of an element for the codec."""
        return unit_of_dtype(self.info.dtype)

    def locate(self) -> None:
        """Find the changed elements, where they are few enough to be written one by one."""
        fewest = sum(span.changed for span in self.spans)
        if self._is_sparse(fewest):
            parts = [self._changed_in(span) for span in self.spans]
            columns = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
            self.set_words(*columns)

    def _is_sparse(self, elements: int) -> bool:
        return prefers_sparse(elements, self.unit, self.info.nbytes)

    def _changed_in(self, span: Span) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The changed words of a tile, what they are after, and what differs in them."""
        if span.words is not None and span.values is not None and span.mixed is not None:
            return span.words, span.values, span.mixed
        old, new = self.old[span.first : span.end], self._whole()[span.first : span.end]
        return _pick(old, new, old != new, span.first)

    def set_words(self, words: np.ndarray, values: np.ndarray, mixed: np.ndarray) -> None:
        """Take ``words`` as those that differ, unless they are too many to be written so."""
        places = (mixed.view(_UNSIGNED[self.unit]) != 0).nonzero()[0]
        if self._is_sparse(places.size):
            self.words, self.values, self.mixed, self.places = words, values, mixed, places
            self.changed_bytes = int(np.count_nonzero(mixed.view(np.uint8)))

    def _whole(self) -> np.ndarray:
        assert self.new is not None
        return self.new

    def words_after(self) -> np.ndarray:
        """All words of the array after the change; not to be written to.

        Cost: nothing where the whole array is known; a copy of it for a patch.
        """
        if self.new is not None:
            return self.new
        assert self.words is not None
        words = self.old.copy()
        words[self.words] = self.values
        return words

    def encode(self, delta_bytes: int, executor: Callable[[], Executor]) -> tuple[list[Chunk], int]:
        """Chunks and record flags.

        Args:
            delta_bytes: stored bytes of the deltas that this one would stand on; a full record
                is due once they have grown past the array's own size.
            executor: where to compress side by side.
        """
        is_full_due = delta_bytes > self.info.nbytes
        if self.words is not None and not is_full_due:
            return encode_sparse(*self._elements(), self.unit), 0
        raw = self._bytes_after()
        before = None if self.fresh or is_full_due else self.old.view(np.uint8)[: raw.size]
        chunks, is_full = encode_dense(raw, before, self.unit, executor)
        return chunks, FULL if is_full else 0

    def _elements(self) -> tuple[np.ndarray, np.ndarray]:
        """The changed elements (int64[k]) and their bytes after (uint8[k, unit])."""
        assert self.words is not None
        assert self.values is not None
        assert self.places is not None
        unit, each = self.unit, WORD_BYTES // self.unit
        places = self.places
        elements = self.words
        if each > 1:
            shift = each.bit_length() - 1
            elements = (self.words[places >> shift] << shift) | (places & (each - 1))
        values = self.values.view(_UNSIGNED[unit])[places]
        return elements, values.view(np.uint8).reshape(-1, unit)

    def _bytes_after(self) -> np.ndarray:
        return self.words_after().view(np.uint8)[: self.info.nbytes]

    def finish(self, before: Lanes, page_bytes: int) -> None:
        """Compute the digest after, the bytes changed and the pages changed."""
        page_words = page_bytes // WORD_BYTES
        if self.words is not None and self.values is not None:
            assert self.mixed is not None
            gained = digest_gained(self.values ^ self.mixed, self.values, self.words)
            self.lanes = add(before, gained)
            self.pages = _distinct_pages(self.words, page_words)
            return
        new = self._whole()
        self.lanes = digest_words(new)
        flags = np.zeros(-(-new.size // page_words), bool)
        for start, stop, *_ in self.spans:
            mixed = self.old[start:stop] ^ new[start:stop]
            pages = np.logical_or.reduceat(mixed != 0, np.arange(0, stop - start, page_words))
            flags[start // page_words :][: pages.size] = pages
            self.changed_bytes += int(np.count_nonzero(mixed.view(np.uint8)))
        self.pages = np.flatnonzero(flags)

    def put(self) -> None:
        """Make the words of the head those after the change."""
        if self.words is not None:
            self.old[self.words] = self.values
        else:
            self.old[...] = self._whole()


def _distinct_pages(words: np.ndarray, page_words: int) -> np.ndarray:
    """The pages of ``words`` (ascending), each once."""
    if words[-1] < 1 << 32:
        words = words.astype(np.uint32)  # NumPy divides these ten times as fast
    pages = words // page_words
    first = np.empty(pages.size, bool)
    first[0] = True
    np.not_equal(pages[1:], pages[:-1], out=first[1:])
    return pages[first]


def patch(change: Change, words: np.ndarray, values: np.ndarray) -> bool:
    """Make ``change`` that of ``words`` (ascending) to ``values``; whether a byte differs.

    Cost: what is patched, not the array; a patch of most of an array is taken as a whole array.
    """
    differ = change.old[words] != values
    words, values = words[differ], values[differ]
    if words.size:
        change.set_words(words, values, change.old[words] ^ values)
        if change.words is None:
            change.new = change.old.copy()
            change.new[words] = values
            change.spans = [Span(0, change.new.size, words.size)]
    return bool(words.size)


def compare(
    changes: Sequence[Change], page_bytes: int, executor: Callable[[], Executor]
) -> list[Change]:
    """Those of ``changes`` in which a byte differs, with what differs found.

    Cost: one read of both sides, shared among the executor's threads where they are large.
    """
    page_words = page_bytes // WORD_BYTES
    tile = max(1, _TILE_WORDS // page_words) * page_words
    total = sum(change.old.size for change in changes)
    if total <= _JOB_WORDS:
        for change in changes:
            change.spans = _compare_span(change, 0, change.old.size, tile)
            if change.spans:
                change.locate()
        return [change for change in changes if change.spans]
    jobs = list(_bundle(changes, tile))
    for bundle, results in zip(jobs, executor().map(_compare_bundle, jobs), strict=True):
        for (change, *_), spans in zip(bundle, results, strict=True):
            change.spans += spans
    differing = [change for change in changes if change.spans]
    for _ in executor().map(Change.locate, differing):
        pass
    return differing


_Job = tuple[Change, int, int, int]  # change, first word, end, words a tile


def _bundle(changes: Iterable[Change], tile: int) -> Iterator[list[_Job]]:
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


def _compare_bundle(bundle: list[_Job]) -> list[list[Span]]:
    return [_compare_span(*job) for job in bundle]


def _compare_span(change: Change, start: int, stop: int, tile: int) -> list[Span]:
    """The tiles of ``start … stop`` with a change."""
    assert change.new is not None
    old, new, found = change.old, change.new, []
    for first in range(start, stop, tile):
        end = min(first + tile, stop)
        differ = old[first:end] != new[first:end]
        count = int(np.count_nonzero(differ))
        if count:
            # While the tile is in the cache, and unless it is too dense for single elements.
            few = count * 4 < end - first
            picked = _pick(old[first:end], new[first:end], differ, first) if few else ()
            found.append(Span(first, end, count, *picked))
    return found


def _pick(
    old: np.ndarray, new: np.ndarray, differ: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where ``differ``: the words' places in the array, the words after, what differs in them."""
    (words,) = differ.nonzero()
    values = new[words]
    mixed = old[words] ^ values
    words += first
    return words, values, mixed


def encode_all(
    changes: Sequence[Change], delta_bytes: Mapping[int, int], executor: Callable[[], Executor]
) -> list[tuple[list[Chunk], int]]:
    """Chunks and record flags of each change; small records of large commits side by side."""

    def encode(change: Change) -> tuple[list[Chunk], int]:
        return change.encode(delta_bytes.get(change.info.id, 0), executor)

    if sum(0 if c.words is None else c.words.size for c in changes) < _TILE_WORDS:
        return list(map(encode, changes))
    # Dense ones are compressed chunk by chunk in these threads: they must not wait in one.
    waiting = [executor().submit(encode, c) if c.words is not None else None for c in changes]
    return [
        encode(change) if future is None else future.result()
        for change, future in zip(changes, waiting, strict=True)
    ]


def finish_all(
    changes: Sequence[Change],
    lanes_before: Callable[[int], Lanes],
    page_bytes: int,
    executor: Callable[[], Executor],
) -> Callable[[], None]:
    """Begin to finish ``changes``; the function returned waits until that is done.

    Large ones are finished in the executor's threads, so that writing goes on meanwhile.
    """
    waiting: list[Future[None]] = []
    work = [c.old.size if c.words is None else c.words.size for c in changes]
    is_large = sum(work) >= _TILE_WORDS
    for change, words in zip(changes, work, strict=True):
        before = lanes_before(change.info.id)
        if not is_large or words < _FINISH_WORDS:
            change.finish(before, page_bytes)
        else:
            waiting.append(executor().submit(change.finish, before, page_bytes))

    def wait() -> None:
        for future in waiting:
            future.result()

    return wait
