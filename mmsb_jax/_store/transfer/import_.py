"""Taking in what another log wrote: its commits, in its frames, with its chain and its digests.

A commit is computed and compared with the digests that it carries before anything is written; then
it is appended; only then the head follows. So it is taken whole, or nothing has changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmsb_jax._base.errors import (
    CorruptionError,
    DivergenceError,
    StructureError,
    VersionError,
)
from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._store.commit.compare import ArrayChange, compare_large, patch
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head, Landed
from mmsb_jax._store.commit.plan import Plan
from mmsb_jax._store.encoding.decode import check_extent, decode_all
from mmsb_jax._store.encoding.sparse import sparse_elements
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.chain import opened
from mmsb_jax._store.format.chunk import ChunkData
from mmsb_jax._store.format.data import CommitFrames
from mmsb_jax._store.format.frame import HEADER_BYTES, BadFrameError, Header
from mmsb_jax._store.format.record import EXTRA_ID, FULL, VALUES_REPLACE, CommitRecord
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.transfer.stream import Stream
from mmsb_jax._store.writer.lineage import change_ids
from mmsb_jax._store.writer.writer import LogWriter


@dataclass(frozen=True, slots=True)
class Intake:
    """A stream, checked whole, and what of it is new to a log.

    Attributes:
        stream: the stream.
        behind: the version behind which it is new.
        joins: whether the log is empty, and begins with the stream's snapshot.
    """

    stream: Stream
    behind: int
    joins: bool

    @classmethod
    def of(cls, stream: Stream, log: Log) -> "Intake":
        """What of ``stream`` is new to ``log``.

        Cost: one read of the stream.
        """
        head, here = stream.head, log.version
        chains = [head.chain, *stream.chains()]
        joins = not here and bool(head.snapshot_bytes)
        if joins and head.page_bytes != log.manifest.page_bytes:
            raise StructureError(
                f"{stream.place} begins with a snapshot in pages of {head.page_bytes} bytes, and "
                f"{log.place} has pages of {log.manifest.page_bytes}. Open the new log with "
                f"page_bytes={head.page_bytes}."
            )
        if not joins:
            if head.since > here:
                raise _gap(stream, log)
            _check_same(log, stream, chains)
        return cls(stream, here, joins)

    def open(self, log: Log, writer: LogWriter) -> None:
        """Let ``log`` say that the versions to come are the sender's; see `change_ids`."""
        ids, head = log.manifest.ids, self.stream.head
        first = head.since + 1 if self.joins else self.behind + 1
        if any(ids.of(v) != head.ids.of(v) for v in range(first, head.last + 1)):
            to_come = opened(ids, self.behind, head.ids)
            writer.change_manifest(lambda: change_ids(log, to_come, writer.poison))

    def commits(self) -> Iterator[CommitFrames]:
        """Its commits that are new, but for the one that a join begins with."""
        for commit in self.stream.commits():
            version = commit.record.version
            if version > self.behind and not (self.joins and version == self.stream.head.since + 1):
                yield commit


def _gap(stream: Stream, log: Log) -> VersionError:
    first, last = log.version + 1, stream.head.since
    what = f"versions {first} to {last} are" if first < last else f"version {last} is"
    return VersionError(
        f"{what} missing between {log.place}, which ends at version {log.version}, and "
        f"{stream.place}, which begins behind version {last}. Export with since={log.version}; "
        f"or begin an empty log with an export without since."
    )


def _check_same(log: Log, stream: Stream, chains: Sequence[bytes]) -> None:
    """Refuse a stream of another history than the log's, where both have a version.

    A chain says all that led to it, so that the newest common one decides.
    """
    since = stream.head.since
    common = min(log.version, stream.head.last)
    first = max(since, log.kept_since - 1)
    if common < first or chains[common - since] == log.chain_at(common):
        return
    differing = common
    while differing > first and chains[differing - 1 - since] != log.chain_at(differing - 1):
        differing -= 1
    known = f"version {differing}" if differing > first else f"version {differing} or before"
    raise DivergenceError(
        f"{stream.place} is of another history than {log.place}: they differ from {known} on. "
        f"Both were written to since. Import it into a fork behind the last version that they "
        f"have in common (bus.fork(version=…)), or into a new log."
    )


def join(head: Head, intake: Intake) -> Landed:
    """Begin an empty log with the snapshot of a stream, and with the commit of its version.

    The new segment makes it so: until it is there the log is empty.
    """
    stream = intake.stream
    state, _ = stream.state(page_bytes=head.page_bytes)
    commit = next(stream.commits())
    snapshot = _snapshot_of(stream)
    return head.join(state, commit, stream.head.chain, snapshot)


def _snapshot_of(stream: Stream) -> list[Buffer]:
    """The file of a stream's snapshot, without the mark that it has in the sender's log.

    Here it would say that the log is durable up to where it does not reach yet.
    """
    raw, buffers, offset = memoryview(stream.snapshot()), [], 0
    while offset < len(raw):
        header = Header.decode(bytes(raw[offset : offset + HEADER_BYTES]), offset)
        buffers.append(header._replace(synced=0).encode())
        buffers.append(raw[offset + HEADER_BYTES : offset + header.frame_bytes])
        offset += header.frame_bytes
    return buffers


def take(head: Head, commit: CommitFrames, place: str) -> Landed:
    """Make a commit of another log the next one of this; nothing is computed but its digests.

    Args:
        head: the head and its log, which must say who wrote the version (`Intake.open`).
        commit: the commit; it must continue the log.
        place: what to call the stream in messages.

    Cost: the bytes that changed, decoded, digested and written; of a dense change, the array.
    """
    record = commit.record
    try:
        if not record.is_saved:
            return head.take_digests(commit)
        plan = Plan(head.state, Draft(ops=record.ops))
        changes = _changes(head, plan, commit)
        _check(head, plan, commit.record, changes)
    except (BadFrameError, StructureError) as error:
        raise CorruptionError(
            f"{place}: version {record.version} does not fit what is before it: {error}. Its "
            f"frames are whole: it was written so."
        ) from error
    return head.append(commit, plan, changes)


def _changes(head: Head, plan: Plan, commit: CommitFrames) -> list[ArrayChange]:
    """What the records of a commit do to the arrays; those without a differing byte left out."""
    found, stop = [], 0
    record, parts = commit.record, commit.chunks()
    for row in record.records:
        start, stop = stop, stop + int(row["chunks"])
        array_id = int(row["id"])
        if array_id == EXTRA_ID:
            continue
        change = ArrayChange(plan.array(array_id), plan.words(array_id), None)
        base = head.state.table.bases.get(array_id, 0)
        if not row["flags"] & FULL and int(row["base"]) != base:
            raise BadFrameError(f"a record builds on version {int(row['base'])}, not {base}")
        change.before = change.lanes = plan.lanes_before(array_id)
        rows = record.chunks[start:stop]
        check_extent(rows, change.nbytes)
        if row["flags"] & FULL and int(rows["raw"].sum(dtype=np.uint64)) != change.nbytes:
            raise BadFrameError(f"a full record of {change.info.name!r} does not give all of it")
        if rows.size and _decode(head, change, list(zip(rows, parts[start:stop], strict=True))):
            change.finish(head.page_bytes // 4)
            found.append(change)
    return found


def _decode(head: Head, change: ArrayChange, chunks: Sequence[tuple[np.void, ChunkData]]) -> bool:
    """Find what ``chunks`` change; whether a byte differs."""
    words = _words_of(change, chunks)
    if words is not None:
        return patch(change, *words)
    change.new = change.old.copy()
    decode_all(change.new.view(np.uint8)[: change.nbytes], chunks)
    compare_large([change], head.page_bytes // WORD_BYTES, head.executor)
    return bool(change.differing)


def _words_of(
    change: ArrayChange, chunks: Sequence[tuple[np.void, ChunkData]]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The words (ascending) that chunks touch, and what they become; None for a dense change."""
    unit = change.unit
    found = sparse_elements(chunks, unit, change.nbytes)
    if found is None:
        return None
    elements, after = found
    if not (elements[1:] > elements[:-1]).all():
        return None
    each = 4 // unit
    words = elements // each
    is_first = np.ones(words.size, bool)
    np.not_equal(words[1:], words[:-1], out=is_first[1:])
    touched = words[is_first]
    after_words = change.old[touched]
    after_words.view(f"<u{unit}")[(np.cumsum(is_first) - 1) * each + elements % each] = after
    return touched, after_words


def _check(head: Head, plan: Plan, record: CommitRecord, changes: Sequence[ArrayChange]) -> None:
    """Compare the digests that a commit names with those of what it leads to."""
    if record.flags & VALUES_REPLACE or record.next_id != plan.next_id:
        raise BadFrameError("it is not the commit of a log")
    after = CommitRecord(b"", b"", 0, 0, 0, values=record.values, ops=record.ops)
    head.describe(after, plan, changes)
    lanes = {change.info.id: change.lanes for change in changes}
    for row in record.records:
        array_id = int(row["id"])
        if array_id != EXTRA_ID:
            known = lanes.get(array_id) or plan.lanes_before(array_id)
            if known != (int(row["lane0"]), int(row["lane1"])):
                name = plan.array(array_id).name
                raise BadFrameError(f"the bytes of {name!r} do not have the digest recorded")
    if after.state_digest != record.state_digest:
        raise BadFrameError("the state does not have the digest recorded")


def take_in(head: Head, stream: Stream) -> list[int]:
    """Take in what of ``stream`` is new; returns the versions."""
    log = head.writer.log
    intake = Intake.of(stream, log)
    intake.open(log, head.writer)
    new = []
    if intake.joins:
        join(head, intake)
        new.append(log.version)
    for commit in intake.commits():
        new.append(take(head, commit, stream.place).version)
    return new
