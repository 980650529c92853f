"""A path is not a log: what is at the path is compared with what was opened, at every look."""

import contextlib
import errno
import gc
import os
import shutil
import weakref

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._base.errors import LocationError
from mmsb_jax._bus import opening
from mmsb_jax._store.files.disk import DiskFiles
from tests.bus._script import run_script


def _state(value):
    return {"w": np.full(64, value, np.float32)}


def _log(path, first, last):
    with mmsb.open(path) as bus:
        for value in range(first, last + 1):
            bus.commit(_state(value), structure="new" if bus.version == 0 else "same")


@pytest.fixture
def path(tmp_path):
    _log(tmp_path / "log", 1, 3)
    return tmp_path / "log"


@pytest.fixture
def lookers(path):
    """A reader, a replica and a follower, each after its first look."""
    reader = mmsb.open(path, mode="r")
    replica = mmsb.Replica(path, like=_state(0))
    follower = mmsb.open(path, mode="r").follow(after=0, timeout=0.5)
    assert reader.tree()["w"][0] == replica.update()["w"][0] == 3
    assert [next(follower).version for _ in range(3)] == [1, 2, 3]
    yield (
        lambda: reader.version,
        lambda: reader.tree()["w"][0],
        lambda: list(reader.log()),
        lambda: replica.update()["w"][0],
        lambda: next(follower).version,
    )
    reader.close()
    replica.close()


def _replace_by_another(path):
    shutil.rmtree(path)
    _log(path, 10, 15)


def _replace_by_another_in_the_same_directory(path):
    _log(path.with_name("other"), 10, 15)
    for name in ("log", "snapshots"):
        shutil.rmtree(path / name, ignore_errors=True)
    shutil.copytree(path.with_name("other"), path, dirs_exist_ok=True)


def _put_back_older(path):
    shutil.rmtree(path)
    os.rename(path.with_name("copy"), path)


def _put_back_older_that_went_on(path):
    _put_back_older(path)
    _log(path, 20, 25)


@pytest.mark.parametrize(
    "replace",
    [
        _replace_by_another,
        _replace_by_another_in_the_same_directory,
        _put_back_older,
        _put_back_older_that_went_on,
    ],
)
def test_another_log_at_the_path_is_told_of_by_every_look(tmp_path, replace):
    path = tmp_path / "log"
    _log(path, 1, 2)
    shutil.copytree(path, tmp_path / "copy")
    _log(path, 3, 3)
    reader = mmsb.open(path, mode="r")
    replica = mmsb.Replica(path, like=_state(0))
    follower = mmsb.open(path, mode="r").follow(after=0, timeout=0.5)
    assert reader.tree()["w"][0] == replica.update()["w"][0] == 3
    assert [next(follower).version for _ in range(3)] == [1, 2, 3]
    replace(path)
    looks = [
        lambda: reader.version,
        reader.tree,
        lambda: list(reader.log()),
        replica.update,
        lambda: next(follower),
    ]
    for look in looks:
        with pytest.raises(mmsb.DivergenceError, match="is not the log that was opened"):
            look()


def test_end_that_was_taken_back_and_written_otherwise_is_told_of(tmp_path):
    """In the same files, as a writer leaves them whose sync failed, and the one after it."""
    path, copy = tmp_path / "log", tmp_path / "copy"
    _log(path, 1, 3)
    shutil.copytree(path, copy)
    _log(copy, 20, 25)
    writer = mmsb.open(path)
    writer.commit(_state(4))
    reader = mmsb.open(path, mode="r")
    assert reader.tree()["w"][0] == 4
    for file in (copy / "log").iterdir():
        (path / "log" / file.name).write_bytes(file.read_bytes())
    for look in (lambda: reader.version, reader.tree, lambda: reader.read("w")) * 2:
        with pytest.raises(mmsb.DivergenceError, match="is not the log that was opened"):
            look()
    with contextlib.suppress(mmsb.MMSBError):
        writer.close()


def test_history_of_before_never_reads_another_log(tmp_path):
    _log(tmp_path / "log", 1, 3)
    _log(tmp_path / "other", 7, 11)
    reader = mmsb.open(tmp_path / "log", mode="r")
    history = reader.history("w")
    os.rename(tmp_path / "log", tmp_path / "gone")
    os.rename(tmp_path / "other", tmp_path / "log")
    looks = [
        lambda: reader.version,
        lambda: history[1].value,
        lambda: [one.value for one in history],
        lambda: reader.checkout(version=2),
        reader.tree,
        reader.tags,
    ]
    for look in looks * 2:
        with pytest.raises(mmsb.DivergenceError, match="is not the log that was opened"):
            look()


def test_log_that_was_removed_is_told_of(path, lookers):
    shutil.rmtree(path)
    for look in lookers:
        with pytest.raises(mmsb.LocationError, match=r"not there any more|is not a log"):
            look()


def test_copy_that_has_all_of_the_log_is_gone_on_with(path, lookers):
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    os.rename(path.with_name("copy"), path)
    _log(path, 4, 4)
    version, value, log, replica, follower = lookers
    assert version() == 4
    assert value() == replica() == 4
    assert len(log()) == 4
    assert follower() == 4


@pytest.mark.parametrize("durability", ["os", "fsync", ("group", 5)])
def test_writer_whose_directory_was_removed_acknowledges_nothing(path, durability):
    bus = mmsb.open(path, durability=durability)
    shutil.rmtree(path)
    with pytest.raises(mmsb.ClosedError, match="removed"):
        bus.commit(_state(4), structure="new")
    assert bus.checkout(version=0) == {}
    bus.close()
    assert not path.exists()


def _rename(path):
    os.rename(path, path.with_name("moved"))


def _replace(path):
    _rename(path)
    _log(path.with_name("other"), 7, 7)
    os.rename(path.with_name("other"), path)


@pytest.mark.parametrize("act", [_rename, _replace])
@pytest.mark.parametrize("call", ["sync", "tag", "snapshot", "commit"])
def test_writer_whose_directory_is_elsewhere_stops(path, act, call, monkeypatch):
    from mmsb_jax._store.writer import writer as _writer

    bus = mmsb.open(path)
    bus.commit(_state(4), structure="new")
    act(path)
    calls = {
        "sync": bus.sync,
        "tag": lambda: bus.tag("here"),
        "snapshot": bus.snapshot,
        "commit": lambda: bus.commit(_state(5)),
    }
    if call == "commit":  # the path is looked at now and then
        monkeypatch.setattr(_writer, "_PLACE_CHECK_NS", 0)
    with pytest.raises(mmsb.ClosedError, match=r"not there any more|not the log that was opened"):
        calls[call]()


def test_deleted_lock_is_noticed_before_another_can_write(path, monkeypatch):
    from mmsb_jax._store.writer import writer as _writer

    bus = mmsb.open(path)
    os.unlink(path / "lock")
    monkeypatch.setattr(_writer, "_PLACE_CHECK_NS", 0)
    with pytest.raises(mmsb.ClosedError, match="its lock was removed"):
        bus.commit(_state(4), structure="new")
    bus.close()
    with mmsb.open(path) as again:
        assert again.version == 3


@pytest.mark.parametrize("act", [shutil.rmtree, _rename, _replace])
def test_opening_the_path_again_gives_what_is_there_and_not_the_bus_of_before(path, act):
    before = mmsb.open(path)
    act(path)
    with mmsb.open(path) as bus:
        assert bus is not before
        assert bus.version == (1 if act is _replace else 0)
        bus.commit(_state(9), structure="new")
    assert before.closed


def test_fork_that_fails_where_no_descriptor_is_left_can_be_tried_again(tmp_path, monkeypatch):
    real, real_names = opening.fork_log, DiskFiles.names

    def without_descriptors(*arguments):
        raise LocationError(errno.EMFILE, "too many files are open")

    def fails(*arguments):
        real(*arguments)
        monkeypatch.setattr(DiskFiles, "names", without_descriptors)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    bus = mmsb.open()
    bus.commit({"w": np.ones(3, np.float32)})
    bus.snapshot()
    monkeypatch.setattr(opening, "fork_log", fails)
    with pytest.raises(mmsb.LocationError):
        bus.fork(tmp_path / "fork.mmsb")
    monkeypatch.setattr(opening, "fork_log", real)
    monkeypatch.setattr(DiskFiles, "names", real_names)
    with bus.fork(tmp_path / "fork.mmsb") as fork:
        assert fork.version == 1


def test_bus_that_an_interrupted_open_leaves_behind_writes_nothing(tmp_path, monkeypatch):
    class Interrupted(weakref.WeakValueDictionary):
        def __setitem__(self, key, bus):
            raise KeyboardInterrupt

    path = tmp_path / "log"
    code = """
    import os, sys, mmsb_jax as mmsb
    bus = mmsb.open(sys.argv[1])
    for value in range(3):
        bus.commit({"x": value})
    os._exit(0)  # without a last mark
    """
    run_script(code, path)
    monkeypatch.setattr(opening, "open_here", Interrupted())
    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback holds the bus
        mmsb.open(path)
    monkeypatch.undo()
    with mmsb.open(path) as again:
        assert again.commit({"x": 3}).version == 4
        (segment,) = (path / "log").iterdir()
        size = segment.stat().st_size
        del kept
        gc.collect()
        assert segment.stat().st_size == size
        assert again.commit({"x": 4}).version == 5
    with mmsb.open(path, mode="r") as reader:
        assert (reader.version, reader.recovered) == (5, [])


def test_disk_that_fails_at_the_first_look_is_told_of_by_open(tmp_path, monkeypatch):
    mmsb.open(tmp_path / "log").close()
    real, calls = os.stat, []

    def stat(path, *arguments, **options):
        if str(path).endswith("log") and not calls:
            calls.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with contextlib.suppress(mmsb.LocationError):
        bus = mmsb.open(tmp_path / "log")
        monkeypatch.undo()
        bus._session.writing().writer.check_place()
        bus.close()
    assert calls
