import errno
import os
import threading

import numpy as np
import pytest

from mmsb_jax._base.errors import ClosedError, CorruptionError, LocationError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format import data
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state import snapshot
from mmsb_jax._store.writer import writer as _writer
from mmsb_jax._store.writer.create import create_log
from mmsb_jax._store.writer.durability.choose import durability_strategy
from mmsb_jax._store.writer.writer import LogWriter, disk_error
from mmsb_jax.testing._faulty import Faults, FaultyFiles
from tests.store._logs import (
    PAGE_BYTES,
    PLACE,
    Scribe,
    check_log,
    check_state,
    copy_files,
    names_of,
)
from tests.store._script import run_script

NOT_SYNC = frozenset({"create", "append", "truncate", "publish"})


@pytest.fixture(params=["memory", "disk"])
def files(request, tmp_path):
    return MemoryFiles() if request.param == "memory" else DiskFiles(tmp_path)


@pytest.fixture(params=[0, 1 << 18], ids=["data frames", "inline"])
def inline_bytes(request, monkeypatch):
    monkeypatch.setattr(data, "INLINE_BYTES", request.param)


def begin(files, faults: Faults, durability="os") -> Scribe:
    """A log of two versions on files that can fail."""
    create_log(files, PAGE_BYTES)
    scribe = Scribe(FaultyFiles(files, faults), durability, history=[Scribe().history[0]])
    scribe.create("w", (40,)).create("b", (3,), "uint8").write("w", np.ones(40, "f4")).commit()
    scribe.patch("b", {1: 1}).commit()
    return scribe


def draft(scribe: Scribe, value: int) -> Scribe:
    """A commit with several chunks, a new array, and an extra."""
    rng = np.random.default_rng(value)
    name = f"new{scribe.log.version}"
    scribe.create(name, (2,)).write("w", rng.normal(size=40).astype("f4"))
    return scribe.patch("b", {0: value % 256})


@pytest.mark.parametrize("is_short", [False, True], ids=["nothing written", "short"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_commit_that_the_disk_refuses_at_any_call_changes_nothing(
    files, inline_bytes, code, is_short
):
    faults = Faults(code=code, is_short=is_short, kinds=NOT_SYNC)
    scribe = begin(files, faults)
    faults.arm(10**9)
    draft(scribe, 1).commit(extra=b"x" * 50)
    calls = len(faults.calls)
    tried = 0
    for fail_at in range(calls):
        before = {name: files.read(name) for name in names_of(files)}
        version = scribe.log.version
        faults.arm(fail_at)
        with pytest.raises(LocationError, match="as they were") as caught:
            draft(scribe, 2 + fail_at).commit(extra=b"y" * 50)
        faults.disarm()
        assert caught.value.errno == code
        assert {name: files.read(name) for name in names_of(files)} == before
        assert scribe.log.version == version
        check_state(scribe.head.state, scribe.history[-1])
        draft(scribe, 3 + fail_at).commit()
        check_state(scribe.head.state, scribe.history[-1])
        tried += 1
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)
    print(f"failed {tried} calls")
    assert tried == (2 if data.INLINE_BYTES == 0 else 1)


def test_error_of_a_full_disk_says_what_to_do():
    error = disk_error(OSError(errno.ENOSPC, "No space left"), "run.mmsb")
    assert "nothing was written to run.mmsb: the disk is full. Make room and try again" in str(
        error
    )
    assert "the disk answers: Input/output error" in str(disk_error(OSError(errno.EIO, ""), "x"))
    assert "the disk answers: it ended" in str(disk_error(OSError("it ended"), "x"))


@pytest.mark.parametrize("is_short", [False, True])
def test_commit_that_cannot_be_taken_back_poisons_and_reopening_recovers(files, is_short):
    faults = Faults(code=errno.EIO, is_short=is_short, kinds=NOT_SYNC)
    scribe = begin(files, faults)
    faults.arm(0, last_at=1)  # the write and the truncation
    with pytest.raises(LocationError):
        draft(scribe, 1).commit()
    faults.disarm()
    check_state(scribe.head.state, scribe.history[-1])
    with pytest.raises(ClosedError, match=r"could not be taken back.*open it again"):
        draft(scribe, 2).commit()
    scribe.close()
    scribe = Scribe(files, history=scribe.history)
    assert bool(scribe.log.recovered) == is_short
    draft(scribe, 3).commit()
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("interrupts", [1, 2])
def test_commit_interrupted_while_it_is_written_is_settled_by_what_the_file_holds(
    files, is_whole, interrupts
):
    scribe = begin(files, Faults())
    writer, inner = scribe.writer, scribe.writer._file
    left = [KeyboardInterrupt] * (interrupts - 1)

    class Interrupting:
        def append(self, buffers):
            raw = b"".join(buffers)
            inner.append([raw if is_whole else raw[:100]])
            raise KeyboardInterrupt

        def truncate(self, size):
            if left:
                raise left.pop()
            inner.truncate(size)

        sync, close = inner.sync, inner.close

    writer._file = Interrupting()
    change = draft(scribe, 1)
    with pytest.raises(KeyboardInterrupt):
        change.commit()
    if interrupts == 2 and not is_whole:
        with pytest.raises(KeyboardInterrupt):
            writer.settle()
    writer.settle()
    before = scribe.head.landed
    scribe.head.settle()
    landed = scribe.head.landed
    writer._file = inner
    assert (landed is not before) == is_whole
    assert scribe.log.version == len(scribe.history) - 1 + is_whole
    if is_whole:
        change.note_landed(landed)
    check_state(scribe.head.state, scribe.history[-1])
    draft(scribe, 2).commit()
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)


def test_sync_that_fails_poisons_for_good_and_reopening_recovers(files):
    faults = Faults(code=errno.EIO, kinds=frozenset({"sync"}))
    scribe = begin(files, faults)
    draft(scribe, 1).commit()
    assert scribe.writer.durable_version == 0
    faults.arm(0)
    with pytest.raises(ClosedError, match=r"a sync of the log failed.*open it again"):
        scribe.writer.sync()
    faults.disarm()
    for call in (scribe.writer.sync, draft(scribe, 2).commit, scribe.writer.rotate):
        with pytest.raises(ClosedError, match="a sync of the log failed"):
            call()
    assert scribe.writer.durable_version == 0
    assert faults.calls == ["sync"]  # not tried again
    scribe.close()
    assert faults.calls == ["sync"]
    scribe = Scribe(files, history=scribe.history)
    assert scribe.writer.durable_version == 3
    draft(scribe, 3).commit()
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)


def test_commit_whose_sync_fails_is_not_acknowledged_and_poisons(files):
    faults = Faults(code=errno.EIO, kinds=frozenset({"sync"}))
    scribe = begin(files, faults, "fsync")
    assert scribe.writer.durable_version == 2
    faults.arm(0)
    with pytest.raises(ClosedError, match="a sync of the log failed"):
        draft(scribe, 1).commit()
    faults.disarm()
    check_state(scribe.head.state, scribe.history[-1])
    assert (scribe.log.version, scribe.writer.durable_version) == (2, 2)
    with pytest.raises(ClosedError):
        draft(scribe, 2).commit()
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)


def test_commit_behind_a_sync_that_failed_meanwhile_is_not_acknowledged(files):
    """The system tells of a failure once: a second sync of the same file may succeed."""
    faults = Faults(code=errno.EIO, kinds=frozenset({"sync"}))
    scribe = begin(files, faults, "fsync")
    inner = scribe.writer._file

    class Other:
        """While the commit is written, the sync of a snapshot fails."""

        def append(self, buffers):
            inner.append(buffers)
            scribe.writer._file = inner
            faults.arm(0, last_at=0)
            with pytest.raises(ClosedError):
                scribe.writer._sync_files([inner])

        sync, close, truncate = inner.sync, inner.close, inner.truncate

    scribe.writer._file = Other()
    with pytest.raises(ClosedError, match="a sync of the log failed"):
        draft(scribe, 1).commit()
    assert scribe.writer.durable_version == 2


@pytest.mark.parametrize("kind", ["create", "append", "sync"])
def test_rotation_that_fails_goes_on_in_the_old_segment_or_poisons(files, kind):
    faults = Faults(kinds=frozenset({kind}), is_short=True)
    scribe = begin(files, faults)
    faults.arm(0)
    with pytest.raises(ClosedError if kind == "sync" else LocationError):
        scribe.writer.rotate()
    faults.disarm()
    assert len(scribe.log.pieces) == 1
    if kind == "sync":
        # The new segment may come to light after a crash: nothing may follow in the old one.
        with pytest.raises(ClosedError, match="a sync of the log failed"):
            draft(scribe, 1).commit()
        scribe.close()
        scribe = Scribe(files, history=scribe.history)
    draft(scribe, 1).commit()
    scribe.writer.rotate()
    draft(scribe, 2).commit()
    scribe.close()
    log = Log(files, PLACE)
    assert log.recovered == []
    check_log(log, scribe.history)


def test_snapshot_that_fails_is_told_of_and_the_log_goes_on(files):
    faults = Faults(kinds=frozenset({"publish"}))
    scribe = begin(files, faults)
    for fail_at in range(2):  # the index, the snapshot
        faults.arm(fail_at)
        with pytest.raises(OSError, match="No space left"):
            scribe.snapshot()
        assert "snapshot of version" in scribe.writer.snapshot_fault
        faults.disarm()
        draft(scribe, fail_at).commit()
    scribe.snapshot()
    assert scribe.writer.snapshot_fault is None
    assert scribe.log.snapshots() == [4]
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)


@pytest.mark.parametrize("fail_at", range(4))
def test_opening_to_write_that_fails_leaves_the_log_to_be_opened_again(files, fail_at):
    scribe = begin(files, Faults())
    name = scribe.log.pieces[-1].segment.name
    files.reopen(name).append([b"torn" * 20])  # so that a segment is made
    faults = Faults(code=errno.EIO, is_short=True)
    faults.arm(fail_at)
    faulty = FaultyFiles(files, faults)
    log = Log(faulty, PLACE)
    with pytest.raises((OSError, ClosedError)):
        LogWriter(log)
    assert len(faults.calls) == fail_at + 1
    scribe = Scribe(files, history=scribe.history)
    draft(scribe, 1).commit()
    scribe.close()
    check_log(Log(files, PLACE), scribe.history)


# Durability.


def test_durability_os_is_durable_after_a_sync_alone(files):
    faults = Faults(kinds=frozenset({"sync"}))
    scribe = begin(files, faults)
    faults.arm(10**9)
    draft(scribe, 1).commit()
    assert (faults.calls, scribe.writer.durable_version) == ([], 0)
    assert scribe.writer.sync() == scribe.writer.durable_version == 3


def test_durability_fsync_syncs_each_commit_once(files):
    faults = Faults(kinds=frozenset({"sync"}))
    scribe = begin(files, faults, "fsync")
    faults.arm(10**9)
    for i in range(3):
        draft(scribe, i).commit()
        assert len(faults.calls) == i + 1
        assert scribe.writer.durable_version == 3 + i


def test_durability_group_syncs_what_was_committed_within_the_interval():
    synced = threading.Event()

    class Noticing(Faults):
        def fails(self, kind):
            if kind == "sync" and self.fail_at is not None:
                synced.set()
            return super().fails(kind)

    faults = Noticing(kinds=frozenset({"sync"}))
    scribe = begin(MemoryFiles(), faults, ("group", 5))
    faults.arm(10**9)
    draft(scribe, 1).commit()
    durable = 0
    while durable < 3:  # the first sync that is noticed may be that of what was begun with
        assert synced.wait(60)
        synced.clear()
        with scribe.writer._sync_lock:  # the sync that was noticed has ended
            durable = scribe.writer.durable_version
    assert durable == 3
    scribe.close()


def test_append_that_syncs_itself_waits_for_no_sync_that_waits_for_it(monkeypatch):
    scribe = Scribe(MemoryFiles(), ("group", 5))
    writer = scribe.writer
    writer._durability.stop()  # as where no thread can be begun: each append syncs
    syncing, sync_files = threading.Event(), writer._sync_files
    appending = threading.Event()

    def slowly(handles):
        syncing.set()
        appending.wait(0.5)  # the other thread is inside append by then, or waits for this one
        sync_files(handles)

    monkeypatch.setattr(writer, "_sync_files", slowly)
    threads = [threading.Thread(target=call, daemon=True) for call in (writer.sync, scribe.commit)]
    threads[0].start()
    assert syncing.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "they wait for each other"
    assert writer.durable_version == 1


def test_durability_group_whose_sync_fails_poisons():
    failed = threading.Event()
    faults = Faults(kinds=frozenset({"sync"}))
    scribe = begin(MemoryFiles(), faults, ("group", 1))
    original = scribe.writer._sync_files

    def notice(files):
        try:
            original(files)
        finally:
            failed.set()

    with scribe.writer._sync_lock:  # no sync of what was begun with comes in between
        scribe.writer._sync_files = notice
        faults.arm(0)
        draft(scribe, 1).commit()
    assert failed.wait(60)
    faults.disarm()
    with pytest.raises(ClosedError, match="a sync of the log failed"):
        draft(scribe, 2).commit()
    scribe.close()


@pytest.mark.parametrize(
    "durability",
    [
        "",
        "sync",
        ("group",),
        ("group", 0),
        ("group", -1),
        ("group", float("inf")),
        ("group", float("nan")),
        ("group", 1e300),
        ("group", "1"),
        None,
        5,
    ],
)
def test_durability_that_is_none_is_refused(durability):
    with pytest.raises(ValueError, match="expected 'os', 'fsync' or"):
        durability_strategy(durability)


def test_every_frame_names_the_newest_synced_position():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    scribe.writer.sync()
    scribe.patch("w", {0: 1}).commit()
    assert scribe.log.durable_version == 1
    assert Log(copy_files(scribe.files), PLACE).durable_version == 1
    scribe.patch("w", {0: 2}).commit()
    scribe.close()
    assert Log(scribe.files, PLACE).durable_version == 3


def test_close_leaves_one_mark_however_often_it_is_opened():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    scribe.close()
    size = scribe.files.size(scribe.log.pieces[0].segment.name)
    for _ in range(3):
        scribe = scribe.reopen()
    scribe.close()
    assert (
        scribe.files.size(scribe.log.pieces[0].segment.name)
        == size
        == scribe.log.find(1).end_offset + 64
    )


def test_close_behind_a_rotation_marks_the_sealed_segment_as_durable():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    scribe.writer.rotate()
    scribe.close()
    first = scribe.log.pieces[0].segment.name
    assert Log(scribe.files, PLACE).durable_version == 1
    scribe.files.reopen(first).truncate(200)
    log = Log(scribe.files, PLACE)
    with pytest.raises(CorruptionError, match=f"{first} is damaged at byte"):
        log.state(1)


def test_closed_writer_refuses_and_closes_again():
    scribe = Scribe().close()
    scribe.close()
    with pytest.raises(ClosedError, match="it was closed"):
        scribe.create("w", (2,)).commit()
    with pytest.raises(ClosedError, match="it was closed"):
        scribe.writer.sync()


# Segments and snapshots.


def test_rotation_of_an_empty_segment_is_none():
    scribe = Scribe()
    assert scribe.writer.rotate() is None
    scribe.create("w", (2,)).commit()
    assert scribe.writer.rotate() is scribe.log.pieces[0]
    assert scribe.writer.rotate() is None
    assert len(scribe.files.names("log")) == 2


def test_segments_have_ascending_numbers_that_are_never_used_again():
    scribe = Scribe()
    for i in range(3):
        scribe.create(f"a{i}", (2,)).commit()
        scribe.writer.rotate()
    stray = "log/00000009-00000000000000000004.seg"
    scribe.files.publish(stray, [b"cut short"])
    scribe = Scribe(scribe.files, history=scribe.history)
    scribe.create("w", (2,)).commit()
    assert scribe.log.pieces[-1].segment.number == 10
    scribe.close()
    log = Log(scribe.files, PLACE)
    assert log.recovered == []
    assert [piece.segment.number for piece in log.pieces] == [1, 2, 3, 4, 10]
    check_log(log, scribe.history)


def test_snapshot_of_the_empty_log_or_of_a_version_that_has_one_is_none():
    scribe = Scribe()
    assert scribe.snapshot() is None
    scribe.create("w", (2,)).commit()
    assert scribe.snapshot() > 0
    assert scribe.snapshot() is None


def test_snapshot_begun_while_one_is_made_is_left_out(monkeypatch):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    gate = threading.Event()
    write = snapshot.write_snapshot

    def wait_and_write(*args, **kwargs):
        assert gate.wait(60)
        return write(*args, **kwargs)

    monkeypatch.setattr(_writer, "write_snapshot", wait_and_write)
    first = scribe.writer.schedule_snapshot(PAGE_BYTES)
    scribe.patch("w", {0: 1}).commit()
    assert scribe.writer.schedule_snapshot(PAGE_BYTES) is first
    gate.set()
    assert first.result() > 0
    assert scribe.log.snapshots() == [1]
    assert scribe.snapshot(rotate=False) > 0
    assert scribe.log.snapshots() == [1, 2]


def test_log_is_synced_before_a_snapshot_is_published():
    faults = Faults()
    scribe = begin(MemoryFiles(), faults)
    faults.arm(10**9)
    draft(scribe, 1).commit()
    scribe.snapshot(rotate=False)
    calls = faults.calls
    assert calls.index("append") < calls.index("sync") < calls.index("publish")


def test_commits_snapshots_and_reads_from_several_threads_agree():
    scribe = Scribe()
    scribe.create("w", (2000,), "uint8").commit()
    stop, faults = threading.Event(), []

    def read() -> None:
        rounds = 0
        while not stop.is_set() or rounds < 3:
            try:
                known = min(scribe.log.version, len(scribe.history) - 1)
                state = scribe.log.state(known, page_bytes=PAGE_BYTES)
                check_state(state, scribe.history[known])
                assert len(list(scribe.log.select(array="w", until=known))) == known - 1
                scribe.log.last_with(time_ns=2**62)
                scribe.log.row(scribe.log.version)
            except BaseException as error:
                faults.append(error)
                return
            rounds += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(100):
        scribe.patch("w", {i: i % 251 + 1}).commit(source=f"s{i % 3}")
        if i % 40 == 20:
            scribe.snapshot(rotate=i % 80 == 20)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)


def test_writer_in_a_forked_child_refuses_and_leaves_the_log_alone(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from mmsb_jax._base.errors import ClosedError
        from mmsb_jax._store.files.disk import DiskFiles
        from mmsb_jax._store.log.log import Log
        from tests.store._logs import Scribe, check_log

        files = DiskFiles(Path(sys.argv[1]))
        scribe = Scribe(files, ("group", 1))
        scribe.create("w", (2,)).commit()
        if os.fork() == 0:
            for call in (scribe.patch("w", {0: 1}).commit, scribe.writer.sync):
                try:
                    call()
                except ClosedError as error:
                    assert f"process {os.getppid()}, which forked this one" in str(error)
                else:
                    os._exit(1)
            scribe.close()
            os._exit(0)
        assert os.wait()[1] == 0
        scribe.patch("w", {0: 2}).commit()
        scribe.close()
        check_log(Log(files, "the log"), scribe.history)
        print("whole")
    """
    assert run_script(code, tmp_path) == "whole\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_log_without_permission_to_write_is_refused(tmp_path):
    Scribe(DiskFiles(tmp_path)).close()
    for path in (tmp_path / "log").iterdir():
        path.chmod(0o400)
    with pytest.raises(PermissionError):
        LogWriter(Log(DiskFiles(tmp_path), PLACE))


def test_durability_group_goes_on_after_a_sync_that_had_no_memory():
    scribe = Scribe(MemoryFiles(), ("group", 2))
    original, synced, failures = scribe.writer._sync_files, threading.Event(), [MemoryError()]

    def sync(files):
        if failures:
            raise failures.pop()
        original(files)
        synced.set()

    with scribe.writer._sync_lock:
        scribe.writer._sync_files = sync
        scribe.create("w", (2,)).commit()
    assert synced.wait(60)
    assert not failures
    with scribe.writer._sync_lock:
        assert scribe.writer.durable_version == 1
    scribe.close()


def test_durability_group_of_a_minute_is_closed_at_once():
    scribe = Scribe(MemoryFiles(), ("group", 60_000))
    scribe.create("w", (2,)).commit()
    thread = threading.Thread(target=scribe.close, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert scribe.writer.durable_version == 1
