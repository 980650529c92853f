"""Records: what the log says of each change, encoded, with the digest and the pages after it.

Small arrays are treated in lots, large ones one by one, and side by side in threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.commit.compare import ArrayChange, Changes
from mmsb_jax._store.commit.lots import Compared, DenseLot, SparseLot, dense_lots
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.digest import Lanes

_PARALLEL_WORDS = 1 << 18
"""Words of a commit from which threads are worth their trouble."""
_FINISH_WORDS = 1 << 12
"""Changed words from which an array is worth a turn of another thread."""

Recorded = ArrayChange | SparseLot | DenseLot
"""What has become records of a commit."""


def record_all(
    changes: Changes,
    lanes_before: Callable[[int], Lanes],
    is_fresh: Callable[[int], bool],
    tally: Tally,
    page_bytes: int,
    executor: Callable[[], Executor],
) -> tuple[list[Recorded], list[Future[None]]]:
    """Make what the records of ``changes`` say.

    Args:
        changes: what a commit changes.
        lanes_before: digest of an array before the commit's bytes.
        is_fresh: whether the log holds no record of an array yet.
        tally: says which records must stand alone.
        page_bytes: bytes of a page.
        executor: where large ones are worked on side by side.

    Returns:
        The changes in the order of their records; and futures of the digests and pages of large
        arrays: they are computed in threads, so that writing goes on meanwhile.
    """
    page_words, large = page_bytes // WORD_BYTES, changes.large
    for change in large:
        array_id = change.info.id
        change.before = lanes_before(array_id)
        is_due = tally.is_full_due(array_id, change.nbytes)
        if change.picked is None or is_due:
            change.is_alone = is_due or is_fresh(array_id)
    waiting = _finish_large(large, page_words, executor)
    sparse, dense = _not_due(changes, tally)
    sparse.sort(key=lambda lot: lot.unit)
    for lot in sparse:
        lot.record([lanes_before(info.id) for info in lot.infos])
    whole = [part for lot in dense for part in lot.split(_alone(lot, is_fresh, tally))]
    whole.sort(key=lambda lot: (lot.unit, lot.is_alone))
    for lot in whole:
        lot.record(page_words)
    if large:
        _encode_large(large, executor)
    return [*sparse, *whole, *large], waiting


def _not_due(changes: Changes, tally: Tally) -> tuple[list[SparseLot], list[DenseLot]]:
    """The lots without the arrays of which a full record is due, and what is written whole."""
    sparse, due = list[SparseLot](), list[Compared]()
    for lot in changes.lots:
        kept, others = lot.split(~tally.are_full_due(lot.infos))
        sparse += [] if kept is None else [kept]
        due += others
    return sparse, changes.dense + dense_lots(due)


def _alone(lot: DenseLot, is_fresh: Callable[[int], bool], tally: Tally) -> list[bool]:
    """Of which arrays of a lot the records must stand alone."""
    due = tally.are_full_due(lot.infos).tolist()
    return [is_due or is_fresh(info.id) for info, is_due in zip(lot.infos, due, strict=True)]


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
