"""Repair against an oracle that knows which bytes belong to what."""

import collections
import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from mmsb_jax._errors import CorruptionError, LocationError, VersionError
from mmsb_jax.store._compact import compact
from mmsb_jax.store._files import Files, MemoryFiles
from mmsb_jax.store._fork import fork_log
from mmsb_jax.store._format import padded
from mmsb_jax.store._intake import take_in
from mmsb_jax.store._log import Log
from mmsb_jax.store._repair import RepairReport, repair
from mmsb_jax.store._segment import SEGMENT_FRAME_BYTES
from mmsb_jax.store._snapshot import list_snapshots, snapshot_name
from mmsb_jax.store._stream import open_stream, write_joining_stream
from mmsb_jax.store._verify import verify
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
from tests.torture._scale import scaled

Range = tuple[str, int, int]
"""A file, and where in it bytes are damaged."""


def repaired(files: Files, page_bytes: int = PAGE_BYTES) -> tuple[RepairReport, list[Log]]:
    """What a repair says, and the logs that it made."""
    made: list[tuple[MemoryFiles, str]] = []

    def make(part, is_newest):
        assert is_newest == (not made)
        made.append((MemoryFiles(), f"new log {len(made)}"))
        return made[-1]

    report = repair(files, "the log", make, page_bytes=page_bytes)
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
    try_damages(story, places, 150)


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
    monkeypatch.setattr("mmsb_jax.store._survey._SECTOR_BYTES", 64)
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
    monkeypatch.setattr("mmsb_jax.store._repair._SEGMENT_BYTES", 4 * SEGMENT_FRAME_BYTES)
    _, (log,) = repaired(story.files)
    check_log(log, story.history)
    assert len(log.pieces) > 3
    assert len(log.snapshots()) > 3
