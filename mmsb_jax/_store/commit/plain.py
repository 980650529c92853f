"""Plain commits: few small arrays, a step and a source, and nothing else.

They take the same stages as every commit and make the same bytes; what they do not need (threads,
tables, operations, constants, a note) is absent. Where few words change, they are found and encoded
by numbers of Python: NumPy's calls cost more than these do. Most of what a bus lands while it runs
is of this kind: a `write`, a delta, a small derived array.
"""

import operator
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmsb_jax._store.commit.changed import pick, words_after
from mmsb_jax._store.commit.compare import Changes
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.lots import Compared, DenseLot, SparseLot
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.choose import prefers_sparse
from mmsb_jax._store.encoding.digest import (
    FEW_WORDS,
    ZERO,
    Lanes,
    add,
    gained_by_few,
    state_sum,
    state_term,
)
from mmsb_jax._store.encoding.group import LEAST_BYTES, LOT_WORDS
from mmsb_jax._store.encoding.sparse import count_few, few_chunk
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chain import chain_after
from mmsb_jax._store.format.data import Position
from mmsb_jax._store.format.frame import Header, Kind, build_frame
from mmsb_jax._store.format.record import FULL, ArrayInfo, PlainRecord
from mmsb_jax._store.state.state import StoredState, Table

MOST_CHANGES = 16
MOST_LOTS = 2
"""Changes of more than few words, each a lot of one."""
_PACKERS = [struct.Struct(f"<{count}I").pack for count in range(FEW_WORDS + 1)]


class SmallArray:
    """A small array of a head, with what it takes to change it.

    It is good as long as the table of arrays is as it was.

    Args:
        state: the state of the head.
        info: the array; of at most `SMALL_BYTES` bytes.
        page_bytes: bytes of a page.
    """

    __slots__ = ("info", "key", "nbytes", "page_words", "schema", "unit", "versions", "words")

    def __init__(self, state: StoredState, info: ArrayInfo, page_bytes: int) -> None:
        self.info = info
        self.key = info.id
        self.nbytes = info.nbytes
        self.unit = unit_of_dtype(info.dtype)
        self.schema = info.schema()
        self.words = state.words[info.id]
        self.versions = state.page_versions[info.id]
        self.page_words = page_bytes // 4

    def becoming(self, new: np.ndarray) -> "NewWords":
        """``new`` (uint32[n]) as its words to be, compared with those that it has."""
        return NewWords(self, new, (self.words != new).nonzero()[0])


class NewWords(NamedTuple):
    """What a small array is to become.

    Attributes:
        array: the array.
        words: all of its words after (uint32[n]).
        places: those that differ (int64[m], ascending).
    """

    array: SmallArray
    words: np.ndarray
    places: np.ndarray

    @property
    def may_be_sparse(self) -> bool:
        """Whether it may be written element by element; an element may be less than a word."""
        return prefers_sparse(self.places.size, self.array.unit, self.array.nbytes)


class FewWords:
    """What a commit does to a few words of a small array.

    Args:
        array: the array.
        places: which words (int64[m]), 1 to `FEW_WORDS` of them, ascending.
        values: what they are after (uint32[m]).

    Attributes:
        is_sparse: whether it is written element by element; if not, what follows is not known.
        changed_bytes: bytes that differ.
        gained: what the digest gains.
        chunk: its chunk.
    """

    __slots__ = ("array", "changed_bytes", "chunk", "gained", "is_sparse", "places", "values")

    flags = 0
    is_dense = False

    def __init__(self, array: SmallArray, places: np.ndarray, values: np.ndarray) -> None:
        self.array = array
        self.places = places
        self.values = values
        index, after, before = places.tolist(), values.tolist(), array.words[places].tolist()
        mixed = list(map(operator.xor, before, after))
        unit = array.unit
        items, self.changed_bytes = count_few(_PACKERS[len(mixed)](*mixed), unit)
        self.is_sparse = prefers_sparse(items, unit, array.nbytes)
        if self.is_sparse:
            self.gained: Lanes = gained_by_few(before, after, index)
            self.chunk = few_chunk(index, after, mixed, unit)

    @property
    def order(self) -> tuple[bool, int, bool]:
        """Where its record stands among others, as `record_all` has them."""
        return False, self.array.unit, False

    def lanes(self, before: Lanes) -> Lanes:
        """The digest after it."""
        return add(before, self.gained)

    def put(self, version: int) -> None:
        """Change the words of the head, and note the version of their pages."""
        array = self.array
        array.words[self.places] = self.values
        if array.versions.size == 1:
            array.versions[0] = version
        else:
            array.versions[self.places // array.page_words] = version


class ManyWords:
    """As `FewWords`, what a commit does to more words of a small array: a lot of one.

    Args:
        array: the array.
        lot: the same, recorded; of a sparse one the digest before it is that of zeros.
    """

    __slots__ = ("array", "changed_bytes", "chunk", "flags", "is_dense", "lot")

    def __init__(self, array: SmallArray, lot: SparseLot | DenseLot) -> None:
        self.array = array
        self.lot = lot
        self.is_dense = isinstance(lot, DenseLot)
        self.flags = FULL * lot.is_full if isinstance(lot, DenseLot) else 0
        self.changed_bytes = int(lot.changed_bytes[0])
        (self.chunk,) = lot.chunks

    @property
    def order(self) -> tuple[bool, int, bool]:
        """As `FewWords.order`."""
        return self.is_dense, self.lot.unit, isinstance(self.lot, DenseLot) and self.lot.is_alone

    def lanes(self, before: Lanes) -> Lanes:
        """The digest after it."""
        first, second = self.lot.lanes[:, 0].tolist()
        return (first, second) if self.is_dense else add(before, (first, second))

    def put(self, version: int) -> None:
        """As `FewWords.put`."""
        array = self.array
        self.lot.put({array.key: array.versions}, array.page_words, version)


PlainChange = FewWords | ManyWords


def plain_change(content: NewWords, is_fresh: bool) -> PlainChange:
    """What an array is to become, at least a word of it, as a change of a plain commit.

    Args:
        content: what it is to become.
        is_fresh: whether the log holds no record of it yet.
    """
    array, words, places = content
    count = places.size
    if count <= FEW_WORDS:
        few = FewWords(array, places, words[places])
        if few.is_sparse:
            return few
    compared = Compared(array.info, array.words, words)
    if content.may_be_sparse:
        picked = pick(array.words, words, places)
        lot = SparseLot([compared], array.unit, np.array([count]), picked)
        if prefers_sparse(int(lot.items[0]), array.unit, array.nbytes):
            lot.record([ZERO])
            return ManyWords(array, lot)
    dense = DenseLot([compared], array.unit, is_alone=is_fresh)
    dense.record(array.page_words)
    return ManyWords(array, dense)


def plain_changes(
    contents: Sequence[NewWords], bases: Mapping[int, int], tally: Tally
) -> list[PlainChange] | None:
    """What small arrays become, at least a word of each, as the changes of a plain commit.

    None where they are too many, or would have other bytes in lots: several dense ones are a group
    there, unless this is too small for one.
    """
    if len(contents) > MOST_CHANGES:
        return None
    words, many, dense = 0, 0, list[SmallArray]()
    for content in contents:
        array = content.array
        if tally.is_full_due(array.key, array.nbytes):
            return None
        words += array.words.size
        if not content.may_be_sparse:
            dense.append(array)
            many += 1
        elif content.places.size > FEW_WORDS:
            many += 1
    if words > LOT_WORDS or many > MOST_LOTS or _are_group(dense):
        return None
    changes = [plain_change(content, content.array.key not in bases) for content in contents]
    return None if _are_group([change.array for change in changes if change.is_dense]) else changes


def _are_group(dense: Sequence[SmallArray]) -> bool:
    return len(dense) > 1 and sum(array.words.nbytes for array in dense) >= LEAST_BYTES


def plain_of(
    state: StoredState, changes: Changes, tally: Tally, page_bytes: int
) -> list[PlainChange] | None:
    """`plain_changes` of what was compared."""
    parts = [*changes.lots, *changes.dense]
    if changes.large or sum(len(lot.arrays) for lot in parts) > MOST_CHANGES:
        return None
    if sum(len(lot.arrays) for lot in changes.dense) > MOST_LOTS:
        return None
    contents = list[NewWords]()
    for lot in changes.lots:
        for (info, old, new), picked in lot.each():
            after = new if new is not None else words_after(old, picked)
            contents.append(NewWords(SmallArray(state, info, page_bytes), after, picked.words))
    for info, _, new in (array for lot in changes.dense for array in lot.arrays):
        assert new is not None
        contents.append(SmallArray(state, info, page_bytes).becoming(new))
    return plain_changes(contents, state.table.bases, tally)


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
        self, table: Table, terms: Mapping[int, int], changes: Sequence[PlainChange], draft: Draft
    ) -> None:
        now = time.time_ns() if draft.time_ns is None else draft.time_ns
        self.record = record = PlainRecord(now, draft.step, draft.source, table.next_id)
        record.check_said()
        self.terms: dict[int, int] = {}
        digest, rows, sizes, chunks, data = table.stored_digest(), [], [], [], []
        for change in changes:
            array, chunk, key = change.array, change.chunk, change.array.key
            lanes_before, term_before = table.lanes.get(key, ZERO), terms.get(key)
            lanes = change.lanes(lanes_before)
            term = self.terms[key] = state_term(key, array.schema, lanes)
            if term_before is None:
                term_before = state_term(key, array.schema, lanes_before)
            digest = state_sum(digest, term, term_before)
            base = table.bases.get(key, 0)
            rows.append((key, base, *lanes, change.changed_bytes, 1, change.flags))
            record.changed_bytes += change.changed_bytes
            sizes.append(len(chunk.data))
            chunks.append(chunk.rows)
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
