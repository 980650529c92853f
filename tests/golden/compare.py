"""A log read twice, by the library and by the independent reader, against what it must hold."""

from pathlib import Path
from typing import Any

import numpy as np

from mmsb_jax.store._commit import read_commit
from mmsb_jax.store._files import DiskFiles
from mmsb_jax.store._log import Log
from mmsb_jax.store._verify import verify
from tests import _format_reader as reader
from tests.golden.make import Version, encode
from tests.store._logs import PAGE_BYTES


def check_reader(root: Path, expected: list[Version]) -> reader.ReadLog:
    """The independent reader gives back what was written; returns what it read."""
    log = reader.ReadLog(root)
    states = list(log.states())
    assert list(map(read_by_reader, log.commits, states)) == expected
    for version in log.snapshots():
        snapshot = log.snapshot(version)
        for array in snapshot.arrays.values():
            array.code = states[version - 1].arrays[array.id].code  # a snapshot only creates
        assert snapshot == states[version - 1]
        ends = [
            segment.base + end
            for segment, walk in zip(log.segments, log.walks, strict=True)
            for _, end in walk.places
        ]
        assert log.snapshot_position(version) == ends[version - 1]
    for place, segment in enumerate(log.segments):
        if (root / "log" / segment.name).with_suffix(".idx").exists():
            _check_index(log, place)
    return log


def read_by_reader(commit: reader.Commit, state: reader.State) -> Version:
    """What one version holds, as the independent reader has it."""
    names = {array.id: array.name for array in state.arrays.values()}
    return {
        "version": state.version,
        "step": commit.step,
        "time_ns": commit.time_ns,
        "source": commit.source,
        "note": commit.note,
        "extra": encode(reader.read_blob(commit)),
        "changed": sorted(names[r.id] for r in commit.records if r.id and r.changed),
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


def _check_index(log: reader.ReadLog, place: int) -> None:
    index: dict[str, Any] = log.index(place)
    segment, following, walk = log.segments[place], log.segments[place + 1], log.walks[place]
    columns, commits = index["columns"], walk.commits
    assert index["first_version"] == segment.first_version
    assert index["chain"] == following.chain
    assert index["end_offset"] == following.base - segment.base
    assert columns["offset"] == [offset for offset, _ in walk.places]
    assert columns["step"] == [commit.step or 0 for commit in commits]
    assert columns["time_ns"] == [commit.time_ns for commit in commits]
    assert [index["sources"][i] for i in columns["source"]] == [c.source for c in commits]
    touched = [[r.id for r in commit.records if r.id] for commit in commits]
    assert index["ids"] == [array_id for ids in touched for array_id in ids]
    assert columns["touched_end"] == np.cumsum([len(ids) for ids in touched]).tolist()
    assert columns["flags"] == [(c.step is not None) + 2 * bool(c.operations) for c in commits]
    assert sum(columns["logged"]) <= index["end_offset"]


def check_library(root: Path, expected: list[Version]) -> None:
    """The library gives back what was written."""
    log = Log(DiskFiles(root), root.name)
    assert verify(log)
    assert [read_by_library(log, v) for v in range(1, log.version + 1)] == expected


def read_by_library(log: Log, version: int) -> Version:
    """What one version holds, as the library has it."""
    state = log.state(version, page_bytes=PAGE_BYTES)
    commit, record = read_commit(log, version, lambda: 0), log.record(version)
    return {
        "version": commit.version,
        "step": commit.step,
        "time_ns": commit.time_ns,
        "source": commit.source,
        "note": record.note,
        "extra": encode(log.extra(version)[0]),
        "changed": list(commit.changed),
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
        "constants": state.table.values,
        "chain": state.table.chain.hex(),
        "state_digest": f"{state.table.state_digest:032x}",
    }


def codings(log: reader.ReadLog) -> set[int]:
    """The codings that the chunks of a log have."""
    return {c.coding for commit in log.commits for r in commit.records for c in r.chunks}
