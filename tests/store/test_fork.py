import errno

import pytest

from mmsb_jax._base.errors import LocationError, VersionError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.writer.create import create_log
from mmsb_jax.testing._faulty import disk_fault
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, names_of


def parent(files=None) -> Scribe:
    """Seven versions in three segments, opened several times, with snapshots."""
    scribe = Scribe(files)
    scribe.create("w", (40,)).commit(step=1)
    for i in range(1, 7):
        scribe.patch("w", {4 * i: i}).commit(step=i + 1)
        if i in (2, 4):
            scribe.snapshot()
        if i in (1, 2, 5):
            scribe = scribe.reopen()
    return scribe


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("version", range(8))
def test_fork_has_the_history_up_to_its_version_and_goes_on(version, is_open):
    scribe = parent()
    if not is_open:
        scribe.close()
    target = MemoryFiles()
    fork_log(Log(scribe.files, PLACE) if is_open else scribe.log, version, target)
    history = scribe.history[: version + 1]
    check_log(Log(target, PLACE), history)
    fork = Scribe(target, history=history)
    assert fork.log.durable_version == version
    fork.create("own", (2,)).commit(source="fork")
    fork.snapshot()
    fork.patch("own", {0: 1}).commit()
    fork.close()
    log = Log(target, PLACE)
    assert (log.recovered, log.manifest.page_bytes) == ([], PAGE_BYTES)
    check_log(log, fork.history)
    report = verify(log)
    assert report, str(report)
    assert log.manifest.ids.own != scribe.log.manifest.ids.own
    assert log.record(version + 1).log_id == log.manifest.ids.own


def test_fork_leaves_its_parent_as_it_was():
    scribe = parent().close()
    before = {name: scribe.files.read(name) for name in names_of(scribe.files)}
    fork_log(Log(scribe.files, PLACE), 5, MemoryFiles())
    assert {name: scribe.files.read(name) for name in names_of(scribe.files)} == before


@pytest.mark.parametrize("versions", [(5, 6, 7), (5, 5, 5), (6, 3, 4), (7, 8, 2)], ids=str)
def test_fork_of_a_fork_has_the_history_of_all(versions):
    scribe = parent()
    ids = {scribe.log.manifest.ids.own}
    for generation, version in enumerate(versions):
        target = MemoryFiles()
        fork_log(scribe.log, version, target)
        scribe = Scribe(target, history=scribe.history[: version + 1])
        for i in range(2):
            scribe.patch("w", {i: 100 + generation}).commit(source=f"generation {generation}")
        ids.add(scribe.log.manifest.ids.own)
    scribe.close()
    log = Log(scribe.files, PLACE)
    check_log(log, scribe.history)
    assert verify(log)
    assert len(ids) == 4
    lasts = [last for _, last in log.manifest.ids.lineage]
    assert lasts == sorted(set(lasts))


def test_fork_between_disk_and_memory_is_the_same(tmp_path):
    scribe = parent(DiskFiles(tmp_path / "parent"))
    on_disk, in_memory = DiskFiles(tmp_path / "fork"), MemoryFiles()
    fork_log(scribe.log, 5, on_disk)
    fork_log(Log(on_disk, PLACE), 5, in_memory)
    for files in (on_disk, in_memory):
        check_log(Log(files, PLACE), scribe.history[:6])


@pytest.mark.parametrize("version", [-1, 8, 2**70])
def test_fork_of_a_version_that_is_not_there_is_refused_and_makes_nothing(version):
    target = MemoryFiles()
    with pytest.raises(VersionError, match="the nearest is"):
        fork_log(parent().log, version, target)
    assert target.names("log") == target.names("snapshots") == []
    with pytest.raises(LocationError):
        Log(target, PLACE)


def test_fork_that_fails_on_the_way_is_not_a_log():
    scribe = parent().close()
    calls = len(names_of(scribe.files))
    for fail_at in range(calls):

        class Failing(MemoryFiles):
            count = 0

            def _call(self, run, *args):
                Failing.count += 1
                if Failing.count > fail_at:
                    raise disk_fault(errno.ENOSPC)
                run(*args)

            def copy(self, *args):
                self._call(super().copy, *args)

            def publish(self, *args):
                self._call(super().publish, *args)

        target = Failing()
        try:
            fork_log(scribe.log, 7, target)
        except OSError:
            with pytest.raises(LocationError, match="is not a log"):
                Log(target, PLACE)
        else:
            break
    assert fail_at == 3 + 2 + 2  # segments, snapshots, its own segment, the manifest


def test_log_created_is_empty_and_durable_to_its_manifest():
    files = MemoryFiles()
    create_log(files, PAGE_BYTES)
    log = Log(files, PLACE)
    assert (log.version, log.recovered, log.manifest.page_bytes) == (0, [], PAGE_BYTES)


def test_log_created_where_an_earlier_try_ended_replaces_it(tmp_path):
    files = DiskFiles(tmp_path)
    create_log(files, PAGE_BYTES)
    files.remove("manifest")
    create_log(files, PAGE_BYTES)
    assert Log(files, PLACE).version == 0


def test_log_is_not_created_over_one_that_lost_its_manifest():
    scribe = parent().close()
    scribe.files.remove("manifest")
    with pytest.raises(LocationError, match="this was a log"):
        create_log(scribe.files, PAGE_BYTES)
