"""Sections 9 and 12 of docs/format.md: archives and indexes, and a log opened and read whole."""

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tools.format_reader.codings import decompress
from tools.format_reader.commits import DIGEST_ONLY, Commit, give_data, read_commit
from tools.format_reader.digests import NO_CHAIN, chain_after
from tools.format_reader.frames import (
    BadError,
    DamagedError,
    NewerFormatError,
    ceil64,
    check,
    read_frame,
    read_header,
)
from tools.format_reader.manifest import read_manifest, read_tags
from tools.format_reader.segments import Segment, Walk, find_segments, walk_segment
from tools.format_reader.states import State, read_blob, read_snapshot, read_snapshot_frames

INDEX = struct.Struct("<16sQIIQQ")
BLOCK = struct.Struct("<QQII")
ARCHIVED = struct.Struct("<QII")
ARCHIVE = struct.Struct("<Q")

# 9. Archives


def read_archive(raw: bytes, first_version: int) -> Iterator[Commit]:
    """The commits in an archive, without their data."""
    offset, version = 0, first_version
    while (frame := read_frame(raw, offset, offset)).kind == "ARCHIVED":
        first, raw_bytes, commits, _ = BLOCK.unpack(frame.meta)
        check(first == version and commits, "the blocks do not follow each other")
        block = decompress(frame.data, raw_bytes, raw_bytes)
        start = 16 * commits
        for data_hash, meta_bytes, _ in ARCHIVED.iter_unpack(block[:start]):
            meta = block[start : start + meta_bytes]
            commit = read_commit(meta)
            yield replace(commit, chain=chain_after(commit.previous_chain, meta, data_hash))
            start += meta_bytes
        check(start == len(block), "the commits do not fill the block")
        version, offset = version + commits, frame.end
    check(frame.kind == "ARCHIVE" and frame.end == len(raw), "no archive")
    (raw_bytes,) = ARCHIVE.unpack(frame.meta)
    index = decompress(frame.data, raw_bytes, raw_bytes)
    check(INDEX.unpack_from(index)[1:3] == (first_version, version - first_version), "index")


# 9. Indexes, 12. Opening


class ReadLog:
    """A log, read whole.

    Attributes:
        manifest: what it is.
        segments: its segments, oldest first.
        walks: the walk over each of them.
        commits: its commits, oldest first.
        left_out: what was left out at the end, and why; empty where nothing was.

    Raises:
        DamagedError, NewerFormatError: the log is not to be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = read_manifest((root / "manifest").read_bytes())
        self.segments, self.left_out = find_segments(root / "log", self.manifest)
        newest = walk_segment(self.segments[-1], self.manifest, None)
        mark = max(newest.synced, self._snapshot_mark())
        self.walks: list[Walk] = []
        for segment, following in itertools.pairwise(self.segments):
            walk = walk_segment(segment, self.manifest, following)
            if walk.fault and following.base <= mark:
                raise DamagedError(f"{segment.name} at {walk.end}: {walk.fault}")
            if walk.fault:
                self.left_out = f"{following.name} and what is behind: {walk.fault}"
                newest = walk_segment(segment, self.manifest, None)
                break
            self.walks.append(walk)
        self.walks.append(newest)
        del self.segments[len(self.walks) :]
        self._judge(self.segments[-1], newest, mark)
        self.commits = [commit for walk in self.walks for commit in walk.commits]

    def _judge(self, segment: Segment, walk: Walk, mark: int) -> None:
        if walk.fault:
            mark = max(mark, self._mark_behind(segment, walk.end))
        if mark > segment.base + walk.end:
            raise DamagedError(f"{segment.name} at {walk.end}: {walk.fault}")
        self.left_out = self.left_out or walk.fault

    def snapshots(self) -> list[int]:
        """Versions of the snapshot files, ascending."""
        names = [path.name for path in self.root.glob("snapshots/*")]
        return sorted(int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.snap", name))

    def _snapshot_raw(self, version: int) -> bytes:
        return (self.root / "snapshots" / f"{version:020d}.snap").read_bytes()

    def _snapshot_mark(self) -> int:
        for version in reversed(self.snapshots()):
            try:
                raw = self._snapshot_raw(version)
                return read_snapshot_frames(raw, version, self.manifest, False)[1][-1].synced
            except BadError:
                continue
        return 0

    def _mark_behind(self, segment: Segment, end: int) -> int:
        newest = 0
        for offset in range(ceil64(end), len(segment.raw), 64):
            try:
                newest = max(newest, read_header(segment.raw, offset, segment.base + offset)[4])
            except (BadError, NewerFormatError):
                continue
        return newest

    def states(self) -> Iterator[State | None]:
        """The state after every commit, replayed from the first one, digests checked.

        None for a version that holds only its digest.
        """
        state = State(page_bytes=self.manifest.page_bytes)
        joined_at = self.segments[0].first_version
        if self.manifest.compaction is not None:
            state = self.snapshot(self.manifest.compaction.first_version - 1)
        elif joined_at > 1 and self.commits:
            state = self.snapshot(joined_at)
        for commit in self.commits:
            try:
                if state.version != commit.version:
                    state = state.after(commit)
                if not commit.flags & DIGEST_ONLY:
                    state.check_digest()
            except BadError as error:
                raise DamagedError(f"version {commit.version}: {error}") from error
            yield None if commit.flags & DIGEST_ONLY else state

    def aside(self) -> dict[int, dict[str, bytes]]:
        """Of each commit that has bytes aside: every array that has bytes there, by name."""
        found, state, beside, stale = {}, State(), State(), set[int]()
        for commit, known in zip(self.commits, self.states(), strict=True):
            if known is not None:
                state = beside = known
                stale = set()
                continue
            for record in commit.aside:
                if record.base == state.bases.get(record.id, 0):  # of a writer that began anew
                    beside.content[record.id] = state.content[record.id]
                    beside.bases[record.id] = record.base
            beside = beside.aside(commit)
            stale = (stale | commit.digests.keys()) - {record.id for record in commit.aside}
            if commit.aside:
                fresh = [a for a in beside.arrays.values() if a.id not in stale]
                found[commit.version] = {a.name: beside.content[a.id] for a in fresh}
        return found

    def tags(self) -> dict[str, int]:
        """The version that each tag names."""
        compaction = self.manifest.compaction
        found = dict(compaction.tags) if compaction is not None else {}
        for walk in self.walks:
            found |= walk.tags
        newest = self.walks[-1].version
        return {name: version for name, version in found.items() if version and version <= newest}

    def archived(self) -> list[Commit]:
        """The commits whose data a compaction gave up, oldest first; the chain is checked."""
        compaction = self.manifest.compaction
        entries = compaction.archives if compaction is not None else []
        commits = list[Commit]()
        oldest = entries[0][0] if entries else 1  # above 1 where the log joined another late
        chain = NO_CHAIN if oldest == 1 else None
        for first, last, _, end_chain in entries:
            raw = (self.root / "log" / f"{first:020d}-{last:020d}.arc").read_bytes()
            for commit in read_archive(raw, first):
                check(chain in (None, commit.previous_chain), "the chain of an archive")
                check(commit.version == oldest + len(commits), "a version of an archive")
                check(commit.log_id == self.manifest.log_id_of(commit.version), "of another log")
                commits.append(commit)
                chain = commit.chain
            check(chain == end_chain, "an archive ends in another history")
        if entries:
            check(chain == self.segments[0].chain, "the oldest segment continues another history")
        return commits

    def snapshot(self, version: int) -> State:
        """The state in the snapshot of ``version``."""
        state = read_snapshot(self._snapshot_raw(version), version, self.manifest)
        state.check_digest()
        return state

    def extra(self, commit: Commit) -> bytes | None:
        """The caller's blob of a commit, which for a kept version is in its snapshot."""
        compaction = self.manifest.compaction
        if compaction is not None and commit.version < compaction.first_version:
            raw = self._snapshot_raw(commit.version)
            commit, (*data, _) = read_snapshot_frames(raw, commit.version, self.manifest, True)
            if any(record.id == 0 and record.base for record in commit.records):
                return None  # in force there, and given by another commit
            give_data(commit, [frame.data for frame in data])
        return read_blob(commit)

    def snapshot_position(self, version: int) -> int:
        """The position in the log that the snapshot of ``version`` covers."""
        return read_header(self._snapshot_raw(version), 0, 0)[4]

    def index(self, place: int) -> dict[str, object]:
        """The index of the segment at ``place`` of `segments`."""
        segment = self.segments[place]
        raw = (self.root / "log" / f"{segment.name[:-4]}.idx").read_bytes()
        frame = read_frame(raw, 0, 0)
        check(frame.kind == "INDEX" and frame.end == len(raw), "no index")
        chain, first_version, rows, sources_bytes, touched, end_offset = INDEX.unpack_from(
            frame.meta
        )
        start, columns = 48, {}
        for name in ("offset", "step", "flags", "time_ns", "source", "touched_end", "logged"):
            columns[name] = list(struct.unpack_from(f"<{rows}q", frame.meta, start))
            start += rows * 8
        ids = list(struct.unpack_from(f"<{touched}Q", frame.meta, start))
        start += touched * 8
        end = start + sources_bytes
        check(end <= len(frame.meta), "the parts of the index do not fill it")
        tags = read_tags(frame.meta[end:] or b"{}")
        sources = []
        while start < end:
            (size,) = struct.unpack_from("<H", frame.meta, start)
            sources.append(frame.meta[start + 2 : start + 2 + size].decode())
            start += 2 + size
        return {
            "chain": chain, "first_version": first_version, "end_offset": end_offset,
            "columns": columns, "ids": ids, "sources": sources, "tags": tags,
        }  # fmt: skip
