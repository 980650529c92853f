"""A compaction that dies at every moment: the log opens, has what it must, and compacts again."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact, compact_beside
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.writer.cleanup import leftovers
from mmsb_jax.testing._disk import Disk
from tests._sampled import stepped
from tests.store._compacted import TAGS, check_compacted, total_bytes, write_story
from tests.store._logs import PLACE, Expected, Scribe, check_log

RUN = Path("/run")
KEPT = {8: (2, 3, 5, 7), 9: (2, 5, 8), 16: (2, 5, 15)}
SEEDS = 2


def story_compacted(
    keep_since: int, again: bool, beside: bool = False
) -> tuple[Disk, int, list[Expected]]:
    """A disk on which the story was compacted; where in its journal that began."""
    disk = Disk()
    scribe = write_story(DiskFiles(RUN, disk))
    if again:
        compact(scribe.writer, 4)
    scribe.writer.sync()
    start = len(disk.journal)
    if beside:
        assert compact_beside(scribe.writer, keep_since, [3])
    else:
        compact(scribe.writer, keep_since)
    return disk, start, scribe.history


def check_either(log: Log, history: list[Expected], keep_since: int, again: bool) -> bool:
    """The log is as it was before or after; whether after."""
    compaction = log.manifest.compaction
    is_done = compaction is not None and compaction.first_version == keep_since
    if is_done:
        check_compacted(log, history, keep_since, KEPT[keep_since])
    elif again:
        check_compacted(log, history, 4, (2, 3))
    else:
        check_log(log, history)
    assert log.tags() == TAGS
    report = verify(log)
    assert report, str(report)
    return is_done


def deaths(disk: Disk, start: int, step: int) -> Iterator[tuple[int, Disk]]:
    """What may be on the disk after the process, or the machine, died at each ``step``th moment."""
    for until in range(start, len(disk.journal) + 1, step):
        yield until, disk.after_process_death(until)
        for seed in range(SEEDS):
            yield until, disk.after_machine_death(random.Random(until * 1000 + seed), until)


@stepped(4)
@pytest.mark.parametrize(("keep_since", "again"), [(9, False), (16, True)])
def test_compaction_that_dies_at_any_moment_is_done_or_not(keep_since: int, again: bool, step: int):
    disk, start, history = story_compacted(keep_since, again)
    done = [0, 0]
    for until, left in deaths(disk, start, step):
        files = DiskFiles(RUN, left)
        is_done = check_either(Log(files, PLACE), history, keep_since, again)
        done[is_done] += 1
        scribe = Scribe(files, history=list(history))
        assert leftovers(files, scribe.log.manifest) == []
        scribe.patch("w", {0: until % 200 + 1}).commit()
        report = compact(scribe.writer, keep_since)
        assert report.bytes_after == total_bytes(files)
        check_compacted(scribe.log, scribe.history, keep_since, KEPT[keep_since])
        scribe.close()
        check_compacted(Log(files, PLACE), scribe.history, keep_since, KEPT[keep_since])
    print(f"{sum(done)} deaths: {done[0]} left the log as it was, {done[1]} as it is to be")
    assert min(done) > 10 // step


@stepped(4)
def test_compaction_beside_that_dies_at_any_moment_is_done_or_not(step: int):
    disk, start, history = story_compacted(8, again=False, beside=True)
    done = [0, 0]
    for until, left in deaths(disk, start, step):
        files = DiskFiles(RUN, left)
        done[check_either(Log(files, PLACE), history, 8, again=False)] += 1
        scribe = Scribe(files, history=list(history))
        assert leftovers(files, scribe.log.manifest) == []
        scribe.patch("w", {0: until % 200 + 1}).commit()
        compact_beside(scribe.writer, 8, [3])
        check_compacted(Log(files, PLACE), scribe.history, 8, KEPT[8])
    assert min(done) > 10 // step


@stepped(3)
def test_compaction_of_a_log_that_was_never_synced_leaves_a_prefix(step: int):
    disk = Disk()
    scribe = write_story(DiskFiles(RUN, disk))
    start, history = len(disk.journal), scribe.history
    compact(scribe.writer, 16)
    lost = 0
    for until in range(start, len(disk.journal) + 1, step):
        for seed in range(4):
            left = disk.after_machine_death(random.Random(until * 10 + seed), until)
            log = Log(DiskFiles(RUN, left), PLACE)
            whole = history[: log.version + 1]
            if log.manifest.compaction is None:
                check_log(log, whole)
            else:
                check_compacted(log, whole, 16, KEPT[16])
            assert verify(log)
            lost += len(history) - len(whole)
    print(f"{lost} commits lost that nobody was promised")
    assert lost > 0


@stepped(3)
def test_writer_that_dies_while_it_removes_leftovers_loses_nothing(step: int):
    disk, start, history = story_compacted(9, again=True)
    # Around the replacement of the manifest, which may be undone until its folder is synced.
    renamed = max(i for i, entry in enumerate(disk.journal) if "manifest" in str(entry))
    tried = 0
    for until in range(max(start, renamed - 2), renamed + 4):
        left = disk.after_process_death(until)
        before = len(left.journal)
        Scribe(DiskFiles(RUN, left), history=list(history))
        for moment in range(before, len(left.journal) + 1, step):
            for seed in range(4):
                after = left.after_machine_death(random.Random(moment * 10 + seed), moment)
                check_either(Log(DiskFiles(RUN, after), PLACE), history, 9, again=True)
                tried += 1
    print(f"{tried} second deaths")
    assert tried > 50 // step


def test_reader_open_at_any_moment_of_a_compaction_sees_every_commit():
    disk, start, history = story_compacted(9, again=False)
    for until in range(start, len(disk.journal) + 1):
        # What a reader sees that opens now, and looks again once all is done.
        log = Log(DiskFiles(RUN, disk.after_process_death(until)), PLACE)
        check_either(log, history, 9, again=False)
        log.files.close()
        log.files = DiskFiles(RUN, disk.after_process_death())
        log.refresh()
        assert log.version == len(history) - 1
        for version in (2, 5, 8, *range(9, 17)):
            log.state(version)
        assert verify(log)
