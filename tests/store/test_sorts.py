"""What stands in the place of the log's own files: links, pipes, devices, folders, other names.

Nothing waits for it, nothing is written through it, and the error names it.
"""

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mmsb_jax as mmsb
from mmsb_jax._base.errors import CorruptionError, LocationError, LockedError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.lock import HOLDER_NAME, LOCK_NAME, WriterLock
from mmsb_jax._store.log.log import Log

OUTSIDE = b"what is not the log's"


@pytest.fixture(autouse=True)
def guard() -> Iterator[None]:
    """Ends a test that would wait for ever."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def plug(path: Path, _: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("none"))


def device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")  # making one takes a privilege


def second_name(path: Path, outside: Path) -> None:
    path.hardlink_to(outside)


SORTS: dict[str, Callable[[Path, Path], None]] = {
    f.__name__: f for f in (pipe, folder, plug, link, dangling, device, second_name)
}
STRANGE = {name: sort for name, sort in SORTS.items() if name != "second_name"}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(OUTSIDE)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A compacted log with a snapshot, an index and an archive."""
    path = tmp_path / "run.mmsb"
    with mmsb.open(path, snapshots=False) as bus:
        for i in range(6):
            bus.commit({"w": [float(i)] * 4})
        bus.compact(keep_since=4)
        bus.commit({"w": [9.0] * 4})
    return path


def own(run: Path, end: str) -> Path:
    return sorted(path for path in run.rglob("*") if path.name.endswith(end))[-1]


def check_outside(outside: Path) -> None:
    assert outside.read_bytes() == OUTSIDE
    assert not outside.with_name("none").exists()


@pytest.mark.parametrize("sort", STRANGE)
@pytest.mark.parametrize("end", ["manifest", ".seg", ".cut"])
@pytest.mark.parametrize("mode", ["r", "a"])
def test_log_with_something_else_in_the_place_of_a_file_is_refused(run, outside, sort, end, mode):
    path = own(run, end)
    path.rename(run.parent / "kept")
    STRANGE[sort](path, outside)
    with pytest.raises(LocationError, match=str(run)):
        mmsb.open(run, mode=mode)
    with pytest.raises(LocationError, match=str(path)):
        Log(DiskFiles(run), str(run))
    check_outside(outside)
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (run.parent / "kept").rename(path)
    with mmsb.open(run) as bus:
        assert bus.verify()


@pytest.mark.parametrize("sort", STRANGE)
@pytest.mark.parametrize("end", [".idx", ".snap", ".arc"])
def test_file_that_is_not_always_needed_is_never_waited_for(run, outside, sort, end):
    path = own(run, end)
    path.unlink()
    STRANGE[sort](path, outside)
    for use in (
        lambda bus: bus.checkout(version=3),
        lambda bus: list(bus.log()),
        lambda bus: bus.fork(None).close(),
        lambda bus: bus.export(path=run.parent / "stream"),
        lambda bus: bus.commit({"w": [7.0] * 4}),
        lambda bus: bus.compact(keep_since=bus.version),
        lambda bus: bus.snapshot(),
    ):
        with contextlib.suppress(LocationError, CorruptionError), mmsb.open(run) as bus:
            use(bus)
    check_outside(outside)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("name", ["manifest.draft", "stream.draft", "log/new.draft"])
def test_draft_that_something_else_stands_for_is_not_written_through(run, outside, sort, name):
    path = (run.parent if name == "stream.draft" else run) / name
    SORTS[sort](path, outside)
    with mmsb.open(run) as bus:
        bus.commit({"w": [7.0] * 4})
        for use in (
            lambda: bus.compact(keep_since=bus.version),
            lambda: bus.export(path=run.parent / "stream"),
        ):
            with contextlib.suppress(LocationError):
                use()
    check_outside(outside)


def test_segment_with_a_second_name_is_not_written(run):
    path = own(run, ".seg")
    other = run.parent / "other"
    other.hardlink_to(path)
    before = other.read_bytes()
    with pytest.raises(LocationError, match=r"has 2 names \(hard links\)"):
        mmsb.open(run)
    assert mmsb.open(run, mode="r").version == 7
    assert other.read_bytes() == before
    other.unlink()
    mmsb.open(run).close()


# The lock


@pytest.mark.parametrize("sort", SORTS)
def test_lock_that_is_something_else_is_refused(tmp_path, outside, sort):
    run = tmp_path / "run"
    run.mkdir()
    SORTS[sort](run / LOCK_NAME, outside)
    gc.collect()  # what tests before this have left open
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LocationError, match=f"{run}/lock"):
        WriterLock(run)
    assert len(os.listdir("/proc/self/fd")) == before
    check_outside(outside)


@pytest.mark.parametrize("sort", SORTS)
def test_holder_that_is_something_else_is_put_aside(tmp_path, outside, sort):
    run = tmp_path / "run"
    run.mkdir()
    path = run / HOLDER_NAME
    SORTS[sort](path, outside)
    lock = WriterLock(run)
    check_outside(outside)
    if sort != "folder":
        assert f'"pid": {os.getpid()}' in path.read_text()
        assert path.stat().st_nlink == 1
    lock.release()
    assert path.exists() == (sort == "folder")


@pytest.mark.parametrize("sort", SORTS)
def test_holder_that_is_something_else_is_not_waited_for(tmp_path, outside, sort):
    run = tmp_path / "run"
    run.mkdir()
    lock = WriterLock(run)
    (run / HOLDER_NAME).unlink()
    SORTS[sort](run / HOLDER_NAME, outside)
    with pytest.raises(LockedError, match="is being written by another process"):
        WriterLock(run)
    lock.release()
    check_outside(outside)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.touch()),
        lambda path: path.rename(path.with_name("other")),
        lambda path: path.with_name("other").touch() or path.with_name("other").rename(path),
        lambda path: (path.unlink(), path.symlink_to(path.with_name("lock.holder"))),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.parent.rename(path.parent.with_name("moved")),
    ],
    ids=["deleted", "made anew", "renamed", "replaced", "link", "folder", "moved"],
)
def test_lock_that_was_taken_away_is_noticed(tmp_path, change):
    run = tmp_path / "run"
    run.mkdir()
    lock = WriterLock(run)
    assert lock.is_in_place()
    change(run / LOCK_NAME)
    assert not lock.is_in_place()
    lock.release()


def test_lock_that_another_holds_by_now_keeps_its_holder(tmp_path):
    lock = WriterLock(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    other = WriterLock(tmp_path)
    assert (lock.is_in_place(), other.is_in_place()) == (False, True)
    lock.release()
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        WriterLock(tmp_path)
    other.release()


def test_lock_whose_path_cannot_be_looked_at_says_so(tmp_path, monkeypatch):
    lock = WriterLock(tmp_path)

    def refuse(path: Path) -> None:
        raise OSError(5, "failed")

    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(LocationError, match="lock could not be read"):
        lock.is_in_place()
    lock.release()


# What is exported


@pytest.mark.parametrize("sort", [name for name in STRANGE if name not in ("link",)])
def test_stream_from_something_that_is_no_file_is_refused(tmp_path, outside, sort):
    SORTS[sort](tmp_path / "stream", outside)
    with mmsb.open() as bus, pytest.raises(LocationError, match="stream cannot be read"):
        bus.import_(tmp_path / "stream")


@pytest.mark.parametrize("sort", SORTS)
def test_stream_takes_the_place_of_what_is_there(tmp_path, outside, sort):
    path = tmp_path / "stream"
    SORTS[sort](path, outside)
    with mmsb.open() as bus:
        bus.commit({"w": 1.0})
        if sort == "folder":
            with pytest.raises(LocationError, match="stream cannot be written"):
                bus.export(path=path)
        else:
            bus.export(path=path)
            assert path.is_file()
            assert not path.is_symlink()
    check_outside(outside)
