"""The copy of a log: whole at every moment, of one log alone, and a log where one is needed."""

import random
from pathlib import Path

import pytest

from mmsb_jax._base.errors import CorruptionError, DivergenceError, LocationError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.copy import LogCopy, restore
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.writer.create import is_log
from mmsb_jax.testing._disk import Disk
from mmsb_jax.testing._faulty import Faults, FaultyFiles
from tests._sampled import stepped
from tests.store._compacted import VERSIONS, check_compacted, write_story
from tests.store._logs import PLACE, Scribe, check_log

RUN = Path("/copy")
SEALED = 12
"""Versions of the story in segments that are sealed."""


def test_copy_has_what_is_sealed_and_then_all():
    scribe, target = write_story(), MemoryFiles()
    copy = LogCopy(scribe.log, target, "copy")
    copy.run()
    assert copy.version == SEALED
    check_log(Log(target, "copy"), scribe.history[: SEALED + 1])
    copy.run(whole=True)
    assert copy.version == VERSIONS
    check_log(Log(target, "copy"), scribe.history)
    assert Log(target, "copy").tags() == scribe.log.tags()
    assert verify(Log(target, "copy"))


def test_copy_goes_on_where_another_process_left_it():
    scribe, target = write_story(), MemoryFiles()
    LogCopy(scribe.log, target, "copy").run(whole=True)
    scribe.patch("w", {1: 99}).commit()
    scribe.snapshot(rotate=True)
    copy = LogCopy(scribe.log, target, "copy")
    assert copy.version == VERSIONS
    copy.run()
    check_log(Log(target, "copy"), scribe.history)


def test_copy_follows_a_compaction():
    scribe, target = write_story(), MemoryFiles()
    copy = LogCopy(scribe.log, target, "copy")
    copy.run(whole=True)
    compact(scribe.writer, 9)
    copy.run(whole=True)
    check_compacted(Log(target, "copy"), scribe.history, 9, (2, 5, 8))
    names = {*target.names("log"), *target.names("snapshots")}
    ours = {*scribe.files.names("log"), *scribe.files.names("snapshots")}
    assert names == ours - {name for name in ours - names if name.endswith(".idx")}


def test_copy_that_never_had_what_was_compacted_away_is_refused():
    scribe, target = write_story(), MemoryFiles()
    copy = LogCopy(scribe.log, target, "copy")
    copy.run()
    scribe.patch("w", {1: 99}).commit()
    scribe.patch("w", {1: 98}).commit()
    compact(scribe.writer, 17)
    scribe.snapshot(rotate=True)
    with pytest.raises(LocationError, match="was compacted before it was copied"):
        copy.run()
    check_log(Log(target, "copy"), scribe.history[: SEALED + 1])
    fresh = MemoryFiles()
    LogCopy(scribe.log, fresh, "copy").run()
    check_compacted(Log(fresh, "copy"), scribe.history, 17, (2, 5, 16))


def deaths(disk: Disk, step: int):
    for until in range(0, len(disk.journal) + 1, step):
        yield disk.after_process_death(until)
        for seed in range(2):
            yield disk.after_machine_death(random.Random(until * 1000 + seed), until)


@stepped(3)
def test_copy_that_dies_at_any_moment_is_a_whole_log(step: int):
    disk, scribe = Disk(), write_story()
    copy = LogCopy(scribe.log, DiskFiles(RUN, disk), "copy")
    copy.run()
    for number in range(3):
        scribe.patch("w", {number: 50 + number}).commit()
        scribe.snapshot(rotate=True)
        copy.run(whole=number == 1)
    compact(scribe.writer, 9)
    copy.run(whole=True)
    seen = set()
    for left in deaths(disk, step):
        files = DiskFiles(RUN, left)
        if is_log(files):
            log = Log(files, "copy")
            seen.add(log.version)
            assert verify(log)
            if log.manifest.compaction is None:
                check_log(log, scribe.history[: log.version + 1])
            else:
                check_compacted(log, scribe.history, 9, (2, 5, 8))
        again = LogCopy(scribe.log, files, "copy")
        again.run(whole=True)
        check_compacted(Log(files, "copy"), scribe.history, 9, (2, 5, 8))
    assert len(seen) >= 3


@stepped(3)
def test_restoring_that_dies_at_any_moment_is_done_again(step: int):
    scribe, copied, disk = write_story(), MemoryFiles(), Disk()
    LogCopy(scribe.log, copied, "copy").run(whole=True)
    restore(copied, "copy", DiskFiles(RUN, disk))
    for left in deaths(disk, step):
        files = DiskFiles(RUN, left)
        if not is_log(files):
            restore(copied, "copy", files)
        check_log(Log(files, PLACE), scribe.history)
        fresh = Scribe(files, history=list(scribe.history))
        fresh.patch("w", {0: 3}).commit()
        check_log(Log(files, PLACE), fresh.history)


def test_parts_of_a_copy_that_never_was_a_log_are_in_nobodys_way():
    scribe, target = write_story(), MemoryFiles()
    LogCopy(scribe.log, target, "copy").run(whole=True)
    target.remove("manifest")  # as where its first making was cut short
    other = write_story()
    LogCopy(other.log, target, "copy").run()
    check_log(Log(target, "copy"), other.history[: SEALED + 1])


def test_version_of_a_copy_is_that_of_its_files(monkeypatch):
    scribe, target = write_story(), MemoryFiles()
    copy, publish = LogCopy(scribe.log, target, "copy"), target.publish

    def slowly(name, buffers):
        publish(name, buffers)
        scribe.patch("w", {1: len(scribe.history)}).commit()
        scribe.snapshot(rotate=True)

    monkeypatch.setattr(target, "publish", slowly)
    copy.run()
    monkeypatch.undo()
    assert copy.version == Log(target, "copy").version == SEALED
    copy.run()
    assert copy.version == Log(target, "copy").version == len(scribe.history) - 1
    assert verify(Log(target, "copy"))


def test_copy_goes_on_behind_a_disk_that_failed_at_any_call():
    for fail_at in range(60):
        scribe, faults, inner = write_story(), Faults(), MemoryFiles()
        copy = LogCopy(scribe.log, FaultyFiles(inner, faults), "copy")
        faults.arm(fail_at)
        try:
            copy.run()
        except OSError:
            faults.disarm()
            scribe.patch("w", {1: 9}).commit()
            scribe.snapshot(rotate=True)
            copy.run()
            check_log(Log(inner, "copy"), scribe.history)
        else:
            assert fail_at > 5
            return
    raise AssertionError("it fails for ever")


def test_copy_that_was_removed_is_made_anew():
    scribe, target = write_story(), MemoryFiles()
    copy = LogCopy(scribe.log, target, "copy")
    copy.run()
    for name in ["manifest", *target.names("log"), *target.names("snapshots")]:
        target.remove(name)
    compact(scribe.writer, 9)
    copy.run(whole=True)
    check_compacted(Log(target, "copy"), scribe.history, 9, (2, 5, 8))


def test_copies_of_others_are_refused():
    scribe, target = write_story(), MemoryFiles()
    LogCopy(scribe.log, target, "copy").run(whole=True)
    with pytest.raises(LocationError, match="a copy of another log"):
        LogCopy(write_story().log, target, "copy")
    behind = MemoryFiles()
    LogCopy(scribe.log, behind, "behind").run()
    elsewhere = Scribe(behind, history=scribe.history[: SEALED + 1])
    with pytest.raises(DivergenceError, match=f"has version {VERSIONS}, .* ends at version 12"):
        LogCopy(elsewhere.log, target, "copy")
    for number in range(8):
        elsewhere.patch("w", {number: 77}).commit()
    with pytest.raises(DivergenceError, match="went another way"):
        LogCopy(elsewhere.log, target, "copy")


def test_copy_that_somebody_else_writes_to_is_left_alone():
    scribe, target = write_story(), MemoryFiles()
    ours, theirs = (LogCopy(scribe.log, target, "copy") for _ in range(2))
    theirs.run()
    with pytest.raises(DivergenceError, match="changed by another process"):
        ours.run()


def test_copy_that_is_damaged_is_no_log_to_begin_from():
    scribe, target = write_story(), MemoryFiles()
    LogCopy(scribe.log, target, "copy").run(whole=True)
    target.remove(next(name for name in target.names("log") if name.endswith(".seg")))
    with pytest.raises(CorruptionError, match="missing"):
        restore(target, "copy", MemoryFiles())
