"""Sections 5 and 12 of docs/format.md: the segments that make a log, and the walk over each."""

import json
import re
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.format_reader.commits import Commit, give_data, read_commit
from tools.format_reader.digests import chain_after, check_frames
from tools.format_reader.frames import BadError, DamagedError, Frame, check, read_frame
from tools.format_reader.manifest import Manifest, read_tags

SEGMENT = struct.Struct("<16sQQQ16s")
KINDS = ("DATA", "COMMIT", "MARK", "TAG", "PROCESS", "PASS OVER")


@dataclass
class Segment:
    """A segment, and the bytes of its file."""

    name: str
    log_id: bytes
    number: int
    previous: int
    first_version: int
    base: int
    chain: bytes
    synced: int
    raw: bytes


def read_segment(name: str, raw: bytes) -> Segment:
    """The segment in a file."""
    frame = read_frame(raw, 0, None)
    check(frame.kind == "SEGMENT" and len(frame.meta) == 56 and not frame.data, "no segment")
    log_id, number, previous, first_version, chain = SEGMENT.unpack(frame.meta)
    expected = f"{number:08d}-{first_version:020d}"
    check(name in (f"{expected}.seg", f"{expected}.cut"), "a segment of another name")
    check(first_version > 0, "a segment that begins with no version")
    check(max(number, first_version, frame.position) < 2**63, "a segment begins where none can")
    return Segment(
        name, log_id, number, previous, first_version, frame.position, chain, frame.synced, raw
    )


def find_segments(folder: Path, manifest: Manifest) -> tuple[list[Segment], str]:
    """The segments that make the log, oldest first, and the name of a file that was passed over."""
    names: dict[int, str] = {}
    oldest = manifest.compaction
    for path in folder.iterdir() if folder.exists() else ():
        if oldest is not None and path.name == oldest.segment_name:
            names[oldest.number] = path.name
        elif match := re.fullmatch(r"([0-9]{8,})-[0-9]{20}\.seg", path.name):
            if int(match[1]) == 0:
                continue  # of another name: they count from 1
            if oldest is not None and int(match[1]) <= oldest.number:
                continue  # a compaction has replaced it
            if int(match[1]) in names:
                raise DamagedError(f"two segments of number {match[1]}")
            names[int(match[1])] = path.name
    indexed = {n for n, name in names.items() if (folder / name).with_suffix(".idx").exists()}
    if not names or max(names) in indexed:
        raise DamagedError("the newest segment is missing")
    segments: list[Segment] = []
    passed_over, wanted = "", max(names)
    while wanted:
        if wanted not in names:
            raise DamagedError(f"segment {wanted} is missing")
        raw = (folder / names[wanted]).read_bytes()
        try:
            segment = read_segment(names[wanted], raw)
        except BadError as error:
            lower = max((number for number in names if number < wanted), default=0)
            if segments or len(raw) > 128 or not lower or lower in indexed:
                raise DamagedError(f"{names[wanted]}: {error}") from error
            passed_over, wanted = names[wanted], lower
            continue
        if not manifest.may_have_made(segment.log_id, segment.first_version):
            raise DamagedError(f"{segment.name} is of another log")
        if segments and segment.number >= segments[-1].number:
            raise DamagedError("the segments stand in a ring")
        segments.append(segment)
        wanted = segment.previous
        if oldest is not None and segment.number == oldest.number:
            return segments[::-1], passed_over
    if oldest is not None:
        raise DamagedError(f"segment {oldest.number} is missing")
    return segments[::-1], passed_over


@dataclass
class Walk:
    """A walk over the frames of a segment: its commits, where it ended and why.

    Attributes:
        version, chain: those after the last commit.
        synced: newest synced position that a frame has named.
        end: where the last frame ends behind which no data frames wait for their commit.
        fault: what is wrong behind ``end``; empty where nothing is.
        commits: the commits, oldest first.
        places: where in the file each commit frame stands and ends.
        tags: what TAG frames say, the newest of each name.
        processes: what PROCESS frames say, by the version of the first commit that is meant.
    """

    version: int
    chain: bytes
    synced: int
    end: int = 128
    fault: str = ""
    commits: list[Commit] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    tags: dict[str, int | None] = field(default_factory=dict)
    processes: dict[int, dict[str, str]] = field(default_factory=dict)


def walk_segment(segment: Segment, manifest: Manifest, following: Segment | None) -> Walk:
    """Walk a segment, up to where the next says that it ends."""
    walk = Walk(segment.first_version - 1, segment.chain, segment.synced)
    stop = len(segment.raw) if following is None else following.base - segment.base
    offset, waiting = walk.end, []
    while offset < stop:
        try:
            frame = read_frame(segment.raw, offset, segment.base + offset)
            kind = frame.kind
            check(kind in ("DATA", "COMMIT") or not waiting, f"{kind} behind data frames")
            check(kind in KINDS, f"{kind} in the log")
            if kind == "DATA":
                waiting.append(frame)
            elif kind == "TAG":
                walk.tags |= read_tags(frame.meta)
            elif kind == "PROCESS":
                walk.processes[walk.version + 1] = json.loads(frame.meta)
            elif kind == "COMMIT":
                commit = commit_in(frame, waiting, walk, manifest)
                walk.version, walk.chain, waiting = commit.version, commit.chain, []
                walk.commits.append(commit)
                walk.places.append((offset, frame.end))
        except BadError as error:
            walk.fault = str(error)
            return walk
        walk.synced = max(walk.synced, frame.synced)
        offset = frame.end
        walk.end = walk.end if waiting else offset
    if waiting:
        walk.fault = "data frames wait for their commit"
    elif following is not None:
        is_continued = (walk.end, walk.version + 1, walk.chain) == (
            stop, following.first_version, following.chain
        )  # fmt: skip
        walk.fault = "" if is_continued else f"{following.name} continues something else"
    return walk


def commit_in(frame: Frame, waiting: list[Frame], walk: Walk, manifest: Manifest) -> Commit:
    """The commit in ``frame``, which continues the walk, with the data of the frames before it."""
    commit = read_commit(frame.meta)
    check(commit.version == walk.version + 1, f"version {commit.version} after {walk.version}")
    check(commit.previous_chain == walk.chain, "a commit of another history")
    check(commit.log_id == manifest.log_id_of(commit.version), "a commit of another log")
    check_frames(commit, waiting)
    give_data(commit, [f.data for f in waiting] if waiting else [frame.data] * bool(frame.data))
    return replace(commit, chain=chain_after(walk.chain, frame.meta, frame.data_hash))
