"""Commits that were saved in part: what the log gives of them, and what goes on around them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.errors import CorruptionError, VersionError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.names import LOG_FOLDER
from mmsb_jax._store.format.record import (
    ASIDE,
    DIGEST_ONLY,
    DIGESTS,
    FULL,
    CommitRecord,
    records_of,
)
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.repair import repair
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.state.aside import BytesAside
from mmsb_jax._store.transfer.import_ import take_in
from mmsb_jax._store.transfer.stream import open_stream, write_stream
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, check_part, check_state
from tools import format_reader

W, B = np.linspace(-1, 1, 96, dtype=np.float32), np.arange(5, dtype=np.int8)
BIG = np.arange(40_000, dtype=np.uint32)


def story(files: Files | None = None) -> Scribe:
    """Versions 1, 6 and 9 have all bytes."""
    scribe = Scribe(files)
    scribe.create("w", (96,)).create("b", (5,), np.int8).create("big", (40_000,), np.uint32)
    scribe.create("still", (70,)).write("w", W).write("b", B).write("big", BIG).commit(0)
    scribe.digests({"w": W + 1, "big": BIG + 1}, 1, extra=b"one", aside=["w"])
    scribe.digests({"b": B + 1, "big": BIG * 3}, 2, aside=["big", "b"])
    scribe.digests({"w": W + 2}, 3)
    touched = BIG * 3
    touched[[7, 30_000]] = 5
    scribe.digests({"w": W + 3, "big": touched}, 4, note='{"loss":2}', aside=["w", "big"])
    scribe.write("w", W + 4).write("b", B + 1).write("big", touched).commit(5)
    few = W + 4
    few[9] = 1
    scribe.digests({"w": few, "b": B}, 6, aside=["w"])
    scribe.digests({"b": B}, 7, aside=["b"])
    scribe.patch("w", {3: 7}).commit(8)
    scribe.digests({"w": W}, 9, aside=["w"])
    scribe.digests({"b": B + 3}, 10)
    return scribe


def test_every_version_gives_the_arrays_that_have_bytes_there():
    scribe = story()
    check_log(scribe.log, scribe.history)
    for deep in (False, True):
        assert verify(scribe.log, deep=deep)
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)


def test_what_a_version_has_is_as_a_log_without_parts_has_it():
    """The versions with all bytes, and their digests, are those that there would be anyway."""
    scribe, other = story(), Scribe()
    other.create("w", (96,)).create("b", (5,), np.int8).create("big", (40_000,), np.uint32)
    other.create("still", (70,)).write("w", W).write("b", B).write("big", BIG).commit()
    touched = BIG * 3
    touched[[7, 30_000]] = 5
    other.write("w", W + 4).write("b", B + 1).write("big", touched).commit()
    other.patch("w", {3: 7}).commit()
    for ours, theirs in ((1, 1), (6, 2), (9, 3)):
        assert scribe.log.record(ours).state_digest == other.log.record(theirs).state_digest
        left, right = scribe.log.state(ours), other.log.state(theirs)
        for array_id in (1, 2, 3, 4):
            assert left.bytes_of(array_id).tobytes() == right.bytes_of(array_id).tobytes()


def test_the_nearest_with_the_bytes_asked_for_are_named():
    log = story().log
    with pytest.raises(VersionError, match=r"version 4 has no bytes of 'w': .* bytes: 3 and 5"):
        log.state(4, "w".__eq__)
    with pytest.raises(VersionError, match=r"version 2 has no bytes of 'big': .* bytes: 1 and 3"):
        log.state(2, lambda name: True)
    with pytest.raises(VersionError, match=r"version 11 has no bytes of 'b': .* bytes: 10\."):
        log.state(11, lambda name: name in "bw")
    with pytest.raises(VersionError, match=r"saved in part.*gives 'b', 'big', the rest was not"):
        log.state(3)


@pytest.mark.parametrize(
    ("names", "newest"),
    [("w", [1, 2, 3, 3, 5, 6, 7, 8, 9, 10, 11]), ("big", [1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
     ("still", list(range(1, 12))), ("b big", [1, 1, 3, 4, 5, 6, 6, 8, 9, 10, 10])],
)  # fmt: skip
def test_the_newest_version_with_the_bytes_of_arrays(names, newest):
    log = story().log
    wanted = names.split().__contains__
    assert [log.newest_with(wanted, until) for until in range(1, 12)] == newest


def test_deltas_aside_build_on_those_before():
    scribe = story()
    (big,) = [row for row in scribe.log.record(5).aside.tolist() if row[0] == 3]
    assert (big[1], big[4] < 20, big[6]) == (3, True, ASIDE)
    assert scribe.log.row(5).logged_bytes < 2_000
    (few,) = scribe.log.record(7).aside.tolist()
    assert (few[1], few[4] < 5, few[6]) == (6, True, ASIDE)
    assert scribe.log.record(6).records["base"].tolist() == [1, 1, 1]


def test_bytes_aside_begin_anew_with_the_next_whole_version():
    log, aside = story().log, BytesAside()
    for version in (1, 6, 9):
        whole = log.state(version, page_bytes=PAGE_BYTES)
        begun = aside.over(whole, [1, 2])
        assert begun.table.bases == {i: whole.table.bases[i] for i in (1, 2)}
        assert begun.bytes_of(1).tobytes() == whole.bytes_of(1).tobytes()


def test_the_index_says_which_arrays_have_bytes_aside(tmp_path):
    scribe = story(DiskFiles(tmp_path))
    scribe.snapshot()
    scribe.close()
    for again in range(2):
        log = Log(DiskFiles(tmp_path), PLACE)
        assert list(log.select(array="b")) == [1, 3, 6, 8]
        assert [v for v in range(1, 12) if log.is_saved(v)] == [1, 6, 9]
        if not again:
            (index,) = [n for n in log.files.names(LOG_FOLDER) if n.endswith(".idx")]
            DiskFiles(tmp_path).remove(index)


def test_a_stream_carries_them_and_the_receiver_goes_on():
    scribe, other = story(), Scribe()
    with open_stream(b"".join(write_stream(scribe.log, 0, 11))) as stream:
        take_in(other.head, stream)
    other.history[:] = scribe.history
    other._begin_next(other.history[-1])
    check_log(other.log, other.history)
    other.digests({"w": W + 9, "b": B * 2}, 11, aside=["w"])
    other.digests({"w": W + 8}, 12, aside=["w"])
    other.patch("w", {0: 200}).commit(21)
    check_log(other.log, other.history)
    assert verify(other.log, deep=True)


@pytest.mark.parametrize("version", [1, 6, 9])
def test_a_fork_and_a_compaction_keep_what_is_behind(version):
    scribe = story()
    files = MemoryFiles()
    fork_log(scribe.log, version, files)
    fork = Scribe(files, history=scribe.history[: version + 1])
    fork.digests({"w": W + 30}, 20, aside=["w"])
    check_log(fork.log, fork.history)
    compact(scribe.writer, version + 1)
    assert scribe.log.kept_since == version + 1
    for later in range(version + 1, 12):
        if not scribe.history[later].saved:
            check_part(scribe.log, later, scribe.history[later])
    for gone in range(1, version):
        with pytest.raises(VersionError, match="dropped"):
            scribe.log.state(gone, "w".__eq__)
    assert verify(scribe.log, deep=True)


def test_reader_written_from_the_page_gives_them_too(tmp_path):
    scribe = story(DiskFiles(tmp_path))
    scribe.close()
    found = format_reader.ReadLog(tmp_path).aside()
    assert found == {v: scribe.history[v].there() for v in (2, 3, 5, 7, 8, 10)}


# What is wrong.


def forged(monkeypatch, change, version=2, story=story) -> Scribe:
    """A log whose writer said something else of one version; its hashes fit."""
    encode = CommitRecord.encode

    def lie(record):
        if record.version == version:
            record.aside = record.aside.copy()
            change(record)
        return encode(record)

    with monkeypatch.context() as patch:
        patch.setattr(CommitRecord, "encode", lie)
        return story()


def test_bytes_aside_that_are_not_those_digested_are_found(monkeypatch):
    scribe = forged(monkeypatch, lambda record: record.aside["lane0"].__iadd__(1))
    log = Log(scribe.files, PLACE)
    with pytest.raises(CorruptionError, match="do not have the digest recorded"):
        log.state(2, "w".__eq__)
    check_state(log.state(6, page_bytes=PAGE_BYTES), scribe.history[6])
    report = verify(log)
    assert [fault for fault in report.faults if "version 2" in fault and "'w'" in fault]
    made = []
    repair(
        scribe.files,
        PLACE,
        lambda part, is_newest: made.append((MemoryFiles(), "new")) or made[-1],
        page_bytes=PAGE_BYTES,
    )
    new = Log(*made[-1])
    assert verify(new)
    with pytest.raises(VersionError, match="no bytes of 'w'"):
        new.state(2, "w".__eq__)
    for version in (5, 7, 8, 10):
        check_part(new, version, scribe.history[version])


def test_a_record_aside_that_builds_on_another_is_found(monkeypatch):
    scribe = forged(monkeypatch, lambda record: record.aside["base"].__setitem__(1, 2), version=5)
    log = Log(scribe.files, PLACE)
    with pytest.raises(CorruptionError, match="builds on version 2"):
        log.state(5, lambda name: name in ("w", "big"))
    assert not verify(log)


def aside_record(**said) -> CommitRecord:
    rows = records_of([(1, 0, 0, 0, 0, 0, ASIDE), (2, 0, 0, 0, 0, 0, ASIDE)])
    said = {"flags": DIGEST_ONLY | DIGESTS, "aside": rows, "next_id": 3} | said
    return CommitRecord(bytes(16), bytes(16), 0, 1, 0, **said)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"flags": DIGESTS}, "stand aside"),
        ({"flags": 0}, "stand aside"),
        ({"aside": records_of([(1, 0, 0, 0, 0, 0, ASIDE)] * 2)}, "one an array"),
        ({"aside": records_of([(0, 0, 0, 0, 0, 0, ASIDE)])}, "one an array"),
        ({"records": records_of([(3, 0, 0, 0, 0, 0, 0)])}, "without bytes has records"),
    ],
)
def test_records_aside_that_make_no_sense_are_bad(said, match, monkeypatch):
    record = aside_record()
    assert CommitRecord.decode(record.encode()).aside["id"].tolist() == [1, 2]
    monkeypatch.setattr(CommitRecord, "check", lambda record: None)
    with pytest.raises(BadFrameError, match=match):
        CommitRecord.decode(aside_record(**said).encode())


def test_records_aside_stand_before_the_others(monkeypatch):
    monkeypatch.setattr(CommitRecord, "check", lambda record: None)
    extra, own = (0, 0, 0, 0, 0, 0, FULL), (1, 0, 0, 0, 0, 0, ASIDE)
    wrong = aside_record(aside=records_of([extra]), records=records_of([own]))
    with pytest.raises(BadFrameError):
        CommitRecord.decode(wrong.encode())


# Any history.

NAMES = ("a", "b", "c")
parts = st.lists(st.sampled_from(NAMES), unique=True)
values = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=3)
actions = st.one_of(
    st.tuples(st.just("digests"), values, parts),
    st.tuples(st.just("digests"), values, parts),
    st.tuples(st.just("commit"), values, st.just([])),
    st.sampled_from(["snapshot", "reopen"]),
)


@given(st.lists(actions, max_size=14))
def test_any_history_gives_what_was_committed(story):
    scribe, now = Scribe(), dict.fromkeys(NAMES, 0)
    for name, size in zip(NAMES, (3, 40, 900), strict=True):
        scribe.create(name, (size,), np.int16)
    scribe.commit()
    value = lambda name, number: np.full(scribe.history[-1].arrays[name].shape, number, "i2")  # noqa: E731
    for action in story:
        if action == "snapshot":
            scribe.snapshot()
        elif action == "reopen":
            scribe = scribe.reopen()
        elif action[0] == "digests":
            now |= action[1]
            said = {name: value(name, now[name]) for name in {*action[1], *action[2]}}
            scribe.digests(said, aside=action[2])
        else:
            now |= action[1]
            for name in NAMES:
                scribe.write(name, value(name, now[name]))
            scribe.commit()
    check_log(scribe.log, scribe.history)
    assert verify(scribe.log, deep=True)
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)
