import errno
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax._base.errors import (
    ClosedError,
    CorruptionError,
    FormatError,
    LocationError,
    VersionError,
)
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.manifest import MANIFEST_NAME as MANIFEST
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact, compact_beside
from mmsb_jax._store.maintain.cut import best_cut
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.writer.cleanup import leftovers
from mmsb_jax.testing._faulty import Faults, FaultyFiles
from tests._sampled import stepped
from tests.store._compacted import TAGS, VERSIONS, check_compacted, total_bytes, write_story
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, check_state, copy_files

ALL = range(1, VERSIONS + 1)


def kept_below(version: int) -> tuple[int, ...]:
    """The states that stay when the story is compacted to ``version``."""
    tagged = {tagged for tagged in TAGS.values() if tagged < version}
    return tuple(sorted((tagged | {version - 1}) - {0})) if version > 1 else ()


@pytest.fixture(params=["memory", "disk"])
def files(request, tmp_path: Path):
    return MemoryFiles() if request.param == "memory" else DiskFiles(tmp_path)


@pytest.mark.parametrize("keep_since", ALL)
def test_compact_at_any_version_keeps_what_it_says(keep_since: int, files):
    scribe = write_story(files)
    report = compact(scribe.writer, keep_since)
    kept = kept_below(keep_since)
    assert (report.keep_since, report.kept) == (keep_since, kept)
    assert report.dropped == keep_since - 1
    for log in (scribe.log, Log(files, PLACE)):
        check_compacted(log, scribe.history, keep_since, kept)
        assert log.tags() == TAGS
        assert log.first_version == 1
        assert verify(log), str(verify(log))
    assert leftovers(files, scribe.log.manifest) == []


@pytest.mark.parametrize("keep_since", ALL)
def test_compact_dry_run_changes_nothing_and_says_what_the_run_does(keep_since: int, files):
    scribe = write_story(files)
    before = copy_files(files)
    rehearsed = compact(scribe.writer, keep_since, dry_run=True)
    after = copy_files(files)
    assert {name: f.read(0, None) for name, f in before._files.items()} == {
        name: f.read(0, None) for name, f in after._files.items()
    }
    done = compact(scribe.writer, keep_since)
    assert rehearsed.bytes_before == done.bytes_before == total_bytes(before)
    assert rehearsed.bytes_after == done.bytes_after == total_bytes(files)
    assert (rehearsed.kept, rehearsed.dropped) == (done.kept, done.dropped)
    assert (rehearsed.dry_run, done.dry_run) == (True, False)


def test_compact_gives_back_space():
    scribe = Scribe()
    scribe.create("w", (50_000,))
    noise = np.random.default_rng(0)
    for _ in range(40):
        scribe.write("w", noise.random(50_000, np.float32)).commit()
    before = total_bytes(scribe.files)
    report = compact(scribe.writer, 40)
    assert report.bytes_before == before > 6_400_000
    assert report.bytes_after == total_bytes(scribe.files) < 450_000  # a snapshot and a commit


@pytest.mark.parametrize("keep_since", [2, 8, 9, VERSIONS])
def test_log_that_was_compacted_goes_on(keep_since: int, files):
    scribe = write_story(files)
    compact(scribe.writer, keep_since)
    for number in range(3):
        scribe.patch("w", {number: 77}).commit()
        scribe.snapshot(rotate=number == 1)
        scribe = scribe.reopen()
    check_compacted(Log(files, PLACE), scribe.history, keep_since, kept_below(keep_since))
    assert verify(Log(files, PLACE))


def test_compact_again_keeps_every_commit_in_an_archive(files):
    scribe = write_story(files)
    for keep_since in (3, 4, 9, 12, VERSIONS):
        rehearsed = compact(scribe.writer, keep_since, dry_run=True)
        assert compact(scribe.writer, keep_since).bytes_after == rehearsed.bytes_after
        check_compacted(scribe.log, scribe.history, keep_since, kept_below(keep_since))
        assert verify(Log(files, PLACE))
    assert scribe.log.manifest.compaction is not None
    ranges = [(e.first_version, e.last_version) for e in scribe.log.manifest.compaction.archives]
    assert ranges == [(1, 8), (9, VERSIONS - 1)]
    assert list(scribe.log.select()) == list(ALL)
    assert list(scribe.log.select(array="gone")) == list(scribe.log.select(array="gone", until=5))
    assert scribe.log.last_with(step=20) == 3


def test_archives_of_many_compactions_are_few(files):
    scribe = Scribe(files)
    scribe.create("w", (4,))
    for number in range(1, 65):
        scribe.write("w", np.full(4, number, np.float32)).commit(number)
        if number > 1:
            compact(scribe.writer, number)
    compaction = scribe.log.manifest.compaction
    assert compaction is not None
    sizes = [e.last_version + 1 - e.first_version for e in compaction.archives]
    assert sizes == [32, 16, 8, 4, 2, 1]
    assert [record.step for record in map(scribe.log.record, range(1, 65))] == [*range(1, 65)]
    assert len([name for name in files.names("log") if name.endswith(".arc")]) == len(sizes)
    assert verify(Log(files, PLACE))


def test_compact_beside_a_writer_that_goes_on(files, monkeypatch):
    scribe = write_story(files)
    writer = scribe.writer
    at_rest = writer.at_rest

    def later(work):
        scribe.patch("w", {0: 7}).commit()
        scribe.snapshot(rotate=True)
        scribe.patch("w", {1: 8}).commit()
        return at_rest(work)

    monkeypatch.setattr(writer, "at_rest", later)
    assert compact_beside(writer, 8, [3, 12])
    check_compacted(scribe.log, scribe.history, 8, (2, 3, 5, 7))
    check_compacted(Log(files, PLACE), scribe.history, 8, (2, 3, 5, 7))
    assert leftovers(files, scribe.log.manifest) == []
    assert not compact_beside(writer, 8, [2, 3, 5])
    assert compact_beside(writer, 8, [])
    check_compacted(Log(files, PLACE), scribe.history, 8, (2, 5, 7))
    assert verify(Log(files, PLACE))


def test_compact_beside_gives_up_where_a_version_is_tagged_meanwhile(files, monkeypatch):
    scribe = write_story(files)
    writer, before = scribe.writer, set(files.names("log"))
    at_rest = writer.at_rest

    def later(work):
        writer.append_tags({"late": 6})
        return at_rest(work)

    monkeypatch.setattr(writer, "at_rest", later)
    assert not compact_beside(writer, 8, [3])
    assert scribe.log.manifest.compaction is None
    assert set(files.names("log")) == before
    check_log(scribe.log, scribe.history)
    monkeypatch.undo()
    assert compact_beside(writer, 8, [3])
    check_compacted(Log(files, PLACE), scribe.history, 8, (2, 3, 5, 6, 7))


def test_best_cut_frees_the_most(files):
    scribe = write_story(files)
    log = scribe.log
    starts = [piece.segment.first_version for piece in log.pieces]
    assert starts == [1, 8, 13]
    assert best_cut(log, {16}, 400).keep_since == 13
    assert best_cut(log, {1, 2, 3, 6, 16}, 10_000) is None
    assert best_cut(log, {9, 10, 11, 16}, 2_000).keep_since == 8
    assert best_cut(log, {16}, 10_000_000) is None


def test_compact_to_an_older_version_than_before_does_nothing(files):
    scribe = write_story(files)
    compact(scribe.writer, 9)
    names = files.names("log"), files.names("snapshots")
    report = compact(scribe.writer, 3)
    assert (report.keep_since, report.dropped, report.kept) == (9, 0, kept_below(9))
    assert report.bytes_before == report.bytes_after
    assert (files.names("log"), files.names("snapshots")) == names


def test_compact_of_a_log_that_keeps_all_does_nothing(files):
    scribe = write_story(files)
    report = compact(scribe.writer, 1)
    assert (report.keep_since, report.dropped, report.kept) == (1, 0, ())
    assert scribe.log.manifest.compaction is None
    check_log(scribe.log, scribe.history)


@pytest.mark.parametrize("keep_since", [0, VERSIONS + 1, -1])
def test_compact_to_a_version_that_is_not_there_is_refused(keep_since: int):
    scribe = write_story()
    with pytest.raises(VersionError, match="does not exist"):
        compact(scribe.writer, keep_since)
    check_log(scribe.log, scribe.history)


def test_compact_after_untag_gives_up_the_state(files):
    scribe = write_story(files)
    compact(scribe.writer, 9)
    scribe.writer.append_tags({"best": None})
    rehearsed = compact(scribe.writer, 9, dry_run=True)
    report = compact(scribe.writer, 9)
    assert (report.kept, report.dropped) == ((2, 8), 0)
    assert rehearsed.bytes_after == report.bytes_after < report.bytes_before
    check_compacted(Log(files, PLACE), scribe.history, 9, (2, 8))


def test_tag_of_a_kept_state_survives_the_next_compaction(files):
    scribe = write_story(files)
    compact(scribe.writer, 9)
    scribe.writer.append_tags({"base": 8})
    compact(scribe.writer, 13)
    check_compacted(Log(files, PLACE), scribe.history, 13, (2, 5, 8, 12))
    assert Log(files, PLACE).tags() == TAGS | {"base": 8}


def test_compact_rewrites_a_snapshot_that_is_damaged_or_has_no_extra(files):
    scribe = write_story(files)
    name = f"snapshots/{4:020}.snap"
    raw = bytearray(files.read(name))
    raw[200] ^= 1
    files.publish(name, [raw])
    compact(scribe.writer, 5)
    check_compacted(Log(files, PLACE), scribe.history, 5, (2, 4))


def test_compact_of_a_damaged_log_is_refused_and_changes_nothing():
    for place in (1, 2, 3):
        scribe = write_story()
        found = scribe.log.find((3, 9, 14)[place - 1])
        name = found.piece.segment.name
        scribe.close()
        raw = bytearray(scribe.files.read(name))
        raw[found.end_offset - 70] ^= 1
        scribe.files.publish(name, [raw])
        if name == scribe.log.pieces[-1].segment.name:
            with pytest.raises(CorruptionError):
                Log(scribe.files, PLACE)
            continue
        writer = Scribe(scribe.files, history=scribe.history).writer
        before = {n: scribe.files.read(n) for n in scribe.files.names("log")}
        with pytest.raises(CorruptionError):
            compact(writer, 10 if place == 2 else 5)
        assert (
            before.items() <= {n: scribe.files.read(n) for n in scribe.files.names("log")}.items()
        )
        assert writer.log.manifest.compaction is None


def test_older_version_refuses_a_compacted_log_as_newer():
    scribe = write_story()
    compact(scribe.writer, 9)
    raw = scribe.files.read(MANIFEST)
    assert raw[6] == 9  # a kind that format 1 had not before
    assert raw[5] == 1  # and that must be understood
    files = copy_files(scribe.files)
    from mmsb_jax._store.format.frame import build_frame

    files.publish(MANIFEST, build_frame(99, 0, 0, raw[64:])[1])  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="Upgrade"):
        Log(files, PLACE)


def test_compact_over_what_another_left_behind_succeeds():
    scribe = write_story()
    for name in (f"log/{1:08}-{6:020}.cut", f"log/{1:020}-{5:020}.arc"):
        scribe.files.publish(name, [b"of a compaction that was cut short"])
    compact(scribe.writer, 6)
    check_compacted(Log(scribe.files, PLACE), scribe.history, 6, kept_below(6))


# Readers beside it


@pytest.mark.parametrize("keep_since", [3, 8, 9, 13, VERSIONS])
def test_reader_that_was_open_before_goes_on(keep_since: int, tmp_path: Path):
    scribe = write_story(DiskFiles(tmp_path))
    stale, busy = Log(DiskFiles(tmp_path), PLACE), Log(DiskFiles(tmp_path), PLACE)
    busy_kept = list(busy.select(array="w"))
    compact(scribe.writer, keep_since)
    assert list(busy.select(array="w")) == busy_kept
    stale.files.close()  # none of its files is open any more
    for version in (*range(keep_since, VERSIONS + 1), *kept_below(keep_since)):
        check_state(stale.state(version, page_bytes=PAGE_BYTES), scribe.history[version])
    scribe.patch("w", {1: 99}).commit()
    for log in (stale, busy):
        log.refresh()
        log.files.close()
        check_compacted(log, scribe.history, keep_since, kept_below(keep_since))
        assert verify(log)
        assert log.recovered == []


def test_reader_whose_segment_was_dropped_while_it_was_idle_goes_on(tmp_path: Path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("w", (3,)).commit()
    reader = Log(DiskFiles(tmp_path), PLACE)
    for number in range(5):
        scribe.patch("w", {number: 1}).commit()
        scribe.snapshot()
    compact(scribe.writer, 5)
    reader.refresh()
    assert reader.version == 6
    reader.files.close()
    check_compacted(reader, scribe.history, 5, (4,))


def test_reader_opening_while_files_go_reads_the_new_manifest():
    scribe = write_story()
    old = copy_files(scribe.files)
    compact(scribe.writer, 9)

    class Switching(MemoryFiles):
        """The log as it was, until the directory is listed."""

        def __init__(self) -> None:
            super().__init__()
            self._files = old._files

        def names(self, folder: str) -> list[str]:
            self._files = scribe.files._files  # type: ignore[attr-defined]
            return super().names(folder)

    check_compacted(Log(Switching(), PLACE), scribe.history, 9, kept_below(9))


def test_file_that_is_gone_for_another_reason_is_still_damage(tmp_path: Path):
    scribe = write_story(DiskFiles(tmp_path))
    compact(scribe.writer, 9)
    log = Log(DiskFiles(tmp_path), PLACE)
    (tmp_path / log.pieces[0].segment.name).unlink()
    with pytest.raises(CorruptionError, match="segment 2 of the log is missing"):
        Log(DiskFiles(tmp_path), PLACE)
    log.files.close()
    with pytest.raises(CorruptionError):
        log.state(9)


# What fails


@stepped(4)
def test_compact_that_the_disk_refuses_leaves_the_log_as_it_was(step):
    tried = 0
    for code in (errno.ENOSPC, errno.EIO):
        at = 0
        while True:
            kinds = frozenset({"create", "append", "publish", "truncate", "read"})
            faults = Faults(code=code, kinds=kinds, is_short=True)
            scribe = write_story(FaultyFiles(MemoryFiles(), faults))
            faults.arm(at)
            try:
                compact(scribe.writer, 9)
            except (LocationError, CorruptionError):
                faults.disarm()
                check_log(scribe.log, scribe.history)
                check_log(Log(scribe.files, PLACE), scribe.history)
            else:
                faults.disarm()
                if at >= len(faults.calls):
                    break
            scribe.patch("w", {1: 50 + at}).commit()
            compact(scribe.writer, 10)
            check_compacted(scribe.log, scribe.history, 10, kept_below(10))
            scribe.close()
            scribe = Scribe(scribe.files, history=scribe.history)
            assert leftovers(scribe.files, scribe.log.manifest) == []
            check_compacted(Log(scribe.files, PLACE), scribe.history, 10, kept_below(10))
            at += step
            tried += 1
    print(f"{tried} failing calls")
    assert tried > 100 / step


def test_compact_whose_syncs_fail_is_poisoned_or_leaves_the_log_as_it_was():
    at, poisoned = 0, 0
    while True:
        faults = Faults(code=errno.EIO, kinds=frozenset({"sync"}))
        scribe = write_story(FaultyFiles(MemoryFiles(), faults))
        faults.arm(at)
        try:
            compact(scribe.writer, 9)
        except (ClosedError, LocationError) as error:
            poisoned += isinstance(error, ClosedError)
        else:
            break
        faults.disarm()
        check_log(Log(scribe.files, PLACE), scribe.history)
        at += 1
    assert at > poisoned > 0


@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "no")])
def test_compact_that_ends_at_the_manifest_is_taken_back_or_in_force_or_poisons(
    is_published: bool, error: BaseException, monkeypatch
):
    scribe = write_story()
    publish = MemoryFiles.publish

    def end(files: MemoryFiles, name: str, buffers) -> None:
        if name != MANIFEST or is_published:
            publish(files, name, buffers)
        if name == MANIFEST:
            raise error

    monkeypatch.setattr(MemoryFiles, "publish", end)
    expected = ClosedError if is_published and isinstance(error, OSError) else type(error)
    with pytest.raises(LocationError if expected is OSError else expected):
        compact(scribe.writer, 9)
    monkeypatch.undo()
    if is_published and isinstance(error, OSError):
        with pytest.raises(ClosedError, match="may or may not be replaced"):
            scribe.patch("w", {0: 9}).commit()
        check_compacted(Log(scribe.files, PLACE), scribe.history, 9, kept_below(9))
    elif is_published:  # an interrupt: the next call looks at what the disk holds
        scribe.patch("w", {0: 9}).commit()
        check_compacted(Log(scribe.files, PLACE), scribe.history, 9, kept_below(9))
    else:
        scribe.patch("w", {0: 9}).commit()
        check_log(Log(scribe.files, PLACE), scribe.history)
        assert leftovers(scribe.files, scribe.log.manifest) == []


# Forks


@pytest.mark.parametrize("version", [2, 5, 8, 9, 10, 12, VERSIONS])
def test_fork_of_a_compacted_log_is_a_log_of_its_own(version: int, files):
    scribe = write_story(files)
    compact(scribe.writer, 5)
    compact(scribe.writer, 9)
    target = MemoryFiles()
    fork_log(scribe.log, version, target)
    history = scribe.history[: version + 1]
    keep_since = min(9, version + 1)
    kept = tuple(v for v in (2, 5, 8) if v <= version)
    tags = {name: tagged for name, tagged in TAGS.items() if tagged <= version}
    for log in (Log(target, PLACE), Log(copy_files(target), PLACE)):
        check_compacted(log, history, keep_since, kept)
        assert log.tags() == tags
        assert verify(log), str(verify(log))
    fork = Scribe(target, history=history)
    fork.patch("w", {0: 123}).commit()
    fork = fork.reopen()
    check_compacted(Log(target, PLACE), fork.history, keep_since, kept)
    compact(fork.writer, version + 1)
    assert verify(Log(target, PLACE))
    again = MemoryFiles()
    fork_log(fork.log, version, again)
    assert verify(Log(again, PLACE))
    assert Log(again, PLACE).tags() == tags


def test_compact_of_a_fork_behind_a_kept_state_without_a_commit_since_does_nothing(files):
    scribe = write_story()
    compact(scribe.writer, 9)
    fork_log(scribe.log, 5, files)
    fork = Scribe(files, history=scribe.history[:6])
    report = compact(fork.writer, 3)
    assert (report.keep_since, report.kept, report.dropped) == (6, (2, 5), 0)
    assert report.bytes_before == report.bytes_after
    check_compacted(fork.log, fork.history, 6, (2, 5))


def test_fork_behind_a_dropped_version_is_refused():
    scribe = write_story()
    compact(scribe.writer, 9)
    for version in (1, 3, 7):
        target = MemoryFiles()
        with pytest.raises(VersionError, match=r"were dropped.*nearest is"):
            fork_log(scribe.log, version, target)
        assert target.names("log") == []


def test_fork_that_a_compaction_interrupts_begins_again(tmp_path: Path):
    scribe = write_story(DiskFiles(tmp_path / "log"))
    reader = Log(DiskFiles(tmp_path / "log"), PLACE)

    class Interrupted(MemoryFiles):
        """A place to copy to, into which a compaction comes once."""

        copies = 0

        def copy(self, source, name: str, size: int) -> None:
            self.copies += 1
            if self.copies == 2:
                compact(scribe.writer, 9)
                reader.files.close()
            super().copy(source, name, size)

    target = Interrupted()
    fork_log(reader, 12, target)
    check_compacted(Log(target, PLACE), scribe.history[:13], 9, kept_below(9))


# Damage of what is left


def test_archive_that_is_damaged_at_any_byte_is_reported_and_states_stay():
    scribe = write_story()
    compact(scribe.writer, 9)
    scribe.close()
    (name,) = [n for n in scribe.files.names("log") if n.endswith(".arc")]
    whole = scribe.files.read(name)
    for place in range(0, len(whole), 7):
        raw = bytearray(whole)
        raw[place] ^= 4
        scribe.files.publish(name, [raw])
        log = Log(scribe.files, PLACE)
        report = verify(log)
        assert not report
        assert name in str(report)
        log.state(16)
        log.state(8)
    for size in (0, 1, 63, 64, 200, len(whole) - 1):
        scribe.files.publish(name, [whole[:size]])
        with pytest.raises(CorruptionError, match=r"\.arc is damaged"):
            Log(scribe.files, PLACE).record(3)
    scribe.files.remove(name)
    log = Log(scribe.files, PLACE)
    assert not verify(log)
    log.state(12)
    with pytest.raises(CorruptionError, match=r"\.arc is damaged"):
        log.record(3)


@pytest.mark.parametrize("version", [2, 5, 8])
def test_kept_snapshot_that_is_damaged_is_reported(version: int):
    scribe = write_story()
    compact(scribe.writer, 9)
    scribe.close()
    name = f"snapshots/{version:020}.snap"
    raw = bytearray(scribe.files.read(name))
    raw[100] ^= 1
    scribe.files.publish(name, [raw])
    log = Log(scribe.files, PLACE)
    assert name in str(verify(log))
    with pytest.raises(CorruptionError, match="needs a snapshot"):
        log.state(version)
    scribe.files.remove(name)
    assert name in str(verify(Log(scribe.files, PLACE)))
