"""Streams: commits from one log into another, checked whole, with their chain and digests."""

import errno
import os

import numpy as np
import pytest
import xxhash

from mmsb_jax._base.errors import (
    CorruptionError,
    DivergenceError,
    FormatError,
    LocationError,
    StructureError,
    VersionError,
)
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.chain import OPEN
from mmsb_jax._store.format.frame import FORMAT_VERSION, HEADER_BYTES, Header
from mmsb_jax._store.format.names import snapshot_name
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.transfer.import_ import Intake, join, take
from mmsb_jax._store.transfer.stream import (
    open_stream,
    write_file,
    write_joining_stream,
    write_stream,
)
from mmsb_jax._store.writer.create import create_log
from mmsb_jax._store.writer.writer import LogWriter
from mmsb_jax.testing._faulty import Faults, FaultyFiles
from tests.store._logs import PAGE_BYTES, PLACE, Here, Scribe, check_log, check_state, names_of
from tools import format_reader as reader

TIME_NS = 1_800_000_000_000_000_000


def sender(versions: int = 7) -> Scribe:
    """Commits of every kind: sparse, dense, of many frames, operations, constants, extra."""
    scribe = Scribe()
    scribe.create("w", (4000,)).create("large", (300_000,)).constant("act", "f:jax.nn.relu")
    scribe.commit(step=1, source="init", note='{"a":1}')
    rng = np.random.default_rng(0)

    def held(name: str) -> int:
        return len(scribe.history[-1].arrays[name].content)

    for i in range(2, versions + 1):
        match i % 5:
            case 0:
                scribe.write("large", rng.bytes(1_200_000))
            case 1:
                scribe.patch("w", {int(p): 1 + i for p in rng.integers(0, 15_000, 50)})
            case 2:
                scribe.create(f"made{i}", (i, 3), "int8").write("w", rng.bytes(held("w")))
            case 3:
                scribe.resize("w", (4000 - i,)).constant("name", f"s:{i}")
            case 4:
                scribe.patch("large", {int(p): i for p in rng.integers(0, 1_200_000, 300)})
        scribe.commit(step=i, extra=b"x" * i)
    return scribe


class Receiver:
    """A log that takes streams in, as a bus does."""

    def __init__(self, files: MemoryFiles | FaultyFiles | None = None) -> None:
        self.files = MemoryFiles() if files is None else files
        if "manifest" not in getattr(self.files, "inner", self.files)._files:
            create_log(self.files, PAGE_BYTES)
        self.log = Log(self.files, "the copy")
        self.writer = LogWriter(self.log)
        state = self.log.state(self.log.version, page_bytes=PAGE_BYTES)
        self.head = Head(state, self.writer, PAGE_BYTES, lambda: Here())

    def take(self, raw: bytes) -> list[int]:
        """Take a stream in; returns the versions that are new."""
        with open_stream(raw) as stream:
            intake = Intake.of(stream, self.log)
            intake.open(self.log, self.writer)
            first = [stream.head.since + 1] if intake.joins else []
            if intake.joins:
                join(self.head, intake)
            return first + [take(self.head, c, "the stream").version for c in intake.commits()]

    def close(self) -> "Receiver":
        self.writer.close()
        return self

    def reopen(self) -> "Receiver":
        return Receiver(self.close().files)


def stream_of(scribe: Scribe, since: int = 0, until: int | None = None) -> bytes:
    until = scribe.log.version if until is None else until
    return b"".join(write_stream(scribe.log, since, until))


def joining_stream(scribe: Scribe) -> bytes:
    return b"".join(write_joining_stream(scribe.log, scribe.log.version, TIME_NS))


def check_same(receiver: Receiver, scribe: Scribe, since: int = 1) -> None:
    """The receiver has the sender's states, commits, chain and digests, here and reopened."""
    check_state(receiver.head.state, scribe.history[-1])
    assert receiver.log.scan.chain == scribe.log.scan.chain
    opened = Log(receiver.files, PLACE)
    assert (opened.version, opened.recovered) == (scribe.log.version, [])
    for version in range(since, opened.version + 1):
        check_state(opened.state(version, page_bytes=PAGE_BYTES), scribe.history[version])
        assert opened.record(version).state_digest == scribe.log.record(version).state_digest
    report = verify(opened)
    assert report, str(report)


@pytest.mark.parametrize("cuts", [(12,), (3, 12), (1, 2, 5, 8, 12), (0, 12)], ids=str)
def test_stream_taken_in_pieces_gives_the_senders_log(cuts):
    scribe, receiver, since = sender(12), Receiver(), 0
    for until in cuts:
        new = receiver.take(stream_of(scribe, since, until))
        assert new == list(range(since + 1, until + 1))
        receiver, since = receiver.reopen(), until
    check_same(receiver, scribe)
    check_log(Log(receiver.files, PLACE), scribe.history)


def test_stream_repeated_reordered_or_overlapping_is_skipped_where_it_is_known():
    scribe, receiver = sender(10), Receiver()
    assert receiver.take(stream_of(scribe, 0, 6)) == [1, 2, 3, 4, 5, 6]
    before = {name: receiver.files.read(name) for name in names_of(receiver.files)}
    for since, until in ((0, 6), (2, 5), (5, 5), (0, 0), (6, 6)):
        assert receiver.take(stream_of(scribe, since, until)) == []
    assert {name: receiver.files.read(name) for name in names_of(receiver.files)} == before
    assert receiver.take(stream_of(scribe, 3)) == [7, 8, 9, 10]
    check_same(receiver, scribe)


def test_stream_with_a_gap_is_refused_with_the_versions_that_are_missing():
    scribe, receiver = sender(8), Receiver()
    receiver.take(stream_of(scribe, 0, 2))
    with pytest.raises(VersionError, match=r"versions 3 to 5 are missing .*since=2"):
        receiver.take(stream_of(scribe, 5))
    with pytest.raises(VersionError, match="version 3 is missing"):
        receiver.take(stream_of(scribe, 3))
    assert receiver.log.version == 2


def test_stream_of_another_history_is_refused_with_the_first_version_that_differs():
    scribe = sender(5)
    target = MemoryFiles()
    fork_log(scribe.log, 3, target)
    other = Scribe(target, history=scribe.history[:4])
    for i in range(4):
        other.patch("w", {i: 9}).commit()
    receiver = Receiver()
    receiver.take(stream_of(scribe))
    with pytest.raises(DivergenceError, match="differ from version 4 on"):
        receiver.take(stream_of(other))
    with pytest.raises(DivergenceError, match="differ from version 5 or before on"):
        receiver.take(stream_of(other, 5))
    check_same(receiver, scribe)


def test_own_commit_after_a_stream_ends_what_can_be_taken_in():
    scribe, receiver = sender(6), Receiver()
    receiver.take(stream_of(scribe, 0, 4))
    assert receiver.log.manifest.ids.lineage == ((scribe.log.manifest.ids.own, OPEN),)
    own = Scribe(receiver.close().files, history=scribe.history[:5])
    own.patch("w", {0: 77}).commit(source="own")
    own.snapshot()
    own.close()
    log = Log(receiver.files, PLACE)
    assert log.manifest.ids.lineage == ((scribe.log.manifest.ids.own, 4),)
    assert log.record(5).log_id == log.manifest.ids.own
    check_log(log, own.history)
    assert verify(log)
    with pytest.raises(DivergenceError, match="from version 5 on"):
        Receiver(receiver.files).take(stream_of(scribe))


def test_stream_goes_on_through_a_log_that_took_it_in_and_wrote_its_own():
    first, middle, last = sender(4), Receiver(), Receiver()
    middle.take(stream_of(first))
    scribe = Scribe(middle.close().files, history=first.history)
    last.take(stream_of(scribe, 0, 2))
    scribe.patch("w", {1: 8}).commit()
    last.take(stream_of(scribe, 2))
    scribe.patch("w", {2: 8}).commit()
    last = last.reopen()
    last.take(stream_of(scribe, 5))
    check_same(last, scribe)
    ids = last.log.manifest.ids
    assert [last for _, last in ids.lineage] == [4, OPEN]
    back = Receiver(first.close().files)  # the first takes in what the second wrote
    back.take(stream_of(scribe, 4))
    check_same(back, scribe)


def test_fork_of_a_log_that_took_a_stream_in_is_whole():
    scribe, receiver = sender(6), Receiver()
    receiver.take(stream_of(scribe))
    for version in (6, 3):
        target = MemoryFiles()
        fork_log(receiver.log, version, target)
        log = Log(target, PLACE)
        check_log(log, scribe.history[: version + 1])
        assert verify(log)
        fork = Scribe(target, history=scribe.history[: version + 1])
        fork.patch("large", {5: 5}).commit()
        fork.snapshot()
        fork.close()
        check_log(Log(target, PLACE), fork.history)


@pytest.mark.parametrize("snapshots", [(), (3,), (3, 7)], ids=str)
def test_empty_log_joins_late_and_goes_on(snapshots):
    scribe = Scribe()
    scribe.create("w", (400,)).create("never", (3,)).commit()
    for i in range(2, 8):
        scribe.patch("w", {i: i}).commit(extra=b"e", note='{"n":1}')
        if i in snapshots:
            scribe.snapshot()
    since = max(snapshots, default=7)
    receiver = Receiver()
    assert receiver.take(joining_stream(scribe)) == list(range(since, 8))
    check_same(receiver, scribe, since)
    scribe.patch("w", {9: 9}).commit()
    receiver = receiver.reopen()
    assert receiver.take(stream_of(scribe, 7)) == [8]
    assert receiver.take(joining_stream(scribe)) == []
    check_same(receiver, scribe, since)
    with pytest.raises(VersionError):
        Log(receiver.files, PLACE).state(since - 1)


def test_late_join_that_the_disk_refuses_leaves_an_empty_log():
    raw = joining_stream(sender(4))
    for fail_at in range(4):
        faults = Faults()
        receiver = Receiver(FaultyFiles(MemoryFiles(), faults))
        faults.arm(fail_at)
        try:
            receiver.take(raw)
        except (LocationError, OSError):
            faults.disarm()
            assert Log(receiver.files, PLACE).version == 0
            again = receiver.reopen()
            assert again.take(raw) == [4]
            check_state(again.head.state, sender(4).history[-1])
        else:
            break
    assert fail_at == 3  # the manifest, the snapshot, the segment


@pytest.mark.parametrize("make", [stream_of, joining_stream])
def test_stream_is_read_by_a_reader_made_from_the_specification(make):
    scribe = sender(7)
    scribe.snapshot()
    scribe.patch("w", {3: 3}).commit()
    raw = make(scribe)
    read = reader.read_stream(raw)
    assert (read.last, [c.version for c in read.commits]) == (8, list(range(read.since + 1, 9)))
    assert read.commits[-1].chain == scribe.log.scan.chain
    for cut in (64, len(raw) // 2, len(raw) - 64):
        with pytest.raises(reader.BadError):
            reader.read_stream(raw[:cut])


def test_log_that_took_streams_in_is_read_by_a_reader_made_from_the_specification(tmp_path):
    scribe = sender(5)
    for i, make in enumerate((stream_of, joining_stream)):
        receiver = Receiver()
        receiver.take(make(scribe))
        receiver.close()
        root = tmp_path / str(i)
        for name in names_of(receiver.files):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(receiver.files.read(name))
        found = reader.ReadLog(root)
        assert found.left_out == ""
        assert (found.commits[-1].version, found.commits[-1].chain) == (5, scribe.log.scan.chain)
        assert found.snapshots() == ([5] if make is joining_stream else [])


def test_empty_log_with_other_pages_cannot_join():
    files = MemoryFiles()
    create_log(files, 4096)
    log = Log(files, PLACE)
    with (
        open_stream(joining_stream(sender(2))) as stream,
        pytest.raises(StructureError, match="page_bytes=128"),
    ):
        Intake.of(stream, log)


def test_empty_log_gives_and_takes_an_empty_stream():
    receiver = Receiver()
    assert receiver.take(stream_of(Scribe())) == []
    assert receiver.take(joining_stream(Scribe())) == []
    assert receiver.log.version == 0


def test_stream_of_a_compacted_log_says_what_is_missing():
    scribe = sender(8)
    compact(scribe.writer, 5)
    with pytest.raises(VersionError, match=r"versions 3 to 4 cannot be had.*compacted away"):
        stream_of(scribe, 2)
    receiver = Receiver()
    assert receiver.take(joining_stream(scribe)) == [8]
    check_same(receiver, scribe, 8)


@pytest.mark.parametrize("since", [-1, 9])
def test_stream_since_a_version_that_is_not_there_is_refused(since):
    with pytest.raises(VersionError, match=r"the nearest is"):
        stream_of(sender(3), since, 3)


def test_stream_cut_anywhere_is_refused_and_changes_nothing():
    scribe = sender(4)
    raw = stream_of(scribe, 1)
    receiver = Receiver()
    receiver.take(stream_of(scribe, 0, 1))
    before = {name: receiver.files.read(name) for name in names_of(receiver.files)}
    rng = np.random.default_rng(1)
    cuts = sorted({0, 1, 63, 64, len(raw) - 1, len(raw) - 64, *rng.integers(0, len(raw), 60)})
    for cut in cuts:
        with pytest.raises(CorruptionError, match=r"byte \d+"):
            receiver.take(raw[:cut])
    with pytest.raises(CorruptionError, match="behind its last commit"):
        receiver.take(raw + b"x")
    assert {name: receiver.files.read(name) for name in names_of(receiver.files)} == before
    print(f"{len(cuts)} cuts, all refused")


def test_stream_with_any_bit_flipped_is_refused_and_changes_nothing():
    scribe = Scribe()
    scribe.create("w", (40,)).commit()
    scribe.patch("w", {3: 1}).commit(note='{"a":1}')
    receiver = Receiver()
    for make in (stream_of, joining_stream):
        raw = make(scribe)
        for bit in range(len(raw) * 8):
            bad = bytearray(raw)
            bad[bit // 8] ^= 1 << bit % 8
            with pytest.raises((CorruptionError, FormatError, VersionError)):
                receiver.take(bytes(bad))
            assert receiver.log.version == 0


def test_commit_that_lies_about_its_digest_is_refused_and_those_before_it_stay():
    scribe, receiver = sender(3), Receiver()
    receiver.take(stream_of(scribe, 0, 2))
    with open_stream(stream_of(scribe, 2)) as stream:
        (commit,) = stream.commits()
        commit.record.state_digest ^= 1
        with pytest.raises(CorruptionError, match="version 3 does not fit"):
            take(receiver.head, commit, "the stream")
        commit.record.state_digest ^= 1
        lanes = commit.record.records.copy()
        lanes["lane0"] += 1
        honest, commit.record.records = commit.record.records, lanes
        with pytest.raises(CorruptionError, match="digest recorded"):
            take(receiver.head, commit, "the stream")
        commit.record.records = honest
        check_state(receiver.head.state, scribe.history[2])
        take(receiver.head, commit, "the stream")
    check_same(receiver, scribe)


def test_commit_that_the_disk_refuses_is_taken_back_and_taken_in_again():
    scribe = sender(5)
    raw = stream_of(scribe, 1)
    faults = Faults(code=errno.ENOSPC, kinds=frozenset({"append"}), is_short=True)
    receiver = Receiver(FaultyFiles(MemoryFiles(), faults))
    receiver.take(stream_of(scribe, 0, 1))
    tried = 0
    for fail_at in range(100):
        faults.arm(fail_at, fail_at)
        try:
            receiver.take(raw)
        except LocationError:
            tried += 1
        else:
            break
        check_state(receiver.head.state, scribe.history[receiver.log.version])
    faults.disarm()
    assert tried >= 3
    check_same(receiver, scribe)
    print(f"{tried} failed appends")


def test_reader_beside_a_log_sees_what_it_takes_in_and_what_it_writes():
    scribe = sender(6)
    for make, since in ((stream_of, 1), (joining_stream, 6)):
        receiver = Receiver()
        beside = Log(receiver.files, "the reader")
        receiver.take(make(scribe))
        beside.refresh()
        assert (beside.version, beside.kept_since) == (6, since)
        own = Scribe(receiver.close().files, history=scribe.history[:7])
        own.patch("large", {0: 1}).commit()
        beside.refresh()
        assert beside.version == 7
        check_state(beside.state(7, page_bytes=PAGE_BYTES), own.history[7])


def test_joined_log_whose_snapshot_is_gone_says_so():
    receiver = Receiver()
    receiver.take(joining_stream(sender(4)))
    receiver.close()
    receiver.files.remove(snapshot_name(4))
    with pytest.raises(CorruptionError, match="needs a snapshot"):
        Log(receiver.files, PLACE).state(4)


def test_stream_of_a_newer_format_is_refused_as_such():
    raw = bytearray(stream_of(sender(1)))
    header = Header.decode(bytes(raw[:HEADER_BYTES]), 0)
    newer = bytearray(header.encode())
    newer[4] = FORMAT_VERSION + 1
    newer[56:] = xxhash.xxh3_64_intdigest(bytes(newer[:56])).to_bytes(8, "little")
    raw[:HEADER_BYTES] = newer
    with pytest.raises(FormatError, match="Upgrade"), open_stream(bytes(raw)):
        pass


def test_file_that_is_no_stream_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"MMSB" + bytes(100))
    with pytest.raises(CorruptionError, match="no whole stream"), open_stream(tmp_path / "x"):
        pass
    with pytest.raises(LocationError, match="cannot be read"), open_stream(tmp_path / "none"):
        pass
    with pytest.raises(LocationError), open_stream(tmp_path):
        pass


def test_a_stream_in_a_file_is_durable_with_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def recording(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    path = write_file(tmp_path / "commits.mmsb", [b"some ", b"bytes"])
    assert path.read_bytes() == b"some bytes"
    assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]
    assert list(tmp_path.iterdir()) == [path]
