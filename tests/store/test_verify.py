import collections

import numpy as np
import pytest

from mmsb_jax.store import _head
from mmsb_jax.store._log import Log
from mmsb_jax.store._snapshot import snapshot_name, write_snapshot
from mmsb_jax.store._verify import verify
from tests.store._logs import (
    PAGE_BYTES,
    PLACE,
    Scribe,
    copy_files,
    names_of,
    open_and_compare,
    threads,
)


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
        monkeypatch.setattr(_head.Change, "lanes", property(lambda _: (1, 2), lambda *_: None))
        scribe.patch("b", {0: 9}).commit()
    else:
        monkeypatch.setattr(_head, "state_sum", lambda *_: 5)
        scribe.patch("b", {0: 9}).commit()
    report = verify(scribe.log)
    assert not report
    assert report.versions == 4
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
        failing.setattr(_head.Change, "lanes", property(lambda _: (1, 2), lambda *_: None))
        scribe.patch("b", {0: 9}).commit()
    scribe.write("b", np.array([4, 5, 6], "u1")).commit()
    log = Log(scribe.close().files, PLACE)
    assert verify(log)
    report = verify(log, deep=True)
    assert report.faults == ["version 5: the bytes of 'b' do not have the digest recorded"]
