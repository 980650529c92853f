"""Sections 10 and 11 of docs/format.md: snapshots, and the state at a version."""

import struct
from dataclasses import dataclass, field, replace

from tools.format_reader.codings import decode_chunk
from tools.format_reader.commits import (
    CREATE,
    DELETE,
    RECORD_FULL,
    RECORD_PAGE_VERSIONS,
    VALUES_REPLACE,
    Commit,
    Operation,
    Record,
    give_data,
    read_commit,
)
from tools.format_reader.digests import (
    NO_CHAIN,
    array_term,
    check_frames,
    constant_term,
    lanes_of,
)
from tools.format_reader.frames import Frame, check, read_frame
from tools.format_reader.manifest import Manifest

# 11. The state at a version


@dataclass
class State:
    """All arrays and constants after one commit."""

    version: int = 0
    chain: bytes = NO_CHAIN
    digest: int = 0
    next_id: int = 1
    arrays: dict[int, Operation] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    lanes: dict[int, tuple[int, int]] = field(default_factory=dict)
    bases: dict[int, int] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    page_versions: dict[int, list[int]] = field(default_factory=dict)
    page_bytes: int = 4096

    def statics(self) -> dict[str, str] | None:
        """Path → text of what is no leaf; None where the log is older than that."""
        if self.constants.get("\0static") != "1":
            return None
        start = "\0static/"
        return {n[len(start) :]: t for n, t in self.constants.items() if n.startswith(start)}

    def weak(self) -> set[str]:
        """Paths of the weakly typed arrays."""
        start = "\0weak/"
        return {name[len(start) :] for name in self.constants if name.startswith(start)}

    def by_name(self) -> dict[str, bytes]:
        """The bytes of every array, by name."""
        return {array.name: self.content[array.id] for array in self.arrays.values()}

    def after(self, commit: Commit) -> "State":
        """The state after one more commit."""
        check(commit.previous_chain == self.chain, "a commit of another history")
        state = self.with_table(commit)
        for record in commit.records:
            if record.id:
                state.apply(record, self.bases.get(record.id, 0), commit.version)
        for record in commit.records:
            if record.id:
                state.lanes[record.id], state.bases[record.id] = record.lanes, commit.version
        return replace(
            state,
            version=commit.version,
            chain=commit.chain,
            digest=commit.state_digest,
            next_id=commit.next_id,
        )

    def with_table(self, commit: Commit) -> "State":
        """The state after the operations and the constants of a commit."""
        arrays, content, pages = dict(self.arrays), dict(self.content), dict(self.page_versions)
        lanes, bases = dict(self.lanes), dict(self.bases)
        made: set[int] = set()
        for operation in commit.operations:
            array_id, before = operation.id, arrays.get(operation.id)
            check((operation.code == CREATE) == (before is None), "an operation misplaced")
            if before is None:
                check(array_id >= self.next_id and array_id not in made, "an id used before")
                made.add(array_id)
            else:
                check(before.name == operation.name, "an operation under another name")
            if operation.code == DELETE:
                for table in (arrays, content, pages, lanes, bases):
                    table.pop(array_id, None)
                continue
            arrays[array_id] = operation
            size = operation.nbytes
            count = -(-size // self.page_bytes)
            content[array_id] = content.get(array_id, b"")[:size].ljust(size, b"\0")
            pages[array_id] = (pages.get(array_id, []) + [0] * count)[:count]
            names = [array.name for array in arrays.values()]
            check(len(set(names)) == len(names), "two arrays of one name")
        constants = {} if commit.flags & VALUES_REPLACE else dict(self.constants)
        for name, text in commit.constants.items():
            if text is None:
                constants.pop(name, None)
            else:
                constants[name] = text
        return replace(
            self, arrays=arrays, content=content, page_versions=pages, lanes=lanes, bases=bases,
            constants=constants,
        )  # fmt: skip

    def apply(self, record: Record, base: int, version: int) -> None:
        """Make the bytes of an array those after a record of ``version``."""
        check(record.id in self.arrays, "a record of an array that is not there")
        before = self.content[record.id]
        array = bytearray(before)
        covered = sum(c.raw for c in record.chunks)
        check(covered <= len(array), "a record covers more than its array")
        if record.flags & RECORD_FULL:
            check(covered == len(array), "a full record is not full")
        else:
            check(record.base == base, "a record builds on another version")
        for chunk in record.chunks:
            decode_chunk(array, chunk)
        self.content[record.id] = bytes(array)
        versions = list(self.page_versions[record.id])
        for page in range(len(versions)):
            span = slice(page * self.page_bytes, (page + 1) * self.page_bytes)
            if before[span] != array[span]:
                versions[page] = version
        self.page_versions[record.id] = versions

    def aside(self, commit: Commit) -> "State":
        """The state with what a commit has aside; its own bytes are those of a version before."""
        state = replace(self, content=dict(self.content), bases=dict(self.bases))
        for record in commit.aside:
            check(record.id in self.arrays, "a record aside of an array that is not there")
            pages = dict(state.page_versions)
            state.apply(record, state.bases.get(record.id, 0), commit.version)
            state.page_versions = pages
            check(lanes_of(state.content[record.id]) == record.lanes, "the lanes of bytes aside")
            state.bases[record.id] = commit.version
        return state

    def check_digest(self) -> None:
        """Compute every digest from the bytes, and compare."""
        total = sum(constant_term(*constant) for constant in self.constants.items())
        for array_id, array in self.arrays.items():
            lanes = lanes_of(self.content[array_id])
            check(lanes == self.lanes.get(array_id, (0, 0)), f"lanes of {array.name}")
            total += array_term(array, lanes)
        check(total % 2**128 == self.digest, f"digest of version {self.version}")


def read_blob(commit: Commit) -> bytes | None:
    """The caller's blob; None where there is none."""
    for record in commit.records:
        if record.id == 0:
            blob = bytearray(sum(chunk.raw for chunk in record.chunks))
            end = 0
            for chunk in record.chunks:
                check(chunk.offset == end, "the chunks of the blob do not follow each other")
                check(not chunk.group, "a chunk of the blob in a group")
                decode_chunk(blob, chunk)
                end += chunk.raw
            return bytes(blob)
    return None


# 10. Snapshots


def read_snapshot_frames(
    raw: bytes, version: int, manifest: Manifest, with_data: bool
) -> tuple[Commit, list[Frame]]:
    """The commit in a snapshot file, and its frames."""
    frames, offset = [], 0
    while not frames or frames[-1].kind == "DATA":
        frames.append(read_frame(raw, offset, offset, with_data))
        offset = frames[-1].end
    *data, last = frames
    check(last.kind == "SNAPSHOT" and not last.data and last.end == len(raw), "no snapshot")
    commit = read_commit(last.meta)
    check(commit.version == version, "a snapshot of another version")
    check(commit.log_id == manifest.log_id_of(version), "a snapshot of another log")
    check_frames(commit, data)
    State().with_table(commit)
    return commit, frames


def read_snapshot(raw: bytes, version: int, manifest: Manifest) -> State:
    """The state in a snapshot file."""
    commit, (*data, _) = read_snapshot_frames(raw, version, manifest, with_data=True)
    give_data(commit, [frame.data for frame in data])
    state = State(page_bytes=manifest.page_bytes).with_table(commit)
    page_versions = {}
    for record in commit.records:
        if record.id == 0:
            continue  # the blob of its version, where a compaction has kept it
        if record.flags & RECORD_PAGE_VERSIONS:
            versions = bytearray(8 * len(state.page_versions[record.id]))
            check(sum(c.raw for c in record.chunks) == len(versions), "not a version a page")
            for chunk in record.chunks:
                decode_chunk(versions, chunk)
            page_versions[record.id] = [number for (number,) in struct.iter_unpack("<Q", versions)]
        else:
            state.apply(record, record.base, 0)
            state.lanes[record.id], state.bases[record.id] = record.lanes, record.base
    return replace(
        state,
        version=version,
        chain=commit.previous_chain,
        digest=commit.state_digest,
        next_id=commit.next_id,
        page_versions=state.page_versions | page_versions,
    )
