"""Section 16 of docs/format.md: streams, which carry commits to another log."""

import struct
from dataclasses import dataclass

from tools.format_reader.commits import Commit
from tools.format_reader.frames import check, read_frame
from tools.format_reader.manifest import Manifest, read_ancestors
from tools.format_reader.segments import Walk, commit_in
from tools.format_reader.states import State, read_snapshot

STREAM = struct.Struct("<16sQQ16sQQI")


@dataclass
class Stream:
    """A stream: what its head says, the state it begins with (None: none), its commits."""

    since: int
    last: int
    state: "State | None"
    commits: list[Commit]


def read_stream(raw: bytes) -> Stream:
    """The stream in ``raw``, all of it checked."""
    head = read_frame(raw, 0, 0)
    check(head.kind == "STREAM" and len(head.meta) >= 68, "not a stream")
    log_id, page_bytes, since, chain, last, snapshot_bytes, count = STREAM.unpack_from(head.meta)
    check(len(head.meta) == 68 + 24 * count, "its ancestors do not fill it")
    check(0 < page_bytes <= 2**30 and page_bytes % 4 == 0, f"pages of {page_bytes} bytes")
    check(since <= last < 2**63, "a stream to before its beginning")
    manifest = Manifest(log_id, page_bytes, 0, read_ancestors(head.meta[68:]))
    start, state = head.end + snapshot_bytes, None
    if snapshot_bytes:
        state = read_snapshot(raw[head.end : start], since + 1, manifest)
    walk, offset, waiting = Walk(since, chain, 0), start, []
    while offset < len(raw):
        frame = read_frame(raw, offset, None)
        check(frame.kind in ("DATA", "COMMIT"), f"{frame.kind} in a stream")
        if frame.kind == "DATA":
            waiting.append(frame)
        else:
            commit = commit_in(frame, waiting, walk, manifest)
            walk.version, walk.chain, waiting = commit.version, commit.chain, []
            walk.commits.append(commit)
        offset = frame.end
    check(walk.version == last and not waiting, "the stream is cut short")
    return Stream(since, last, state, walk.commits)
