import copy
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._base.errors import StructureError
from mmsb_jax._store.commit import compare, tally
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.chunk import Coding
from mmsb_jax._store.format.record import FULL, ArrayInfo, Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.verify import verify
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, check_state, names_of, threads
from tests.store._oracle import digest_of, lanes_of

DTYPES = ["float32", "bfloat16", "uint8", "float64", "<U3", "bool"]
SHAPES = [(), (3,), (0,), (40,), (5, 30), (1, 1, 7)]


class Steps:
    """Draws what a caller may do between two commits."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self._made = 0

    def run(self, scribe: Scribe) -> None:
        names = sorted(scribe._next.arrays)
        choices = [self.create, self.constant]
        choices += [self.write, self.patch, self.resize, self.delete] if names else []
        self._draw(st.sampled_from(choices))(scribe, names)

    def create(self, scribe: Scribe, _: list[str]) -> None:
        free = sorted({"a", "b/c", "../d", "e\0f", "g"} - scribe._next.arrays.keys())
        if free:
            shape = self._draw(st.sampled_from(SHAPES))
            scribe.create(free[0], shape, self._draw(st.sampled_from(DTYPES)))

    def delete(self, scribe: Scribe, names: list[str]) -> None:
        scribe.delete(self._draw(st.sampled_from(names)))

    def resize(self, scribe: Scribe, names: list[str]) -> None:
        scribe.resize(self._draw(st.sampled_from(names)), self._draw(st.sampled_from(SHAPES)))

    def write(self, scribe: Scribe, names: list[str]) -> None:
        name = self._draw(st.sampled_from(names))
        held = scribe._next.arrays[name]
        raw = np.frombuffer(held.content, np.uint8).copy()
        if held.id in scribe._draft.patches:
            return
        if self._draw(st.booleans()):
            raw = np.random.default_rng(self._draw(st.integers(0, 99))).integers(
                0, 256, raw.size, np.uint8
            )
        elif raw.size:
            raw[self._draw(st.integers(0, raw.size - 1))] ^= 1
        scribe.write(name, raw)

    def patch(self, scribe: Scribe, names: list[str]) -> None:
        name = self._draw(st.sampled_from(names))
        held = scribe._next.arrays[name]
        if held.content and held.id not in {*scribe._draft.contents, *scribe._draft.patches}:
            places = st.integers(0, len(held.content) - 1)
            scribe.patch(name, self._draw(st.dictionaries(places, st.integers(0, 255), min_size=1)))

    def constant(self, scribe: Scribe, _: list[str]) -> None:
        name = self._draw(st.sampled_from(["f", "a"]))
        scribe.constant(name, self._draw(st.sampled_from([None, "s:x", "f:jax.nn.relu", "n:"])))


def check_digests(log: Log, scribe: Scribe) -> None:
    """The digest recorded with each version is that of the model, computed from scratch."""
    for version, expected in enumerate(scribe.history):
        table = log.table(version)
        assert table.state_digest == table.digest() == digest_of(expected)
        for held in expected.arrays.values():
            assert table.lanes.get(held.id, (0, 0)) == lanes_of(held.content)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_head_and_replay_hold_what_any_commits_made(data):
    run_any_commits(data)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None)
@given(st.data())
def test_head_and_replay_hold_what_any_commits_made_long(data):
    run_any_commits(data)


def run_any_commits(data: st.DataObject) -> None:
    scribe, steps = Scribe(), Steps(data)
    for _ in range(data.draw(st.integers(1, 7))):
        for _ in range(data.draw(st.integers(0, 4))):
            steps.run(scribe)
        scribe.commit(step=data.draw(st.none() | st.integers(-5, 5)))
        check_state(scribe.head.state, scribe.history[-1])
        assert scribe.head.state_bytes == scribe.head.state.nbytes
        after = data.draw(st.sampled_from(["go on", "go on", "snapshot", "reopen", "rotate"]))
        if after == "snapshot":
            scribe.snapshot(rotate=data.draw(st.booleans()))
        elif after == "rotate":
            scribe.writer.rotate()
            scribe.head.begin_segment()
        elif after == "reopen":
            scribe = scribe.reopen()
            check_state(scribe.head.state, scribe.history[-1])
    scribe.close()
    log = Log(scribe.files, PLACE)
    assert log.recovered == []
    check_log(log, scribe.history)
    check_digests(log, scribe)
    report = verify(log)
    assert report, str(report)


def test_head_makes_several_operations_on_one_array_in_one_commit():
    scribe = Scribe()
    scribe.create("a", (60,)).write("a", np.arange(60, dtype="f4"))
    scribe.create("gone", (4,)).delete("gone").commit()
    scribe.resize("a", (2,)).resize("a", (50,)).commit()
    scribe.create("b", (3,)).resize("b", (70,)).write("b", np.arange(70, dtype="f4")).commit()
    scribe.resize("a", (9,)).delete("a").create("a", (5,), "uint8").patch("a", {2: 1}).commit()
    scribe.close()
    log = Log(scribe.files, PLACE)
    check_state(scribe.head.state, scribe.history[-1])
    check_log(log, scribe.history)
    check_digests(log, scribe)


def info(array_id: int, name: str, shape: tuple[int, ...] = (2,)) -> ArrayInfo:
    return ArrayInfo(array_id, name, "jax", "float32", shape, True)


@pytest.mark.parametrize(
    "draft",
    [
        Draft(ops=[Op(OpCode.CREATE, info(1, "new"))]),
        Draft(ops=[Op(OpCode.CREATE, info(2, "new"))]),
        Draft(ops=[Op(OpCode.CREATE, info(9, "w"))]),
        Draft(ops=[Op(OpCode.CREATE, info(9, "a")), Op(OpCode.CREATE, info(10, "a"))]),
        Draft(
            ops=[
                Op(OpCode.CREATE, info(9, "a")),
                Op(OpCode.DELETE, info(9, "a")),
                Op(OpCode.CREATE, info(9, "a")),
            ]
        ),
        Draft(ops=[Op(OpCode.CREATE, info(0, "zero"))]),
        Draft(ops=[Op(OpCode.CREATE, info(9, "huge", (2**61,)))]),
        Draft(ops=[Op(OpCode.CREATE, info(9, "huge", (0, 2**61)))]),
        Draft(ops=[Op(OpCode.DELETE, info(7, "none"))]),
        Draft(ops=[Op(OpCode.UPDATE, info(7, "none"))]),
        Draft(ops=[Op(OpCode.UPDATE, info(1, "renamed"))]),
        Draft(ops=[Op(OpCode.DELETE, info(1, "w"))], contents={1: np.zeros(8, np.uint8)}),
        Draft(contents={1: np.zeros(7, np.uint8)}),
        Draft(contents={1: np.zeros(1, np.uint8)}),
        Draft(contents={9: np.zeros(8, np.uint8)}),
        Draft(patches={9: (np.zeros(1, np.int64), np.ones(1, np.uint32), np.ones(1, np.uint32))}),
    ],
    ids=range(16),
)
def test_head_refuses_a_draft_that_does_not_fit_and_is_as_before(draft):
    scribe = Scribe()
    scribe.create("w", (2,)).create("gone", ()).write("w", np.ones(2, "f4")).commit()
    scribe.delete("gone").commit()
    size = scribe.files.size(scribe.log.pieces[-1].segment.name)
    with pytest.raises(StructureError):
        scribe.head.commit(draft)
    assert scribe.files.size(scribe.log.pieces[-1].segment.name) == size
    check_state(scribe.head.state, scribe.history[-1])
    scribe.patch("w", {0: 3}).commit()
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)


def test_head_never_uses_an_id_again():
    scribe = Scribe()
    for _ in range(3):
        scribe.create("a", (2,)).commit()
        scribe.delete("a").commit()
    scribe = scribe.reopen()
    assert scribe.head.state.table.next_id == 4
    scribe.snapshot()
    assert Log(scribe.files, PLACE).state(6).table.next_id == 4


def test_head_compares_in_threads_as_in_one(monkeypatch):
    monkeypatch.setattr(compare, "_TILE_WORDS", 64)
    monkeypatch.setattr(compare, "_JOB_WORDS", 128)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (5, 1001), np.uint8)
    contents = []
    for executor in (None, threads()):
        scribe = Scribe(executor=executor)
        for i in range(5):
            scribe.create(f"a{i}", (1001,), "uint8").write(f"a{i}", first[i])
        scribe.commit()
        for i, count in enumerate([0, 1, 90, 700, 1001]):
            changed = first[i].copy()
            changed[:count] ^= 7
            scribe.write(f"a{i}", changed)
        scribe.patch("a0", {5: 1, 700: 9})
        scribe._draft.contents.pop(1)
        scribe.commit()
        scribe.close()
        check_log(Log(scribe.files, PLACE), scribe.history)
        check_digests(Log(scribe.files, PLACE), scribe)
        contents.append([record.tolist() for record in records_of(scribe)])
    assert contents[0] == contents[1]


def records_of(scribe: Scribe) -> list[np.ndarray]:
    return [scribe.log.record(version).records for version in range(1, scribe.log.version + 1)]


def test_head_of_large_arrays_writes_data_frames_and_comes_back():
    rng = np.random.default_rng(0)
    scribe = Scribe(executor=threads())
    base = rng.integers(0, 2**32, 700_000, np.uint32)
    scribe.create("dense", (700_000,), "uint32").create("few", (700_000,), "uint32").write(
        "dense", base
    ).write("few", base).commit(extra=rng.bytes(1_500_000))
    near, few = base ^ 1, base.copy()
    few[::1000] += 1
    scribe.write("dense", near).write("few", few).commit()
    scribe.patch("few", {int(place): 1 for place in range(0, 2_800_000, 70_001)}).commit()
    assert len(scribe.log.record(1).frame_sizes) > 3
    assert scribe.log.record(2).chunks["coding"].tolist() == [7, 7, 7, 2]
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)
    assert verify(Log(scribe.files, PLACE))


def test_commit_that_changes_nothing_gets_a_version_and_no_record():
    scribe = Scribe()
    scribe.create("w", (1000,)).write("w", np.ones(1000, "f4")).commit()
    landed = scribe.write("w", np.ones(1000, "f4")).commit()
    assert (landed.version, landed.changed, landed.changed_bytes) == (2, (), 0)
    assert landed.logged_bytes < 300
    assert scribe.log.record(2).records.size == 0


def test_commit_counts_the_bytes_that_differ():
    scribe = Scribe()
    scribe.create("w", (4,), "uint32").write("w", np.array([1, 2, 3, 4], "u4")).commit()
    landed = scribe.write("w", np.array([1, 0x0102, 3, 0x01000004], "u4")).commit()
    assert landed.changed_bytes == 2
    assert scribe.log.record(2).changed_bytes == 2


def test_full_record_is_due_once_deltas_outgrow_the_array():
    scribe = Scribe()
    scribe.create("w", (100,)).write("w", np.ones(100, "f4")).commit()
    for i in range(70):
        scribe.patch("w", {4 * (i % 100): i + 1, 200: i}).commit()
    flags = [int(records["flags"][0]) for records in records_of(scribe)]
    assert flags[0] == FULL
    stored = 0
    for version in range(2, 72):
        record = scribe.log.record(version)
        is_full = int(record.records["flags"][0]) == FULL
        assert is_full == (stored > 400)
        stored = 0 if is_full else stored + int(record.chunks["stored"].sum())
    assert 0 < flags[1:].count(FULL) < 10
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)


def test_snapshot_is_due_by_logged_bytes(monkeypatch):
    monkeypatch.setattr(tally, "LEAST_SPARSE_BYTES", 3000)
    monkeypatch.setattr(tally, "LEAST_TOTAL_BYTES", 1 << 40)
    scribe = Scribe()
    scribe.create("w", (100,)).write("w", np.ones(100, "f4")).commit()
    logged = 0
    while not scribe.head.snapshot_is_due:
        logged += scribe.patch("w", {0: scribe.log.version % 251}).commit().logged_bytes
    assert 2000 < logged < 5000
    scribe.snapshot()
    assert not scribe.head.snapshot_is_due


def test_snapshot_is_due_by_full_records_too(monkeypatch):
    monkeypatch.setattr(tally, "LEAST_SPARSE_BYTES", 1 << 40)
    monkeypatch.setattr(tally, "LEAST_TOTAL_BYTES", 1 << 10)
    rng = np.random.default_rng(0)
    scribe = Scribe()
    scribe.create("w", (1000,), "uint8")
    commits = 0
    while not scribe.head.snapshot_is_due:
        scribe.write("w", rng.integers(0, 256, 1000, np.uint8)).commit()
        commits += 1
    assert commits in (6, 7, 8)  # eight states, frames and all


@pytest.mark.parametrize("is_torn", [False, True], ids=["closed", "torn"])
def test_schedule_goes_on_behind_a_reopening_as_if_there_were_none(is_torn):
    schedules = []
    for reopens in (False, True):
        scribe = Scribe()
        scribe.create("w", (50,)).write("w", np.ones(50, "f4")).commit()
        scribe.snapshot()
        for i in range(30):
            scribe.patch("w", {4 * i: 9}).commit()
            if reopens and i in (3, 4, 20):
                if is_torn:
                    name = scribe.log.pieces[-1].segment.name
                    scribe.files.reopen(name).append([b"torn"])
                scribe = Scribe(scribe.files, history=scribe.history)
                assert len(scribe.log.pieces) == (2 + [3, 4, 20].index(i) + 1 if is_torn else 2)
        flags = [records["flags"].tolist() for records in records_of(scribe)]
        schedules.append((flags, vars(scribe.head.tally)))
    assert schedules[0] == schedules[1]


def test_same_commits_at_the_same_times_give_the_same_bytes(monkeypatch):
    contents = []
    for _ in range(2):
        monkeypatch.setattr("os.urandom", lambda size: b"\1" * size)
        monkeypatch.setattr("time.time_ns", lambda: 5)
        rng = np.random.default_rng(0)
        scribe = Scribe()
        scribe.create("w", (500,)).create("b", (7,), "uint8").commit(source="a", step=1)
        for _ in range(4):
            scribe.write("w", rng.normal(size=500).astype("f4")).patch("b", {1: 8}).commit()
        scribe.snapshot()
        scribe.delete("b").constant("c", "s:x").commit(note='{"a":1}', extra=b"x" * 900)
        scribe.close()
        contents.append({name: scribe.files.read(name) for name in names_of(scribe.files)})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_draft_is_not_altered_by_its_commit():
    scribe = Scribe()
    scribe.create("w", (5,)).write("w", np.ones(5, "f4")).commit()
    draft = Draft(contents={1: np.arange(20, dtype=np.uint8)}, time_ns=1)
    before = copy.deepcopy(draft)
    scribe.head.commit(draft)
    np.testing.assert_array_equal(draft.contents[1], before.contents[1])
    draft.contents[1][:] = 0  # the caller's again
    np.testing.assert_array_equal(scribe.head.state.bytes_of(1), before.contents[1])
    assert scribe.log.state(2, page_bytes=PAGE_BYTES).bytes_of(1).tolist() == list(range(20))


def codings_of(scribe: Scribe) -> list[int]:
    """The codings of the chunks of all commits, in order."""
    records = map(scribe.log.record, range(1, scribe.log.version + 1))
    return [coding for record in records for coding in record.chunks["coding"].tolist()]


def steps_of_a_parameter(count: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """What an optimiser makes of an array: all of its words change, by little."""
    rng = np.random.default_rng(1)
    value = rng.standard_normal(shape).astype("f4")
    for _ in range(count):
        value = value + (1e-4 * rng.standard_normal(shape)).astype("f4")
        yield value


def test_coding_of_a_dense_array_follows_its_bytes():
    rng = np.random.default_rng(2)
    scribe = Scribe()
    scribe.create("w", (20_000,)).commit()
    for value in steps_of_a_parameter(8, (20_000,)):
        scribe.write("w", value).commit()
    assert Coding.XOR_GROUP in codings_of(scribe)
    for _ in range(4):
        scribe.write("w", rng.integers(0, 2**32, 20_000, np.uint32).view("f4")).commit()
    assert set(codings_of(scribe)[-4:]) == {Coding.FULL}
    check_log(Log(scribe.files, PLACE), scribe.history)


@pytest.mark.parametrize("reopened", [{3}, {1, 2, 17, 18, 40}, set(range(60))])
def test_codings_go_on_behind_a_reopening_as_if_there_were_none(reopened):
    logs = []
    for places in (set(), reopened):
        scribe = Scribe()
        scribe.create("w", (20_000,)).commit()
        for i, value in enumerate(steps_of_a_parameter(60, (20_000,))):
            if i % 7 == 3:
                value = np.where(np.arange(20_000) < 120 * i, 0, value)
            scribe.write("w", value).commit()
            if i in places:
                scribe = Scribe(scribe.files, history=scribe.history)
        logs.append((codings_of(scribe), vars(scribe.head.tally)))
    assert logs[0] == logs[1]
    assert set(logs[0][0]) >= {Coding.FULL_GROUP, Coding.XOR_GROUP}
