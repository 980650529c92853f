"""Torn or damaged: what is whole comes back, what was durable and is bad is refused, never else."""

import collections
import itertools

import numpy as np
import pytest

from mmsb_jax._base.errors import CorruptionError, LocationError
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format import data
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.writer.create import create_log
from tests._sampled import stepped
from tests.store._logs import (
    PAGE_BYTES,
    PLACE,
    Expected,
    Found,
    Scribe,
    check_log,
    check_state,
    copy_files,
    names_of,
    open_and_compare,
)

FIRST = "log/00000001-00000000000000000001.seg"
INDEX = "log/00000001-00000000000000000001.idx"
SECOND = "log/00000002-00000000000000000003.seg"
SNAPSHOT = "snapshots/00000000000000000002.snap"


def small_log() -> Scribe:
    """Three versions in two segments, with an index and a snapshot: every kind of file, small."""
    scribe = Scribe()
    scribe.create("w", (8,)).write("w", np.arange(8, dtype="f4")).commit(step=1, source="t")
    scribe.patch("w", {1: 7}).commit(step=3)
    scribe.snapshot()
    scribe.write("w", np.arange(8, dtype="f4") + 1).constant("c", "s:x").commit(extra=b"hello")
    return scribe


def long_tail() -> Scribe:
    """A log whose last commits have data frames, are inline, and change the table."""
    scribe = Scribe()
    scribe.create("w", (200,), "uint8").commit()
    scribe.snapshot()
    rng = np.random.default_rng(0)
    scribe.write("w", rng.integers(0, 256, 200, np.uint8)).commit()
    scribe.patch("w", {5: 5}).commit(note="{}", source="t")
    scribe.delete("w").create("v", (3,)).write("v", np.ones(3, "f4")).commit(extra=rng.bytes(200))
    return scribe


def ends_of(scribe: Scribe) -> dict[int, int]:
    """Where each version of the last segment ends in its file."""
    log = scribe.log
    first = log.pieces[-1].segment.first_version
    return {version: log.find(version).end_offset for version in range(first, log.version + 1)}


def cut(files: MemoryFiles, name: str, size: int) -> MemoryFiles:
    copied = copy_files(files)
    copied.publish(name, [files.read(name, 0, size)])
    return copied


def go_on(files: MemoryFiles, history: list[Expected], version: int) -> None:
    """Open a log to write, commit, and find all of it again."""
    scribe = Scribe(files, history=history[: version + 1])
    scribe.create("new", (2,)).commit(source="went on")
    scribe = scribe.reopen()
    scribe.patch("new", {0: 1}).commit()
    scribe.close()
    log = Log(files, PLACE)
    assert log.recovered == []
    check_log(log, scribe.history)


@pytest.fixture(params=[0, 1 << 18], ids=["data frames", "inline"])
def inline_bytes(request, monkeypatch):
    monkeypatch.setattr(data, "INLINE_BYTES", request.param)


@stepped(5)
@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "closed"])
def test_log_cut_at_any_byte_of_its_last_segment_is_a_prefix(inline_bytes, is_closed, step):
    scribe = long_tail()
    ends = ends_of(scribe)
    if is_closed:
        scribe.close()
    name = scribe.log.pieces[-1].segment.name
    size, whole = scribe.files.size(name), {SEGMENT_FRAME_BYTES, *ends.values()}
    frames = len(ends) + is_closed + sum(len(scribe.log.record(v).frame_sizes) for v in ends)
    near = {length + i for length in whole for i in (-1, 0, 1)}
    tried = 0
    for length in range(SEGMENT_FRAME_BYTES, size):
        if length % step and length not in near:
            continue
        files = cut(scribe.files, name, length)
        version = 1 + sum(end <= length for end in ends.values())
        found = open_and_compare(files, scribe.history)
        assert (found.refused, found.version) == ("", version)
        assert found.readable == frozenset(range(1, version + 1))
        assert bool(found.recovered) == (length not in whole)
        if tried % 29 == 0:
            go_on(files, scribe.history, version)
        tried += 1
    print(f"cut {frames} frames at {tried:,} bytes")
    assert tried > 64 * frames // step


@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "closed"])
def test_log_cut_below_its_newest_snapshot_is_refused(is_closed):
    scribe = long_tail()
    scribe.snapshot(rotate=False)
    durable = ends_of(scribe)[4]
    if is_closed:
        scribe.close()
    name = scribe.log.pieces[-1].segment.name
    for length in range(SEGMENT_FRAME_BYTES, scribe.files.size(name)):
        found = open_and_compare(cut(scribe.files, name, length), scribe.history)
        assert bool(found.refused) == (length < durable)
        assert found.refused or found.version == 4


def test_log_cut_in_the_first_frame_of_a_segment_is_refused_once_that_was_whole():
    scribe = small_log()
    for length in range(SEGMENT_FRAME_BYTES):
        found = open_and_compare(cut(scribe.files, SECOND, length), scribe.history)
        assert SECOND in found.refused  # the index of the first says that the second was there


def test_segment_whose_making_was_cut_short_is_passed_over():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    scribe.writer.rotate()
    for length in range(SEGMENT_FRAME_BYTES):
        files = cut(scribe.files, scribe.log.pieces[-1].segment.name, length)
        found = open_and_compare(files, scribe.history)
        assert (found.version, found.readable) == (1, frozenset({1}))
        assert "its making was cut short" in found.recovered[0]
        if length % 8 == 0:
            go_on(files, scribe.history, 1)


def test_log_cut_at_any_byte_of_a_sealed_segment_gives_no_wrong_version():
    scribe = small_log().close()
    readable = collections.Counter()
    for length in range(scribe.files.size(FIRST)):
        found = open_and_compare(cut(scribe.files, FIRST, length), scribe.history)
        assert bool(found.refused) == (length < SEGMENT_FRAME_BYTES)
        readable[found.readable] += 1
    # Version 3 stands in the second segment, on the snapshot; that is the state at version 2 too,
    # but the frame of that commit must be there to say so. Its last 64 bytes are its data.
    first, second = scribe.log.find(1).end_offset, scribe.log.find(2).end_offset
    assert readable == {
        frozenset(): SEGMENT_FRAME_BYTES,
        frozenset({3}): first - SEGMENT_FRAME_BYTES,
        frozenset({1, 3}): second - 64 - first,
        frozenset({1, 2, 3}): 64,
    }


def test_segment_begun_before_the_one_it_continues_was_synced_is_left_out_with_a_torn_one():
    scribe = Scribe()
    scribe.create("w", (8,)).commit()
    scribe.patch("w", {1: 1}).commit()
    ends = ends_of(scribe)
    scribe.writer.rotate()  # and the machine goes down before anything is synced
    scribe.patch("w", {2: 2}).commit()
    scribe.patch("w", {3: 3}).commit()
    name = scribe.log.pieces[0].segment.name
    for length in range(SEGMENT_FRAME_BYTES, scribe.files.size(name)):
        files = cut(scribe.files, name, length)
        version = sum(end <= length for end in ends.values())
        found = open_and_compare(files, scribe.history)
        assert (found.refused, found.version) == ("", version)
        assert found.readable == frozenset(range(1, version + 1))
        assert "is not whole; left out" in found.recovered[0]
        if length % 5 == 0:
            go_on(files, scribe.history, version)
    assert open_and_compare(scribe.files, scribe.history).version == 4


def test_segment_behind_one_that_was_synced_is_never_left_out():
    scribe = Scribe()
    scribe.create("w", (8,)).commit()
    scribe.writer.rotate()
    scribe.writer.sync()
    scribe.patch("w", {2: 2}).commit()
    name = scribe.log.pieces[0].segment.name
    for length in range(SEGMENT_FRAME_BYTES, scribe.files.size(name)):
        found = open_and_compare(cut(scribe.files, name, length), scribe.history)
        assert (found.version, found.readable, found.recovered) == (2, frozenset(), ())


def flip_bits(scribe: Scribe, step: int = 1) -> dict[str, collections.Counter[Found]]:
    """What opening gave for each ``step``th bit of every file flipped, alone."""
    outcomes = {}
    for name in names_of(scribe.files):
        files, good = copy_files(scribe.files), scribe.files.read(name)
        outcomes[name] = collections.Counter()
        for bit in range(0, len(good) * 8, step):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            files.publish(name, [bad])
            outcomes[name][open_and_compare(files, scribe.history)] += 1
    return outcomes


@stepped(7)
def test_log_with_any_bit_flipped_gives_right_data_or_is_refused(step):
    scribe = small_log().close()
    outcomes = flip_bits(scribe, step)
    sizes = {name: scribe.files.size(name) for name in names_of(scribe.files)}
    tried = sum(map(collections.Counter.total, outcomes.values()))
    print(f"flipped {tried:,} bits of {len(sizes)} files: ", end="")
    print(", ".join(f"{name} {size * 8:,}" for name, size in sizes.items()))
    assert tried == sum(-(-8 * size // step) for size in sizes.values()) > 19_000 / step
    assert {FIRST, SECOND, INDEX, SNAPSHOT, "manifest"} == outcomes.keys()

    def readable(name: str) -> set[frozenset[int]]:
        return {found.readable for found in outcomes[name]}

    everything = frozenset({1, 2, 3})
    assert all(found.refused for found in outcomes["manifest"])
    # An index and a snapshot only save time.
    assert readable(INDEX) == readable(SNAPSHOT) == {everything}
    # The frame of a segment is needed to open; a commit, for itself. Where its data alone are
    # hurt, the state at version 2 comes from the snapshot.
    assert readable(FIRST) == {frozenset(), frozenset({1, 3}), frozenset({2, 3}), everything}
    # The mark says that all before it was durable; in the mark itself nothing else is hurt.
    assert readable(SECOND) == {frozenset(), everything}
    harmless = sum(n for found, n in outcomes[SECOND].items() if not found.refused)
    assert harmless in (64 * 8 // step, 64 * 8 // step + 1)


@pytest.mark.long
def test_log_with_any_bit_flipped_gives_right_data_or_is_refused_long(inline_bytes):
    for scribe in (long_tail(), long_tail().close()):
        outcomes = flip_bits(scribe)
        tried = sum(map(collections.Counter.total, outcomes.values()))
        print(f"flipped {tried:,} bits")
        assert tried == 8 * sum(map(scribe.files.size, names_of(scribe.files))) > 20_000


def test_tail_that_was_not_durable_with_any_byte_wrong_is_left_out_and_reported():
    scribe = small_log()  # not closed: nothing says that version 3 was durable
    size = scribe.files.size(SECOND)
    for place in range(SEGMENT_FRAME_BYTES, size):
        files = copy_files(scribe.files)
        bad = bytearray(files.read(SECOND))
        bad[place] ^= 0x40
        files.publish(SECOND, [bad])
        found = open_and_compare(files, scribe.history)
        assert (found.version, found.readable) == (2, frozenset({1, 2}))
        assert f"{size - SEGMENT_FRAME_BYTES} bytes at {SEGMENT_FRAME_BYTES}" in found.recovered[0]


@pytest.mark.parametrize("block", [64, 512])
def test_log_with_a_block_zeroed_gives_right_data_or_is_refused(block):
    scribe = small_log().close()
    tried = 0
    for name in names_of(scribe.files):
        good = scribe.files.read(name)
        for start in range(0, len(good), block):
            files, bad = copy_files(scribe.files), bytearray(good)
            bad[start : start + block] = bytes(len(bad[start : start + block]))
            files.publish(name, [bad])
            open_and_compare(files, scribe.history)
            tried += 1
    print(f"zeroed {tried} blocks of {block} bytes")
    assert tried >= sum(scribe.files.size(name) // block for name in names_of(scribe.files))


def test_log_with_two_blocks_swapped_gives_right_data_or_is_refused():
    scribe = small_log().close()
    blocks = [
        (name, start)
        for name in names_of(scribe.files)
        for start in range(0, scribe.files.size(name), 64)
    ]
    tried = 0
    for (name, start), (other, place) in itertools.combinations(blocks, 2):
        files = copy_files(scribe.files)
        one, two = files.read(name, start, 64), files.read(other, place, 64)
        if one == two:
            continue
        for target, at, raw in ((name, start, two), (other, place, one)):
            bad = bytearray(files.read(target))
            bad[at : at + 64] = raw
            files.publish(target, [bad])
        open_and_compare(files, scribe.history)
        tried += 1
    print(f"swapped {tried} pairs of blocks")
    assert tried > 700


def test_log_with_two_frames_of_one_size_swapped_is_refused_or_right(inline_bytes):
    scribe = Scribe()
    scribe.create("w", (200,), "uint8").commit()
    for i in range(4):
        scribe.write("w", np.random.default_rng(i).integers(0, 256, 200, np.uint8)).commit()
    spans = {
        v: (scribe.log.find(v - 1).end_offset, scribe.log.find(v).end_offset) for v in range(2, 6)
    }
    scribe.close()
    for one, two in itertools.combinations(spans, 2):
        bad = bytearray(scribe.files.read(FIRST))
        a, b = slice(*spans[one]), slice(*spans[two])
        bad[a], bad[b] = bad[b], bad[a]
        files = copy_files(scribe.files)
        files.publish(FIRST, [bad])
        found = open_and_compare(files, scribe.history)
        assert f"{FIRST} is damaged at byte {spans[one][0]}" in found.refused


# Files that are missing, and files that belong elsewhere.


@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "closed"])
@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("manifest", "is not a log"),
        (FIRST, "segment 1 of the log is missing"),
        (SECOND, "segment 2 of the log is missing"),
        (INDEX, ""),
        (SNAPSHOT, ""),
    ],
)
def test_log_with_a_file_missing_is_whole_or_refused(name, refusal, is_closed):
    scribe = small_log()
    if is_closed:
        scribe.close()
    files = copy_files(scribe.files)
    files.remove(name)
    found = open_and_compare(files, scribe.history)
    assert refusal in found.refused
    assert bool(found.refused) == bool(refusal)
    assert found.refused or found.readable == {1, 2, 3}


def test_log_without_segments_is_refused():
    files = MemoryFiles()
    create_log(files, PAGE_BYTES)
    files.remove(FIRST)
    with pytest.raises(CorruptionError, match="segment 1 of the log is missing"):
        Log(files, PLACE)


def test_log_whose_segments_stand_in_a_ring_is_refused():
    scribe = small_log().close()
    segment = scribe.log.pieces[0].segment
    ring = type(segment)(segment.log_id, 1, 2, 1, 0, segment.chain, 0)
    scribe.files.publish(FIRST, ring.frame())
    with pytest.raises(CorruptionError, match="in a ring"):
        Log(scribe.files, PLACE)


def test_segment_of_another_log_is_refused_by_name():
    scribe, other = small_log().close(), small_log().close()
    for name in (FIRST, SECOND, "log/00000003-00000000000000000004.seg"):
        files = copy_files(scribe.files)
        segment = other.log.pieces[0 if name == FIRST else 1].segment
        if name not in (FIRST, SECOND):
            other.writer = None
            raw = foreign_segment(other, number=3, previous=2, first_version=4)
            files.publish(name, [raw])
        else:
            files.publish(name, [other.files.read(segment.name)])
        found = open_and_compare(files, scribe.history)
        assert f"{name} is a segment of another log" in found.refused


def foreign_segment(scribe: Scribe, **fields: int) -> bytes:
    """An empty segment that ``scribe``'s log might have made."""
    segment = scribe.log.pieces[-1].segment
    made = type(segment)(
        log_id=segment.log_id,
        base=scribe.log.position,
        chain=scribe.log.scan.chain,
        synced=0,
        **fields,
    )
    return b"".join(made.frame())


def test_segment_with_a_number_that_is_taken_is_refused_by_name():
    scribe = small_log().close()
    scribe.files.publish("log/00000002-00000000000000000009.seg", [scribe.files.read(SECOND)])
    found = open_and_compare(scribe.files, scribe.history)
    assert "have the same number" in found.refused


def test_segment_of_the_parent_is_refused_in_a_fork():
    scribe = small_log().close()
    fork = MemoryFiles()
    fork_log(Log(scribe.files, PLACE), 2, fork)
    assert SECOND in fork.names("log")
    fork.publish(SECOND, [scribe.files.read(SECOND)])
    found = open_and_compare(fork, scribe.history)
    assert f"{SECOND} is a segment of another log" in found.refused


def test_snapshot_of_another_log_is_passed_over():
    scribe, other = small_log().close(), small_log()
    other.patch("w", {0: 99}).commit()
    other.snapshot()
    for version in (2, 4):
        name = f"snapshots/{version:020d}.snap"
        files = copy_files(scribe.files)
        files.publish(name, [other.files.read(name)])
        assert open_and_compare(files, scribe.history).readable == {1, 2, 3}


def test_files_of_a_copy_of_the_log_that_went_another_way_give_no_wrong_version():
    scribe = small_log()
    twin = Scribe(copy_files(scribe.files), history=list(scribe.history))  # the same id
    scribe.patch("w", {0: 1}).commit()
    twin.patch("w", {0: 2}).commit()
    for log in (scribe, twin):
        log.snapshot()
        log.patch("w", {2: 2}).commit()
        log.close()
    names = [name for name in names_of(twin.files) if name != "manifest"]
    assert len(names) == 7
    refused = set()
    for name in names:
        files = copy_files(scribe.files)
        files.publish(name, [twin.files.read(name)])
        found = open_and_compare(files, scribe.history)
        refused |= {name} if found.readable != {1, 2, 3, 4, 5} else set()
    assert refused == {SECOND, "log/00000003-00000000000000000005.seg"}


def twins(commits: int) -> tuple[Scribe, Scribe]:
    """A log and a copy of it that went another way, in frames of the same sizes and places."""
    scribe = Scribe()
    scribe.create("w", (200,), "uint8").commit()
    twin = Scribe(copy_files(scribe.files), history=list(scribe.history))
    for log, seed in ((scribe, 0), (twin, 1)):
        rng = np.random.default_rng(seed)
        for _ in range(commits):
            log.write("w", rng.integers(0, 256, 200, np.uint8)).commit(note="1")
    assert scribe.files.size(FIRST) == twin.files.size(FIRST)
    return scribe, twin


def test_commit_of_a_copy_that_went_another_way_ends_the_log(inline_bytes):
    scribe, twin = twins(2)
    end = scribe.log.find(2).end_offset
    raw = scribe.files.read(FIRST, 0, end) + twin.files.read(FIRST, end)
    scribe.files.publish(FIRST, [raw])
    found = open_and_compare(scribe.files, scribe.history)
    assert (found.version, found.readable) == (2, frozenset({1, 2}))
    assert "version 3 belongs to another history" in found.recovered[0]


@pytest.mark.parametrize("is_sealed", [False, True], ids=["newest", "sealed"])
def test_data_of_a_copy_that_went_another_way_is_left_out_or_refused(monkeypatch, is_sealed):
    monkeypatch.setattr(data, "INLINE_BYTES", 0)
    scribe, twin = twins(1)
    if is_sealed:
        scribe.snapshot()
        scribe.files.remove(SNAPSHOT)
        scribe.close()
    start, commit = scribe.log.find(1).end_offset, scribe.log.find(2).offset
    raw = bytearray(scribe.files.read(FIRST))
    raw[start:commit] = twin.files.read(FIRST, start, commit - start)
    scribe.files.publish(FIRST, [raw])
    found = open_and_compare(scribe.files, scribe.history)
    assert (found.version, found.readable) == (2 if is_sealed else 1, frozenset({1}))
    assert is_sealed or "version 2 has other data frames than it says" in found.recovered[0]


# A reader beside a writer.


class Racing(MemoryFiles):
    """Files that show less than there is, a number of times, as to one who looks too early."""

    def __init__(self, scribe: Scribe, times: int) -> None:
        super().__init__()
        self.inner, self.times = scribe.files, times
        self.offset = scribe.log.find(scribe.log.version - 2).end_offset
        self.hidden: set[str] = set()

    def read(self, name, offset=0, size=None):
        raw = self.inner.read(name, offset, size)
        if offset == self.offset and size == 64 and self.times:
            self.times -= 1
            return raw[:32]
        return raw

    def names(self, folder):
        listed = self.inner.names(folder)
        if folder == "log" and self.hidden and self.times:
            self.times -= 1
            listed = [name for name in listed if name not in self.hidden]
        return listed

    def size(self, name):
        return self.inner.size(name)


def test_reader_that_sees_half_a_frame_and_then_those_behind_looks_again():
    scribe = Scribe(durability="fsync")
    scribe.create("w", (2,)).commit()
    for i in range(4):
        scribe.patch("w", {0: i + 1}).commit()
    check_log(Log(Racing(scribe, times=1), PLACE), scribe.history)
    with pytest.raises(CorruptionError, match="bytes where a header"):
        Log(Racing(scribe, times=9), PLACE)  # it stays so: that is damage


def test_reader_that_misses_a_new_segment_looks_again():
    scribe = small_log()
    files = Racing(scribe, times=1)
    files.hidden = {SECOND}
    check_log(Log(files, PLACE), scribe.history)


# Salvage.


def test_salvage_reads_what_is_before_the_damage_and_reports_it():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    for i in range(3):
        scribe.patch("w", {0: i + 1}).commit()
    place = scribe.log.find(2).end_offset
    scribe.close()
    bad = bytearray(scribe.files.read(FIRST))
    bad[place + 70] ^= 1
    scribe.files.publish(FIRST, [bad])
    with pytest.raises(CorruptionError, match=f"{FIRST} is damaged at byte {place}: the meta"):
        Log(scribe.files, PLACE)
    log = Log(scribe.files, PLACE, salvage=True)
    check_log(log, scribe.history[:3])
    assert f"is damaged at byte {place}" in log.recovered[0]


def test_salvage_without_a_log_is_refused():
    with pytest.raises(LocationError, match="is not a log"):
        Log(MemoryFiles(), PLACE, salvage=True)


def test_recovery_changes_nothing_on_disk():
    scribe = long_tail()
    files = cut(scribe.files, scribe.log.pieces[-1].segment.name, 700)
    before = {name: files.read(name) for name in names_of(files)}
    log = Log(files, PLACE)
    check_state(log.state(log.version, page_bytes=PAGE_BYTES), scribe.history[log.version])
    assert {name: files.read(name) for name in names_of(files)} == before
