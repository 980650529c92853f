"""A survey of a damaged log: every commit, tag and state in its files that reads back.

Opening a log follows it from its end and stops where something is wrong. A survey goes through the
files from their beginning instead, passes over what is bad, and joins what is whole by the chain.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.chain import LogIds, chain_after, has_frames
from mmsb_jax._store.format.data import CommitFrames, commit_start, read_commit_frames
from mmsb_jax._store.format.frame import (
    BadFrameError,
    Header,
    Kind,
    Reader,
    headers_from,
    read_data,
    read_header,
    read_meta,
    reader_of,
    walk_whole_frames,
)
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import ARCHIVE_NAME, LOG_FOLDER, list_snapshots
from mmsb_jax._store.format.record import CommitRecord
from mmsb_jax._store.format.tags import TagChanges, decode_tags
from mmsb_jax._store.log.archive import read_block
from mmsb_jax._store.log.segment import Segment, read_segment
from mmsb_jax._store.maintain.salvage.trial import Spans, Trial
from mmsb_jax._store.state.snapshot import Extra, read_snapshot_with_extra
from mmsb_jax._store.state.state import StoredState

_SEGMENT = re.compile(rf"{LOG_FOLDER}/([0-9]{{8,}})-([0-9]{{20}})\.(seg|cut)")
_SECTOR_BYTES = 4096


class SurveyedCommit(NamedTuple):
    """A commit whose frame is whole.

    Attributes:
        version: its version.
        log_id: the log that wrote it.
        previous_chain, chain: the chain before and after it.
        name: the file that it is in.
        offset: where its frame stands there; in an archive, that of its block.
        is_whole: whether its data are there and whole.
        says_extra: whether it says an ``extra``.
    """

    version: int
    log_id: bytes
    previous_chain: bytes
    chain: bytes
    name: str
    offset: int
    is_whole: bool
    says_extra: bool


@dataclass(frozen=True, slots=True)
class Line:
    """Commits whose frames are whole, each continuing the one before it."""

    commits: tuple[SurveyedCommit, ...]

    @property
    def first(self) -> int:
        """The oldest version."""
        return self.commits[0].version

    @property
    def last(self) -> int:
        """The newest version."""
        return self.commits[-1].version

    def at(self, version: int) -> SurveyedCommit:
        """The commit of a version that is here."""
        return self.commits[version - self.first]

    def between(self, after: int, last: int) -> tuple[SurveyedCommit, ...]:
        """The commits behind ``after``, up to and with ``last``."""
        return self.commits[after - self.first + 1 : last - self.first + 1]

    def chain_at(self, version: int) -> bytes:
        """The chain after ``version``, which may be the one before the oldest."""
        if version == self.first - 1:
            return self.commits[0].previous_chain
        return self.at(version).chain


class Unproven(NamedTuple):
    """Versions of an array that cannot be shown to be right.

    Attributes:
        array: its name.
        first, last: the versions.
        is_whole: whether its bytes are there, and only the digest recorded is that of others.
    """

    array: str
    first: int
    last: int
    is_whole: bool


@dataclass(frozen=True, slots=True)
class LinePart:
    """Versions of a line whose states can be had: that of ``base``, and all up to ``last``.

    The state of ``base`` is in a snapshot, but for 0, the empty one.

    Attributes:
        line, base, last: which versions.
        flaw: the first of which something that is recorded is wrong; None where all is right.
        unproven: what of them cannot be shown to be right.
        digests: (first, last) of versions whose digest of the state fits nothing.
        fault: why it ends where it does; empty where the line does, or its data are damaged.
    """

    line: Line
    base: int
    last: int
    flaw: int | None = None
    unproven: tuple[Unproven, ...] = ()
    digests: tuple[tuple[int, int], ...] = ()
    fault: str = ""

    @property
    def first(self) -> int:
        """The oldest version."""
        return max(self.base, self.line.first)


@dataclass(slots=True)
class Survey:
    """What is whole in the files of a log.

    Attributes:
        files: the log's directory.
        manifest: its manifest; None where that is damaged.
        lines: its history, newest first: one line, or more where the frame of a commit is lost.
        tags: the tags, as far as their frames are whole.
        ids: which log wrote which version.
    """

    files: Files
    manifest: Manifest | None
    lines: list[Line]
    tags: dict[str, int]
    ids: LogIds
    _block: tuple[str, int, list[tuple[bytes, int]]] = ("", 0, [])

    @property
    def page_bytes(self) -> int | None:
        """Bytes of a page; None where the manifest is damaged, which says it."""
        return None if self.manifest is None else self.manifest.page_bytes

    def parts(self, executor: Executor | None = None) -> list[LinePart]:
        """What states can be had, newest first.

        Cost: a replay, with a digest of each array that a commit touched, a commit; one read of
        each snapshot that is tried.
        """
        found = []
        for line in self.lines:
            high = line.last
            while high >= line.first - 1:
                low = high
                while low >= line.first and line.at(low).is_whole:
                    low -= 1
                found += reversed(list(self._parts_between(line, low, high, executor)))
                high = low - 1
        return found

    def _parts_between(
        self, line: Line, low: int, high: int, executor: Executor | None
    ) -> Iterator[LinePart]:
        """What can be had of versions whose data are whole, but for those of ``low``."""
        reached = low - 1
        for base in (version for version in (0, *list_snapshots(self.files)) if version <= high):
            if base > reached and (base >= line.first or base < high):
                part = self._part(line, base, high, executor)
                if part is not None:
                    yield part
                    reached = part.last

    def _part(self, line: Line, base: int, high: int, executor: Executor | None) -> LinePart | None:
        """What can be had from the state of ``base`` on, up to ``high`` at most."""
        unproven, digests = Spans[tuple[int, str, bool]](), Spans[None]()
        last, flaw, fault = None, None, ""
        try:
            for trial, _ in self.follow(line, base, high, executor):
                last = trial.state.table.version
                if last < line.first:
                    continue  # it is built on, and no more
                arrays = trial.state.table.arrays
                if flaw is None and trial.is_flawed:
                    flaw = last
                unproven.see(last, {(i, arrays[i].name, w) for i, w in trial.unproven.items()})
                digests.see(last, {None} if trial.digest_is_wrong else ())
        except BadFrameError as error:
            fault = str(error)
        if last is None or last < line.first:
            return None
        return LinePart(
            line,
            base,
            last,
            flaw,
            tuple(Unproven(name, first, end, w) for (_, name, w), first, end in unproven.end(last)),
            tuple((first, end) for _, first, end in digests.end(last)),
            fault,
        )

    def follow(
        self, line: Line, base: int, last: int, executor: Executor | None = None
    ) -> Iterator[tuple[Trial, CommitFrames | None]]:
        """The state of ``base``, and that after each commit up to ``last`` with the commit.

        It is one trial, brought forward. Nothing comes where there is no state of ``base``.
        """
        trial = self.trial(line, base, executor)
        if trial is None:
            return
        yield trial, None
        snapshots = set(list_snapshots(self.files))
        for met in line.between(base, last):
            commit = self.shipped(met)
            trial.apply(commit.record, commit.chain, commit.chunks)
            if trial.unproven and met.version in snapshots:
                other = self.trial(line, met.version, executor)
                if other is not None:
                    trial.take(other)
            yield trial, commit

    def trial(self, line: Line, version: int, executor: Executor | None = None) -> Trial | None:
        """The state of ``version``, from its snapshot; None where none is whole and of the line."""
        if version == 0:
            state = StoredState(self.ids.of(1), None, self.page_bytes)
            return Trial(state, executor) if line.first == 1 else None
        found = self.snapshot(line, version, executor)
        return None if found is None else found[0]

    def snapshot(
        self, line: Line, version: int, executor: Executor | None = None
    ) -> tuple[Trial, Extra | None] | None:
        """What a whole snapshot holds, and the ``extra`` kept beside it; None as for `trial`.

        It is judged by the digest of the state that the commit of its version names.
        """
        try:
            state, extra = read_snapshot_with_extra(self.files, version, self.ids, self.page_bytes)
        except BadFrameError:
            return None
        table = state.table
        if table.chain != line.chain_at(version):
            return None
        if version >= line.first:
            table.state_digest = CommitRecord.decode(self.said(line.at(version))[0]).state_digest
        trial = Trial(state, executor)
        trial.correct()
        return trial, extra

    def shipped(self, met: SurveyedCommit) -> CommitFrames:
        """A commit with its frames, which must be whole."""
        read = reader_of(self.files, met.name)
        meta = read_meta(read, met.offset, read_header(read, met.offset, None))
        start = commit_start(met.offset, CommitRecord.decode(meta))
        ids = LogIds((), met.log_id)
        return read_commit_frames(read, start, met.version, met.previous_chain, ids)[0]

    def said(self, met: SurveyedCommit) -> tuple[bytes, int]:
        """The meta of a commit, and the hash of the data in its frame."""
        read = _forgiving(self.files, met.name)
        if not ARCHIVE_NAME.fullmatch(met.name):
            header = read_header(read, met.offset, None)
            return read_meta(read, met.offset, header), header.data_hash
        if self._block[:2] != (met.name, met.offset):
            self._block = (met.name, met.offset, read_block(read, met.offset))
        commits = self._block[2]
        return next(
            commit for commit in commits if chain_after(met.previous_chain, *commit) == met.chain
        )


def survey(files: Files, manifest: Manifest | None) -> Survey:
    """Go through the files of a log.

    Args:
        files: the log's directory, `guarded`.
        manifest: its manifest; None where that is damaged.

    Cost: one read of every segment and archive, and 300 bytes of memory a commit.
    """
    compaction = None if manifest is None else manifest.compaction
    tags: TagChanges = {} if compaction is None else dict(compaction.tags)
    names = files.names(LOG_FOLDER)
    found: list[SurveyedCommit] = []
    for name in filter(ARCHIVE_NAME.fullmatch, names):
        found += _commits_of_archive(files, name)
    segments = sorted((int(m[1]), int(m[2]), name) for name in names if (m := _SEGMENT.match(name)))
    heads = {name: _head_of(files, name) for _, _, name in segments}
    for number, _, name in segments:
        later = [entry for entry in segments if entry[0] > number]
        # What stands behind the beginning of a later segment is a tail that was left behind.
        begun = min((first for _, first, _ in later), default=None)
        bases = [head.base for _, _, other in later if (head := heads[other]) is not None]
        commits = commits_of_segment(files, name, min(bases, default=None), tags)
        found += (met for met in commits if begun is None or met.version < begun)
    if manifest is not None:
        found = [met for met in found if met.log_id == manifest.ids.of(met.version)]
    named = {name: version for name, version in tags.items() if version is not None}
    lines = list(_lines(found))
    if manifest is not None:
        return Survey(files, manifest, lines, named, manifest.ids)
    lineage = lineage_of(met for line in reversed(lines) for met in line.commits)
    return Survey(files, manifest, lines, named, LogIds(lineage, b""))


def lineage_of(commits: Iterable[SurveyedCommit]) -> tuple[tuple[bytes, int], ...]:
    """(id, last version written under it) of the logs that wrote ``commits``, ascending."""
    lineage: list[tuple[bytes, int]] = []
    for met in commits:
        if lineage and lineage[-1][0] == met.log_id:
            lineage.pop()
        lineage.append((met.log_id, met.version))
    return tuple(lineage)


def _lines(found: list[SurveyedCommit]) -> Iterator[Line]:
    """Join commits by the chain, newest line first; of one found twice the whole one counts."""
    by_chain = {met.chain: met for met in sorted(found, key=lambda met: met.is_whole)}
    below = None
    for newest in sorted(by_chain.values(), key=lambda met: met.version, reverse=True):
        if below is not None and newest.version >= below:
            continue
        line = [newest]
        while (before := by_chain.get(line[-1].previous_chain)) is not None:
            if before.version != line[-1].version - 1:
                break
            line.append(before)
        below = line[-1].version
        yield Line(tuple(reversed(line)))


def _forgiving(files: Files, name: str) -> Reader:
    """Reads bytes of a file; what the disk refuses to give reads as zeros, sector by sector."""

    def read(offset: int, size: int) -> bytes:
        try:
            return files.read(name, offset, size)
        except BadFrameError:
            end = min(offset + size, files.size(name))
            return b"".join(sector(at, end) for at in range(offset, end, _SECTOR_BYTES))

    def sector(start: int, end: int) -> bytes:
        size = min(_SECTOR_BYTES, end - start)
        try:
            return files.read(name, start, size)
        except BadFrameError:
            return bytes(size)

    return read


def _head_of(files: Files, name: str) -> Segment | None:
    try:
        return read_segment(files, name)
    except BadFrameError:
        return None


def _base_of(read: Reader) -> int | None:
    """Position of a file's first byte, as most of its headers have it; None without any."""
    try:
        return read_header(read, 0, None).position
    except BadFrameError:
        bases = Counter(header.position - at for at, header in headers_from(read, None, 0))
        return bases.most_common(1)[0][0] if bases else None


def commits_of_segment(
    files: Files, name: str, stop: int | None, tags: TagChanges
) -> Iterator[SurveyedCommit]:
    """The commits in a segment before the position ``stop``; ``tags`` follow."""
    read, end = _forgiving(files, name), files.size(name)
    base = _base_of(read)
    if base is None:
        return
    end = end if stop is None else min(end, stop - base)
    pending: list[tuple[int, int]] = []
    for offset, header in walk_whole_frames(read, base, end):
        if header.kind == Kind.DATA:
            if _has_its_data(read, offset, header):
                pending.append((header.data_bytes, header.data_hash))
            else:
                pending.clear()
        elif header.kind in (Kind.COMMIT, Kind.TAG):
            try:
                meta = read_meta(read, offset, header)
                if header.kind == Kind.TAG:
                    tags |= decode_tags(meta)
                    continue
                record = CommitRecord.decode(meta)
            except BadFrameError:
                continue
            frames = pending[len(pending) - len(record.frame_sizes) :]
            is_whole = has_frames(record, frames) and _has_its_data(read, offset, header)
            pending.clear()
            yield _met(record, meta, header.data_hash, name, offset, is_whole)


def _has_its_data(read: Reader, offset: int, header: Header) -> bool:
    try:
        read_data(read, offset, header)
    except BadFrameError:
        return False
    return True


def _commits_of_archive(files: Files, name: str) -> Iterator[SurveyedCommit]:
    """The commits in an archive; of a block that is damaged, none."""
    read = _forgiving(files, name)
    for offset, header in walk_whole_frames(read, 0, files.size(name)):
        if header.kind == Kind.ARCHIVED:
            try:
                for meta, data_hash in read_block(read, offset):
                    record = CommitRecord.decode(meta)
                    yield _met(record, meta, data_hash, name, offset, is_whole=False)
            except BadFrameError:
                continue


def _met(
    record: CommitRecord, meta: bytes, data_hash: int, name: str, offset: int, is_whole: bool
) -> SurveyedCommit:
    return SurveyedCommit(
        version=record.version,
        log_id=record.log_id,
        previous_chain=record.previous_chain,
        chain=chain_after(record.previous_chain, meta, data_hash),
        name=name,
        offset=offset,
        is_whole=is_whole,
        says_extra=record.says_extra,
    )
