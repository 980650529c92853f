"""Repair against an oracle that knows which bytes belong to what."""

import collections
import dataclasses
import errno
import itertools
import json
import os
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from mmsb_jax._base.errors import CorruptionError, LocationError, VersionError
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.frame import padded
from mmsb_jax._store.format.names import list_snapshots, snapshot_name
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.log.in_force import extra_in_force
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.repair import repair
from mmsb_jax._store.maintain.report import RepairReport
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.query.commit import read_commit
from mmsb_jax._store.state.state import StoredState
from mmsb_jax._store.transfer.import_ import take_in
from mmsb_jax._store.transfer.stream import open_stream, write_joining_stream
from mmsb_jax._store.writer.writer import LogWriter
from tests.store._compacted import TAGS, write_story
from tests.store._logs import (
    PAGE_BYTES,
    Expected,
    Scribe,
    check_commit,
    check_log,
    check_state,
    copy_files,
    names_of,
)
from tests.store._wrong import Place, with_commit, with_wrong_digests
from tests.torture._scale import scaled

Range = tuple[str, int, int]
"""A file, and where in it bytes are damaged."""


def repaired(files: Files, **options: Any) -> tuple[RepairReport, list[Log]]:
    """What a repair says, and the logs that it made."""
    made: list[tuple[MemoryFiles, str]] = []

    def make(part, is_newest):
        assert is_newest == (not made)
        made.append((MemoryFiles(), f"new log {len(made)}"))
        return made[-1]

    report = repair(files, "the log", make, **{"page_bytes": PAGE_BYTES} | options)
    return report, [Log(*new) for new in made]


def damage(files: Files, ranges: Iterable[Range]) -> MemoryFiles:
    """A copy in which those bytes are others."""
    damaged = copy_files(files)
    for name, start, stop in ranges:
        raw = bytearray(damaged.read(name))
        raw[start:stop] = bytes(byte ^ 0x5A for byte in files.read(name)[start:stop])
        damaged.publish(name, [raw])
    return damaged


@dataclass
class Places:
    """Where everything of a log is, of which the bytes are known: its meta, its data, its state."""

    metas: dict[int, Range]
    data: dict[int, Range]
    snapshots: dict[int, Range]

    @classmethod
    def of(cls, log: Log) -> "Places":
        metas, data = {}, {}
        for version in range(log.kept_since, log.version + 1):
            found, row = log.find(version), log.row(version)
            name, end = found.piece.segment.name, found.end_offset
            metas[version] = (name, found.offset, found.offset + 64 + padded(len(found.meta)))
            data[version] = (name, end - row.logged_bytes, end)
        snapshots = {
            version: (snapshot_name(version), 0, log.files.size(snapshot_name(version)))
            for version in list_snapshots(log.files)
        }
        return cls(metas, data, snapshots)

    def states(self, ranges: list[Range], first: int, last: int) -> set[int]:
        """Versions whose state can be had: by a snapshot or the beginning, and whole commits."""
        had, reached = set(), first == 1
        for version in range(0 if first == 1 else first - 1, last + 1):
            if version:
                reached = reached and not hits(self.data.get(version), ranges)
                snapshot = self.snapshots.get(version)
                reached = reached or (snapshot is not None and not hits(snapshot, ranges))
                if reached and not hits(self.metas.get(version), ranges):
                    had.add(version)
        return had


def hits(place: Range | None, ranges: list[Range]) -> bool:
    return place is not None and any(
        name == place[0] and start < place[2] and stop > place[1] for name, start, stop in ranges
    )


def check_repair(
    report: RepairReport, logs: list[Log], history: list[Expected], with_pages: bool = True
) -> set[int]:
    """Everything in the new logs is as it was written; returns the versions whose state is had."""
    had = set()
    for log, made in zip(logs, report.logs, strict=True):
        assert verify(log)
        assert (made.since, made.last, made.kept) == (log.kept_since, log.version, log.kept)
        for version in (*log.kept, *range(log.kept_since, log.version + 1)):
            state = log.state(version, page_bytes=PAGE_BYTES)
            check_state(state, history[version], with_pages)
            if version in log.kept and f"the extra of version {version} is lost" in report.notes:
                with pytest.raises(CorruptionError, match=f"extra of version {version} is not"):
                    log.extra(version)
            else:
                check_commit(log, version, history[version])
            check_extra_in_force(report, log, version, history)
            had.add(version)
        for version in range(log.first_version, log.kept_since):
            assert log.row(version).step == history[version].step
    return had


@pytest.fixture(scope="module")
def story() -> Scribe:
    return write_story().close()


@pytest.fixture(scope="module")
def places(story: Scribe) -> Places:
    return Places.of(Log(story.files, "the log"))


def test_repair_of_a_whole_log_is_the_same_log_with_another_id(story: Scribe):
    before = copy_files(story.files)
    report, (log,) = repaired(story.files)
    check_log(log, story.history)
    assert log.tags() == TAGS
    assert (report.said_only, report.lost, report.notes) == ([], [], [])
    assert str(report) == "new log 0: versions 1 to 16"
    assert log.manifest.ids.own != story.log.manifest.ids.own
    assert [before.read(name) for name in names_of(before)] == [
        story.files.read(name) for name in names_of(story.files)
    ]


def test_what_repair_made_can_be_written_on(story: Scribe, places: Places):
    """A log of every form: from the beginning, behind an archive, begun by a commit."""
    forms = ([], [places.data[8]], [places.metas[12]])
    for ranges, since in zip(forms, (1, 13, 13), strict=True):
        _, (log, *_) = repaired(damage(story.files, ranges))
        assert log.kept_since == since
        scribe = Scribe(log.files, history=list(story.history))
        scribe.patch("w", {5: 77}).commit()
        report = verify(Log(scribe.close().files, "the log"))
        assert report, report
        check_state(
            Log(scribe.files, "the log").state(17, page_bytes=PAGE_BYTES), scribe.history[17]
        )


def test_data_lost_in_the_middle_leave_two_logs_and_what_the_commits_say(
    story: Scribe, places: Places
):
    name, _, data = places.metas[9]
    report, (newest, earlier) = repaired(damage(story.files, [(name, data, data + 1)]))
    assert check_repair(report, [newest, earlier], story.history) == set(range(1, 17)) - {9, 10, 11}
    assert (newest.kept_since, newest.kept, newest.first_version) == (13, (4, 7, 12), 1)
    assert (earlier.kept_since, earlier.version) == (1, 8)
    assert newest.tags() == earlier.tags() == TAGS
    assert (report.said_only, report.lost) == ([(9, 11)], [])
    with pytest.raises(VersionError, match="the nearest is 12"):
        newest.state(10)


def test_a_commit_lost_in_the_middle_is_said_to_be(story: Scribe, places: Places):
    report, logs = repaired(damage(story.files, [places.metas[9]]))
    assert check_repair(report, logs, story.history) == set(range(1, 17)) - {9, 10, 11}
    assert (report.said_only, report.lost) == ([(10, 11)], [(9, 9)])
    assert "nothing is left of version 9" in str(report)
    assert "only what the commits say is left of versions 10 to 11" in str(report)


def try_damages(story: Scribe, places: Places, count: int) -> None:
    """Damage what chance says; what the oracle says can be had is had, and nothing else."""
    rng = random.Random(0)
    names = [name for name in names_of(story.files) if name != "manifest"]
    outcomes = collections.Counter()
    for _ in range(count):
        ranges = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            name = rng.choice(names)
            start = rng.randrange(story.files.size(name))
            ranges.append((name, start, start + rng.choice((1, 64, 700, 5000))))
        expected = places.states(ranges, 1, 16)
        if not expected:
            with pytest.raises(CorruptionError, match="no state can be had"):
                repaired(damage(story.files, ranges))
            outcomes["nothing"] += 1
            continue
        report, logs = repaired(damage(story.files, ranges))
        assert check_repair(report, logs, story.history) == expected
        outcomes[f"{len(logs)} logs"] += 1
    print(f"{count:,} damages:", dict(outcomes))
    assert outcomes["2 logs"] > outcomes["3 logs"] > 0


def test_whatever_is_damaged_all_that_is_whole_is_had_and_nothing_else(
    story: Scribe, places: Places
):
    try_damages(story, places, 70)


@pytest.mark.long
def test_whatever_is_damaged_ever_so_often_all_that_is_whole_is_had(story: Scribe, places: Places):
    try_damages(story, places, scaled(5000))


@pytest.mark.parametrize("missing", ["damaged", "missing"])
def test_a_log_without_its_manifest_is_had(story: Scribe, missing: str):
    files = damage(story.files, [("manifest", 70, 80)])
    if missing == "missing":
        files.remove("manifest")
    report, (log,) = repaired(files)
    assert check_repair(report, [log], story.history, with_pages=False) == set(range(1, 17))
    assert log.tags() == TAGS
    assert f"the manifest is {missing}" in report.notes[0]


def test_each_file_missing_costs_what_was_in_it_alone(story: Scribe, places: Places):
    for name in names_of(story.files)[1:]:
        files = copy_files(story.files)
        files.remove(name)
        expected = places.states([(name, 0, 1 << 40)], 1, 16)
        report, logs = repaired(files)
        assert check_repair(report, logs, story.history) == expected, name


def test_a_file_cut_off_costs_what_was_behind_alone(story: Scribe, places: Places):
    for name in names_of(story.files)[1:]:
        for size in range(0, story.files.size(name), 331):
            files = copy_files(story.files)
            files.publish(name, [files.read(name)[:size]])
            expected = places.states([(name, size, 1 << 40)], 1, 16)
            report, logs = repaired(files)
            assert check_repair(report, logs, story.history) == expected, (name, size)


def test_sectors_that_the_disk_refuses_cost_what_is_in_them_alone(
    story: Scribe, places: Places, monkeypatch: pytest.MonkeyPatch
):
    name, start, stop = places.data[10]
    read = MemoryFiles.read

    def refusing(self, asked, offset=0, size=None):
        end = self.size(asked) if size is None else offset + size
        if self is files and hits((asked, offset, end), [(name, start, stop)]):
            raise OSError(5, "Input/output error")
        return read(self, asked, offset, size)

    files = copy_files(story.files)
    monkeypatch.setattr(MemoryFiles, "read", refusing)
    monkeypatch.setattr("mmsb_jax._store.maintain.salvage.survey._SECTOR_BYTES", 64)
    report, logs = repaired(files)
    assert check_repair(report, logs, story.history) == set(range(1, 17)) - {10, 11}


@pytest.mark.parametrize("keep_since", [6, 9, 13])
def test_a_compacted_log_keeps_what_its_compaction_left(keep_since: int):
    scribe = write_story()
    compact(scribe.writer, keep_since)
    scribe.close()
    whole = Log(scribe.files, "the log")
    report, (log,) = repaired(scribe.files)
    kept = {*whole.kept, *range(keep_since, 17)}
    assert check_repair(report, [log], scribe.history) == kept
    assert log.first_version == 1
    assert log.tags() == TAGS
    assert log.extra(5) == whole.extra(5)

    places = Places.of(whole)
    report, logs = repaired(damage(scribe.files, [places.data[15]]))
    assert check_repair(report, logs, scribe.history) == kept - {15, 16}

    files = damage(scribe.files, [("manifest", 70, 80)])
    report, logs = repaired(files)
    assert check_repair(report, logs, scribe.history, with_pages=False) == kept


def test_a_damaged_archive_costs_what_its_commits_say_alone():
    scribe = write_story()
    compact(scribe.writer, 9)
    scribe.close()
    (archive,) = (name for name in scribe.files.names("log") if name.endswith(".arc"))
    report, logs = repaired(damage(scribe.files, [(archive, 150, 151)]))
    assert check_repair(report, logs, scribe.history) == set(range(9, 17))
    assert report.lost == [(1, 8)]


def test_a_tail_that_was_left_behind_stays_behind():
    """A crash left a commit that the log does not go through; another took its version."""
    scribe = write_story(versions=5)
    name = scribe.log.pieces[-1].segment.name
    size = scribe.files.size(name)
    other = Scribe(copy_files(scribe.files), history=list(scribe.history))
    other.patch("w", {0: 99}).commit()
    tail = other.files.read(name)[size:]
    scribe.writer.rotate()
    scribe.head.begin_segment()
    scribe.patch("w", {1: 98}).commit()
    scribe.close()
    assert scribe.files.size(name) == size
    scribe.files.reopen(name).append([tail])
    _, (log,) = repaired(scribe.files)
    check_log(log, scribe.history)


def test_repair_knows_who_wrote_what(story: Scribe):
    """A fork, and a log that began late with what another sent."""
    fork, late = MemoryFiles(), Scribe()
    fork_log(Log(story.files, "the log"), 9, fork)
    scribe = Scribe(fork, history=story.history[:10])
    scribe.patch("w", {3: 9}).commit()
    scribe.close()
    with open_stream(b"".join(write_joining_stream(Log(fork, "the fork"), 10, 0))) as stream:
        take_in(late.head, stream)
    for files, versions in ((fork, range(1, 11)), (late.close().files, range(7, 11))):
        report, (log,) = repaired(files)
        assert check_repair(report, [log], scribe.history) == set(versions)
        assert [log.record(v).log_id for v in versions] == [
            (story if v < 10 else scribe).log.manifest.ids.own for v in versions
        ]


def test_no_log_is_refused():
    with pytest.raises(LocationError, match="is not a log"):
        repaired(MemoryFiles())


def test_a_log_without_a_commit_has_nothing_to_give():
    with pytest.raises(CorruptionError, match="no state can be had"):
        repaired(Scribe().close().files)


def test_progress_counts_the_commits(story: Scribe):
    seen = []
    repair(
        story.files,
        "the log",
        lambda *_: (MemoryFiles(), "new"),
        page_bytes=PAGE_BYTES,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 32) for done in range(1, 33)]


def test_a_large_log_gets_segments_and_snapshots(story: Scribe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmsb_jax._store.maintain.repair._SEGMENT_BYTES", 4 * SEGMENT_FRAME_BYTES)
    _, (log,) = repaired(story.files)
    check_log(log, story.history)
    assert len(log.pieces) > 3
    assert len(log.snapshots()) > 3


def proofs(
    files: Files,
    arrays: Collection[Place],
    states: Collection[int],
    in_snapshots: Collection[Place],
    follows: bool,
    ranges: list[Range],
) -> dict[int, set[int]]:
    """Ids of the arrays of each version that some digest shows to be right; worked out by hand."""
    log = Log(files, "the log")
    places, shown, found = Places.of(log), set(), {}
    reached, wrong = True, set()
    for version in range(1, 17):
        here = set(log.table(version).arrays)
        touched = set(log.record(version).touched())
        wrong = wrong - touched | {i for i in touched if (version, i) in arrays}
        reached = reached and not hits(places.data[version], ranges)
        snapshot = places.snapshots.get(version)
        has_snapshot = snapshot is not None and not hits(snapshot, ranges)
        if not reached and not has_snapshot:
            continue
        is_begun = not reached
        shown = set() if is_begun else (shown & here - touched)
        # An array that has no record reads as zeros, and that is its digest.
        shown |= {
            i for i in here if not any(i in log.record(v).touched() for v in range(1, version + 1))
        }
        if not is_begun:
            shown |= {i for i in here & touched if (version, i) not in arrays}
        is_right = not follows or here.isdisjoint(wrong)
        if is_right and version not in states:
            shown |= here
        if has_snapshot and (is_begun or shown != here):
            shown |= {i for i in here if (version, i) not in in_snapshots}
        reached = True
        if not hits(places.metas[version], ranges):
            found[version] = set(shown)
    return found


def check_shown(
    report: RepairReport,
    logs: list[Log],
    history: list[Expected],
    shown: dict[int, set[int]],
    keep: bool = False,
) -> None:
    """The new logs have what is shown to be right, as it was written; the report has the rest."""
    said = {(u.array, version) for u in report.unproven for version in range(u.first, u.last + 1)}
    ever_wrong = {u.array for u in report.unproven}
    had = {}
    for log, made in zip(logs, report.logs, strict=True):
        assert verify(log, deep=True)
        assert (made.since, made.last, made.kept) == (log.kept_since, log.version, log.kept)
        for version in (*log.kept, *range(log.kept_since, log.version + 1)):
            expected, state = history[version], log.state(version, page_bytes=PAGE_BYTES)
            had[version] = set()
            for name, held in expected.arrays.items():
                assert ((name, version) in said) == (held.id not in shown[version]), (name, version)
                if keep or held.id in shown[version]:
                    had[version].add(name)
                    array_id = state.table.ids[name]
                    assert state.bytes_of(array_id).tobytes() == held.content
                    here = dataclasses.replace(state.table.arrays[array_id], id=held.id)
                    assert here == held.info(name)
                    if name not in ever_wrong:
                        assert state.page_versions[array_id].tolist() == held.pages
            assert state.table.ids.keys() == had[version]
            assert state.table.values == expected.constants
            commit = read_commit(log, version, lambda: 0)
            assert (commit.step, commit.source, commit.time_ns) == (
                expected.step,
                expected.source,
                expected.time_ns,
            )
            assert commit.note == json.loads(expected.note)
            if f"the extra of version {version} is lost" not in report.notes:
                assert commit.extra == expected.extra
            elif version not in log.kept:
                assert commit.extra is None
            check_extra_in_force(report, log, version, history)
    assert had.keys() == shown.keys()


def check_extra_in_force(
    report: RepairReport, log: Log, version: int, history: list[Expected]
) -> None:
    """The newest extra up to a version is had, unless it is said to be lost."""
    giver = max((v for v in range(1, version + 1) if history[v].extra is not None), default=0)
    if f"the extra of version {giver} is lost" not in report.notes:
        known = extra_in_force(log, version)
        assert (known.version, known.blob) == (giver, history[giver].extra if giver else None)


W, GONE, LATE = 1, 2, 3


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("follows", [True, False])
def test_a_wrong_digest_of_one_array_costs_that_array_until_a_record_shows_it_again(
    story: Scribe, follows: bool, keep: bool
):
    """Version 8 of w; version 9 is whole again."""
    files = with_wrong_digests(story.files, [(8, W)], follows=follows)
    before = copy_files(files)
    report, (log,) = repaired(files, keep_unproven=keep)
    shown = {
        v: set(story.log.table(v).arrays) - ({W} if follows and v == 8 else set())
        for v in range(1, 17)
    }
    check_shown(report, [log], story.history, shown, keep)
    assert [before.read(name) for name in names_of(before)] == [
        files.read(name) for name in names_of(files)
    ]
    # What is copied keeps its id; what is written anew is the new log's.
    old, new = story.log.manifest.ids.own, log.manifest.ids.own
    assert [log.record(v).log_id for v in (1, 7, 8, 16)] == [old, old, new, new]
    if not follows:
        assert report.unproven == []
        assert log.tags() == TAGS
    elif keep:
        (kept,) = report.unproven
        assert (kept.array, kept.first, kept.last, kept.is_whole, kept.is_kept) == (
            "w",
            8,
            8,
            True,
            True,
        )
        assert log.tags() == TAGS | {"unproven-8-8/w": 8}
        assert str(kept) == (
            "'w' is not shown to be right at version 8: its bytes are whole, and the digest that "
            "the commits name is that of others; kept, and tagged 'unproven-8-8/w'"
        )
    else:
        assert log.tags() == TAGS
        assert str(report.unproven[0]).endswith("is that of others; left out")
        # It comes back as another array of its name, whole; the others are as they were.
        assert log.table(9).ids == {"late": LATE, "w": LATE + 1}


def try_wrong_digests(story: Scribe, places: Places, count: int) -> None:
    """Wrong digests and damage as chance says; what the oracle says is shown to be right is had."""
    rng = random.Random(1)
    names = [name for name in names_of(story.files) if name != "manifest"]
    outcomes = collections.Counter()
    records = [(v, i) for v in range(1, 17) for i in story.log.record(v).touched()]
    for _ in range(count):
        arrays = rng.sample(records, rng.choice((0, 1, 1, 2, 5)))
        if rng.random() < 0.3:  # what a faulty writer carries on
            first, array_id = rng.choice(records)
            until = rng.randrange(first, 17)
            arrays += [(v, i) for v, i in records if i == array_id and first <= v <= until]
        states = rng.sample(range(1, 17), rng.choice((0, 0, 1, 3)))
        in_snapshots = [p for v in (4, 7, 12) for p in ((v, W), (v, LATE)) if rng.random() < 0.3]
        follows, keep = rng.random() < 0.6, rng.random() < 0.3
        ranges = []
        for _ in range(rng.choice((0, 0, 1))):
            name = rng.choice(names)
            start = rng.randrange(story.files.size(name))
            ranges.append((name, start, start + rng.choice((1, 700))))
        wrong = with_wrong_digests(
            story.files, arrays, states, in_snapshots=in_snapshots, follows=follows
        )
        shown = proofs(story.files, arrays, states, in_snapshots, follows, ranges)
        if not shown:
            with pytest.raises(CorruptionError, match="no state can be had"):
                repaired(damage(wrong, ranges))
            continue
        report, logs = repaired(damage(wrong, ranges), keep_unproven=keep)
        check_shown(report, logs, story.history, shown, keep)
        outcomes["arrays that are not shown"] += len(report.unproven)
        outcomes[f"{len(logs)} logs"] += 1
    print(f"{count:,} logs with wrong digests:", dict(outcomes))
    assert outcomes["arrays that are not shown"] > outcomes["2 logs"] > 0
    assert outcomes["1 logs"] > count / 2


def test_whatever_digests_are_wrong_what_others_show_is_had(story: Scribe, places: Places):
    try_wrong_digests(story, places, 30)


@pytest.mark.long
def test_whatever_digests_are_wrong_ever_so_often_what_others_show_is_had(
    story: Scribe, places: Places
):
    try_wrong_digests(story, places, scaled(3000))


def all_shown(story: Scribe) -> dict[int, set[int]]:
    return {v: set(story.log.table(v).arrays) for v in range(1, 17)}


def test_a_faulty_writer_whose_digests_stay_wrong_costs_one_array_from_there_on(story: Scribe):
    """As after lanes that were added twice: each delta adds to what was wrong."""
    wrong = [(v, LATE) for v in range(11, 17)]
    files = with_wrong_digests(story.files, wrong, in_snapshots=[(12, LATE)])
    shown = all_shown(story)
    for version, _ in wrong:
        shown[version] -= {LATE}
    report, logs = repaired(files)
    check_shown(report, logs, story.history, shown)
    assert str(report).splitlines() == [
        "new log 0: versions 1 to 16",
        "'late' is not shown to be right at versions 11 to 16: its bytes are whole, and the digest "
        "that the commits name is that of others; left out",
    ]
    report, (log,) = repaired(files, keep_unproven=True)
    check_shown(report, [log], story.history, shown, keep=True)
    assert log.tags() == TAGS | {"unproven-11-16/late": 11}
    scribe = Scribe(log.files, history=list(story.history))
    scribe.patch("late", {2: 5}).commit()
    report = verify(Log(scribe.close().files, "the log"), deep=True)
    assert report, report


def test_a_wrong_digest_of_the_state_alone_costs_no_array(story: Scribe):
    files = with_wrong_digests(story.files, states=range(6, 9), in_snapshots=[])
    report, logs = repaired(files)
    check_shown(report, logs, story.history, all_shown(story))
    assert report.unproven == []
    assert report.notes == [
        "the digest of the state at versions 6 to 8 fits nothing: each array has the digest that "
        "its newest record names, which cannot tell whether a record or a constant is missing; it "
        "was computed anew"
    ]


def test_wrong_digests_beside_real_damage_cost_what_each_costs(story: Scribe, places: Places):
    """Version 3 of w is not shown; the data of 9 are lost, and the states up to 11; 14 of late."""
    wrong = [(3, W), (14, LATE)]
    ranges = [places.data[9]]
    files = damage(with_wrong_digests(story.files, wrong), ranges)
    shown = {v: ids for v, ids in all_shown(story).items() if v not in (9, 10, 11)}
    shown[3] -= {W}
    shown[14] -= {LATE}
    report, (newest, earlier) = repaired(files)
    check_shown(report, [newest, earlier], story.history, shown)
    assert [(u.array, u.first, u.last) for u in report.unproven] == [("w", 3, 3), ("late", 14, 14)]
    # Version 4 and 7 are of the history that was written anew: their states are in that log alone.
    assert (earlier.kept_since, earlier.version) == (1, 8)
    assert (newest.kept_since, newest.kept[-1]) == (13, 12)


@pytest.mark.parametrize("keep_since", [6, 9, 13])
def test_a_wrong_digest_in_the_snapshot_that_all_builds_on_costs_nothing_that_its_commit_shows(
    keep_since: int,
):
    """The commit is in the archive, and its digest of the state is that of the bytes."""
    scribe = write_story()
    compact(scribe.writer, keep_since)
    scribe.close()
    base, whole = keep_since - 1, Log(scribe.files, "the log")
    wrong = [(version, W) for version in whole.kept]
    assert base in whole.kept
    assert len(wrong) > 1
    report, (log,) = repaired(with_wrong_digests(scribe.files, in_snapshots=wrong, states=[base]))
    shown = {v: set(whole.table(v).arrays) for v in (*whole.kept, *range(keep_since, 17))}
    check_shown(report, [log], scribe.history, shown)
    assert (log.first_version, log.kept_since, log.kept) == (1, keep_since, whole.kept)
    assert log.record(16).log_id == whole.manifest.ids.own  # copied


@pytest.mark.parametrize("keep", [False, True])
def test_states_of_which_one_array_is_not_shown_are_kept_without_it(
    keep: bool, monkeypatch: pytest.MonkeyPatch
):
    """A compacted log whose writer named wrong digests, that of the oldest state among them."""
    wrong = [(4, W), (8, W)]  # version 5 does not touch w
    story = write_story().close()
    files = with_wrong_digests(story.files, wrong, in_snapshots=[(4, W), (7, W)])
    with monkeypatch.context() as trusting:
        trusting.setattr(StoredState, "check_digest", lambda *_: None)
        writer = LogWriter(Log(files, "the log"))
        compact(writer, 9)
        writer.close()
    log = Log(files, "the log")
    assert log.kept == (2, 5, 8)
    report, (newest, other) = repaired(files, keep_unproven=keep)
    shown = {v: set(story.log.table(v).arrays) for v in (*log.kept, *range(9, 17))}
    shown[5] -= {W}
    shown[8] -= {W}
    check_shown(report, [newest, other], story.history, shown, keep)
    assert (newest.first_version, newest.kept_since, newest.kept) == (1, 8, (2,))
    assert (other.kept_since, other.version) == (5, 5)
    if keep:  # it is known when each page changed
        state = newest.state(8, page_bytes=PAGE_BYTES)
        assert state.page_versions[state.table.ids["w"]].tolist() == [8, 7, 7]
    # Ids of the arrays that the archive names are not used for others.
    assert newest.name_of(W) == "w"
    assert min(newest.table(8).arrays) > LATE
    assert newest.record(3).log_id == story.log.manifest.ids.own != newest.record(8).log_id


def test_what_a_snapshot_shows_is_taken_from_it_where_the_bytes_logged_are_others():
    """The digest is right, and what was written is not: a fault before the hash of the frame."""
    scribe = Scribe().create("a", (3,)).create("b", (3,))
    scribe.patch("a", {0: 1}).commit()
    scribe.patch("a", {1: 2}).commit()
    scribe.patch("b", {0: 3}).commit(note="{}")
    scribe.snapshot()

    def spoil(record, frame):
        frame.data = frame.data[:-1] + b"\x07"

    files = with_commit(scribe.close().files, 2, spoil)
    report, (log,) = repaired(files, keep_unproven=True)
    (kept,) = report.unproven
    assert (kept.array, kept.first, kept.last, kept.is_whole) == ("a", 2, 2, True)
    assert log.state(2).bytes_of(1).tobytes() != scribe.history[2].arrays["a"].content
    check_state(log.state(3, page_bytes=PAGE_BYTES), scribe.history[3], with_pages=False)


@pytest.mark.parametrize("keep", [False, True])
def test_a_wrong_digest_in_the_snapshot_that_all_builds_on_costs_one_array_where_no_other_shows_it(
    keep: bool,
):
    scribe = write_story()
    compact(scribe.writer, 9)
    scribe.close()
    files = with_wrong_digests(scribe.files, [(9, W)], [9], in_snapshots=[(8, W)])
    (archive,) = (name for name in files.names("log") if name.endswith(".arc"))
    for name in (archive, *(snapshot_name(v) for v in (4, 7, 12))):
        files.remove(name)
    report, (log,) = repaired(files, keep_unproven=keep)
    shown = {v: set(Log(scribe.files, "the log").table(v).arrays) for v in range(9, 17)}
    shown[9] -= {W}
    check_shown(report, [log], scribe.history, shown, keep)
    assert (log.first_version, report.lost) == (9, [(1, 8)])


def spoil_late(record, frame):
    """The chunk of `late` claims an element that it has not."""
    sizes = record.chunks["stored"].tolist()
    assert record.touched() == [LATE, W]
    assert sum(sizes) == len(frame.data)
    frame.data = b"\xff" * sizes[0] + frame.data[sizes[0] :]


@pytest.mark.parametrize("keep", [False, True])
def test_a_record_that_does_not_decode_costs_its_array_until_a_digest_shows_it(
    story: Scribe, keep: bool
):
    """A fault before the hash: the frame is whole, and a chunk is not what it says.

    Version 13 sets the byte that was lost.
    """
    files = with_commit(story.files, 12, spoil_late)
    report, logs = repaired(files, keep_unproven=keep)
    check_shown(report, logs, story.history, all_shown(story))  # by the snapshot

    files.remove(snapshot_name(12))
    shown = all_shown(story)
    shown[12] -= {LATE}
    report, logs = repaired(files, keep_unproven=keep)
    check_shown(report, logs, story.history, shown)
    assert str(report.unproven[0]) == (
        "'late' is not shown to be right at version 12: its bytes are damaged: what was written "
        "does not decode; left out"
    )


def test_a_commit_that_does_not_fit_costs_the_states_up_to_the_next_snapshot(story: Scribe):
    def misfit(record, frame):
        record.ops = [Op(OpCode.DELETE, ArrayInfo(GONE, "gone", "jax", "float32", (3,), True))]

    report, logs = repaired(with_commit(story.files, 10, misfit))
    shown = {v: ids for v, ids in all_shown(story).items() if v not in (10, 11)}
    check_shown(report, logs, story.history, shown)
    assert report.said_only == [(10, 11)]
    assert report.notes == [
        "version 10 does not fit what is before: DELETE of array 2 'gone' does not fit"
    ]


def test_rules_and_links_of_an_array_that_is_left_out_are_left_out_as_long():
    def rule(inputs: list[str], arrays: list[str]) -> str:
        return json.dumps({"inputs": inputs, "arrays": arrays})

    scribe = Scribe().create("a", (3,)).create("b", (3,)).create("c", (3,))
    entries = {
        "\0derive/c": rule(["a", "b*"], ["c"]),
        "\0stale/c": "dirty",
        "\0derive/d": rule(["x"], ["b"]),
        "\0derive/e": rule(["a", "aa"], ["e"]),
        "\0derive/odd": "[",
        '\0link/["b","a"]control': "control",
        '\0link/["a","c"]control': "control",
    }
    for name, text in entries.items():
        scribe.constant(name, text)
    for number in range(3):
        scribe.patch("a", {0: number + 1}).patch("b", {0: number + 1}).commit()
    _, (log,) = repaired(with_wrong_digests(scribe.close().files, [(2, 2)]))
    assert log.table(1).graph == log.table(3).graph == entries
    assert log.table(2).graph == {
        name: entries[name] for name in ("\0derive/e", "\0derive/odd", '\0link/["a","c"]control')
    }
    assert log.table(2).ids.keys() == {"a", "c"}


def test_opening_a_log_with_a_wrong_digest_says_what_repair_gives(story: Scribe):
    log = Log(with_wrong_digests(story.files, [(16, W)]), "the log")
    with pytest.raises(CorruptionError, match="of all that is shown to be right") as caught:
        log.state(16)
    assert all(part in str(caught.value) for part in ("'w'", "mmsb verify", "mmsb repair"))
    log.state(16, lambda name: name == "late")  # others are given, with their digests compared


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EPERM])
def test_what_could_not_be_looked_at_is_not_taken_for_lost(
    story: Scribe, places: Places, monkeypatch: pytest.MonkeyPatch, code: int
):
    """No permission, too many files: nothing is known of the log, and nothing is made of it."""
    needed = ["manifest", *(piece.segment.name for piece in story.log.pieces), snapshot_name(4)]
    for name, method in itertools.product(needed, ("read", "size")):
        files = damage(story.files, [places.data[2]])  # so that the snapshot is needed
        with monkeypatch.context() as failing:
            fail(failing, files, method, name, code)
            if (name, method) == ("manifest", "size"):
                repaired(files)  # which nobody asks for
                continue
            with pytest.raises(LocationError, match=f"{name} could not be read: ") as caught:
                repaired(files)
        assert caught.value.errno == code
        assert "Nothing was changed" in str(caught.value)
        assert "written" not in str(caught.value)


def fail(failing: pytest.MonkeyPatch, files: Files, method: str, name: str, code: int) -> None:
    """Let calls of ``method`` for one file of ``files`` fail."""
    call = getattr(MemoryFiles, method)

    def refusing(self, asked, *args):
        if self is files and asked == name:
            raise OSError(code, os.strerror(code), name)
        return call(self, asked, *args)

    failing.setattr(MemoryFiles, method, refusing)


@pytest.mark.parametrize("method", ["read", "size"])
def test_a_file_that_the_disk_refuses_is_lost_alone(
    story: Scribe, places: Places, monkeypatch: pytest.MonkeyPatch, method: str
):
    for name in names_of(story.files):
        files = copy_files(story.files)
        with monkeypatch.context() as failing:
            fail(failing, files, method, name, errno.EIO)
            report, logs = repaired(files)
        expected = places.states([(name, 0, 1 << 40)], 1, 16)
        is_lost = name == "manifest" and method == "read"
        assert check_repair(report, logs, story.history, not is_lost) == expected, name
        assert report.notes[:1] == [] or "the manifest is damaged" in report.notes[0]


def test_a_disk_that_is_full_is_said_to_be(
    story: Scribe, places: Places, monkeypatch: pytest.MonkeyPatch
):
    files = damage(story.files, [places.data[9]])
    for method in ("publish", "create", "reopen"):
        call = getattr(MemoryFiles, method)

        def full(self, name, *args, call=call):
            if self is files:
                return call(self, name, *args)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as failing:
            failing.setattr(MemoryFiles, method, full)
            with pytest.raises(
                LocationError, match="nothing was written to new log 0: the disk is"
            ):
                repaired(files)
