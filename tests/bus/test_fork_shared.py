"""Forks that have files in common with what they came from, and what each does to them."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.maintain.repair import repair

SIZE = 1 << 19


def tree(number: int) -> dict[str, np.ndarray]:
    """Two megabytes that nothing makes smaller, and a few that say which it is."""
    noise = np.random.default_rng(number).integers(0, 2**32, SIZE, np.uint32)
    return {"w": noise, "n": np.full(4, number)}


def state_of(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of change and bytes of each file that may be shared."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.suffix in (".seg", ".cut", ".snap", ".arc"):
            status = file.stat()
            found[file.name] = status.st_ino, status.st_mtime_ns, file.read_bytes()
    return found


def shared(one: Path, two: Path) -> set[str]:
    """The names of the files that two logs have in common."""
    first, second = state_of(one), state_of(two)
    return {name for name in first.keys() & second.keys() if first[name][0] == second[name][0]}


def disk_bytes(*paths: Path) -> int:
    """What they take, a file with several names counted once."""
    inodes = {}
    for path in paths:
        for file in path.rglob("*"):
            status = file.stat()
            inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


@pytest.fixture
def parent(tmp_path):
    with mmsb.open(tmp_path / "parent.mmsb") as bus:
        for number in range(3):
            bus.commit(tree(number), step=number)
        yield bus


def test_what_is_sealed_is_shared_and_nothing_else(parent, tmp_path):
    before = parent.version
    with parent.fork(tmp_path / "fork.mmsb") as fork:
        names = shared(parent.path, fork.path)
        assert names
        assert all(name.endswith((".seg", ".snap")) for name in names)
        newest = max(file.name for file in parent.path.glob("log/*.seg"))
        assert newest not in names
        assert not list(fork.path.rglob("*.idx"))
        assert (fork.path / "manifest").stat().st_nlink == 1
        own = disk_bytes(parent.path, fork.path) - disk_bytes(parent.path)
        assert own < 100_000
        for bus in (parent, fork):
            bus.commit(tree(7))
            assert bus.verify(deep=True)
        assert parent.version == fork.version == before + 1


def test_share_never_and_a_fork_in_memory_copy(parent, tmp_path):
    with parent.fork(tmp_path / "fork.mmsb", share="never") as fork:
        assert not shared(parent.path, fork.path)
        assert fork.tree()["n"][0] == 2
    with parent.fork() as fork:
        assert fork.tree()["n"][0] == 2
    with pytest.raises(ValueError, match="share="):
        parent.fork(tmp_path / "other.mmsb", share="always")
    with pytest.raises(ValueError, match="one of ref and version"):
        parent.fork(None, 1, version=2)
    assert not (tmp_path / "other.mmsb").exists()


def test_ref_is_a_version_a_tag_or_a_commit(parent, tmp_path):
    parent.tag("two", 2)
    for i, ref in enumerate((2, "two", parent.at(step=1))):
        with parent.fork(tmp_path / f"{i}.mmsb", ref) as fork:
            assert fork.version == 2
            assert fork.tree()["n"][0] == 1


def test_a_segment_that_the_fork_cuts_is_copied(parent, tmp_path):
    parent.fork(tmp_path / "first.mmsb").close()  # which seals it
    with parent.fork(tmp_path / "cut.mmsb", 2) as fork:
        assert not {name for name in shared(parent.path, fork.path) if name.endswith(".seg")}
        assert fork.verify(deep=True)


def everything_a_log_does(bus: mmsb.Bus) -> mmsb.Bus:
    """Commits, snapshots, compactions, recovery: each ends with another way to open it."""
    path = bus.path
    bus.commit(tree(10))
    bus.tag("ten")
    bus.snapshot()
    bus.commit(tree(11))
    bus.sync()
    bus.compact(keep_since=bus.version)
    bus.revert_to("ten")
    bus.close()
    newest = max(path.glob("log/*.seg"))
    with newest.open("ab") as file:
        file.write(b"torn")
    with mmsb.open(path) as bus:
        assert bus.recovered
        bus.commit(tree(12))
        bus.compact(keep_since=bus.version)
    with mmsb.open(path, durability="fsync") as bus:
        bus.commit(tree(13))
    (path / "manifest").touch()
    bus = mmsb.open(path)
    assert bus.verify(deep=True)
    return bus


@pytest.mark.parametrize("who", ["parent", "fork"])
def test_whatever_one_does_the_files_of_the_others_are_as_they_were(parent, tmp_path, who):
    parent.commit(tree(3))
    parent.compact(keep_since=3)  # an archive, a cut segment
    parent.commit(tree(4))
    parent.snapshot()
    fork = parent.fork(tmp_path / "fork.mmsb")
    third = fork.fork(tmp_path / "third.mmsb")
    third.close()
    acting, other = (parent, fork) if who == "parent" else (fork, parent)
    before = {bus.path: state_of(bus.path) for bus in (other, third)}
    kept = shared(parent.path, fork.path)
    assert {Path(name).suffix for name in kept} >= {".cut", ".seg", ".snap", ".arc"}
    acting = everything_a_log_does(acting)
    for path, files in before.items():
        now = state_of(path)
        for name in files.keys() & kept:
            assert now[name] == files[name], name
    for bus in (other, mmsb.open(third.path)):
        assert bus.verify(deep=True)
        assert bus.tree()["n"][0] == 4
        bus.close()
    acting.close()


def test_a_repair_leaves_what_is_shared(parent, tmp_path):
    fork = parent.fork(tmp_path / "fork.mmsb")
    fork.close()
    parent.snapshot()  # which a thread may be at
    before = state_of(parent.path)
    files = DiskFiles(fork.path)
    repaired = tmp_path / "repaired.mmsb"
    repair(files, "it", lambda part, is_newest: (DiskFiles(repaired), "new"), page_bytes=4096)
    assert state_of(parent.path) == before
    with mmsb.open(tmp_path / "repaired.mmsb") as bus:
        assert bus.tree()["n"][0] == 2


def test_a_log_that_was_shared_is_opened_after_a_crash_at_any_time(parent, tmp_path):
    """No file with several names is ever opened to be written: the next writer would refuse it."""
    parent.fork(tmp_path / "fork.mmsb").close()
    parent.commit(tree(4))
    parent.fork(tmp_path / "second.mmsb").close()
    copy = tmp_path / "copy.mmsb"
    shutil.copytree(parent.path, copy, copy_function=os.link)
    for file in copy.rglob("*"):  # of a machine that lost what was not synced: the own files are
        if file.is_file() and file.name in ("manifest", "lock", "lock.holder"):
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    newest = max(copy.glob("log/*.seg"))
    newest.unlink()
    shutil.copy2(max(parent.path.glob("log/*.seg")), newest)
    with mmsb.open(copy) as bus:
        bus.commit(tree(5))
        assert bus.verify(deep=True)


def test_segments_are_shared_as_soon_as_they_are_surely_durable(tmp_path):
    """A snapshot begins a segment before the one before it is synced."""
    with mmsb.open(tmp_path / "parent.mmsb") as bus:
        for number in range(3):
            bus.commit(tree(number))
        bus._session.engine.writer.rotate()
        with bus.fork(tmp_path / "fork.mmsb") as fork:
            assert shared(bus.path, fork.path)
    with mmsb.open(tmp_path / "parent.mmsb") as bus:
        bus.commit(tree(5))
        assert bus.verify(deep=True)


def test_a_segment_that_may_not_be_durable_is_copied(tmp_path):
    """After a crash the next writer of the log would have to write it again."""
    with mmsb.open(tmp_path / "parent.mmsb") as bus:
        for number in range(3):
            bus.commit(tree(number))
        bus._session.engine.writer.rotate()
        reader = mmsb.open(bus.path, mode="r")
        with reader, reader.fork(tmp_path / "fork.mmsb") as fork:
            assert not shared(bus.path, fork.path)
            assert fork.verify(deep=True)


def test_a_reader_shares_what_is_sealed(parent, tmp_path):
    parent.fork(tmp_path / "first.mmsb").close()
    parent.commit(tree(9))
    reader = mmsb.open(parent.path, mode="r")
    with reader, reader.fork(tmp_path / "fork.mmsb") as fork:
        assert shared(parent.path, fork.path)
        assert fork.tree()["n"][0] == 9
    parent.commit(tree(10))
    assert parent.verify(deep=True)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_where_no_link_can_be_made_it_is_copied(parent, tmp_path, monkeypatch, code):
    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with parent.fork(tmp_path / "fork.mmsb") as fork:
        assert not shared(parent.path, fork.path)
        assert fork.verify(deep=True)


def test_blocks_are_shared_where_the_file_system_can(parent, tmp_path, monkeypatch):
    asked = []

    def clone(target, request, source):
        asked.append(request)
        os.write(target, os.pread(source, os.fstat(source).st_size, 0))

    monkeypatch.setattr(fcntl, "ioctl", clone)
    with parent.fork(tmp_path / "fork.mmsb") as fork:
        assert set(asked) == {0x40049409}
        assert not shared(parent.path, fork.path)
        assert fork.verify(deep=True)


def test_a_file_that_was_replaced_meanwhile_is_not_linked(tmp_path):
    source, files = DiskFiles(tmp_path / "a"), DiskFiles(tmp_path / "b")
    source.publish("log/x.seg", [b"first"])
    source.read("log/x.seg")  # it is open
    DiskFiles(tmp_path / "a").publish("log/x.seg", [b"other"])
    files.share(source, "log/x.seg", 5)
    assert files.read("log/x.seg") == b"first"
    with pytest.raises(FileExistsError):
        files.share(source, "log/x.seg", 5)
    assert files.read("log/x.seg") == b"first"


def test_hundred_forks_take_little_and_one_that_compacts_leaves_the_others_whole(tmp_path):
    with mmsb.open(tmp_path / "parent.mmsb") as parent:
        parent.commit(tree(0))
        parent.fork(tmp_path / "0.mmsb").close()
        before = disk_bytes(parent.path)
        for i in range(1, 20):
            with parent.fork(tmp_path / f"{i}.mmsb") as fork:
                fork.write("n", np.full(4, i))
        paths = [tmp_path / f"{i}.mmsb" for i in range(20)]
        assert disk_bytes(parent.path, *paths) - before < 20 * 60_000
    with mmsb.open(paths[3]) as fork:
        fork.compact(keep_since=fork.version)
    for i, path in enumerate(paths):
        with mmsb.open(path) as fork:
            assert fork.verify()
            assert fork.tree()["n"][0] == i
