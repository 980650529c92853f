"""Commits that hold digests alone: what the log gives of them, and what goes on around them."""

import numpy as np
import pytest

from mmsb_jax._base.errors import VersionError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.names import LOG_FOLDER
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.query.diff import diff_versions
from mmsb_jax._store.query.patches import patches_of
from mmsb_jax._store.transfer.import_ import take_in
from mmsb_jax._store.transfer.stream import open_stream, write_joining_stream, write_stream
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, check_state
from tools import format_reader

SAVED = (1, 4, 5, 9)


def story(files: Files | None = None) -> Scribe:
    """Versions 1, 4, 5 and 9 have bytes; 10 and 11 come behind."""
    w, b = np.linspace(-1, 1, 96, dtype=np.float32), np.arange(5, dtype=np.int8)
    scribe = Scribe(files)
    scribe.create("w", (96,)).create("b", (5,), np.int8).create("still", (70,))
    scribe.write("w", w).write("b", b).commit(0, note='{"loss":3}', extra=b"zero")
    scribe.digests({"w": w + 1}, 1, note='{"loss":2}', extra=b"one")
    scribe.digests({"w": w + 2, "b": b + 1}, 2)
    scribe.write("w", w + 3).commit(3)
    scribe.write("b", b + 4).commit(4, extra=b"four")
    for step in (5, 6, 7):
        with_nan = np.where(np.arange(96) < step - 4, np.nan, w).astype(np.float32)
        scribe.digests({"w": with_nan}, step)
    scribe.patch("w", {3: 7}).commit(8)
    scribe.digests({"b": b}, 9)
    scribe.digests({}, 10)
    return scribe


def prefix(scribe: Scribe, version: int) -> MemoryFiles:
    """The log as it was when that version was the newest."""
    files = MemoryFiles()
    for folder in ("", LOG_FOLDER):
        for name in scribe.files.names(folder):
            files.publish(name, [scribe.files.read(name)])
    (name,) = [name for name in files.names(LOG_FOLDER) if name.endswith(".seg")]
    files.publish(name, [files.read(name)[: scribe.log.end_of(version)]])
    return files


def copied(scribe: Scribe, version: int) -> Files:
    files = MemoryFiles()
    fork_log(scribe.log, version, files)
    return files


def test_every_version_is_what_it_was_or_is_refused():
    scribe = story()
    check_log(scribe.log, scribe.history)
    assert verify(scribe.log)
    assert verify(scribe.log, deep=True)
    scribe.close()
    again = Log(scribe.files, PLACE)
    check_log(again, scribe.history)
    assert [v for v in range(1, 12) if again.is_saved(v)] == list(SAVED)


@pytest.mark.parametrize(
    ("version", "nearest"), [(2, "1 and 4"), (3, "1 and 4"), (7, "5 and 9"), (11, "9;|9\\.")]
)
def test_refusal_names_the_nearest_on_both_sides(version, nearest):
    log = story().log
    calls = {
        "state": lambda: log.state(version),
        "fork": lambda: fork_log(log, version, MemoryFiles()),
        "diff": lambda: diff_versions(log, version, 1),
        "diff to": lambda: diff_versions(log, 1, version),
        "patches": lambda: next(patches_of(log, version)),
    }
    for call in calls.values():
        with pytest.raises(VersionError, match=f"version {version} holds a digest only.*{nearest}"):
            call()


@pytest.mark.parametrize("version", range(1, 12))
def test_a_log_that_ends_anywhere_goes_on(version):
    whole = story()
    scribe = Scribe(prefix(whole, version), history=whole.history[: version + 1])
    saved = max(v for v in SAVED if v <= version)
    assert scribe.head.state.table.saved_version == saved
    assert scribe.log.last_saved(version) == saved
    check_state(scribe.head.state, whole.history[version])
    scribe.digests({"w": np.zeros(96, np.float32)}, 70)
    scribe.patch("w", {0: 200}).patch("b", {1: 9}).commit(71)
    check_log(scribe.log, scribe.history)
    assert verify(scribe.log)


def test_saved_commits_have_the_digest_of_their_bytes():
    """As in a log that never had a commit without bytes."""
    scribe, other = story(), Scribe()
    w, b = np.linspace(-1, 1, 96, dtype=np.float32), np.arange(5, dtype=np.int8)
    other.create("w", (96,)).create("b", (5,), np.int8).create("still", (70,))
    other.write("w", w).write("b", b).commit()
    other.write("w", w + 3).commit()
    other.write("b", b + 4).commit()
    other.patch("w", {3: 7}).commit()
    expected = [other.log.record(v).state_digest for v in range(1, 5)]
    assert [scribe.log.record(v).state_digest for v in SAVED] == expected
    assert scribe.log.record(11).state_digest == scribe.log.record(10).state_digest
    assert scribe.log.record(10).state_digest != expected[-1]


def test_patches_lead_from_saved_to_saved():
    scribe = story()
    (patch,) = patches_of(scribe.log, 4)
    assert patch.name == "w"
    (patch,) = patches_of(scribe.log, 9)
    assert patch.name == "w"
    assert patch.indices.tolist() == [0]


def test_extra_and_step_of_a_version_without_bytes_are_in_force():
    log = story().log
    assert log.extra(2)[0] == b"one"
    assert log.record(3).step == 2


@pytest.mark.parametrize("keep_since", range(1, 12))
def test_compaction_rounds_down_to_what_it_can_keep(keep_since, tmp_path):
    scribe = story(DiskFiles(tmp_path))
    report = compact(scribe.writer, keep_since)
    before = [v for v in SAVED if v < keep_since]
    since = before[-1] + 1 if before else 1
    assert report.keep_since == since
    for version in range(1, 12):
        saved = scribe.history[version].saved
        if version >= since - 1 and saved:
            check_state(scribe.log.state(version, page_bytes=PAGE_BYTES), scribe.history[version])
        else:
            with pytest.raises(VersionError):
                scribe.log.state(version)
    assert verify(scribe.log)
    scribe = scribe.reopen()
    scribe.patch("w", {0: 200}).commit(71)
    check_state(scribe.log.state(12, page_bytes=PAGE_BYTES), scribe.history[12])
    assert scribe.log.record(3).step == 2
    assert verify(scribe.log)
    states = list(format_reader.ReadLog(tmp_path).states())
    assert [state is not None for state in states] == [
        scribe.history[v].saved for v in range(since, 13)
    ]


@pytest.mark.parametrize("version", SAVED)
def test_a_fork_goes_on_behind_what_has_bytes(version):
    scribe = story()
    fork = Scribe(copied(scribe, version), history=scribe.history[: version + 1])
    fork.digests({"w": np.ones(96, np.float32)}, 20)
    fork.patch("w", {0: 200}).commit(21)
    check_log(fork.log, fork.history)


def test_a_stream_carries_them_and_a_late_join_begins_with_bytes():
    scribe = story()
    files = MemoryFiles()
    other = Scribe(files)
    with open_stream(b"".join(write_stream(scribe.log, 0, 11))) as stream:
        take_in(other.head, stream)
    check_log(other.log, scribe.history)
    assert other.log.chain_after(11) == scribe.log.chain_after(11)
    other.history[:] = scribe.history
    other._next = scribe._next
    other.patch("w", {0: 200}).commit(21)
    check_log(other.log, other.history)
    scribe.snapshot()
    late = Scribe()
    with open_stream(b"".join(write_joining_stream(scribe.log, 11, 0))) as stream:
        take_in(late.head, stream)
    assert late.log.first_version == 9
    check_state(late.log.state(9, page_bytes=PAGE_BYTES), scribe.history[9])
    assert late.log.version == 11
    assert verify(late.log)


def test_a_snapshot_is_of_the_newest_with_bytes():
    scribe = story()
    assert scribe.snapshot()
    assert scribe.log.snapshots() == [9]
    scribe.close()
    log = Log(scribe.files, PLACE)
    check_log(log, scribe.history)
    assert log.head(PAGE_BYTES).table == scribe.head.state.table
    assert verify(log)


def test_the_index_is_the_same_when_it_is_made_anew():
    scribe = story()
    scribe.snapshot()
    scribe.close()
    (index,) = [name for name in scribe.files.names(LOG_FOLDER) if name.endswith(".idx")]
    scribe.files.remove(index)
    log = Log(scribe.files, PLACE)
    assert [v for v in range(1, 12) if log.is_saved(v)] == list(SAVED)


@pytest.mark.parametrize("field", ["lane0", "nonfinite", "id"])
def test_a_digest_that_is_wrong_is_found(field, monkeypatch):
    scribe = story()
    encode = type(scribe.log.record(2)).encode

    def forged(record):
        if record.version == 12:
            record.digests = record.digests.copy()
            record.digests[field] += 90
        return encode(record)

    with monkeypatch.context() as patch:
        patch.setattr(type(scribe.log.record(2)), "encode", forged)
        if field == "id":
            with pytest.raises(Exception, match="array 91, which is not there"):
                scribe.digests({"w": np.ones(96, np.float32)})
        else:
            scribe.digests({"w": np.ones(96, np.float32)})
    if field != "id":
        report = verify(Log(prefix(scribe, 12), PLACE))
        assert bool(report) == (field == "nonfinite")


def test_reader_written_from_the_page_passes_over_them(tmp_path):
    scribe = story(DiskFiles(tmp_path))
    scribe.close()
    log = format_reader.ReadLog(tmp_path)
    states = list(log.states())
    assert [version for version, state in enumerate(states, 1) if state] == list(SAVED)
    (nan,) = [commit.digests[1][2] for commit in log.commits if commit.version == 8]
    assert nan == 3
