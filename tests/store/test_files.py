"""Both file layers behave alike; what only a disk has is below."""

import os
import threading

import pytest

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files import disk
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from tests.store._script import run_script


@pytest.fixture(params=["memory", "disk"])
def files(request, tmp_path):
    return MemoryFiles() if request.param == "memory" else DiskFiles(tmp_path / "new" / "log")


def test_appended_buffers_are_read_back(files):
    handle = files.create("log/a")
    handle.append([b"one", memoryview(b"two"), b"", bytearray(b"three")])
    handle.sync()
    handle.append([b"!"])
    handle.close()
    handle.close()
    assert files.read("log/a") == b"onetwothree!"
    assert files.read("log/a", 3, 3) == b"two"
    assert files.read("log/a", 10, 99) == b"e!"
    assert files.read("log/a", 99, 5) == files.read("log/a", 99) == b""
    assert files.size("log/a") == 12
    again = files.reopen("log/a")
    again.append([b"?"])
    assert files.read("log/a", 11) == b"!?"


def test_more_buffers_than_a_system_call_takes_are_appended(files):
    parts = [bytes([i % 256]) * (i % 3) for i in range(2000)]
    files.create("a").append(parts)
    assert files.read("a") == b"".join(parts)


def test_truncated_file_goes_on_at_its_new_end(files):
    handle = files.create("a")
    handle.append([b"abcdef"])
    handle.truncate(2)
    handle.append([b"X"])
    assert files.read("a") == b"abX"


def test_create_of_a_file_that_exists_is_refused(files):
    files.create("a").close()
    with pytest.raises(FileExistsError):
        files.create("a")


@pytest.mark.parametrize("call", ["read", "size", "reopen"])
def test_file_that_is_not_there_is_refused(files, call):
    files.create("a").close()
    with pytest.raises(FileNotFoundError, match="none"):
        getattr(files, call)("none")


def test_published_file_replaces_the_one_before(files):
    files.publish("f/a", [b"long content"])
    assert files.read("f/a") == b"long content"
    files.publish("f/a", [b"new", b"er"])
    assert files.read("f/a") == b"newer"
    assert files.names("f") == ["f/a"]


def test_names_are_those_of_one_folder_in_order(files):
    for name in ("log/b", "log/a", "snapshots/c", "manifest"):
        files.publish(name, [b""])
    assert files.names("log") == ["log/a", "log/b"]
    assert files.names("none") == []


def test_removed_file_is_gone_and_need_not_have_been(files):
    files.publish("a", [b"x"])
    assert files.read("a") == b"x"
    files.remove("a")
    files.remove("a")
    with pytest.raises(FileNotFoundError):
        files.read("a")


@pytest.mark.parametrize("source_kind", ["memory", "disk"])
def test_copied_file_has_the_first_bytes_of_its_source(files, source_kind, tmp_path):
    source = MemoryFiles() if source_kind == "memory" else DiskFiles(tmp_path / "source")
    content = os.urandom(100_000)
    source.publish("log/a", [content])
    files.copy(source, "log/a", 70_001)
    assert files.read("log/a") == content[:70_001]
    files.create("log/b").close()


def test_files_read_while_they_grow_are_whole(files):
    handle, stop, faults = files.create("a"), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                raw = files.read("a")
                assert raw == b"0123456789" * (len(raw) // 10) + b"0123456789"[: len(raw) % 10]
            except BaseException as error:
                faults.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2000):
        handle.append([b"0123456789"])
    stop.set()
    reader.join()
    assert faults == []
    assert files.size("a") == 20_000


# A disk alone.


def test_disk_keeps_few_files_open(tmp_path):
    files = DiskFiles(tmp_path)
    for i in range(100):
        files.publish(f"log/{i}", [bytes([i])])
    before = len(os.listdir("/proc/self/fd"))
    for i in range(100):
        assert files.read(f"log/{i}") == bytes([i])
    assert len(os.listdir("/proc/self/fd")) - before <= disk._OPEN_READERS
    files.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_disk_does_not_follow_links(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "log" / "a").symlink_to(tmp_path / "secret")
    files = DiskFiles(tmp_path)
    assert files.names("log") == []
    for call in (files.read, files.reopen):
        with pytest.raises(OSError, match="symbolic links"):
            call("log/a")


def test_disk_draft_left_behind_is_replaced(tmp_path):
    files = DiskFiles(tmp_path)
    (tmp_path / "manifest.draft").write_bytes(b"an earlier try")
    files.publish("manifest", [b"whole"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest"]
    assert files.read("manifest") == b"whole"


@pytest.mark.parametrize("call", ["fdatasync", "replace", "writev"])
def test_disk_publish_that_fails_leaves_the_file_before_and_no_draft(tmp_path, monkeypatch, call):
    files = DiskFiles(tmp_path)
    files.publish("manifest", [b"before"])
    fail(monkeypatch, call)
    with pytest.raises(OSError, match="failed"):
        files.publish("manifest", [b"after"])
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]
    assert files.read("manifest") == b"before"


@pytest.mark.parametrize("call", ["fdatasync", "writev"])
def test_disk_copy_that_fails_leaves_nothing(tmp_path, monkeypatch, call):
    source, files = MemoryFiles(), DiskFiles(tmp_path)
    source.publish("a", [b"content"])
    fail(monkeypatch, call)
    with pytest.raises(OSError, match="failed"):
        files.copy(source, "a", 7)
    assert list(tmp_path.iterdir()) == []


def fail(monkeypatch, call: str) -> None:
    def raise_error(*_args):
        raise OSError(5, "failed")

    monkeypatch.setattr(os, call, raise_error)


@pytest.mark.parametrize("answer", ["error", "zero"])
def test_disk_copy_goes_on_by_reading_where_blocks_cannot_be_shared(tmp_path, monkeypatch, answer):
    def refuse(*_args):
        if answer == "error":
            raise OSError(95, "not supported")
        return 0

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source, files = DiskFiles(tmp_path / "a"), DiskFiles(tmp_path / "b")
    source.publish("f", [bytes(range(256)) * 100])
    files.copy(source, "f", 20_000)
    assert files.read("f") == source.read("f", 0, 20_000)


def test_disk_copy_of_more_than_there_is_is_refused(tmp_path):
    source, files = DiskFiles(tmp_path / "a"), DiskFiles(tmp_path / "b")
    source.publish("f", [b"x" * 100])
    with pytest.raises(OSError, match="ends 1 bytes before it should"):
        files.copy(source, "f", 101)
    assert files.names(".") == []


def test_disk_syncs_a_new_file_with_its_folders(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    handle = DiskFiles(tmp_path).create("log/a")
    assert synced == [str(tmp_path)]  # the folder is new as well
    handle.append([b"x"])
    handle.sync()
    handle.sync()
    assert synced == [str(tmp_path), str(tmp_path / "log")]


def test_disk_error_of_a_read_names_the_file(tmp_path, monkeypatch):
    files = DiskFiles(tmp_path)
    files.publish("log/a", [b"x"])
    fail(monkeypatch, "pread")
    with pytest.raises(LocationError, match=r"/log/a could not be read: Input/output error") as e:
        files.read("log/a")
    assert e.value.errno == 5


def test_disk_write_cut_short_by_the_system_is_an_error(tmp_path):
    """A real short write: the process may not make files of more than 10,000 bytes."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from mmsb_jax._base.errors import LocationError
        from mmsb_jax._store.files.disk import DiskFiles
        from mmsb_jax._store.log.log import Log
        from tests.store._logs import Scribe, check_log, check_state

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        scribe = Scribe(DiskFiles(Path(sys.argv[1])))
        scribe.create("w", (2,)).commit()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        failed = 0
        while not failed:
            try:
                scribe.patch("w", {0: scribe.log.version % 250 + 1}).commit()
            except LocationError:
                failed += 1
        check_state(scribe.head.state, scribe.history[-1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        scribe.patch("w", {1: 99}).commit()
        scribe.close()
        check_log(Log(DiskFiles(Path(sys.argv[1])), "the log"), scribe.history)
        print("whole", scribe.log.version > 10)
    """
    assert run_script(code, tmp_path) == "whole True\n"


def test_disk_syncs_the_folders_of_a_file_that_another_process_made(tmp_path, monkeypatch):
    """It may have died between the making of the file, or of the manifest, and their sync."""
    DiskFiles(tmp_path).create("log/a").close()
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    handle = DiskFiles(tmp_path).reopen("log/a")
    handle.sync()
    handle.sync()
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "log")]
