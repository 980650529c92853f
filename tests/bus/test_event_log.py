"""The log of events in an array."""

import threading

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.events.event_log import EVENT_ROW
from mmsb_jax._bus.events.kinds import EVENT_KINDS


def _changed(version: int) -> mmsb.Event:
    return mmsb.Event("changed", version, version * 10, "x")


def test_event_log_keeps_the_newest_rows_in_order():
    log = mmsb.EventLog(capacity=3)
    assert log.rows().size == 0
    for version in range(1, 6):
        log(_changed(version))
    log(mmsb.Event("recomputed", 6, 60, "d", None, True))
    log(mmsb.Event("device_sync", 7, -70, "copy", "params/w"))
    rows = log.rows()
    assert rows.dtype == EVENT_ROW
    assert rows["serial"].tolist() == [5, 6, 7]
    assert rows["version"].tolist() == [5, 6, 7]
    assert rows["time_ns"].tolist() == [50, 60, -70]
    assert rows["kind"].tolist() == [b"changed", b"recomputed", b"device_sync"]
    assert rows["array"].tolist() == [*map(mmsb.EventLog.hash_of, ["x", "d", "copy"])]
    assert rows["source"].tolist() == [0, 0, mmsb.EventLog.hash_of("params/w")]
    assert rows["changed"].tolist() == [-1, 1, -1]
    rows["version"] = 0
    assert log.rows()["version"].tolist() == [5, 6, 7]


def test_event_log_row_holds_every_kind_and_is_laid_out_for_ever():
    assert EVENT_ROW.itemsize == 56
    log = mmsb.EventLog(capacity=len(EVENT_KINDS))
    for kind in EVENT_KINDS:
        log(mmsb.Event(kind, 2**64 - 1, 2**63 - 1))
    assert log.rows()["kind"].tolist() == [kind.encode() for kind in EVENT_KINDS]
    assert mmsb.EventLog.hash_of("params/w") == 0x9359_B125_AF7D_F00D


def test_event_log_written_to_an_array_changes_the_new_rows_alone(bus):
    log = mmsb.EventLog(capacity=100)
    log(_changed(1))
    first = log.write_to(bus, "events")
    assert first is not None
    assert first.changed == ("events",)
    assert log.write_to(bus, "events") is None
    log(_changed(2))
    commit = log.write_to(bus, "events")
    assert commit is not None
    assert commit.version == 2
    assert commit.changed_bytes <= EVENT_ROW.itemsize
    np.testing.assert_array_equal(mmsb.EventLog.rows_of(bus.read("events")), log.rows())
    assert mmsb.EventLog.rows_of(bus.checkout(version=1)["events"])["version"].tolist() == [1]


def test_event_log_of_another_size_is_refused_and_writes_again_later(bus):
    log = mmsb.EventLog(capacity=2)
    bus.create("events", nbytes=3)
    log(_changed(1))
    for _ in range(2):
        with pytest.raises(mmsb.StructureError, match="events"):
            log.write_to(bus, "events")
    bus.resize("events", nbytes=2 * EVENT_ROW.itemsize)
    assert log.write_to(bus, "events") is not None


def test_event_log_without_rows_is_refused():
    with pytest.raises(ValueError, match="capacity=0: expected at least 1 row"):
        mmsb.EventLog(capacity=0)
    with pytest.raises(ValueError, match="size"):
        mmsb.EventLog.rows_of(np.zeros(57, np.uint8))


def test_event_logs_written_after_each_commit_end(bus):
    logs = {name: mmsb.EventLog(capacity=8) for name in ("one", "two")}

    def write(event):
        if event.version < 20:  # they would write without end if they recorded what they write
            for name, log in logs.items():
                log.write_to(bus, name)

    for log in logs.values():
        bus.subscribe("*", log)
    bus.subscribe("commit", write)
    bus.create("x", nbytes=4)
    for value in (1, 2):
        bus.write("x", np.full(4, value, np.uint8))
    assert bus.version == 6
    assert bus.stats().failed_handlers == 0
    for name in logs:
        rows = mmsb.EventLog.rows_of(bus.read(name))
        assert list(zip(rows["version"].tolist(), rows["kind"].tolist(), strict=True)) == [
            (1, b"created"),
            (1, b"changed"),
            (1, b"commit"),
            (4, b"changed"),
            (4, b"commit"),
        ]


def test_event_log_is_read_while_it_is_written(threads):
    log, stop = mmsb.EventLog(capacity=16), threading.Event()

    def reading():
        while not stop.is_set():
            rows = log.rows()
            assert (np.diff(rows["serial"].astype(np.int64)) == 1).all()
            assert (rows["serial"] == rows["version"]).all()

    threads.start(reading)
    try:
        for version in range(1, 2001):
            log(_changed(version))
    finally:
        stop.set()
    threads.join()
    assert log.rows()["version"].tolist() == list(range(1985, 2001))
