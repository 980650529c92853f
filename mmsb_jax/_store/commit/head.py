"""The head: the state after the newest commit, in memory, and the making of the next commit."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsb_jax._base.errors import StructureError
from mmsb_jax._base.words import as_words
from mmsb_jax._store.commit.compare import Change, compare, patch
from mmsb_jax._store.commit.encode import record_all
from mmsb_jax._store.encoding.digest import (
    ZERO,
    Lanes,
    constant_term,
    digest_words,
    state_sum,
    state_term,
)
from mmsb_jax._store.encoding.encode import Chunk, compress_blob
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import (
    EXTRA_ID,
    EXTRA_IS_JSON,
    FULL,
    STRUCTURE_CHANGED,
    ArrayInfo,
    CommitRecord,
    Op,
    records_of,
)
from mmsb_jax._store.state.state import StoredState
from mmsb_jax._store.writer.writer import LogWriter


@dataclass(slots=True)
class Draft:
    """What a commit is asked to do.

    Attributes:
        ops: changes of the table of arrays, in order.
        contents: array id → its bytes after (uint8[nbytes]), for the arrays to compare.
        patches: array id → (words (int64[n], ascending), mask of the bytes written (uint32[n]),
            bytes written (uint32[n])).
        values: constants: name → tagged value, None for one that goes.
        step, source, note, time_ns: what the caller says of it (`CommitRecord`).
        extra: the caller's blob.
        extra_is_json: whether the blob is JSON.
    """

    ops: list[Op] = field(default_factory=list)
    contents: dict[int, np.ndarray] = field(default_factory=dict)
    patches: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    values: dict[str, str | None] = field(default_factory=dict)
    step: int | None = None
    source: str = ""
    note: str = ""
    time_ns: int | None = None
    extra: bytes | None = None
    extra_is_json: bool = False


class Landed(NamedTuple):
    """What became of a draft."""

    version: int
    time_ns: int
    changed: tuple[str, ...]
    changed_bytes: int
    logged_bytes: int


Content = np.ndarray | tuple[np.ndarray, np.ndarray]
"""What an array becomes: all its words; or some (int64[n], ascending) and what they become."""

Follow = Callable[["Plan", list[Change]], tuple[dict[int, Content], dict[str, str | None]]]
"""What follows from a commit's changes: what derived arrays become, entries of the graph.

Called before anything is written. An exception in it ends the commit, and nothing has changed.
"""

Stored = tuple[int, int, int]
"""(array, stored bytes, record flags) of one record."""


@dataclass(slots=True)
class Landing:
    """A commit between its append and its adoption: all that is needed to finish it.

    An interrupt may cut a commit short. Whoever comes next finishes it where the log has it, and
    forgets it where the log does not. To adopt it only sets, and never adds, so that it can be done
    again from wherever it stopped.

    Attributes:
        version: what the log ends at, once it has the commit.
        plan, record, changes: what it does.
        stored: its records, to schedule snapshots by.
        total_bytes, sparse_bytes: the schedule before it.
        delta_bytes: array id → stored bytes of its deltas before it.
        logged_bytes: bytes of all its frames; None as long as only the log knows.
    """

    version: int
    plan: "Plan"
    record: CommitRecord
    changes: Sequence[Change]
    stored: Sequence[Stored]
    total_bytes: int
    sparse_bytes: int
    delta_bytes: dict[int, int]
    logged_bytes: int | None = None

    def adopt(self, head: "Head") -> Landed:
        """Make the state of ``head`` that after the commit, which the log has."""
        head.adopt(self)
        record = self.record
        changed = tuple(sorted(change.info.name for change in self.changes))
        logged_bytes = self.logged_bytes
        if logged_bytes is None:
            logged_bytes = head.writer.log.row(self.version).logged_bytes
        head.count(self, logged_bytes)
        return Landed(self.version, record.time_ns, changed, record.changed_bytes, logged_bytes)


@dataclass(slots=True)
class Joining:
    """The beginning of an empty log with a state, between its append and its adoption."""

    version: int
    state: StoredState

    def adopt(self, head: "Head") -> Landed:
        """Make ``state`` that of the head."""
        head.replace_state(self.state)
        return Landed(self.version, 0, (), 0, 0)


_LEAST_SPARSE_BYTES = 4 << 20
_LEAST_TOTAL_BYTES = 64 << 20


class Plan:
    """A draft against the state it meets: what goes, what is made, what is compared.

    Attributes:
        made: the arrays that operations touch, as the code that replays them makes them; None
            without operations.
        arrays: what these are after the operations, by id.
        gone: ids of the arrays whose present term leaves the digest of the state.
        compared: changes to find by comparing whole arrays.
        patched: changes that are known, those without a differing byte left out.
        next_id: the next id that is free.
        terms: what each changed array adds to the digest of the state; the head enters it.

    Raises:
        StructureError: an operation, or the size of a content, does not fit the state.
    """

    def __init__(self, state: StoredState, draft: Draft) -> None:
        self._state = state
        self.made: StoredState | None = None
        self.arrays: dict[int, ArrayInfo] = {}
        self.gone: Set[int] = frozenset()
        self.next_id = state.table.next_id
        self.terms: dict[int, int] = {}
        self._touched: Set[int] = frozenset()
        self._cut: Set[int] = frozenset()
        if draft.ops:
            self._operate(draft.ops)
        self.compared = [self._to_compare(*item) for item in draft.contents.items()]
        self.patched = []
        for array_id, (words, mask, data) in draft.patches.items():
            change = self.change(array_id)
            if patch(change, words, (change.old[words] & ~mask) | (data & mask)):
                self.patched.append(change)

    def _operate(self, ops: Sequence[Op]) -> None:
        self.made = self._state.sketch(ops)
        try:
            done = self.made.operate(ops)
        except BadFrameError as error:
            raise StructureError(f"the commit does not fit the state: {error}") from error
        self.arrays = self.made.table.arrays
        self._touched = {op.info.id for op in ops}
        self.gone = self._touched & self._state.table.arrays.keys()
        self.next_id = max(self.next_id, 1 + max(self._touched))
        self._cut = {op.info.id for op, before in done if before and op.info.nbytes < before.nbytes}

    def _to_compare(self, array_id: int, raw: np.ndarray) -> Change:
        change = self.change(array_id)
        if raw.size != change.info.nbytes:
            raise StructureError(
                f"{raw.size} bytes for {change.info.name!r}, which has {change.info.nbytes}"
            )
        change.new = as_words(raw)
        return change

    def change(self, array_id: int) -> Change:
        """A change of an array, of which nothing is known yet.

        Raises:
            StructureError: there is no such array.
        """
        info = self.info(array_id)
        if info is None:
            raise StructureError(f"bytes for array {array_id}, which is not there")
        fresh = array_id not in self._state.table.bases
        return Change(info, self.words(array_id), None, fresh=fresh)

    def info(self, array_id: int) -> ArrayInfo | None:
        """An array as the draft's operations leave it; None where there is none."""
        arrays = self.arrays if array_id in self._touched else self._state.table.arrays
        return arrays.get(array_id)

    def id_of(self, name: str) -> int:
        """The id of an array by its name, as the draft's operations leave it."""
        made = {} if self.made is None else self.made.table.ids
        return made.get(name) or self._state.table.ids[name]

    def words(self, array_id: int) -> np.ndarray:
        """The words of an array as the draft's operations leave it; not to be written to."""
        if self.made is not None and array_id in self._touched:
            return self.made.words[array_id]
        return self._state.words[array_id]

    def change_to(self, array_id: int, words: np.ndarray) -> Change:
        """A change that replaces all words of an array; it is still to be compared."""
        change = self.change(array_id)
        change.new = words
        return change

    def lanes_before(self, array_id: int) -> Lanes:
        """Digest of an array as it is when the commit's bytes meet it."""
        if array_id in self._cut and array_id in self.arrays:
            return digest_words(self.words(array_id))
        return self._state.table.lanes.get(array_id, ZERO)


class Head:
    """The state after the newest commit, and the only way to the next.

    Args:
        state: all arrays at the log's newest version, with the versions of their pages.
        writer: the log's writer.
        page_bytes: bytes of a page.
        executor: makes the threads for large commits when they are first needed.

    Attributes:
        landed: what became of the newest commit made here; kept, since an interrupt may lose what
            was returned.
    """

    def __init__(
        self,
        state: StoredState,
        writer: LogWriter,
        page_bytes: int,
        executor: Callable[[], Executor],
    ) -> None:
        self.state = state
        self.writer = writer
        self.page_bytes = page_bytes
        self.executor = executor
        self._delta_bytes: dict[int, int] = {}
        self._terms: dict[int, int] = {}
        self._sparse_bytes = 0
        self._total_bytes = 0
        self._state_bytes = state.nbytes
        self.landed: Landed | None = None
        self._landing: Landing | Joining | None = None
        self._recount()

    def settle(self) -> None:
        """Finish a landing that was cut short, if the log has the commit; else forget it.

        Nothing is half done after it. The writer must be settled (`LogWriter.settle`).
        """
        landing = self._landing
        if landing is not None:
            if self.writer.log.version >= landing.version:
                self.landed = landing.adopt(self)
            self._landing = None

    def _landed(self) -> Landed:
        self.settle()
        assert self.landed is not None
        return self.landed

    def join(self, state: StoredState, append: Callable[[], object]) -> Landed:
        """Begin an empty log with ``state``, which ``append`` writes."""
        self._landing = Joining(state.table.version, state)
        append()
        return self._landed()

    def replace_state(self, state: StoredState) -> None:
        """Take ``state``, that at the log's newest version, in place of an empty one."""
        self.state = state
        self._terms.clear()
        self._state_bytes = state.nbytes
        self.begin_segment()

    def _recount(self) -> None:
        """Take up the schedule where it began: where a segment was begun for a snapshot.

        One that seals a torn tail was not; the file before it is longer than the log's part of it.
        """
        log = self.writer.log
        place = len(log.pieces) - 1
        while place and log.files.size(log.pieces[place - 1].segment.name) > (
            log.pieces[place - 1].end_offset or 0
        ):
            place -= 1
        for version in range(log.pieces[place].segment.first_version, log.version + 1):
            stored = list(stored_in(log.record(version)))
            self._count(stored, log.row(version).logged_bytes, *self._schedule_of(stored))

    def _schedule_of(self, stored: Iterable[Stored]) -> tuple[int, int, dict[int, int]]:
        """The schedule of snapshots before a commit of some records."""
        delta_bytes = self._delta_bytes
        before = {array_id: delta_bytes.get(array_id, 0) for array_id, _, _ in stored}
        return self._total_bytes, self._sparse_bytes, before

    def count(self, landing: Landing, logged_bytes: int) -> None:
        """Count a commit that the log has."""
        before = landing.total_bytes, landing.sparse_bytes, landing.delta_bytes
        self._count(landing.stored, logged_bytes, *before)

    def _count(
        self,
        stored: Iterable[Stored],
        logged_bytes: int,
        total_bytes: int,
        sparse_bytes: int,
        delta_bytes: Mapping[int, int],
    ) -> None:
        """Make the schedule that after a commit, from that before it."""
        self._total_bytes = total_bytes + logged_bytes
        sparse_bytes += logged_bytes
        for array_id, nbytes, flags in stored:
            if flags & FULL:
                self._delta_bytes[array_id] = 0
                sparse_bytes -= nbytes
            else:
                self._delta_bytes[array_id] = delta_bytes[array_id] + nbytes
        self._sparse_bytes = sparse_bytes

    @property
    def snapshot_is_due(self) -> bool:
        """By logged bytes: deltas as large as the state, or eight states of anything.

        The rule knows nothing of time, so that the same commits give the same log.
        """
        return self._sparse_bytes > max(self._state_bytes, _LEAST_SPARSE_BYTES) or (
            self._total_bytes > max(8 * self._state_bytes, _LEAST_TOTAL_BYTES)
        )

    def begin_segment(self) -> None:
        """Start the schedule anew: a snapshot of the newest version is on its way."""
        self._sparse_bytes = self._total_bytes = 0
        self._delta_bytes.clear()

    def commit(self, draft: Draft, follow: Follow | None = None) -> Landed:
        """Compare, find what follows, append to the log, and only then change the head.

        Raises:
            StructureError: the draft does not fit the state, or what it says is beyond a limit.
            LocationError, ClosedError: the log could not be written; the head is as it was.
            what ``follow`` raises; the head is as it was.
        """
        plan = Plan(self.state, draft)
        changes = compare(plan.compared, self.page_bytes, self.executor) + plan.patched
        values = draft.values
        if follow is not None:
            derived, entries = follow(plan, changes)
            changes = changes + self._derived(plan, derived)
            values = values | entries
        wait = record_all(
            changes, plan.lanes_before, self._delta_bytes, self.page_bytes, self.executor
        )
        chunks = [chunk for change in changes for chunk in change.chunks]
        extra_chunks = compress_blob(draft.extra) if draft.extra else []
        record = CommitRecord(
            log_id=b"",
            previous_chain=b"",
            state_digest=0,
            version=0,
            time_ns=time.time_ns() if draft.time_ns is None else draft.time_ns,
            step=draft.step,
            source=draft.source,
            note=draft.note,
            values=values,
            next_id=plan.next_id,
            ops=draft.ops,
        )
        if draft.ops:
            record.flags |= STRUCTURE_CHANGED
        record.check_said()  # before anything is written

        def complete() -> CommitRecord:
            wait()
            self.describe(record, plan, changes)
            if draft.extra is not None:
                rows = [(EXTRA_ID, 0, 0, 0, 0, len(extra_chunks), FULL)]
                record.records = np.concatenate([record.records, records_of(rows)])
                record.flags |= EXTRA_IS_JSON if draft.extra_is_json else 0
            return record

        stored = list(_stored_of(changes, extra_chunks))
        try:
            return self.land(
                plan,
                record,
                changes,
                stored,
                lambda: self.writer.append([*chunks, *extra_chunks], complete),
            )
        finally:
            wait()

    def land(
        self,
        plan: Plan,
        record: CommitRecord,
        changes: Sequence[Change],
        stored: Sequence[Stored],
        append: Callable[[], int],
    ) -> Landed:
        """Append a commit with ``append``, and make the state that after it.

        Where it is cut short, `settle` does the rest.
        """
        version, schedule = self.writer.log.version + 1, self._schedule_of(stored)
        self._landing = landing = Landing(version, plan, record, changes, stored, *schedule)
        landing.logged_bytes = append()
        return self._landed()

    def _derived(self, plan: Plan, derived: dict[int, Content]) -> list[Change]:
        """The changes of derived arrays; those without a differing byte left out."""
        compared, patched = [], []
        for array_id, content in derived.items():
            if isinstance(content, np.ndarray):
                compared.append(plan.change_to(array_id, content))
            else:
                change = plan.change(array_id)
                if patch(change, *content):
                    patched.append(change)
        return compare(compared, self.page_bytes, self.executor) + patched

    def describe(self, record: CommitRecord, plan: Plan, changes: Sequence[Change]) -> None:
        """Enter digests and counts, once they are known."""
        table = self.state.table
        rows, digest = [], table.state_digest
        for array_id in plan.gone:
            digest = state_sum(digest, 0, self._term(array_id))
        for change in changes:
            info, lanes, chunks = change.info, change.lanes, len(change.chunks)
            base = table.bases.get(info.id, 0)
            rows.append((info.id, base, *lanes, change.changed_bytes, chunks, change.flags))
            record.changed_bytes += change.changed_bytes
            before = 0 if info.id in plan.arrays else self._term(info.id)
            after = plan.terms[info.id] = state_term(info.id, info.schema(), lanes)
            digest = state_sum(digest, after, before)
        for array_id, info in plan.arrays.items():
            if array_id in plan.terms:
                continue
            lanes = plan.lanes_before(array_id)
            if lanes != table.lanes.get(array_id, ZERO):  # a resize that cut words off
                rows.append((array_id, table.bases.get(array_id, 0), *lanes, 0, 0, 0))
            digest = state_sum(digest, state_term(array_id, info.schema(), lanes))
        for name, value in record.values.items():
            before = table.value_of(name)
            digest = state_sum(
                digest,
                0 if value is None else constant_term(name, value),
                0 if before is None else constant_term(name, before),
            )
        record.records = records_of(rows)
        record.state_digest = digest

    def _term(self, array_id: int) -> int:
        """What an array of the head adds to the digest of the state."""
        term = self._terms.get(array_id)
        if term is None:
            table = self.state.table
            lanes = table.lanes.get(array_id, ZERO)
            term = state_term(array_id, table.arrays[array_id].schema(), lanes)
            self._terms[array_id] = term
        return term

    def adopt(self, landing: Landing) -> None:
        """Change the head to what the log now says; nothing in here can fail on its own."""
        state, table = self.state, self.state.table
        plan, record = landing.plan, landing.record
        if record.ops:
            assert plan.made is not None
            state.adopt(plan.made, record.ops)
            self._state_bytes = state.nbytes
            for array_id in plan.gone:
                self._terms.pop(array_id, None)
                if array_id not in table.arrays:
                    self._delta_bytes.pop(array_id, None)
        self._terms |= plan.terms
        table.apply_values(record)
        for change in landing.changes:
            change.put()
            state.page_versions[change.info.id][change.pages] = record.version
        table.apply_head(record, self.writer.log.scan.chain)


def stored_in(record: CommitRecord) -> Iterator[Stored]:
    """(array, stored bytes, flags) of the records of a commit."""
    sizes = iter(record.chunks["stored"].tolist())
    columns = (record.records[name].tolist() for name in ("id", "chunks", "flags"))
    for array_id, chunks, flags in zip(*columns, strict=True):
        yield array_id, sum(itertools.islice(sizes, chunks)), flags


def _stored_of(changes: Sequence[Change], extra: Sequence[Chunk]) -> Iterator[Stored]:
    """The same of a commit that is still at hand."""
    for change in changes:
        yield change.info.id, sum(len(chunk.data) for chunk in change.chunks), change.flags
    if extra:
        yield EXTRA_ID, sum(len(chunk.data) for chunk in extra), FULL
