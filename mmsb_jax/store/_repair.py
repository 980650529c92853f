"""Repair: a new log of all that is whole in a damaged one, which is left as it is.

A state needs every commit since its snapshot. So where the data of a commit are lost, so are the
states behind it up to the next snapshot, and what can be had falls apart. The newest part becomes
the new log; of what is before it stays what a compaction would leave: what the commits say, and the
states in snapshots. Each earlier part with commits becomes a log of its own.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from mmsb_jax._errors import CorruptionError, LocationError
from mmsb_jax.store._archive import Archived, archive_frames, end_of_commit
from mmsb_jax.store._files import Buffer, Files, MemoryFiles
from mmsb_jax.store._fork import make_empty, new_ids
from mmsb_jax.store._format import HEADER_BYTES, BadFrameError, padded
from mmsb_jax.store._log import Log
from mmsb_jax.store._manifest import ArchiveEntry, Compaction, Manifest
from mmsb_jax.store._record import CommitRecord
from mmsb_jax.store._segment import FOLDER, NO_SEGMENT, SEGMENT_FRAME_BYTES, LogIds, Segment
from mmsb_jax.store._snapshot import (
    Extra,
    list_snapshots,
    snapshot_name,
    write_snapshot,
)
from mmsb_jax.store._state import StoredState
from mmsb_jax.store._survey import Line, Part, Survey, lineage_of, survey
from mmsb_jax.store._tags import TagChanges
from mmsb_jax.store._verify import verify
from mmsb_jax.store._writer import LogWriter

_SEGMENT_BYTES = 1 << 26

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class MadeLog:
    """A log that a repair made.

    Attributes:
        place: where it is.
        since: its oldest version with all it had; 1 for all of its history.
        last: its newest version.
        kept: versions before ``since`` whose states it has.
        said: the oldest version of which it has what the commit says.
    """

    place: str
    since: int
    last: int
    kept: tuple[int, ...]
    said: int

    def __str__(self) -> str:
        have = (
            f"versions {self.since:,} to {self.last:,}" if self.since <= self.last else "no commit"
        )
        text = f"{self.place}: {have}"
        if self.kept:
            text += f", and the states of {', '.join(map(str, self.kept))}"
        return text


@dataclass(slots=True)
class RepairReport:
    """What a repair made, and what could not be had.

    Attributes:
        logs: the logs that were made, the newest versions first.
        said_only: (first, last) of versions of which is left what their commits say.
        lost: (first, last) of versions of which nothing is left.
        notes: what else is worth knowing.
    """

    logs: list[MadeLog] = field(default_factory=list)
    said_only: list[tuple[int, int]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = list(map(str, self.logs))
        lines += [f"only what the commits say is left of {_span(*s)}" for s in self.said_only]
        lines += [f"nothing is left of {_span(*s)}" for s in self.lost]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _span(first: int, last: int) -> str:
    return f"version {first:,}" if first == last else f"versions {first:,} to {last:,}"


def repair(
    source: Files,
    place: str,
    make: Callable[[Part, bool], tuple[Files, str]],
    *,
    page_bytes: int,
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
        progress: called with (done, in all): a commit counts when written, and when verified.
        executor: where to digest side by side.

    Raises:
        CorruptionError: nothing is whole from which a state could be had.
        FormatError: a newer version of mmsb_jax wrote it.
        LocationError: it is no log.

    Cost: one read of every file of the log, a replay, and a verification of what was made.
    """
    manifest, notes = _manifest_of(source, place, page_bytes)
    found = survey(source, manifest)
    parts = found.parts(executor)
    if not parts:
        raise CorruptionError(
            f"{place}: no state can be had from it: neither its first commit nor a snapshot is "
            f"whole. Restore it from a copy."
        )
    newest = parts[0]
    chosen = [part for part in parts if part is newest or not _is_kept_by(part, newest)]
    work = _Work(found, page_bytes, executor, progress)
    work.notes += notes
    work.total = 2 * sum(part.last - part.base for part in chosen)  # written, then verified
    return _report(work, [work.log_of(part, *make(part, part is newest)) for part in chosen])


def _manifest_of(source: Files, place: str, page_bytes: int) -> tuple[Manifest | None, list[str]]:
    """The manifest, where it is whole, and what is to be said where it is not."""
    try:
        return Manifest.read(source, place), []
    except LocationError:
        if not source.names(FOLDER):
            raise
        fault = "missing"
    except CorruptionError:
        fault = "damaged"
    return None, [
        f"the manifest is {fault}: the page size is not known, and taken to be {page_bytes:,} "
        f"bytes; when a page changed before the new log begins, and tags from before a compaction, "
        f"are lost"
    ]


def _is_kept_by(part: Part, newest: Part) -> bool:
    """Whether a part is a state alone, which the log of the newest part keeps."""
    return part.base == part.last and part.line is newest.line


def _report(work: "_Work", made: list[MadeLog]) -> RepairReport:
    known = [line.last for line in work.survey.lines]
    had: set[int] = set()
    said: set[int] = set()
    for log in made:
        had.update(range(log.since, log.last + 1), log.kept)
        said.update(range(log.said, log.last + 1))
    every = range(1, max(known + list_snapshots(work.survey.files)) + 1)
    return RepairReport(
        logs=made,
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
        page_bytes: int,
        executor: Executor | None,
        progress: Progress | None,
    ) -> None:
        self.survey = found
        self.notes: list[str] = []
        self.total = 0
        self._done = 0
        self._page_bytes = found.page_bytes or page_bytes
        self._executor = executor
        self._progress = progress

    def log_of(self, part: Part, target: Files, place: str) -> MadeLog:
        """Make the log of a part in ``target``, an empty directory.

        Raises:
            CorruptionError: what was made does not verify.
        """
        line, base = part.line, part.base
        ids = new_ids(lineage_of(line.between(line.first - 1, part.last)))
        state = self.survey.state(line, base)
        assert state is not None
        if base < line.first:
            make_empty(target, self._page_bytes, ids)
        else:
            self._begin_behind(part, ids, target)
        writer = LogWriter(Log(target, place))
        try:
            last = self._append(writer, part, state)
            tags: TagChanges = {
                name: version
                for name, version in self.survey.tags.items()
                if line.first <= version <= last
            }
            if tags:
                writer.append_tags(tags)
        finally:
            writer.close()
        log = Log(target, place)
        report = verify(log, lambda *_: self._step(), self._executor)
        if not report:
            raise CorruptionError(
                f"{place}, made of what is whole, does not verify: {report.faults[0]}"
            )
        return MadeLog(place, log.kept_since, last, log.kept, log.first_version)

    def _step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self.total)

    def _begin_behind(self, part: Part, ids: LogIds, target: Files) -> None:
        """Make a log without a commit that goes on behind ``part.base``, whose state it has.

        Of what is before it has what the commits say, and the states that are in snapshots.
        """
        line, base = part.line, part.base
        chain = line.chain_at(base)
        end = self._write_archive(line, base, target)
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
            archives=(ArchiveEntry(line.first, base, end, chain),),
            kept=tuple(kept),
        )
        Manifest(ids, self._page_bytes, time.time_ns(), compaction).publish(target)

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
        """Keep the state of a version, and its ``extra``; whether it is whole."""
        found, met = self.survey, line.at(version)
        snapshot = found.snapshot(line, version, self._executor)
        if snapshot is None:
            return False
        state, extra = snapshot
        record = CommitRecord.decode(found.said(met)[0])
        if met.is_whole:
            commit = found.shipped(met)
            extra = Extra.of(commit.record, commit.chunks())
        elif extra is None and record.extra_span() is not None:
            self.notes.append(f"the extra of version {version:,} is lost")
        write_snapshot(target, state, time.time_ns(), end, extra=extra)
        return True

    def _append(self, writer: LogWriter, part: Part, state: StoredState) -> int:
        """Append the commits of a part, each once it leads to its digest; returns the newest."""
        newest = part.base
        for met in part.line.between(part.base, part.last):
            try:
                commit = self.survey.shipped(met)
                state.apply(commit.record, commit.chain, commit.chunks)
                if state.table.digest() != state.table.state_digest:
                    raise BadFrameError("the digest that it names does not follow from its arrays")
            except (BadFrameError, OSError) as error:
                self.notes.append(f"version {met.version:,} does not fit what is before: {error}")
                break
            if writer.log.version < newest:
                writer.begin_with(commit, met.previous_chain, _snapshot_of(state))
            else:
                writer.append_shipped(commit)
            newest = met.version
            self._step()
            if writer.log.scan.offset > _SEGMENT_BYTES:
                sealed = writer.rotate()
                writer.schedule_snapshot(self._page_bytes, sealed).result()
        return newest


def _snapshot_of(state: StoredState) -> list[Buffer]:
    """The file of a snapshot that names no position of a log."""
    files, version = MemoryFiles(), state.table.version
    write_snapshot(files, state, time.time_ns(), position=0)
    return [files.read(snapshot_name(version))]
