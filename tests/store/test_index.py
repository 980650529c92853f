import functools
import struct
import sys
import threading
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame
from mmsb_jax._store.format.index import SegmentIndex
from mmsb_jax._store.format.record import ArrayInfo, CommitRecord, Op, OpCode, records_of
from mmsb_jax._store.log.log import Log
from tests.store._logs import PLACE, Scribe, check_log, copy_files

CHAIN = b"c" * 16
COMMITS = st.lists(
    st.fixed_dictionaries(
        {
            "step": st.none() | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
            "time_ns": st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1),
            "source": st.sampled_from(["", "train", "ä" * 300]),
            "touched": st.sets(st.integers(1, 4) | st.just(2**64 - 1)),
            "has_ops": st.booleans(),
        }
    ),
    max_size=12,
)
OP = Op(OpCode.CREATE, ArrayInfo(1, "w", "jax", "float32", (), True))


def build(commits: list[dict], first_version: int = 5) -> SegmentIndex:
    index = SegmentIndex(first_version)
    for version, commit in enumerate(commits, first_version):
        enter(index, commit, version)
    return index


def enter(index: SegmentIndex, commit: dict, version: int) -> None:
    place = version - index.first_version
    index.append(record_of(commit, version), 128 + 64 * place, 64 + place)


def record_of(commit: dict, version: int) -> CommitRecord:
    rows = [(i, 0, 0, 0, 0, 0, 0) for i in [*sorted(commit["touched"]), 0]]
    return CommitRecord(
        log_id=CHAIN,
        previous_chain=CHAIN,
        state_digest=0,
        version=version,
        time_ns=commit["time_ns"],
        step=commit["step"],
        source=commit["source"],
        records=records_of(rows),
        ops=[OP] if commit["has_ops"] else [],
    )


def end_of(commits: list[dict]) -> int:
    return 128 + 64 * len(commits)


@given(COMMITS)
def test_index_encoded_and_decoded_is_equal(commits):
    index = build(commits)
    decoded = SegmentIndex.decode(index.encode(CHAIN, end_of(commits)), CHAIN, 5, end_of(commits))
    assert decoded.last_version == index.last_version == 4 + len(commits)
    for place, commit in enumerate(commits):
        row = decoded.row(5 + place)
        assert row == index.row(5 + place)
        assert (row.version, row.offset, row.logged_bytes) == (
            5 + place,
            128 + 64 * place,
            64 + place,
        )
        assert (row.step, row.time_ns, row.source) == (
            commit["step"],
            commit["time_ns"],
            commit["source"],
        )
        assert row.touched == tuple(sorted(commit["touched"]))
    assert decoded.touched_ids() == set().union(*(commit["touched"] for commit in commits))
    assert decoded.versions_with_ops() == [
        5 + place for place, commit in enumerate(commits) if commit["has_ops"]
    ]


@given(
    commits=COMMITS,
    ids=st.none() | st.sets(st.integers(1, 4)),
    source=st.none() | st.sampled_from(["", "train", "none"]),
    start=st.none() | st.integers(-1, 9) | st.just(2**70),
    end=st.none() | st.integers(-1, 9) | st.just(-(2**70)),
)
def test_index_selects_what_a_loop_would(commits, ids, source, start, end):
    expected = [
        5 + place
        for place, commit in enumerate(commits)
        if (ids is None or ids & commit["touched"])
        and (source is None or source == commit["source"])
        and (start is None or commit["time_ns"] >= start)
        and (end is None or commit["time_ns"] < end)
    ]
    assert build(commits).select(ids, source, start, end) == expected


@given(COMMITS, st.integers(-4, 4) | st.just(2**70), st.integers(-1, 10) | st.just(2**70))
def test_index_finds_the_last_with_a_step_or_a_time(commits, step, time_ns):
    index = build(commits)
    with_step = [5 + i for i, commit in enumerate(commits) if commit["step"] == step]
    not_after = [5 + i for i, commit in enumerate(commits) if commit["time_ns"] <= time_ns]
    assert index.last_with(step=step) == (with_step[-1] if with_step else None)
    assert index.last_with(time_ns=time_ns) == (not_after[-1] if not_after else None)
    assert sorted(index.steps()) == sorted(c["step"] for c in commits if c["step"] is not None)


def sidecar() -> tuple[list[dict], bytes]:
    commits = [
        {"step": 1, "time_ns": 2, "source": "a", "touched": {1, 2}, "has_ops": True},
        {"step": None, "time_ns": 3, "source": "b", "touched": {2}, "has_ops": False},
    ]
    return commits, build(commits).encode(CHAIN, end_of(commits))


def test_index_cut_short_at_any_byte_is_refused():
    commits, meta = sidecar()
    for size in range(len(meta)):
        with pytest.raises(BadFrameError):
            SegmentIndex.decode(meta[:size], CHAIN, 5, end_of(commits))


@pytest.mark.parametrize(
    ("chain", "first_version", "end"), [(b"x" * 16, 5, 256), (CHAIN, 6, 256), (CHAIN, 5, 320)]
)
def test_index_of_another_history_is_refused(chain, first_version, end):
    _, meta = sidecar()
    with pytest.raises(BadFrameError, match="another history"):
        SegmentIndex.decode(meta, chain, first_version, end)


@settings(max_examples=300)
@given(st.data())
def test_index_mutated_anywhere_answers_within_its_segment_or_is_refused(data):
    commits, meta = sidecar()
    raw = bytearray(meta)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    try:
        index = SegmentIndex.decode(bytes(raw), CHAIN, 5, end_of(commits))
    except BadFrameError:
        return
    for version in (5, 6):
        assert 0 < index.row(version).offset < end_of(commits)
    index.select([1], "a", 0, 9)
    index.last_with(step=1)


@pytest.mark.parametrize(
    "offsets",
    [(0, 128), (128, 128), (192, 128), (128, 256), (128, 2**63 - 1), (-(2**63), 128), (2**62, -1)],
)
def test_index_that_points_outside_its_segment_is_refused(offsets):
    commits, meta = sidecar()
    raw = meta[:48] + struct.pack("<qq", *offsets) + meta[64:]
    with pytest.raises(BadFrameError, match="outside its segment"):
        SegmentIndex.decode(raw, CHAIN, 5, end_of(commits))


def test_index_read_while_it_grows_gives_whole_rows():
    index, stop, faults = SegmentIndex(1), threading.Event(), []
    record = CommitRecord(CHAIN, CHAIN, 0, 1, 7, step=3, source="s", ops=[OP])
    record.records = records_of([(1, 0, 0, 0, 0, 0, 0), (2, 0, 0, 0, 0, 0, 0)])

    def read() -> None:
        while not stop.is_set():
            try:
                count = len(index)
                assert len(index.select([2], "s", 0, 9)) >= count
                assert len(index.steps()) >= count
                assert (index.last_with(time_ns=9) or 0) >= count
                assert len(index.versions_with_ops()) >= count
                assert count == 0 or index.row(count).touched == (1, 2)
            except BaseException as error:
                faults.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(6000):
        record.version = 1 + i
        index.append(record, 128 + i, 64)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(index) == 6000


def test_index_read_between_two_columns_of_a_row_gives_the_rows_before():
    index, seen = SegmentIndex(1), []

    class Watched(array):
        def append(self, value):
            super().append(value)
            seen.append((len(index), index.select(start_ns=0), index.last_with(step=3)))
            assert len(index.steps()) == len(index)

    rows = index._rows
    rows.columns = {name: Watched("q") for name in rows.columns}
    for version in (1, 2):
        index.append(CommitRecord(CHAIN, CHAIN, 0, version, 7, step=3), 128 * version, 64)
    columns = len(rows.columns)
    assert seen[:columns] == [(0, [], None)] * (columns - 1) + [(1, [1], 1)]
    assert seen[columns:] == [(1, [1], 1)] * (columns - 1) + [(2, [1, 2], 2)]


# An append that is interrupted, repeated, taken back.


class Interrupt(BaseException):
    pass


def interrupted(call, at: int) -> bool:
    """Make ``call``, and raise at its ``at``-th instruction of the index; whether it came to it."""
    left = at

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != SegmentIndex.append.__code__.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


COMMIT_5, COMMIT_6, COMMIT_7 = (
    {"step": 1, "time_ns": 2, "source": "a", "touched": {1, 2}, "has_ops": True},
    {"step": None, "time_ns": 3, "source": "b", "touched": {2, 3}, "has_ops": False},
    {"step": 9, "time_ns": 4, "source": "c", "touched": set(), "has_ops": False},
)


def meta_of(index: SegmentIndex) -> bytes:
    return index.encode(CHAIN, 1 << 20)


@pytest.mark.parametrize("cuts", [True, False], ids=["cut", "append-again"])
@pytest.mark.parametrize("before", [[], [COMMIT_5], [COMMIT_5, COMMIT_7]], ids=len)
@pytest.mark.parametrize("added", [COMMIT_5, COMMIT_6, COMMIT_7], ids=[5, 6, 7])
def test_append_interrupted_at_any_instruction_can_be_taken_back_and_made_again(
    before, added, cuts
):
    expected = build([*before, added])
    version, met = expected.last_version, 0
    while True:
        index = build(before)
        append = functools.partial(enter, index, added, version)
        if not interrupted(append, met):
            break
        met += 1
        assert index.select(start_ns=0) in ([*range(5, version)], [*range(5, version + 1)])
        if cuts:
            index.cut(version - 1)
            assert meta_of(index) == meta_of(build(before))
            index.cut(version - 1)
        append()
        append()
        assert meta_of(index) == meta_of(expected)
    assert met > 30
    assert meta_of(index) == meta_of(expected)


@pytest.mark.parametrize("version", range(3, 9))
def test_cut_interrupted_at_any_instruction_has_been_made_or_not(version):
    commits = [COMMIT_5, COMMIT_6, COMMIT_7]
    expected, met = meta_of(build(commits[: max(0, version - 4)])), 0
    while True:
        index = build(commits)
        if not interrupted(lambda index=index: index.cut(version), met):
            break
        met += 1
        assert meta_of(index) in (expected, meta_of(build(commits)))
        index.cut(version)
        assert meta_of(index) == expected
    assert met > 30
    assert meta_of(index) == expected


@pytest.mark.parametrize("version", [0, 4, 5, 6, 8, 9])
def test_append_of_any_but_the_next_version_is_refused(version):
    index = build([COMMIT_5, COMMIT_6])
    with pytest.raises(ValueError, match=f"version {version} at offset 999 does not go"):
        index.append(record_of(COMMIT_7, version), 999, 64)
    assert meta_of(index) == meta_of(build([COMMIT_5, COMMIT_6]))


# The sidecar of a log.


def indexed() -> Scribe:
    scribe = Scribe()
    scribe.create("w", (4,)).create("b", (2,), "uint8").commit(step=1, source="a")
    scribe.patch("w", {0: 1}).commit(step=2, source="b")
    scribe.snapshot()
    scribe.patch("b", {0: 1}).commit(step=3, source="a")
    return scribe.close()


def what_it_says(log: Log) -> list:
    rows = [log.row(version) for version in range(1, log.version + 1)]
    return [rows, list(log.select(array="w")), list(log.select(source="a")), log.last_with(step=1)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: None,
        lambda raw: b"",
        lambda raw: raw[:100],
        lambda raw: bytes(len(raw)),
        lambda raw: b"".join(build_frame(Kind.MARK, 0, 0)[1]),
        lambda raw: b"".join(build_frame(Kind.INDEX, 0, 0, b"x" * 48)[1]),
        lambda raw: b"".join(build_frame(99, 0, 0)[1]),
    ],
    ids=["missing", "empty", "cut", "zeroed", "mark", "foreign", "newer"],
)
def test_log_whose_index_is_missing_or_damaged_says_the_same(damage):
    scribe = indexed()
    (name,) = [name for name in scribe.files.names("log") if name.endswith(".idx")]
    expected = what_it_says(Log(scribe.files, PLACE))
    files = copy_files(scribe.files)
    raw = damage(files.read(name))
    files.remove(name)
    if raw is not None:
        files.publish(name, [raw])
    log = Log(files, PLACE)
    assert what_it_says(log) == expected
    check_log(log, scribe.history)


class Counting:
    """Counts what is read of each file."""

    def __init__(self, inner) -> None:
        self.inner, self.bytes_read = inner, {}
        self.names, self.size = inner.names, inner.size

    def read(self, name, offset=0, size=None):
        raw = self.inner.read(name, offset, size)
        self.bytes_read[name] = self.bytes_read.get(name, 0) + len(raw)
        return raw


def test_opening_reads_no_sealed_segment_and_asking_reads_its_index_alone():
    scribe = Scribe()
    scribe.create("w", (5000,))
    rng = np.random.default_rng(0)
    for _ in range(3):
        for _ in range(4):
            scribe.write("w", rng.normal(size=5000).astype("f4")).commit()
        scribe.snapshot()
    scribe.patch("w", {0: 1}).commit()
    scribe.close()
    files = Counting(scribe.files)
    log = Log(files, PLACE)
    sealed = [piece.segment.name for piece in log.pieces[:-1]]
    assert len(sealed) == 3
    assert [files.bytes_read[name] for name in sealed] == [128, 128, 128]  # their first frames
    log.state(log.version)
    assert [files.bytes_read[name] for name in sealed] == [128, 128, 128]
    list(log.select(source="x"))
    for name in sealed:
        assert files.bytes_read[name] < 1000  # and the newest commit, to see that it leads on
        assert files.bytes_read[name] < files.size(name) / 50
