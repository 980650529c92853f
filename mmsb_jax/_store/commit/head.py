"""The head: the state after the newest commit, in memory, and the making of the next commit."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.commit.compare import Changes, compare, patched
from mmsb_jax._store.commit.draft import ArrayContent, Draft
from mmsb_jax._store.commit.encode import Recorded, record_all
from mmsb_jax._store.commit.lots import Compared
from mmsb_jax._store.commit.plain import (
    MOST_CHANGES,
    NewWords,
    PlainChange,
    PlainCommit,
    SmallArray,
    plain_changes,
    plain_of,
)
from mmsb_jax._store.commit.plan import Content, Plan
from mmsb_jax._store.commit.tally import Marks, Tally
from mmsb_jax._store.encoding.blob import compress_blob
from mmsb_jax._store.encoding.digest import ZERO, constant_term, state_sum, state_term
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.data import CommitFrames, NewCommit
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import (
    ASIDE,
    DIGEST,
    DIGEST_ONLY,
    DIGESTS,
    EXTRA_ID,
    EXTRA_IS_JSON,
    FULL,
    RECORD,
    STRUCTURE_CHANGED,
    VALUES_REPLACE,
    CommitRecord,
    PlainRecord,
    Row,
    records_of,
)
from mmsb_jax._store.state.aside import BytesAside
from mmsb_jax._store.state.state import StoredState, Table
from mmsb_jax._store.writer.writer import LogWriter


class Landed(NamedTuple):
    """What became of a draft.

    Attributes:
        is_saved: whether all of its bytes were logged.
        aside: else the arrays whose bytes were.
    """

    version: int
    time_ns: int
    changed: tuple[str, ...]
    changed_bytes: int
    logged_bytes: int
    is_saved: bool = True
    aside: tuple[str, ...] = ()


@dataclass(slots=True)
class Landing:
    """A commit between its append and its adoption: all that is needed to finish it.

    An interrupt may cut a commit short. Whoever comes next finishes it where the log has it, and
    forgets it where the log does not. To adopt it only sets, and never adds, so that it can be done
    again from wherever it stopped.

    Attributes:
        version: what the log ends at, once it has the commit.
        plan: what it is asked to do.
        changes: what it changes, as its records say.
        record: what it says; complete once the log has it.
        marks: the tally before it.
        state_bytes: bytes of the state after it.
        logged_bytes: bytes of all its frames; None as long as only the log knows.
    """

    version: int
    plan: Plan
    changes: Sequence[Recorded]
    record: CommitRecord
    marks: Marks
    state_bytes: int
    logged_bytes: int | None = None

    def adopt(self, head: "Head") -> Landed:
        """Make the state of ``head`` that after the commit, which the log has."""
        head.adopt(self)
        names = [info.name for change in self.changes for info in change.infos]
        return head.count(self, self.record, names)


@dataclass(slots=True)
class PlainLanding:
    """As `Landing`, of a plain commit."""

    version: int
    changes: Sequence[PlainChange]
    commit: PlainCommit
    marks: Marks
    logged_bytes: int | None = None

    def adopt(self, head: "Head") -> Landed:
        """As `Landing.adopt`."""
        for change in self.changes:
            change.put(self.version)
        head.adopt_plain(self.commit)
        names = [change.array.info.name for change in self.changes]
        return head.count(self, self.commit.record, names)


@dataclass(slots=True)
class DigestLanding:
    """As `Landing`, of a commit of digests: the bytes of the head stay.

    ``changes`` are those of the bytes aside; None where these were not decoded.
    """

    version: int
    record: CommitRecord
    marks: Marks
    changes: Sequence[Recorded] | None
    logged_bytes: int | None = None

    def adopt(self, head: "Head") -> Landed:
        """As `Landing.adopt`."""
        table = head.state.table
        table.apply_values(self.record)
        table.apply_head(self.record, head.writer.log.scan.chain)
        head.adopt_aside(self.record, self.changes)
        ids = self.record.digests["id"].tolist()
        return head.count(self, self.record, [table.arrays[i].name for i in ids])


@dataclass(slots=True)
class Joining:
    """The beginning of an empty log with a state, between its append and its adoption."""

    version: int
    state: StoredState

    def adopt(self, head: "Head") -> Landed:
        """Make ``state`` that of the head."""
        head.replace_state(self.state)
        return Landed(self.version, 0, (), 0, 0)


class Head:
    """The state after the newest commit, and the only way to the next.

    Args:
        state: all arrays at the log's newest version, with the versions of their pages.
        writer: the log's writer.
        page_bytes: bytes of a page.
        executor: makes the threads for large commits when they are first needed.

    Attributes:
        tally: what the records so far decide about the next ones.
        segment_states: how many states of anything are logged before a snapshot is due.
        landed: what became of the newest commit made here; kept, since an interrupt may lose what
            was returned.
        structure: version of the newest commit made here that changed the table of arrays.
        aside: the bytes of versions that were saved in part.
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
        self.tally = Tally()
        self.segment_states = 8
        self._terms: dict[int, int] = {}
        self._state_bytes = state.nbytes
        self.structure = state.table.version
        self.landed: Landed | None = None
        self.aside = BytesAside()
        self._landing: Landing | PlainLanding | DigestLanding | Joining | None = None
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

    def join(
        self, state: StoredState, commit: CommitFrames, chain: bytes, snapshot: list[Buffer]
    ) -> Landed:
        """Begin an empty log with ``state``; the rest as for `LogWriter.begin_with`."""
        self._landing = Joining(state.table.version, state)
        self.writer.begin_with(commit, chain, snapshot)
        return self._landed()

    def replace_state(self, state: StoredState) -> None:
        """Take ``state``, that at the log's newest version, in place of an empty one."""
        self.state = state
        self._terms.clear()
        self._state_bytes = state.nbytes
        self.structure = state.table.version
        self.begin_segment()

    def _recount(self) -> None:
        """Take up the tally where it began: where a segment was begun for a snapshot.

        One that seals a torn tail was not; the file before it is longer than the log's part of it.
        """
        log = self.writer.log
        place = len(log.pieces) - 1
        while place and log.files.size(log.pieces[place - 1].segment.name) > (
            log.pieces[place - 1].end_offset or 0
        ):
            place -= 1
        for version in range(log.pieces[place].segment.first_version, log.version + 1):
            logged_bytes = log.row(version).logged_bytes
            self.tally.count(log.record(version), logged_bytes)

    def count(
        self,
        landing: Landing | PlainLanding | DigestLanding,
        record: CommitRecord | PlainRecord,
        names: list[str],
    ) -> Landed:
        """Count a commit that the log has, which changed the arrays ``names``."""
        logged_bytes = landing.logged_bytes
        if logged_bytes is None:
            logged_bytes = self.writer.log.row(landing.version).logged_bytes
        self.tally.count(record, logged_bytes, landing.marks)
        changed = tuple(sorted(names))
        said = landing.version, record.time_ns, changed, record.changed_bytes, logged_bytes
        if record.is_saved:
            return Landed(*said)
        arrays = self.state.table.arrays
        aside = sorted(arrays[i].name for i in record.aside["id"].tolist())
        return Landed(*said, False, tuple(aside))

    @property
    def state_bytes(self) -> int:
        """Bytes of all arrays."""
        return self._state_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes held of the newest states."""
        return self.state.held_bytes + self.aside.nbytes

    @property
    def is_saved(self) -> bool:
        """Whether its bytes are those of the newest version."""
        return self.state.table.saved_version == self.state.table.version

    @property
    def snapshot_is_due(self) -> bool:
        """Whether so much has been logged that a snapshot is worth it, and there is one to make."""
        return self.is_saved and self.tally.snapshot_is_due(self._state_bytes, self.segment_states)

    @property
    def whole_is_due(self) -> bool:
        """Whether so much has been logged that the next commit is to have all bytes."""
        return not self.is_saved and self.tally.snapshot_is_due(
            self._state_bytes, self.segment_states
        )

    def begin_segment(self) -> None:
        """Start the tally anew: a snapshot of the newest version is on its way."""
        self.tally.begin()

    def commit(self, draft: Draft) -> Landed:
        """Commit ``draft``, and nothing that follows from it."""
        plan = Plan(self.state, draft)
        changes = self.compare(plan)
        return self.land(plan, changes, draft, draft.values)

    def compare(self, plan: Plan) -> Changes:
        """What a plan changes; arrays without a differing byte left out."""
        changes = self._compare(plan.compared)
        changes += plan.patched
        plan.order(changes)
        return changes

    def compare_derived(self, plan: Plan, contents: Mapping[int, Content]) -> Changes:
        """The same of what derived arrays become."""
        whole, parts = [], []
        for array_id, content in contents.items():
            if isinstance(content, np.ndarray):
                whole.append(plan.to_compare(array_id, content))
            else:
                parts.append(plan.to_patch(array_id, *content))
        changes = self._compare(whole)
        changes += patched(parts)
        return changes

    def _compare(self, arrays: Sequence[Compared]) -> Changes:
        return compare(arrays, self.page_bytes, self.executor)

    def land(
        self,
        plan: Plan,
        changes: Changes,
        draft: Draft,
        values: Mapping[str, str | None],
    ) -> Landed:
        """Encode what was compared, append it, and make the state that after it."""
        says_more = draft.ops or values or draft.note or draft.extra is not None
        if not (says_more or draft.nonfinite):
            few = plain_of(self.state, changes, self.tally, self.page_bytes)
            if few is not None:
                return self.land_plain(few, draft)
        commit = self.encode(plan, changes, draft, values)
        try:
            return self.append(commit, plan, commit.changes)
        finally:
            commit.wait()

    def land_small(
        self, written: NewWords, behind: Sequence[tuple[SmallArray, np.ndarray]], draft: Draft
    ) -> Landed:
        """`land` of what small arrays become.

        Args:
            written: what one array becomes.
            behind: the arrays behind it, each with all its words after (uint32[n]).
            draft: what the caller says of the commit, no more.
        """
        if len(behind) < MOST_CHANGES:
            new = [written, *[array.becoming(words) for array, words in behind]]
            new = [content for content in new if content.places.size]
            plain = plain_changes(new, self.state.table.bases, self.tally)
            if plain is not None:
                return self.land_plain(plain, draft)
        array, words, _ = written
        changes = self._compare([Compared(array.info, array.words, words)])
        if behind:
            changes += self._compare([Compared(a.info, a.words, words) for a, words in behind])
        return self.land(Plan(self.state, draft), changes, draft, draft.values)

    def land_plain(self, changes: Sequence[PlainChange], draft: Draft) -> Landed:
        """`land` of a plain commit."""
        changes = sorted(changes, key=lambda change: change.order) if len(changes) > 1 else changes
        commit = PlainCommit(self.state.table, self._terms, changes, draft)
        marks = self.tally.marks([change.array.key for change in changes])
        landing = PlainLanding(self.writer.log.version + 1, changes, commit, marks)
        self._landing = landing
        landing.logged_bytes = self.writer.append(commit)
        return self._landed()

    def adopt_plain(self, commit: PlainCommit) -> None:
        """`adopt` of what a plain commit says."""
        self._terms |= commit.terms
        self.state.table.apply_head(commit.record, self.writer.log.scan.chain)

    def land_digests(self, digests: np.ndarray, draft: Draft) -> Landed:
        """Commit the digests of arrays, and the bytes of few of them or of none.

        Args:
            digests: a row an array that changed, by id (`DIGEST`).
            draft: what the caller says of the commit, and the arrays whose bytes stand aside.
        """
        table = self.state.table
        record = _said(draft, draft.values, table.next_id)
        record.flags |= DIGEST_ONLY | DIGESTS
        record.digests = digests
        record.state_digest = self._digest_with(record)
        extra = [] if draft.extra is None else compress_blob(draft.extra)
        if draft.extra is not None:
            record.records = records_of([_extra_row(len(extra))])
        record.check_said()
        changes = self._record_aside(record, draft.contents) if draft.contents else []
        chunks = [chunk for change in changes for chunk in change.chunks]
        return self._append_digests(NewCommit(record, [*chunks, *extra]), record, changes)

    def _record_aside(
        self, record: CommitRecord, contents: Mapping[int, ArrayContent]
    ) -> list[Recorded]:
        """Enter the records of arrays that are saved, where others are not."""
        state = self.aside.over(self.state, contents)
        plan = Plan(state, Draft(contents=contents))
        bases, executor = state.table.bases, self.executor
        changes, waiting = record_all(
            self.compare(plan),
            plan.lanes_before,
            lambda array_id: array_id not in bases,
            Tally(),
            self.page_bytes,
            executor,
        )
        for future in waiting:
            future.result()
        rows = [change.rows(bases) for change in changes]
        # An array that is again as it was saved has no byte to log, and is as good as saved.
        changed = {info.id for change in changes for info in change.infos}
        known = self.state.table.ahead.keys() | set(record.digests["id"].tolist())
        same = [i for i in contents if i in known and i not in changed]
        rows.append(records_of([_row_of_same(i, state.table) for i in same]))
        record.aside = np.concatenate(rows)
        record.aside["flags"] |= ASIDE
        record.changed_bytes = int(record.aside["changed"].sum())
        return changes

    def adopt_aside(self, record: CommitRecord, changes: Sequence[Recorded] | None) -> None:
        """Take over the bytes aside of a commit that the log has."""
        if not len(record.aside):
            return
        if changes is None:
            self.aside = BytesAside()
            return
        state = self.aside.over(self.state, ())
        for change in changes:
            change.put(state.page_versions, self.page_bytes // WORD_BYTES, record.version)
        for array_id, _, lane0, lane1, *_ in record.aside.tolist():
            state.table.lanes[array_id] = (lane0, lane1)
            state.table.bases[array_id] = record.version

    def take_digests(self, commit: CommitFrames) -> Landed:
        """`land_digests` of a commit that another log wrote.

        Raises:
            BadFrameError: it does not fit what is before it.
        """
        record, arrays = commit.record, self.state.table.arrays
        if any(array_id not in arrays for array_id in record.digests["id"].tolist()):
            raise BadFrameError("a digest of an array that is not there")
        if record.flags & VALUES_REPLACE or record.next_id != self.state.table.next_id:
            raise BadFrameError("it is not the commit of a log")
        if self._digest_with(record) != record.state_digest:
            raise BadFrameError("the state does not have the digest recorded")
        return self._append_digests(commit, record, None)

    def _digest_with(self, record: CommitRecord) -> int:
        """The digest of the state after a commit that holds digests alone."""
        table, total = self.state.table, self.state.table.state_digest
        for array_id, lane0, lane1, _ in record.digests.tolist():
            schema = table.arrays[array_id].schema()
            total += state_term(array_id, schema, (lane0, lane1))
            total -= state_term(array_id, schema, table.lanes_now(array_id))
        return state_sum(total, self._values_term(record))

    def _append_digests(
        self,
        commit: NewCommit | CommitFrames,
        record: CommitRecord,
        changes: Sequence[Recorded] | None,
    ) -> Landed:
        version, marks = self.writer.log.version + 1, self.tally.marks([EXTRA_ID])
        self._landing = landing = DigestLanding(version, record, marks, changes)
        landing.logged_bytes = self.writer.append(commit)
        return self._landed()

    def encode(
        self,
        plan: Plan,
        changes: Changes,
        draft: Draft,
        values: Mapping[str, str | None],
    ) -> "EncodedCommit":
        """What the log will say of it; limits are checked here, before anything is written."""
        record = _said(draft, values, plan.next_id)
        record.ops = draft.ops
        if draft.ops:
            record.flags |= STRUCTURE_CHANGED
        record.check_said()
        bases = self.state.table.bases
        recorded, waiting = record_all(
            changes,
            plan.lanes_before,
            lambda array_id: array_id not in bases,
            self.tally,
            self.page_bytes,
            self.executor,
        )
        chunks = [chunk for change in recorded for chunk in change.chunks]
        extra_chunks = [] if draft.extra is None else compress_blob(draft.extra)
        if draft.nonfinite is not None:
            record.flags |= DIGESTS
        return EncodedCommit(
            record,
            [*chunks, *extra_chunks],
            head=self,
            plan=plan,
            changes=recorded,
            waiting=waiting,
            extra_chunks=None if draft.extra is None else len(extra_chunks),
            nonfinite=draft.nonfinite,
        )

    def append(
        self, commit: NewCommit | CommitFrames, plan: Plan, changes: Sequence[Recorded]
    ) -> Landed:
        """Append a commit, and make the state that after it.

        Where it is cut short, `settle` does the rest.
        """
        version = self.writer.log.version + 1
        touched = [*(info.id for change in changes for info in change.infos), EXTRA_ID]
        marks = self.tally.marks(touched)
        grown = self._state_bytes + plan.grown_bytes
        self._landing = landing = Landing(version, plan, changes, commit.record, marks, grown)
        landing.logged_bytes = self.writer.append(commit)
        return self._landed()

    def describe(self, record: CommitRecord, plan: Plan, changes: Sequence[Recorded]) -> None:
        """Enter digests and counts, once they are known."""
        table, rows, cut = self.state.table, list[np.ndarray](), list[Row]()
        digest = table.stored_digest() - sum(map(self._term, plan.gone))
        for change in changes:
            infos, part = change.infos, change.rows(table.bases)
            lanes = zip(part["lane0"].tolist(), part["lane1"].tolist(), strict=True)
            terms = {
                info.id: state_term(info.id, info.schema(), pair)
                for info, pair in zip(infos, lanes, strict=True)
            }
            known = terms.keys() - plan.arrays.keys() if plan.arrays else terms
            digest += sum(terms.values()) - sum(map(self._term, known))
            plan.terms |= terms
            rows.append(part)
            record.changed_bytes += int(part["changed"].sum())
        for array_id, info in plan.arrays.items():
            if array_id in plan.terms:
                continue
            lanes = plan.lanes_before(array_id)
            if lanes != table.lanes.get(array_id, ZERO):  # a resize that cut words off
                cut.append((array_id, table.bases.get(array_id, 0), *lanes, 0, 0, 0))
            digest = state_sum(digest, state_term(array_id, info.schema(), lanes))
        digest += self._values_term(record)
        rows.append(records_of(cut))
        record.records = np.frombuffer(b"".join([part.tobytes() for part in rows]), RECORD)
        record.state_digest = state_sum(digest, 0)

    def _values_term(self, record: CommitRecord) -> int:
        """What the constants of a commit change of the digest of the state."""
        total = 0
        for name, value in record.values.items():
            before = self.state.table.value_of(name)
            total += 0 if value is None else constant_term(name, value)
            total -= 0 if before is None else constant_term(name, before)
        return total

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
            self._state_bytes = landing.state_bytes
            self.structure = record.version
            for array_id in plan.gone:
                self._terms.pop(array_id, None)
                if array_id not in table.arrays:
                    self.tally.forget(array_id)
        self._terms |= plan.terms
        table.apply_values(record)
        for change in landing.changes:
            change.put(state.page_versions, self.page_bytes // WORD_BYTES, record.version)
        table.apply_head(record, self.writer.log.scan.chain)
        if self.aside.nbytes:
            self.aside = BytesAside()  # nothing builds on it any more


@dataclass(slots=True)
class EncodedCommit(NewCommit):
    """A commit of this head; digests of large arrays are computed while its data are written.

    Attributes:
        extra_chunks: how many of the chunks are the caller's ``extra``; None without any.
        nonfinite: as of the draft.
    """

    head: Head = field(kw_only=True)
    plan: Plan = field(kw_only=True)
    changes: Sequence[Recorded] = field(kw_only=True)
    waiting: Sequence[Future[None]] = field(kw_only=True)
    extra_chunks: int | None = field(kw_only=True)
    nonfinite: Callable[[], Mapping[int, int]] | None = field(kw_only=True)

    def wait(self) -> None:
        """Return once no thread works on it."""
        for future in self.waiting:
            future.result()

    def complete(self) -> None:
        """Enter the digests, once they are known."""
        self.wait()
        self.head.describe(self.record, self.plan, self.changes)
        if self.nonfinite is not None:
            self.record.digests = _digests_of(self.record.records, self.nonfinite())
        if self.extra_chunks is not None:
            extra = records_of([_extra_row(self.extra_chunks)])
            self.record.records = np.concatenate([self.record.records, extra])


def _said(draft: Draft, values: Mapping[str, str | None], next_id: int) -> CommitRecord:
    """What a draft says, as the record of a commit that is not complete yet."""
    return CommitRecord(
        log_id=b"",
        previous_chain=b"",
        state_digest=0,
        version=0,
        time_ns=time.time_ns() if draft.time_ns is None else draft.time_ns,
        step=draft.step,
        source=draft.source,
        note=draft.note,
        values=dict(values),
        next_id=next_id,
        flags=EXTRA_IS_JSON if draft.extra is not None and draft.extra_is_json else 0,
    )


def _digests_of(records: np.ndarray, nonfinite: Mapping[int, int]) -> np.ndarray:
    """The digests of the arrays of some records that have a number which is not finite."""
    rows = [
        (array_id, lane0, lane1, nonfinite[array_id])
        for array_id, _, lane0, lane1, *_ in records.tolist()
        if nonfinite.get(array_id)
    ]
    return np.array(sorted(rows), DIGEST)


def _row_of_same(array_id: int, table: Table) -> Row:
    """The record of an array that has no other bytes than before."""
    return array_id, table.bases.get(array_id, 0), *table.lanes.get(array_id, ZERO), 0, 0, 0


def _extra_row(chunks: int) -> Row:
    """The record of an ``extra`` of so many chunks."""
    return EXTRA_ID, 0, 0, 0, 0, chunks, FULL
