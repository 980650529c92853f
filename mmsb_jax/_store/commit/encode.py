"""Records: what the log says of each change, encoded, with the digest and the pages after it.

As in `mmsb_jax._store.commit.compare`, small arrays are treated a batch at a time, large ones
one by one, and side by side in threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

import numpy as np

from mmsb_jax._store.commit.compare import (
    WORD_BYTES,
    ArrayChange,
    batches_of,
    count_nonzero_each,
    distinct_pages,
    elements_of,
    join,
    join_picked,
)
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.dense import dense_chunks
from mmsb_jax._store.encoding.digest import Lanes, add, digest_each, gained_each
from mmsb_jax._store.encoding.sparse import sparse_chunks
from mmsb_jax._store.format.chunk import Coding
from mmsb_jax._store.format.record import FULL

_PARALLEL_WORDS = 1 << 18
"""Words of a commit from which threads are worth their trouble."""
_FINISH_WORDS = 1 << 12
"""Changed words from which an array is worth a turn of another thread."""

_FIRST_PAGE = np.zeros(1, np.int64)


def record_all(
    changes: Sequence[ArrayChange],
    lanes_before: Callable[[int], Lanes],
    tally: Tally,
    page_bytes: int,
    executor: Callable[[], Executor],
) -> list[Future[None]]:
    """Make what the records of ``changes`` say.

    Args:
        changes: those in which a byte differs.
        lanes_before: digest of an array before the commit's bytes.
        tally: says which records must stand alone, and how dense ones are coded.
        page_bytes: bytes of a page.
        executor: where large ones are worked on side by side.

    Returns:
        Futures of the digests and pages of large arrays: they are computed in threads, so that
        writing goes on meanwhile.
    """
    page_words = page_bytes // WORD_BYTES
    sparse, dense, large = [], [], []
    for change in changes:
        array_id = change.info.id
        change.before = lanes_before(array_id)
        is_due = tally.is_full_due(array_id, change.nbytes)
        is_sparse = change.picked is not None and not is_due
        if not is_sparse:
            change.is_alone = is_due or change.fresh
            change.coding = tally.coding(array_id, change.is_alone)
        group = (sparse if is_sparse else dense) if change.is_small else large
        group.append(change)
    waiting = _finish_large(large, page_words, executor)
    for batch in batches_of(sparse):
        _record_sparse(batch, page_words)
    for batch in batches_of(dense):
        _record_dense(batch, page_words)
    if large:
        _encode_large(large, executor)
    return waiting


def _record_sparse(batch: Sequence[ArrayChange], page_words: int) -> None:
    """Make the records of small arrays of which some elements changed."""
    parts = [change.picked for change in batch if change.picked is not None]
    picked, unit = join_picked(parts), batch[0].unit
    elements = elements_of(picked, unit)
    chunks = sparse_chunks(*elements, unit, [change.items for change in batch])
    words, values, mixed = picked
    gains = gained_each(values ^ mixed, values, words, [part.words.size for part in parts])
    for change, part, chunk, gained in zip(batch, parts, chunks, gains, strict=True):
        change.chunks = (chunk,)
        change.lanes = add(change.before, gained)
        is_one_page = change.old.size <= page_words
        change.pages = _FIRST_PAGE if is_one_page else distinct_pages(part.words, page_words)


def _record_dense(batch: Sequence[ArrayChange], page_words: int) -> None:
    """Make the records of small arrays that are written whole."""
    sizes = [change.old.size for change in batch]
    old, new = join([change.old for change in batch]), join([c.words_after() for c in batch])
    mixed = old ^ new
    differing = count_nonzero_each(mixed.view(np.uint8), [WORD_BYTES * size for size in sizes])
    extents = [change.nbytes for change in batch]
    choices = [(change.is_alone, change.coding) for change in batch]
    chunks = dense_chunks(new, mixed, batch[0].unit, extents, choices)
    last = 0
    for change, lanes, count, chunk in zip(
        batch, digest_each(new, sizes), differing, chunks, strict=True
    ):
        first, last = last, last + change.old.size
        change.chunks = (chunk,)
        change.flags = 0 if chunk.coding is Coding.XOR_ZSTD else FULL
        change.lanes, change.changed_bytes = lanes, count
        is_one_page = change.old.size <= page_words
        change.pages = _FIRST_PAGE if is_one_page else _pages_with(mixed[first:last], page_words)


def _finish_large(
    changes: Sequence[ArrayChange], page_words: int, executor: Callable[[], Executor]
) -> list[Future[None]]:
    """Finish ``changes``, the larger ones in threads."""
    waiting: list[Future[None]] = []
    work = [c.old.size if c.picked is None else c.differing for c in changes]
    is_large = sum(work) >= _PARALLEL_WORDS
    for change, words in zip(changes, work, strict=True):
        if not is_large or words < _FINISH_WORDS:
            change.finish(page_words)
        else:
            waiting.append(executor().submit(change.finish, page_words))
    return waiting


def _encode_large(changes: Sequence[ArrayChange], executor: Callable[[], Executor]) -> None:
    """Encode ``changes``; sparse records of large commits side by side."""
    sparse = [change for change in changes if change.is_sparse]
    is_large = sum(c.items for c in sparse) >= _PARALLEL_WORDS
    # Only these in threads: dense ones are compressed there chunk by chunk, and would wait in one.
    done = (executor().map if is_large else map)(lambda c: c.encode(executor), sparse)
    for change in changes:
        if not change.is_sparse:
            change.encode(executor)
    for _ in done:
        pass


def _pages_with(mixed: np.ndarray, page_words: int) -> np.ndarray:
    """The pages in which a word is not 0."""
    pages = np.logical_or.reduceat(mixed != 0, np.arange(0, mixed.size, page_words))
    return np.flatnonzero(pages)
