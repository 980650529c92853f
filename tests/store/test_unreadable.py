"""Reads that fail: the error says so, is never called damage, and nothing is different after it."""

import errno
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsb_jax._base.errors import CorruptionError, DeviceMemoryError, LocationError, MMSBError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import check_local, file_system_of
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.files.unreadable import unreadable
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.query.patches import patches_of
from mmsb_jax._store.state.state import StoredState
from mmsb_jax._store.transfer.stream import open_stream, write_joining_stream, write_stream
from mmsb_jax._store.writer.cleanup import leftovers
from mmsb_jax.testing._disk import READ_CALLS, Disk
from mmsb_jax.testing._faulty import Faults, FaultyFiles
from tests.store._compacted import write_story
from tests.store._logs import PAGE_BYTES, Scribe, names_of

ROOT = Path("/run")
PLACE = str(ROOT)
CODES = [errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOMEM]


@pytest.fixture(scope="module")
def story() -> dict[str, bytes]:
    """A compacted log with segments, indexes, snapshots, an archive and tags, file by file."""
    scribe = write_story()
    compact(scribe.writer, 7)
    scribe.patch("w", {3: 7}).commit(step=99, extra=b"extra")
    scribe.snapshot()
    scribe.patch("w", {4: 7}).commit(note="[1]")
    scribe.writer.append_tags({"newest": scribe.log.version})
    scribe.close()
    return {name: scribe.files.read(name) for name in names_of(scribe.files)}


def on_disk(story: dict[str, bytes]) -> Disk:
    disk = Disk(faults=Faults(kinds=READ_CALLS))
    files = DiskFiles(ROOT, disk)
    disk.mkdir(ROOT)
    for name, raw in story.items():
        files.publish(name, [raw])
    return disk


def arrays_of(log: Log, version: int) -> dict[str, bytes]:
    state = log.state(version, page_bytes=PAGE_BYTES)
    return {info.name: state.bytes_of(i).tobytes() for i, info in state.table.arrays.items()}


def forked(log: Log) -> list[str]:
    files = MemoryFiles()
    fork_log(log, log.version, files)
    return [name for name in names_of(files) if name.endswith(".snap")]


def joined(log: Log) -> dict[str, bytes]:
    """The state of who joins late: from the log's snapshot, or from one made where it cannot be."""
    with open_stream(b"".join(write_joining_stream(log, log.version, 0))) as stream:
        state, commits = stream.state()[0], list(stream.commits())
        for commit in commits[1:]:
            state.apply(commit.record, commit.chain, commit.chunks)
    return {info.name: state.bytes_of(i).tobytes() for i, info in state.table.arrays.items()}


READS: dict[str, Callable[[Log], Any]] = {
    "open": lambda log: (log.version, log.recovered, log.durable_version),
    "state": lambda log: arrays_of(log, log.version),
    "kept state": lambda log: arrays_of(log, log.kept[0]),
    "older state": lambda log: arrays_of(log, log.kept_since),
    "table": lambda log: log.table(log.version),
    "record": lambda log: [log.record(v).encode() for v in range(1, log.version + 1)],
    "row": lambda log: [log.row(v) for v in range(1, log.version + 1)],
    "extra": lambda log: [log.extra(v) for v in (*log.kept, log.kept_since, log.version - 1)],
    "name": lambda log: [log.name_of(i) for i in (1, 2)],
    "select": lambda log: list(log.select(array="w", source="")),
    "last": lambda log: log.last_with(step=99),
    "tags": lambda log: log.tags(),
    "patches": lambda log: [p.indices.tolist() for p in patches_of(log, log.version)],
    "ops": lambda log: log.versions_with_ops(),
    "export": lambda log: b"".join(write_stream(log, log.kept_since, log.version)),
    "joining": joined,
    "refresh": lambda log: (log.refresh(), log.version)[1],
    "leftovers": lambda log: leftovers(log.files, log.manifest),
    "fork": forked,
}


def answer(read: Callable[[], Any]) -> tuple[Any, LocationError | None]:
    """What a read gives, or why it cannot; any other error is the test's end."""
    try:
        return read(), None
    except LocationError as error:
        return None, error


@pytest.mark.parametrize("code", [*CODES, errno.EINTR], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", READS)
def test_read_whose_nth_call_fails_gives_the_right_thing_or_says_so(name: str, code: int, story):
    disk = on_disk(story)
    expected = READS[name](Log(DiskFiles(ROOT, disk), PLACE))
    disk.faults.code = code
    failed = refused = 0
    while True:
        disk.faults.arm(failed)
        files = DiskFiles(ROOT, disk)
        found, error = answer(lambda files=files: READS[name](Log(files, PLACE)))
        if error is None:
            assert found == expected
        else:
            assert error.errno == code
            assert re.search(r"/run.* could not be read: ", str(error))
            refused += 1
        if not disk.faults.failed:
            break
        failed += 1
        disk.faults.disarm()
        files.close()
    assert failed > 5
    assert (refused > 0) == (code != errno.EINTR)


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_reader_goes_on_once_the_calls_no_longer_fail(code: int, story):
    disk = on_disk(story)
    log = Log(DiskFiles(ROOT, disk), PLACE)
    disk.faults.code = code
    for name, read in READS.items():
        if name in ("open", "leftovers"):
            continue
        log.files.close()
        disk.faults.arm(0, 10**9)
        error = answer(lambda read=read: read(log))[1]
        assert error is None or error.errno == code
        disk.faults.disarm()
        assert read(log) == read(Log(DiskFiles(ROOT, disk), PLACE))


class Refusing:
    """A file layer that cannot read some files, as `DiskFiles` says it."""

    def __init__(self, inner: Files, end: str, code: int) -> None:
        self.inner, self._end, self._code = inner, end, code
        self.names, self.close = inner.names, inner.close

    def _check(self, name: str) -> None:
        if name.endswith(self._end):
            raise unreadable(OSError(self._code, os.strerror(self._code)), name)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        self._check(name)
        return self.inner.read(name, offset, size)

    def size(self, name: str) -> int:
        self._check(name)
        return self.inner.size(name)


def in_memory(story: dict[str, bytes]) -> MemoryFiles:
    files = MemoryFiles()
    for name, raw in story.items():
        files.publish(name, [raw])
    return files


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_snapshots_that_cannot_be_read_are_not_called_missing_or_damaged(code: int, story):
    files = in_memory(story)
    log = Log(files, PLACE)
    log.files = Refusing(files, ".snap", code)  # type: ignore[assignment]
    for read in (
        lambda: log.state(log.kept_since),
        lambda: log.extra(log.kept[0]),
        lambda: log.name_of(1),
    ):
        log._names.clear()
        log._named_through = 0
        with pytest.raises(LocationError, match="could not be read") as error:
            read()
        assert error.value.errno == code
    with pytest.raises(LocationError, match="could not be read"):
        Log(Refusing(files, ".snap", code), PLACE)  # type: ignore[arg-type]


def test_snapshot_that_cannot_be_read_is_passed_over_where_the_commits_are_there():
    scribe = Scribe()
    scribe.create("w", (4,)).patch("w", {0: 1}).commit()
    scribe.snapshot()
    scribe.patch("w", {1: 1}).commit()
    log = Log(scribe.files, PLACE)
    expected = arrays_of(log, 2)
    log.files = Refusing(scribe.files, ".snap", errno.EIO)  # type: ignore[assignment]
    assert arrays_of(log, 2) == expected


def test_tail_that_a_snapshot_covers_is_not_left_out_where_the_snapshot_cannot_be_read():
    """What it says of durability is all that tells the damage from a torn tail."""
    scribe = Scribe()
    scribe.create("w", (4,)).commit()
    scribe.patch("w", {0: 1}).commit()
    scribe.snapshot(rotate=False)
    (name,) = scribe.files.names("log")
    whole = scribe.files.read(name)
    scribe.files.publish(name, [whole[:-64]])
    with pytest.raises(CorruptionError, match="is damaged at byte"):
        Log(scribe.files, PLACE)
    for code in CODES:
        with pytest.raises(LocationError, match="could not be read"):
            Log(Refusing(scribe.files, ".snap", code), PLACE)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [".seg", ".arc", ".snap", "manifest"])
def test_file_that_is_missing_is_named(end: str, story):
    files = in_memory(story)
    log = Log(files, PLACE)
    for name in [name for name in names_of(files) if name.endswith(end)]:
        files.remove(name)
    reads = {
        ".seg": lambda: log.find(log.version),
        ".arc": lambda: log.record(1),
        ".snap": lambda: log.extra(log.kept[0]),
        "manifest": lambda: Manifest.read(files, PLACE),
    }
    with pytest.raises(MMSBError, match=rf"{end} is missing|missing|has no manifest"):
        reads[end]()


# What is left open by an open that failed


class System:
    """The real system, but for the Nth of its calls that read."""

    def __init__(self, fail_at: int) -> None:
        self.left = fail_at

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in READ_CALLS:
            return call

        def counted(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*arguments)

        return counted


def test_open_that_failed_at_any_call_leaves_no_descriptor_open(story, tmp_path):
    files = DiskFiles(tmp_path)
    for name, raw in story.items():
        files.publish(name, [raw])
    files.close()
    failed = 0
    gc.collect()  # what tests before this have left open
    before = len(os.listdir("/proc/self/fd"))
    while True:
        system = System(failed)
        files = DiskFiles(tmp_path, system)
        log, error = answer(lambda files=files: Log(files, str(tmp_path)))  # the error is kept
        if error is not None:
            assert len(os.listdir("/proc/self/fd")) == before
        elif system.left >= 0:
            break
        failed += 1
        del log
        files.close()
    assert failed > 5


# The first error is the one that is told


class Closing:
    """The real system, where what follows a failure fails as well."""

    def __init__(self, failing: str) -> None:
        self._failing, self.has_failed = failing, False

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)

        def answer(*arguments: Any) -> Any:
            if name == self._failing:
                self.has_failed = True
                raise OSError(errno.ENOSPC, "first")
            if self.has_failed and name in ("close", "unlink"):
                call(*arguments)
                raise OSError(errno.EIO, "second")
            return call(*arguments)

        return answer


@pytest.mark.parametrize("call", ["writev", "fdatasync", "fsync", "replace"])
def test_publish_that_fails_twice_tells_of_the_first_failure(tmp_path, call: str):
    with pytest.raises(OSError, match="first"):
        DiskFiles(tmp_path, Closing(call)).publish("a", [b"x"])


@pytest.mark.parametrize("call", ["pread", "pwrite"])
def test_rewrite_that_fails_twice_tells_of_the_first_failure(tmp_path, call: str):
    DiskFiles(tmp_path).publish("a", [b"x"])
    with pytest.raises(OSError, match="first"):
        DiskFiles(tmp_path, Closing(call)).rewrite("a", 0)


# Memory


def refuse_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError


def test_memory_that_is_refused_to_a_read_is_named(tmp_path, monkeypatch):
    files = DiskFiles(tmp_path)
    files.publish("log/a", [b"x" * 100])
    monkeypatch.setattr(os, "pread", refuse_memory)
    with pytest.raises(DeviceMemoryError, match=r"log/a: 100 bytes are needed"):
        files.read("log/a")


@pytest.mark.parametrize(
    "place", ["encoding.group.decompress", "format.frame.check_data", "state.state.decode_all"]
)
def test_memory_that_is_refused_to_a_state_is_named(place: str, monkeypatch):
    scribe = Scribe()
    scribe.create("w", (300_000,)).write("w", np.full(300_000, 3, np.float32)).commit()
    scribe.create("v", (300_000,)).write("v", np.random.default_rng(0).random(150_000)).commit()
    monkeypatch.setattr(f"mmsb_jax._store.{place}", refuse_memory)
    with pytest.raises(DeviceMemoryError, match=r"what is read of the log: .* no more memory"):
        scribe.log.state(2)
    with pytest.raises(DeviceMemoryError, match=r"the state at version 2: .* no more memory"):
        scribe.log.advance(StoredState(scribe.log.manifest.ids.own), 2)


def test_memory_that_is_refused_to_a_commit_or_snapshot_is_named(monkeypatch):
    scribe = Scribe()
    scribe.create("w", (5000,)).create("x", (9,)).commit()
    monkeypatch.setattr("mmsb_jax._store.encoding.group.compress", refuse_memory)
    with pytest.raises(DeviceMemoryError, match=r"of 2 arrays of 20,036 bytes: .* no more memory"):
        scribe.write("w", b"\1" * 20_000).write("x", np.ones(9, "f4")).commit()
    with pytest.raises(DeviceMemoryError, match=r"of an array of 20,000 bytes: .* no more memory"):
        scribe.write("w", np.ones(5000, "f4")).commit()
    scribe.create("v", (50_000,))
    with pytest.raises(DeviceMemoryError, match=r"of an array of 200,000 bytes: .* no more memory"):
        scribe.write("v", np.arange(50_000, dtype="f4")).commit()


# The place


@pytest.mark.parametrize("path", ["", "a\0b", "~no-such-user-at-all/x"])
def test_path_that_is_none_is_refused(path):
    with pytest.raises(LocationError, match=r"is no path|holds a zero character"):
        check_local(path)


@pytest.mark.parametrize("path", [b"", b"a\0b", b"log"])
def test_path_of_bytes_is_refused_since_bytes_are_a_stream_elsewhere(path):
    with pytest.raises(TypeError, match=r"expected a path as a string or a Path"):
        check_local(path)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO], ids=errno.errorcode.get)
def test_file_system_that_cannot_be_asked_for_is_not_taken_for_a_local_one(code, monkeypatch):
    def refuse(self: Path) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(LocationError, match="/proc/self/mounts could not be read"):
        file_system_of(Path("/"))


def test_layer_with_faults_fails_as_the_real_one():
    files = FaultyFiles(MemoryFiles(), Faults(0, code=errno.EMFILE, kinds=frozenset({"read"})))
    with pytest.raises(LocationError, match=r"too many files open\. Close readers") as error:
        files.read("a")
    assert error.value.errno == errno.EMFILE
