"""Plain commits: few words of few small arrays, a step and a source, and nothing else.

Most of what a bus lands while it runs is of this kind: a `write`, a delta, a wave of small results.
They take the same stages as every commit and make the same bytes; what they do not need (threads,
tables, operations, constants, a note) is absent, and NumPy is not asked to do what a few numbers
of Python do in less time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmsb_jax._store.commit.compare import ArrayChange, distinct_pages
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.plan import Plan
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.digest import FEW_WORDS, add, gained_by_few, state_sum, state_term
from mmsb_jax._store.encoding.sparse import few_chunk
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chain import chain_after
from mmsb_jax._store.format.chunk import Chunk, chunk_row
from mmsb_jax._store.format.data import Position
from mmsb_jax._store.format.frame import Header, Kind, build_frame
from mmsb_jax._store.format.record import PlainRecord
from mmsb_jax._store.state.state import Table

_MOST_CHANGES = 8
_FIRST_PAGE = np.zeros(1, np.int64)


def is_plain(
    draft: Draft,
    values: Mapping[str, str | None],
    changes: Sequence[ArrayChange],
    tally: Tally,
) -> bool:
    """Whether a commit is one of these."""
    if draft.ops or values or draft.note or draft.extra is not None:
        return False
    return len(changes) <= _MOST_CHANGES and all(
        change.picked is not None
        and change.differing <= FEW_WORDS
        and change.is_small
        and not tally.is_full_due(change.info.id, change.nbytes)
        for change in changes
    )


class PlainCommit:
    """A plain commit of a head, as `EncodedCommit`.

    Args:
        table: of the head, before it.
        terms: what arrays add to the digest of the state before it, as far as it is known.
        page_bytes: bytes of a page.
        plan, changes, draft: as for `Head.encode`.
    """

    is_own = True
    chain = b""

    def __init__(
        self,
        table: Table,
        terms: Mapping[int, int],
        page_bytes: int,
        plan: Plan,
        changes: Sequence[ArrayChange],
        draft: Draft,
    ) -> None:
        now = time.time_ns() if draft.time_ns is None else draft.time_ns
        self.record = record = PlainRecord(now, draft.step, draft.source, plan.next_id)
        record.check_said()
        digest, rows, chunks = table.state_digest, [], []
        for change in changes:
            chunk = _encode(change, table.lanes.get(change.info.id, (0, 0)), page_bytes // 4)
            info, before = change.info, terms.get(change.info.id)
            if before is None:
                before = state_term(info.id, info.schema(), change.before)
            after = plan.terms[info.id] = state_term(info.id, info.schema(), change.lanes)
            digest = state_sum(digest, after, before)
            base = table.bases.get(info.id, 0)
            rows.append((info.id, base, *change.lanes, change.changed_bytes, 1, 0))
            record.changed_bytes += change.changed_bytes
            chunks.append(chunk)
        record.made, record.state_digest = rows, digest
        record.sizes = [len(chunk.data) for chunk in chunks]
        record.table = b"".join(map(chunk_row, chunks))
        self._inline = b"".join([chunk.data for chunk in chunks])

    def wait(self) -> None:
        """No thread works on it."""

    def placed(self, place: Position) -> Iterator[tuple[Header, list[Buffer]]]:
        """As `NewCommit.placed`."""
        record = self.record
        record.log_id, record.version = place.log_id, place.version
        record.previous_chain = place.chain
        meta = record.encode()
        header, buffers = build_frame(
            Kind.COMMIT, place.position, place.synced, meta, [self._inline]
        )
        self.chain = chain_after(place.chain, meta, header.data_hash)
        yield header, buffers


def _encode(change: ArrayChange, before: tuple[int, int], page_words: int) -> Chunk:
    """As `record_all` of one small array of which few words changed."""
    assert change.picked is not None
    words, values, mixed = change.picked
    index, after, differing = words.tolist(), values.tolist(), mixed.tolist()
    old = [value ^ mix for value, mix in zip(after, differing, strict=True)]
    chunk = few_chunk(index, after, differing, change.unit)
    change.before = before
    change.lanes = add(before, gained_by_few(old, after, index))
    change.chunks = (chunk,)
    is_one_page = change.old.size <= page_words
    change.pages = _FIRST_PAGE if is_one_page else distinct_pages(words, page_words)
    return chunk
