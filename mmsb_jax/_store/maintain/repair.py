"""Repair: a new log of all that is whole in a damaged one, which is left as it is.

A state needs every commit since its snapshot. So where the data of a commit are lost, so are the
states behind it up to the next snapshot, and what can be had falls apart. The newest part becomes
the new log; of what is before it stays what a compaction would leave: what the commits say, and the
states in snapshots. Each earlier part with commits becomes a log of its own.

Where all bytes are whole and a commit names a wrong digest for an array, that array alone cannot be
shown to be right, until a record of it has the digest that it names. It is left out as long, and
the versions from there on are written anew.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

from mmsb_jax._base.errors import CorruptionError, LocationError
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.frame import HEADER_BYTES, BadFrameError, padded
from mmsb_jax._store.format.manifest import ArchiveEntry, Compaction, Manifest
from mmsb_jax._store.format.names import LOG_FOLDER, NO_SEGMENT, list_snapshots, snapshot_name
from mmsb_jax._store.format.record import CommitRecord
from mmsb_jax._store.format.tags import TagChanges
from mmsb_jax._store.log.archive import Archived, archive_frames, end_of_commit
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, Segment
from mmsb_jax._store.maintain.report import MadeLog, RepairReport, UnprovenArray
from mmsb_jax._store.maintain.salvage.anew import Anew
from mmsb_jax._store.maintain.salvage.guarded import check_damage, guarded
from mmsb_jax._store.maintain.salvage.survey import (
    Line,
    LinePart,
    Survey,
    SurveyedCommit,
    lineage_of,
    survey,
)
from mmsb_jax._store.maintain.salvage.trial import span_text
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.state.snapshot import Extra, write_snapshot
from mmsb_jax._store.state.state import StoredState
from mmsb_jax._store.writer.create import make_empty, new_ids
from mmsb_jax._store.writer.writer import LogWriter, disk_error

_SEGMENT_BYTES = 1 << 26

Progress = Callable[[int, int], None]


def repair(
    source: Files,
    place: str,
    make: Callable[[LinePart, bool], tuple[Files, str]],
    *,
    page_bytes: int,
    keep_unproven: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> RepairReport:
    """Make new logs of all that is whole in ``source``.

    Each new log has an id of its own, as a fork has, and is verified before this returns.

    Args:
        source: the damaged log; only read.
        place: what to call it in messages.
        make: called with each part that becomes a log, and whether it is the newest; gives an empty
            directory and its name.
        page_bytes: bytes of a page, for a log whose manifest, which says it, is damaged.
        keep_unproven: whether to keep arrays whose bytes are whole and whose digest is wrong, under
            the digest that they have. A tag on the first version says so.
        progress: called with (done, in all): a commit counts when written, and when verified.
        executor: where to digest side by side.

    Cost: one read of every file of the log; two replays, one with a digest of each array that a
    commit touched, a commit; and a verification of what was made. What is written anew takes a
    second state in memory.
    """
    manifest, notes = _manifest_of(source, place, page_bytes)
    found = survey(guarded(source, place), manifest)
    with contextlib.ExitStack() as stack:
        threads = executor or stack.enter_context(ThreadPoolExecutor())
        parts = found.parts(threads)
        if not parts:
            raise CorruptionError(
                f"{place}: no state can be had from it: neither its first commit nor a snapshot "
                f"is whole. Restore it from a copy."
            )
        newest = parts[0]
        chosen = [part for part in parts if part is newest or not _is_kept_by(part, newest)]
        work = _Work(found, place, page_bytes, keep_unproven, threads, progress)
        work.notes += notes
        work.total = 2 * sum(part.last - part.base for part in chosen)  # written, then verified
        made = [work.log_of(part, *make(part, part is newest)) for part in chosen]
    return _report(work, chosen, made)


def _manifest_of(source: Files, place: str, page_bytes: int) -> tuple[Manifest | None, list[str]]:
    """The manifest, where it is whole, and what is to be said where it is not."""
    try:
        return Manifest.read(source, place), []
    except CorruptionError:
        fault = "damaged"
    except OSError as error:
        cause = error.__cause__ if isinstance(error, LocationError) else error
        if cause is not None:
            check_damage(cause, place)
        elif not source.names(LOG_FOLDER):
            raise
        fault = "missing" if cause is None else "damaged"
    return None, [
        f"the manifest is {fault}: the page size is not known, and taken to be {page_bytes:,} "
        f"bytes; when a page changed before the new log begins, and tags from before a compaction, "
        f"are lost"
    ]


def _is_kept_by(part: LinePart, newest: LinePart) -> bool:
    """Whether a part is a state alone, which the log of the newest part keeps."""
    return part.base == part.last and part.line is newest.line and part.flaw is None


def _report(work: "_Work", parts: list[LinePart], made: list[MadeLog]) -> RepairReport:
    known = [line.last for line in work.survey.lines]
    had: set[int] = set()
    said: set[int] = set()
    for log in made:
        had.update(range(log.since, log.last + 1), log.kept)
        said.update(range(log.said, log.last + 1))
    every = range(1, max(known + list_snapshots(work.survey.files)) + 1)
    unproven = [array for part in parts for array in work.unproven(part)]
    return RepairReport(
        logs=made,
        unproven=sorted(unproven, key=lambda array: (array.first, array.array)),
        said_only=list(_spans(version for version in every if version in said - had)),
        lost=list(_spans(version for version in every if version not in said | had)),
        notes=work.notes,
    )


def _spans(versions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending versions as (first, last) of those that follow each other."""
    first = last = 0
    for version in versions:
        if first and version != last + 1:
            yield first, last
            first = 0
        first, last = first or version, version
    if first:
        yield first, last


class _Work:
    """One repair: what was found, and the making of logs from it."""

    def __init__(
        self,
        found: Survey,
        place: str,
        page_bytes: int,
        keep_unproven: bool,
        executor: Executor,
        progress: Progress | None,
    ) -> None:
        self.survey = found
        self.notes: list[str] = []
        self.total = 0
        self._place = place
        self._done = 0
        self._page_bytes = found.page_bytes or page_bytes
        self._keep_unproven = keep_unproven
        self._executor = executor
        self._progress = progress

    def unproven(self, part: LinePart) -> list[UnprovenArray]:
        """The arrays of a part that nothing shows to be right."""
        return [UnprovenArray(*u, self._keep_unproven and u.is_whole) for u in part.unproven]

    def log_of(self, part: LinePart, target: Files, place: str) -> MadeLog:
        """Make the log of a part in ``target``, an empty directory."""
        try:
            self._write(part, target, place)
        except BadFrameError as error:
            raise CorruptionError(
                f"{self._place} does not read back as it did a moment ago: {error}. See to the "
                f"disk, and try again."
            ) from error
        except LocationError:
            raise
        except OSError as error:
            raise disk_error(error, place) from error
        log = Log(target, place)
        report = verify(log, lambda *_: self._step(), self._executor)
        if not report:
            raise CorruptionError(
                f"{place}, made of what is whole, does not verify: {report.faults[0]}"
            )
        return MadeLog(place, log.kept_since, log.version, log.kept, log.first_version)

    def _step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self.total)

    def _write(self, part: LinePart, target: Files, place: str) -> None:
        """Copy the commits before the flaw of a part, and write the versions from there on anew."""
        line, base = part.line, part.base
        copied = part.last if part.flaw is None else part.flaw - 1
        begun = min(base, copied)
        ids = new_ids(lineage_of(line.between(line.first - 1, copied)))
        if begun == 0 or (begun < line.first and copied > begun):
            make_empty(target, self._page_bytes, ids)
        else:
            self._begin_behind(line, begun, ids, target)
        writer = LogWriter(Log(target, place))
        try:
            self._copy(writer, part, copied)
            if part.flaw is not None:
                # Else the state before is nowhere, and the new version makes all of it.
                is_continued = copied == 0 or copied >= max(base, line.first)
                self._write_anew(writer, part, is_continued)
            tags: TagChanges = {u.tag: u.first for u in self.unproven(part) if u.is_kept}
            for name, version in self.survey.tags.items():
                if line.first <= version <= part.last:
                    tags[name] = version
            if tags:
                writer.append_tags(tags)
        finally:
            writer.close()
        self._note_faults(part)

    def _note_faults(self, part: LinePart) -> None:
        for first, last in part.digests:
            self.notes.append(
                f"the digest of the state at {span_text(first, last)} fits nothing: each array "
                f"has the digest that its newest record names, which cannot tell whether a record "
                f"or a constant is missing; it was computed anew"
            )
        if part.fault:
            self.notes.append(
                f"version {part.last + 1:,} does not fit what is before: {part.fault}"
            )

    def _begin_behind(self, line: Line, base: int, ids: LogIds, target: Files) -> None:
        """Make a log without a commit that goes on behind ``base``.

        Of what is before it has what the commits say, and the states that are in snapshots.
        """
        chain, end = line.chain_at(base), SEGMENT_FRAME_BYTES
        archives, kept = [], []
        if base >= line.first:
            end = self._write_archive(line, base, target)
            archives = [ArchiveEntry(line.first, base, end, chain)]
            kept = [
                version
                for version in list_snapshots(self.survey.files)
                if line.first <= version <= base and self._keep(line, version, end, target)
            ]
        segment = Segment(
            log_id=ids.own,
            number=1,
            previous=NO_SEGMENT,
            first_version=base + 1,
            base=end - SEGMENT_FRAME_BYTES,
            chain=chain,
            synced=end,
        )
        target.publish(segment.name, segment.frame())
        compaction = Compaction(
            number=segment.number,
            first_version=segment.first_version,
            is_cut=False,
            archives=tuple(archives),
            kept=tuple(kept),
        )
        compacted = compaction if archives else None
        Manifest(ids, self._page_bytes, time.time_ns(), compacted).publish(target)

    def _write_archive(self, line: Line, last: int, target: Files) -> int:
        """Keep what the commits up to ``last`` say; returns the position where the last one ends.

        Their positions are those of frames that stand one behind the other.
        """
        end = SEGMENT_FRAME_BYTES

        def archived() -> Iterator[Archived]:
            nonlocal end
            for met in line.between(line.first - 1, last):
                meta, data_hash = self.survey.said(met)
                record, start = CommitRecord.decode(meta), end
                position = start + sum(HEADER_BYTES + padded(n) for n in record.frame_sizes)
                end = end_of_commit(record, meta, position)
                yield Archived(meta, data_hash, position, end - start)

        name = ArchiveEntry(line.first, last, end, bytes(16)).name
        with contextlib.closing(target.create(name)) as file:
            for buffers in archive_frames(line.first, archived()):
                file.append(buffers)
            file.sync()
        return end

    def _keep(self, line: Line, version: int, end: int, target: Files) -> bool:
        """Keep the state of a version, and its ``extra``; whether it is shown to be right."""
        found = self.survey.snapshot(line, version, self._executor)
        if found is None or found[0].is_flawed:
            return False
        write_snapshot(
            target, found[0].state, time.time_ns(), end, extra=self._extra(line, version)
        )
        return True

    def _extra(self, line: Line, version: int) -> Extra | None:
        """The blob in force at a version, from the commit that gave it, or as a snapshot has it."""
        before = line.between(line.first - 1, version)
        giver = next((met for met in reversed(before) if met.says_extra), None)
        if giver is not None and giver.is_whole:
            commit = self.survey.shipped(giver)
            extra = Extra.of(commit.record, commit.chunks())
            return None if extra is None else extra._replace(version=giver.version)
        oldest = 0 if giver is None else giver.version
        for carrier in reversed(list_snapshots(self.survey.files)):
            if not oldest <= carrier <= version:
                continue
            found = self.survey.snapshot(line, carrier, self._executor)
            if found is not None and found[1] is not None:
                given_by = found[1].version or carrier
                if given_by == oldest or giver is None:
                    return found[1]._replace(version=given_by)
        if giver is not None:
            self._note_lost(giver.version)
        return None

    def _note_lost(self, version: int) -> None:
        note = f"the extra of version {version:,} is lost"
        if note not in self.notes:
            self.notes.append(note)

    def _copy(self, writer: LogWriter, part: LinePart, last: int) -> None:
        """Append the commits of a part, up to and with ``last``, as they are."""
        for met in part.line.between(part.base, last):
            commit = self.survey.shipped(met)
            if writer.log.version < met.version - 1:
                *_, (trial, _) = self.survey.follow(part.line, part.base, met.version)
                snapshot = _snapshot_of(trial.state, self._extra(part.line, met.version))
                writer.begin_with(commit, met.previous_chain, snapshot)
            else:
                writer.append(commit)
            self._step()
            self._seal(writer)

    def _seal(self, writer: LogWriter) -> bool:
        """Go on in a new segment where the newest is long; whether that is so."""
        if writer.log.scan.offset <= _SEGMENT_BYTES:
            return False
        sealed = writer.rotate()
        writer.schedule_snapshot(self._page_bytes, sealed).result()
        return True

    def _write_anew(self, writer: LogWriter, part: LinePart, is_continued: bool) -> None:
        """Append the versions of a part from its flaw on, as far as they are shown to be right."""
        log, head, anew = writer.log, None, None
        for trial, commit in self.survey.follow(part.line, part.base, part.last, self._executor):
            version = trial.state.table.version
            if part.flaw is None or version < part.flaw:
                continue
            if head is None or anew is None:
                state = self._state_before(log, trial.state, is_continued)
                head = Head(state, writer, self._page_bytes, lambda: self._executor)
                anew = Anew(head, {array_id: array_id for array_id in state.table.arrays})
            record = self._record(part.line.at(version)) if commit is None else commit.record
            blob = self._blob(part.line, version) if record.says_extra else (None, False)
            absent = {
                array_id
                for array_id, is_whole in trial.unproven.items()
                if not (is_whole and self._keep_unproven)
            }
            unproven = trial.unproven.keys()
            anew.write(trial.state, record, blob, unproven, absent, trial.aside)
            if version == part.flaw and not is_continued:
                writer.sync()
                if self.survey.page_bytes is not None:
                    anew.keep_page_versions(trial.state)
                extra = self._extra(part.line, version)
                write_snapshot(log.files, head.state, time.time_ns(), log.position, extra=extra)
            if commit is not None:
                self._step()
            if self._seal(writer):
                head.begin_segment()

    def _state_before(self, log: Log, after: StoredState, is_continued: bool) -> StoredState:
        """The state that the first version written anew continues; an empty one where none is."""
        if is_continued:
            return log.state(log.version, page_bytes=self._page_bytes, executor=self._executor)
        state = StoredState(log.manifest.ids.own, None, self._page_bytes)
        state.table.next_id = after.table.next_id  # what the archives name keeps its id
        return state

    def _record(self, met: SurveyedCommit) -> CommitRecord:
        return CommitRecord.decode(self.survey.said(met)[0])

    def _blob(self, line: Line, version: int) -> tuple[bytes | None, bool]:
        """The blob that the commit of a version gave, and whether that is JSON."""
        extra = self._extra(line, version)
        if extra is None:
            return None, False
        try:
            return extra.blob(), extra.is_json
        except BadFrameError:
            self._note_lost(version)
            return None, False


def _snapshot_of(state: StoredState, extra: Extra | None) -> list[Buffer]:
    """The file of a snapshot that names no position of a log."""
    files, version = MemoryFiles(), state.table.version
    write_snapshot(files, state, time.time_ns(), position=0, extra=extra)
    return [files.read(snapshot_name(version))]
