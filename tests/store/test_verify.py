import collections
import errno
import os
from typing import Any

import numpy as np
import pytest

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.commit import head, lots, plain
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.names import snapshot_name
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.state.snapshot import read_snapshot, write_snapshot
from tests.store._compacted import write_story
from tests.store._logs import (
    PAGE_BYTES,
    PLACE,
    Scribe,
    copy_files,
    names_of,
    open_and_compare,
    threads,
)
from tests.store._wrong import with_commit, with_wrong_digests


def whole() -> Scribe:
    scribe = Scribe()
    scribe.create("w", (8,)).create("b", (3,), "uint8").write("w", np.arange(8, dtype="f4"))
    scribe.commit(step=1, extra=b"x" * 70)
    scribe.patch("b", {1: 7}).commit()
    scribe.snapshot()
    scribe.patch("w", {0: 1}).commit()
    scribe.snapshot(rotate=False)
    scribe.resize("w", (2,)).constant("c", "s:x").commit()
    return scribe


def test_verify_of_a_whole_log_is_true_and_says_what_it_read():
    scribe = whole().close()
    seen = []
    report = verify(
        Log(scribe.files, PLACE), lambda done, total: seen.append((done, total)), threads()
    )
    assert report
    assert (report.versions, report.snapshots, report.faults, report.notes) == (4, 2, [], [])
    assert report.checked_bytes == sum(
        scribe.files.size(name) for name in names_of(scribe.files) if name != "manifest"
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert str(report).startswith("whole: 4 versions replayed, 2 snapshots compared, ")


def test_verify_of_an_empty_log_is_true():
    report = verify(Scribe().log)
    assert (bool(report), report.versions) == (True, 0)


def test_verify_of_a_log_that_is_being_written_is_true():
    scribe = whole()
    assert verify(scribe.log).versions == 4


def test_verify_reports_a_torn_tail_as_a_note():
    scribe = whole()
    scribe.files.reopen(scribe.log.pieces[-1].segment.name).append([b"torn"])
    report = verify(Log(scribe.files, PLACE))
    assert report
    assert "4 bytes at" in report.notes[0]
    assert "note: log/" in str(report)


def test_verify_finds_any_bit_flipped_in_a_segment_an_index_or_a_snapshot():
    """What opening refuses it refuses; of the rest nothing passes."""
    scribe = whole()
    scribe.snapshot()  # so that all of the log is sealed
    scribe.close()
    outcomes = collections.Counter()
    for name in names_of(scribe.files)[1:]:
        if name == scribe.log.pieces[-1].segment.name:
            continue
        files, good = copy_files(scribe.files), scribe.files.read(name)
        for bit in range(0, len(good) * 8, 97):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            files.publish(name, [bad])
            if open_and_compare(files, scribe.history).refused:
                outcomes["refused"] += 1
                continue
            report = verify(Log(files, PLACE))
            assert not report
            assert name in report.faults[0]
            assert str(report).startswith("DAMAGED, 1 faults: ")
            outcomes["found"] += 1
    print(dict(outcomes))
    assert outcomes["found"] > 5 * outcomes["refused"] > 0


def test_verify_reports_a_snapshot_above_the_log():
    scribe = whole()
    state = scribe.log.state(4, page_bytes=PAGE_BYTES)
    state.table.version = 9
    write_snapshot(scribe.files, state, 0, 0)
    report = verify(scribe.log)
    assert not report
    assert report.faults == [f"{snapshot_name(9)}: the log ends at version 4, before it"]


def test_verify_reports_a_snapshot_with_another_state_than_the_log():
    scribe = whole()
    state = scribe.log.state(3, page_bytes=PAGE_BYTES)
    state.table.values["c"] = "s:other"
    state.table.state_digest = state.table.digest()
    write_snapshot(scribe.files, state, 0, 0)
    report = verify(scribe.log)
    assert report.faults == [
        f"{snapshot_name(3)}: it does not hold the state that the log leads to"
    ]


@pytest.mark.parametrize("what", ["array", "state"])
def test_verify_reports_a_digest_that_does_not_follow_from_the_bytes(monkeypatch, what):
    """A writer with a fault in its memory: every frame is whole, and what they say is wrong."""
    scribe = whole()
    if what == "array":
        monkeypatch.setattr(lots, "digest_each", lambda *_: np.array([[1], [2]], np.uint32))
        scribe.patch("b", {0: 9}).commit()
    else:
        for module in (head, plain):
            monkeypatch.setattr(module, "state_sum", lambda *_: 5)
        scribe.patch("b", {0: 9}).commit()
    report = verify(scribe.log)
    assert not report
    assert report.versions == 5
    assert "version 5: " in report.faults[0]
    assert "digest recorded" in report.faults[0]


def test_verify_reports_an_index_that_says_something_else_than_its_segment():
    scribe = whole().close()
    (name,) = (name for name in names_of(scribe.files) if name.endswith(".idx"))
    piece = scribe.log.pieces[0]
    scan, index = scribe.log.scan_piece(piece)
    index._rows.columns["step"][0] = 77
    scribe.files.publish(name, index.frame(scan.chain, piece.end_offset))
    assert verify(Log(scribe.files, PLACE)).faults == [
        f"{name}: it does not say what its segment holds"
    ]


def test_deep_verify_finds_a_commit_that_lied_where_a_later_one_covers_it(monkeypatch):
    """A writer's memory failed for one commit: the digest is of other bytes than were written."""
    scribe = whole()
    with monkeypatch.context() as failing:
        failing.setattr(lots, "digest_each", lambda *_: np.array([[1], [2]], np.uint32))
        scribe.patch("b", {0: 9}).commit()
    scribe.write("b", np.array([4, 5, 6], "u1")).commit()
    log = Log(scribe.close().files, PLACE)
    assert verify(log)
    report = verify(log, deep=True)
    assert report.faults == ["version 5: the bytes of 'b' do not have the digest recorded"]


@pytest.fixture(scope="module")
def story() -> Scribe:
    """Sixteen versions of `w` (1), `gone` (2) and `late` (3); snapshots of 4, 7 and 12."""
    return write_story().close()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("compacted", [False, True])
def test_verify_names_every_array_and_all_versions_at_which_it_is_wrong(
    deep: bool, compacted: bool
):
    scribe = write_story()
    if compacted:
        compact(scribe.writer, 9)
    first = 9 if compacted else 3
    wrong = [(first, 1), *((v, 3) for v in range(11, 17)), (16, 1)]
    snapshots = [(v, i) for v, i in wrong if v == 12]
    files = with_wrong_digests(scribe.close().files, wrong, [14], in_snapshots=snapshots)
    report = verify(Log(files, PLACE), executor=threads(), deep=deep)
    assert report.faults == [
        f"version {first}: the bytes of 'w' do not have the digest recorded",
        "versions 11 to 16: the bytes of 'late' do not have the digest recorded",
        "version 14: the digest recorded does not follow from its arrays",
        "version 16: the bytes of 'w' do not have the digest recorded",
    ]
    assert report.versions == (8 if compacted else 16)


def test_verify_names_every_array_that_is_wrong_in_a_snapshot(story: Scribe):
    files = with_wrong_digests(story.files, in_snapshots=[(7, 1), (12, 1), (12, 3)])
    report = verify(Log(files, PLACE))
    assert report.faults == [
        f"{snapshot_name(version)}: the bytes of {name!r} do not have the digest recorded"
        for version, name in ((7, "w"), (12, "late"), (12, "w"))
    ]
    assert (report.versions, report.snapshots) == (16, 3)


def test_verify_of_a_compacted_log_names_every_array_that_is_wrong_in_a_kept_state():
    scribe = write_story()
    compact(scribe.writer, 13)
    oldest, *_ = scribe.close().log.kept
    wrong = [(oldest, 1), (12, 1), (12, 3)]
    faults = verify(Log(with_wrong_digests(scribe.files, in_snapshots=wrong), PLACE)).faults
    assert faults[:3] == [
        f"{snapshot_name(version)}: the bytes of {name!r} do not have the digest recorded"
        for version, name in ((oldest, "w"), (12, "late"), (12, "w"))
    ]


def test_verify_goes_on_behind_damage_at_the_next_snapshot(story: Scribe):
    """Two commits of one segment are damaged; behind the snapshots two digests are wrong."""
    wrong = with_wrong_digests(story.files, [(10, 1), (14, 3)])
    log = Log(story.files, PLACE)
    for version in (2, 8, 11):
        found = log.find(version)
        name, place = found.piece.segment.name, found.end_offset - 60
        raw = bytearray(wrong.read(name))
        raw[place] ^= 1
        wrong.publish(name, [raw])
    report = verify(Log(wrong, PLACE), deep=True)
    segments = [piece.segment.name for piece in log.pieces]
    assert [fault.partition(", byte")[0] for fault in report.faults] == [
        segments[0],
        segments[1],
        f"{segments[1]}: version 11 cannot be read either",
        "version 14: the bytes of 'late' do not have the digest recorded",
    ]
    assert report.notes == [
        "versions 2 to 3 cannot be replayed: what they build on is damaged",
        "versions 8 to 11 cannot be replayed: what they build on is damaged",
    ]
    assert (report.versions, report.snapshots) == (1 + 3 + 4, 1)


def test_verify_goes_on_behind_a_record_that_does_not_decode_and_a_commit_that_does_not_fit(
    story: Scribe,
):
    def spoil(record, frame):
        sizes = record.chunks["stored"].tolist()
        assert record.touched()[0] == 3
        frame.data = b"\xff" * sizes[0] + frame.data[sizes[0] :]

    def misfit(record, frame):
        record.ops = [Op(OpCode.DELETE, ArrayInfo(2, "gone", "jax", "float32", (3,), True))]

    files = with_commit(with_commit(story.files, 14, spoil), 10, misfit)
    for name in (name for name in names_of(files) if name.endswith(".idx")):
        files.remove(name)  # it says what the commits said
    report = verify(Log(files, PLACE), deep=True)
    assert report.faults == [
        "version 14: the bytes of 'late' are lost: a record of it does not decode",
        "versions 10 to 11 cannot be replayed: DELETE of array 2 'gone' does not fit",
    ]
    assert report.versions == 13


def test_verify_does_not_take_for_damage_what_a_compaction_here_takes_away_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
):
    scribe = write_story()
    compact(scribe.writer, 9)
    scribe.writer.append_tags({"first": None})  # the state of version 2 goes with the next
    works = iter([lambda: compact(scribe.writer, 13)])

    def read(*given: Any) -> Any:
        for work in works:
            work()
        return read_snapshot(*given)

    monkeypatch.setattr("mmsb_jax._store.maintain.verify.read_snapshot", read)
    report = verify(scribe.writer.log)
    assert report.faults == []
    assert report.versions == 4


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EPERM])
def test_verify_does_not_take_for_damage_what_could_not_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, code: int
):
    scribe = write_story()
    compact(scribe.writer, 9)
    files = scribe.close().files
    names = names_of(files)[1:]
    assert {name[-4:] for name in names} == {".arc", ".cut", ".idx", ".seg", "snap"}
    for name in names:
        log = Log(files, PLACE)
        with monkeypatch.context() as failing:
            fail_reads(failing, name, code)
            with pytest.raises(LocationError, match=f"{name} could not be read: ") as caught:
                verify(log)
        assert caught.value.errno == code
        assert "Nothing was changed" in str(caught.value)


def test_verify_names_every_file_that_the_disk_refuses(
    story: Scribe, monkeypatch: pytest.MonkeyPatch
):
    for name in names_of(story.files)[1:]:
        log = Log(story.files, PLACE)
        with monkeypatch.context() as failing:
            fail_reads(failing, name, errno.EIO)
            report = verify(log)
        assert not report
        assert name in report.faults[0]
        assert "nput/output error" in report.faults[0]
        if name.endswith(".seg"):
            assert "cannot be replayed" in report.notes[0]
        else:
            assert report.versions == 16


def fail_reads(failing: pytest.MonkeyPatch, name: str, code: int) -> None:
    read = MemoryFiles.read

    def refusing(self, asked, *args):
        if asked == name:
            raise OSError(code, os.strerror(code), name)
        return read(self, asked, *args)

    failing.setattr(MemoryFiles, "read", refusing)
