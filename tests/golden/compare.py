"""A log read twice, by the library and by the independent reader, against what it must hold."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmsb_jax._base.errors import VersionError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.record import DIGESTS
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.query.commit import read_commit
from tests.golden.make import Version, encode
from tests.store._logs import PAGE_BYTES
from tools import format_reader as reader

States = dict[int, reader.State]
"""The states that there are, by version."""


def check_reader(root: Path, expected: list[Version]) -> reader.ReadLog:
    """The independent reader gives back what was written; returns what it read."""
    log = reader.ReadLog(root)
    states = _states(log)
    assert _versions(log, states) == expected
    ends = _ends(log)
    for version in log.snapshots():
        snapshot = log.snapshot(version)
        for array in snapshot.arrays.values():
            array.code = states[version].arrays[array.id].code  # a snapshot only creates
        assert snapshot == states[version]
        if version in ends:
            assert log.snapshot_position(version) == ends[version]
    for place, segment in enumerate(log.segments):
        if (root / "log" / segment.name).with_suffix(".idx").exists():
            _check_index(log, place)
    return log


def read_by_reader(root: Path) -> list[Version]:
    """What the versions of a log hold, as the independent reader has it; oldest first.

    Of those that a compaction dropped, what their commits said.
    """
    log = reader.ReadLog(root)
    return _versions(log, _states(log))


def read_stream_by_reader(raw: bytes, before: reader.State) -> list[Version]:
    """What the versions of a stream hold that continues ``before``, or has a snapshot."""
    stream, state, versions = reader.read_stream(raw), before, []
    for commit in stream.commits:
        state = (not versions and stream.state) or state.after(commit)
        state.check_digest()
        names = _names([commit], [state])
        versions.append(_said(commit, names) | _held(state, reader.read_blob(commit)))
    return versions


def _states(log: reader.ReadLog) -> States:
    compaction = log.manifest.compaction
    kept = [] if compaction is None else compaction.kept
    replayed = {state.version: state for state in log.states() if state is not None}
    return {version: log.snapshot(version) for version in kept} | replayed


def _versions(log: reader.ReadLog, states: States) -> list[Version]:
    commits = [*log.archived(), *log.commits]
    names, versions, aside = _names(commits, states.values()), [], log.aside()
    for commit in commits:
        versions.append(_said(commit, names))
        if commit.version in states:
            versions[-1] |= _held(states[commit.version], log.extra(commit))
        elif commit.flags & reader.DIGEST_ONLY:
            versions[-1]["extra"] = encode(log.extra(commit))
        if commit.version in aside:
            held = sorted(aside[commit.version].items())
            versions[-1]["aside"] = {name: encode(content) for name, content in held}
    return versions


def _names(commits: Iterable[reader.Commit], states: Iterable[reader.State]) -> dict[int, str]:
    """The names of arrays, by id: neither is ever used again."""
    made = {op.id: op.name for commit in commits for op in commit.operations}
    return made | {array.id: array.name for s in states for array in s.arrays.values()}


def _said(commit: reader.Commit, names: dict[int, str]) -> Version:
    """What a commit says of itself."""
    digests = {names[i]: list(row) for i, row in commit.digests.items()}
    changed = sorted(names[r.id] for r in commit.records if r.id and r.changed)
    said = {"digests": digests} if commit.flags & reader.DIGESTS else {}
    return said | {
        "version": commit.version,
        "step": commit.step,
        "time_ns": commit.time_ns,
        "source": commit.source,
        "note": commit.note,
        "changed": sorted(digests) if commit.flags & reader.DIGEST_ONLY else changed,
        "chain": commit.chain.hex(),
        "state_digest": f"{commit.state_digest:032x}",
    }


def _held(state: reader.State, extra: bytes | None) -> Version:
    """What there is of a version that was not dropped."""
    return {
        "extra": encode(extra),
        "arrays": {
            array.name: {
                "id": array.id,
                "kind": array.kind,
                "dtype": array.dtype,
                "shape": list(array.shape),
                "member": array.member,
                "bytes": encode(state.content[array.id]),
                "pages": state.page_versions[array.id],
            }
            for array in sorted(state.arrays.values(), key=lambda array: array.name)
        },
        "constants": state.constants,
        "chain": state.chain.hex(),
        "state_digest": f"{state.digest:032x}",
    }


def _ends(log: reader.ReadLog) -> dict[int, int]:
    """Where in the log commits end, by version; not where one joined, which no snapshot covers."""
    compaction = log.manifest.compaction
    archives = [] if compaction is None else compaction.archives
    ends = {version: end for _, version, end, _ in archives}
    for segment, walk in zip(log.segments, log.walks, strict=True):
        for commit, (_, end) in zip(walk.commits, walk.places, strict=True):
            ends[commit.version] = segment.base + end
    if compaction is None and log.segments[0].first_version > 1:
        del ends[log.segments[0].first_version]
    return ends


def _check_index(log: reader.ReadLog, place: int) -> None:
    index: dict[str, Any] = log.index(place)
    segment, following, walk = log.segments[place], log.segments[place + 1], log.walks[place]
    columns, commits = index["columns"], walk.commits
    assert index["first_version"] == segment.first_version
    assert index["tags"] == walk.tags
    assert index["chain"] == following.chain
    assert index["end_offset"] == following.base - segment.base
    assert columns["offset"] == [offset for offset, _ in walk.places]
    assert columns["step"] == [commit.step or 0 for commit in commits]
    assert columns["time_ns"] == [commit.time_ns for commit in commits]
    assert [index["sources"][i] for i in columns["source"]] == [c.source for c in commits]
    touched = [[r.id for r in (*c.aside, *c.records) if r.id] for c in commits]
    assert index["ids"] == [array_id for ids in touched for array_id in ids]
    assert columns["touched_end"] == np.cumsum([len(ids) for ids in touched]).tolist()
    flags = [(c.step is not None) + 2 * bool(c.operations) for c in commits]
    says_extra = [
        8 + 4 * any(r.id == 0 for r in c.records) + 16 * bool(c.flags & reader.DIGEST_ONLY)
        for c in commits
    ]
    assert [flag & 3 for flag in columns["flags"]] == flags
    # An index of an older log does not know which commits say an extra.
    assert [flag & ~3 for flag in columns["flags"]] in (says_extra, [0] * len(commits))
    assert sum(columns["logged"]) <= index["end_offset"]


def check_library(root: Path, expected: list[Version]) -> None:
    """The library gives back what was written."""
    log = Log(DiskFiles(root), root.name)
    assert verify(log)
    versions = range(log.first_version, log.version + 1)
    assert [read_by_library(log, version) for version in versions] == expected


def read_by_library(log: Log, version: int) -> Version:
    """What one version holds, as the library has it; of one that was dropped, what it said."""
    commit, record = read_commit(log, version, lambda: 0), log.record(version)
    said = {
        "version": commit.version,
        "step": commit.step,
        "time_ns": commit.time_ns,
        "source": commit.source,
        "note": record.note,
        "changed": list(commit.changed),
        "chain": log.chain_after(version).hex(),
        "state_digest": f"{record.state_digest:032x}",
    }
    if record.flags & DIGESTS:
        rows = record.digests.tolist()
        said["digests"] = {log.name_of(i): numbers for i, *numbers in rows}
    if not record.is_saved:
        if len(record.aside):
            said["aside"] = _aside(log, version)
        return said | {"extra": encode(log.extra(version)[0])}
    if version < log.kept_since and version not in log.kept:
        return said
    state = log.state(version, page_bytes=PAGE_BYTES)
    return said | {
        "extra": encode(log.extra(version)[0]),
        "arrays": {
            info.name: {
                "id": info.id,
                "kind": info.kind,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "member": info.member,
                "bytes": encode(state.bytes_of(info.id).tobytes()),
                "pages": state.page_versions[info.id].tolist(),
            }
            for info in sorted(state.table.arrays.values(), key=lambda info: info.name)
        },
        "constants": state.table.values | state.table.graph,
        "chain": state.table.chain.hex(),
        "state_digest": f"{state.table.state_digest:032x}",
    }


def _aside(log: Log, version: int) -> dict[str, str | None]:
    """The arrays that have bytes at a version without all of them."""
    there = {}
    for info in sorted(log.table(version).arrays.values(), key=lambda info: info.name):
        with contextlib.suppress(VersionError):
            raw = log.state(version, info.name.__eq__).bytes_of(info.id)
            there[info.name] = encode(raw.tobytes())
    return there


def codings(log: reader.ReadLog) -> set[int]:
    """The codings that the chunks of a log have."""
    return {c.coding for commit in log.commits for r in commit.records for c in r.chunks}
