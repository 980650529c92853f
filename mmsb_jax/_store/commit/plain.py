"""Plain commits: few words of few small arrays, a step and a source, and nothing else.

They take the same stages as every commit and make the same bytes; what they do not need (threads,
tables, operations, constants, a note) is absent.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

from mmsb_jax._store.commit.compare import ArrayChange
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.few import FewWords, SmallArray
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.digest import FEW_WORDS, ZERO, state_sum, state_term
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chain import chain_after
from mmsb_jax._store.format.chunk import chunk_row
from mmsb_jax._store.format.data import Position
from mmsb_jax._store.format.frame import Header, Kind, build_frame
from mmsb_jax._store.format.record import PlainRecord
from mmsb_jax._store.state.state import StoredState, Table

MOST_CHANGES = 8


def is_plain(
    draft: Draft,
    values: Mapping[str, str | None],
    changes: Sequence[ArrayChange],
    tally: Tally,
) -> bool:
    """Whether a commit is one of these."""
    if draft.ops or values or draft.note or draft.extra is not None:
        return False
    return len(changes) <= MOST_CHANGES and all(
        change.picked is not None
        and change.differing <= FEW_WORDS
        and change.is_small
        and not tally.is_full_due(change.info.id, change.nbytes)
        for change in changes
    )


def few_of(state: StoredState, change: ArrayChange, page_bytes: int) -> FewWords:
    """A change of a plain commit."""
    assert change.picked is not None
    array = SmallArray(state, change.info, page_bytes)
    return FewWords(array, change.picked.words, change.picked.values)


class PlainCommit:
    """A plain commit, as `EncodedCommit`.

    Args:
        table: what is known of the state before it.
        terms: what arrays add to the digest of that state, as far as it is known.
        changes: what it does.
        draft: what the caller says of it.

    Attributes:
        terms: what the changed arrays add to the digest after it.
    """

    is_own = True
    chain = b""

    def __init__(
        self, table: Table, terms: Mapping[int, int], changes: Sequence[FewWords], draft: Draft
    ) -> None:
        now = time.time_ns() if draft.time_ns is None else draft.time_ns
        self.record = record = PlainRecord(now, draft.step, draft.source, table.next_id)
        record.check_said()
        self.terms: dict[int, int] = {}
        digest, rows, sizes, chunks, data = table.state_digest, [], [], [], []
        for change in changes:
            array, chunk, key = change.array, change.chunk, change.array.key
            lanes_before, term_before = table.lanes.get(key, ZERO), terms.get(key)
            lanes = change.lanes(lanes_before)
            term = self.terms[key] = state_term(key, array.schema, lanes)
            if term_before is None:
                term_before = state_term(key, array.schema, lanes_before)
            digest = state_sum(digest, term, term_before)
            rows.append((key, table.bases.get(key, 0), *lanes, change.changed_bytes, 1, 0))
            record.changed_bytes += change.changed_bytes
            sizes.append(len(chunk.data))
            chunks.append(chunk_row(chunk))
            data.append(chunk.data)
        record.made, record.state_digest, record.sizes = rows, digest, sizes
        record.table = b"".join(chunks)
        self._data = data

    def placed(self, place: Position) -> Iterator[tuple[Header, list[Buffer]]]:
        """As `NewCommit.placed`."""
        record = self.record
        record.log_id, record.version = place.log_id, place.version
        record.previous_chain = place.chain
        meta = record.encode()
        header, buffers = build_frame(Kind.COMMIT, place.position, place.synced, meta, self._data)
        self.chain = chain_after(place.chain, meta, header.data_hash)
        yield header, buffers
