import numpy as np
import pytest

from mmsb_jax._base.errors import CorruptionError, LocationError, VersionError
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.record import records_of
from mmsb_jax._store.log.log import Log
from tests.store._logs import (
    FIRST_TIME_NS,
    PAGE_BYTES,
    PLACE,
    Scribe,
    check_log,
    check_state,
    copy_files,
)


@pytest.fixture
def scribe() -> Scribe:
    """Eight versions in three segments: steps repeat, a clock goes back, arrays come and go."""
    scribe = Scribe()
    scribe.create("w", (4,)).create("b", (2,), "uint8").commit(step=1, source="a", time_ns=100)
    scribe.patch("w", {0: 1}).commit(step=2, source="b", time_ns=200)
    scribe.patch("b", {0: 1}).commit(source="a", time_ns=300)
    scribe.snapshot()
    scribe.delete("b").commit(step=2, time_ns=150)
    scribe.create("b", (3,)).commit(step=9, source="a", time_ns=400)
    scribe.patch("b", {1: 5}).commit(step=-4, time_ns=500)
    scribe.snapshot()
    scribe.patch("w", {0: 2}).commit(step=10, time_ns=600)
    scribe.patch("w", {1: 2}).patch("b", {2: 7}).commit(step=11, source="b", time_ns=700)
    return scribe


@pytest.fixture(params=["written", "opened"])
def log(request, scribe) -> Log:
    return scribe.log if request.param == "written" else Log(copy_files(scribe.files), PLACE)


@pytest.mark.parametrize(
    ("asked", "versions"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"array": "w"}, [2, 7, 8]),
        ({"array": "b"}, [3, 6, 8]),
        ({"array": "b", "until": 5}, [3]),
        ({"array": "b", "since": 4}, [6, 8]),
        ({"array": "none"}, []),
        ({"source": "a"}, [1, 3, 5]),
        ({"source": ""}, [4, 6, 7]),
        ({"source": "none"}, []),
        ({"since": 3, "until": 5}, [3, 4, 5]),
        ({"since": 8}, [8]),
        ({"since": 9}, []),
        ({"since": -5, "until": -1}, []),
        ({"until": 2**70}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"start_ns": 150, "end_ns": 300}, [2, 4]),
        ({"start_ns": 700}, [8]),
        ({"end_ns": 100}, []),
        ({"source": "b", "array": "w", "start_ns": 201}, [8]),
    ],
    ids=str,
)
def test_log_selects_versions(log, asked, versions):
    assert list(log.select(**asked)) == versions


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        ({"step": 2}, 4),
        ({"step": 1}, 1),
        ({"step": -4}, 6),
        ({"step": 11}, 8),
        ({"time_ns": 100}, 1),
        ({"time_ns": 199}, 4),
        ({"time_ns": 350}, 4),
        ({"time_ns": 10**18}, 8),
        ({"time_ns": 2**70}, 8),
    ],
    ids=str,
)
def test_log_finds_the_last_version_of_a_step_or_a_time(log, asked, version):
    assert log.last_with(**asked) == version


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"step": 6}, "step 6 does not exist; the nearest step is 9"),
        ({"step": -(2**70)}, "does not exist; the nearest step is -4"),
        ({"step": 2**70}, "the nearest step is 11"),
        ({"time_ns": 99}, "time_ns=99 is before every commit; the earliest is time_ns=100"),
        ({"time_ns": -(2**70)}, "is before every commit"),
    ],
    ids=str,
)
def test_log_without_such_a_step_or_time_names_the_nearest(log, asked, message):
    with pytest.raises(VersionError, match=message):
        log.last_with(**asked)


def test_log_whose_commits_have_no_step_says_so():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    with pytest.raises(VersionError, match="no commit has a step; step=3 does not exist"):
        scribe.log.last_with(step=3)


@pytest.mark.parametrize("version", [-1, 0, 9, 2**70])
@pytest.mark.parametrize("call", ["record", "row", "piece_of", "extra", "find"])
def test_log_without_such_a_version_names_the_nearest(log, call, version):
    nearest = 1 if version < 1 else 8
    with pytest.raises(VersionError, match=f"versions 1 to 8; the nearest is {nearest}"):
        getattr(log, call)(version)


@pytest.mark.parametrize("version", [-1, 9, 2**70])
def test_state_of_a_version_that_is_not_there_is_refused(log, version):
    for call in (log.state, log.table):
        with pytest.raises(VersionError, match="does not exist"):
            call(version)


def test_empty_log_has_no_version_but_the_empty_one():
    log = Scribe().log
    assert (log.version, log.first_version, log.durable_version) == (0, 1, 0)
    assert list(log.select()) == []
    assert log.state(0).table.arrays == log.table(0).arrays == {}
    for call in (lambda: log.record(1), lambda: log.state(1)):
        with pytest.raises(VersionError, match="the log is empty"):
            call()
    for asked in ({"step": 1}, {"time_ns": 1}):
        with pytest.raises(VersionError, match="the log is empty: there is no version to find"):
            log.last_with(**asked)


def test_state_of_some_arrays_holds_these_alone(log, scribe):
    state = log.state(8, wanted=lambda name: name == "b")
    held = scribe.history[8].arrays["b"]
    assert list(state.words) == [held.id]
    assert state.bytes_of(held.id).tobytes() == held.content
    assert sorted(state.table.ids) == ["b", "w"]


def test_state_may_be_advanced_by_versions(log, scribe):
    state = log.state(1, page_bytes=PAGE_BYTES)
    for version in range(1, 9):
        log.advance(state, version)
        check_state(state, scribe.history[version])


def test_state_that_is_not_of_this_history_is_not_advanced(log):
    state = log.state(2)
    state.table.chain = bytes(16)
    with pytest.raises(CorruptionError, match="does not continue what is before it"):
        log.advance(state, 3)


def test_table_is_that_of_the_state(log):
    for version in range(9):
        assert log.table(version) == log.state(version).table


def test_state_does_not_read_what_a_later_full_record_replaces():
    rng = np.random.default_rng(0)
    scribe = Scribe()
    scribe.create("w", (1000,), "uint8").create("b", (2,))
    for i in range(4):
        scribe.write("w", rng.integers(0, 256, 1000, np.uint8)).patch("b", {0: i + 1}).commit()
    reads = []
    read = scribe.files.read

    def count(name, offset=0, size=None):
        reads.append(size)
        return read(name, offset, size)

    scribe.files.read = count
    state = scribe.log.state(4, wanted=lambda name: name == "w")
    assert state.bytes_of(1).tobytes() == scribe.history[4].arrays["w"].content
    assert sum(size >= 1000 for size in reads) == 1


def test_names_are_those_of_deleted_arrays_too(log):
    assert [log.name_of(array_id) for array_id in (1, 2, 3)] == ["w", "b", "b"]
    assert log.arrays_of(log.record(8)) == ["b", "w"]
    assert sorted(log.ids_named("b", 1, 8)) == [2, 3]


def test_commit_of_an_array_that_was_never_made_is_damage(log):
    record = log.record(8)
    record.records = records_of([(77, 0, 0, 0, 5, 0, 0)])
    with pytest.raises(CorruptionError, match="touches array 77, which no commit ever made"):
        log.arrays_of(record)


# A reader beside a writer.


def test_reader_sees_what_the_writer_adds(tmp_path):
    scribe = Scribe(DiskFiles(tmp_path))
    reader = Log(DiskFiles(tmp_path), str(tmp_path))
    for i in range(12):
        scribe.create(f"a{i}", (2,)).commit(step=i)
        if i % 3 == 0:
            scribe.snapshot(rotate=i % 2 == 0)
        if i % 5 == 4:
            scribe = scribe.reopen()
        if i % 4 != 3:  # sometimes it looks late
            reader.refresh()
            check_log(reader, scribe.history)
    scribe.close()
    reader.refresh()
    check_log(reader, scribe.history)
    assert reader.recovered == []


def test_reader_follows_a_writer_that_sealed_a_torn_tail():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    reader = Log(scribe.files, PLACE)
    scribe.files.reopen(scribe.log.pieces[-1].segment.name).append([b"torn" * 30])
    reader.refresh()
    assert reader.version == 1
    scribe = Scribe(scribe.files, history=scribe.history)
    scribe.patch("w", {0: 1}).commit()
    reader.refresh()
    check_log(reader, scribe.history)


def test_reader_waits_for_a_tail_that_is_being_written():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    name = scribe.log.pieces[-1].segment.name
    reader = Log(copy_files(scribe.files), PLACE)
    start = scribe.files.size(name)
    scribe.patch("w", {0: 1}).commit()
    raw = scribe.files.read(name)[start:]
    tail = reader.files.reopen(name)
    for place in range(len(raw)):
        reader.refresh()
        assert reader.version == 1
        tail.append([raw[place : place + 1]])
    reader.refresh()
    check_log(reader, scribe.history)
    assert reader.recovered == []


def test_segment_that_vanishes_behind_the_reader_is_damage_with_its_place(tmp_path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("w", (2,)).commit()
    scribe.snapshot()
    scribe.patch("w", {0: 1}).commit()
    scribe.close()
    log = Log(DiskFiles(tmp_path), str(tmp_path))
    (tmp_path / log.pieces[0].segment.name).unlink()
    log.files.close()
    with pytest.raises(CorruptionError, match=r"/log/00000001-\d+.seg is missing. Restore it"):
        log.state(1)
    check_state(log.state(2, page_bytes=PAGE_BYTES), scribe.history[2])


def test_directory_that_is_not_a_log_is_refused(tmp_path):
    with pytest.raises(LocationError, match="is not a log: it has no manifest"):
        Log(DiskFiles(tmp_path), str(tmp_path))


def test_times_default_to_the_clock(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: FIRST_TIME_NS)
    scribe = Scribe()
    assert scribe.head.commit(Draft()).time_ns == FIRST_TIME_NS
    assert scribe.log.row(1).time_ns == FIRST_TIME_NS
