import numpy as np
import pytest

from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame
from mmsb_jax._store.format.names import list_snapshots, snapshot_name
from mmsb_jax._store.format.record import PAGE_VERSIONS
from mmsb_jax._store.log.in_force import extra_in_force, stored_extra
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.snapshot import read_snapshot, write_snapshot
from mmsb_jax._store.state.state import StoredState
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, check_state, copy_files, threads


def every_kind() -> Scribe:
    """Arrays of all sorts: never written, empty, cut to nothing, large, with odd names."""
    rng = np.random.default_rng(0)
    scribe = Scribe()
    scribe.create("../zero", (50,)).create("empty", (0,)).create("a\0b", (), "bfloat16")
    scribe.create("cut", (9,)).write("cut", np.ones(9, "f4"))
    scribe.create("large", (1_100_000,), "uint8")
    scribe.write("large", rng.integers(0, 256, 1_100_000, np.uint8)).commit()
    scribe.resize("cut", (0,)).constant("f", "f:jax.nn.relu").patch("large", {1_099_999: 1})
    scribe.commit(step=5)
    scribe.patch("a\0b", {0: 1}).create("gone", (2,)).commit()
    scribe.delete("gone").commit()
    return scribe


def test_snapshot_written_and_read_holds_the_state():
    scribe = every_kind()
    state = scribe.log.state(4, page_bytes=PAGE_BYTES)
    files = MemoryFiles()
    written = write_snapshot(files, state, 7, 999, lambda: threads())
    assert written == files.size(snapshot_name(4))
    again, position = read_snapshot(files, 4, scribe.log.manifest.ids, page_bytes=PAGE_BYTES)
    assert position == 999
    assert again.table == state.table
    check_state(again, scribe.history[4])
    again.check_digest()


def test_log_goes_on_from_a_snapshot_as_without_one():
    scribe = every_kind()
    scribe.snapshot()
    scribe.patch("../zero", {0: 1}).resize("empty", (3,)).patch("empty", {2: 2}).commit()
    scribe.patch("large", {i: i % 251 for i in range(0, 5000, 50)}).commit()
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)
    files = copy_files(scribe.files)
    files.remove(snapshot_name(4))
    check_log(Log(files, PLACE), scribe.history)


def test_snapshot_of_some_arrays_holds_these_alone():
    scribe = every_kind()
    scribe.snapshot()
    ids = scribe.log.manifest.ids
    state, _ = read_snapshot(scribe.files, 4, ids, wanted=lambda name: name == "a\0b")
    assert [state.table.arrays[array_id].name for array_id in state.words] == ["a\0b"]
    assert len(state.table.arrays) == 5
    table, _ = read_snapshot(scribe.files, 4, ids, with_data=False)
    assert table.words == {}
    assert table.table == state.table


@pytest.mark.parametrize("version", [1, 3, 5])
def test_snapshot_under_another_version_is_refused(version):
    scribe = every_kind()
    scribe.snapshot()
    scribe.files.publish(snapshot_name(version), [scribe.files.read(snapshot_name(4))])
    with pytest.raises(BadFrameError, match="is of version 4 of another history"):
        read_snapshot(scribe.files, version, scribe.log.manifest.ids)


def test_snapshot_of_another_log_is_refused():
    scribe = every_kind()
    scribe.snapshot()
    with pytest.raises(BadFrameError, match="another history"):
        read_snapshot(scribe.files, 4, LogIds((), b"x" * 16))


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw + bytes(64),
        lambda raw: raw[:-64],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"".join(build_frame(Kind.COMMIT, 0, 0)[1]),
        lambda raw: b"".join(build_frame(99, 0, 0, must_understand=False)[1]),
    ],
    ids=["longer", "shorter", "half", "empty", "commit", "optional"],
)
def test_snapshot_that_is_not_whole_is_passed_over(damage):
    scribe = every_kind()
    scribe.snapshot()
    scribe.patch("../zero", {0: 1}).commit()
    scribe.close()
    files = copy_files(scribe.files)
    files.publish(snapshot_name(4), [damage(files.read(snapshot_name(4)))])
    with pytest.raises(BadFrameError):
        read_snapshot(files, 4, scribe.log.manifest.ids)
    check_log(Log(files, PLACE), scribe.history)


def test_snapshot_whose_page_versions_are_not_one_a_page_is_refused():
    scribe = every_kind()
    scribe.snapshot()
    with pytest.raises(BadFrameError, match="not one a page"):
        read_snapshot(scribe.files, 4, scribe.log.manifest.ids, page_bytes=2 * PAGE_BYTES)


def test_snapshots_listed_are_those_with_the_right_names():
    files = MemoryFiles()
    for name in ("snapshots/00000000000000000012.snap", "snapshots/00000000000000000003.snap"):
        files.publish(name, [b""])
    for name in ("snapshots/5.snap", "snapshots/00000000000000000004.snap.draft", "snapshots/x"):
        files.publish(name, [b""])
    assert list_snapshots(files) == [3, 12]


def test_snapshot_twice_of_one_state_has_the_same_bytes():
    scribe = every_kind()
    contents = []
    for executor in (None, threads):
        files = MemoryFiles()
        write_snapshot(files, scribe.log.state(4, page_bytes=PAGE_BYTES), 7, 999, executor)
        contents.append(files.read(snapshot_name(4)))
    assert contents[0] == contents[1]


def test_snapshot_of_compressible_arrays_is_small():
    scribe = Scribe()
    scribe.create("w", (500_000,)).write("w", np.ones(500_000, "f4")).commit()
    assert scribe.snapshot() < 50_000


def test_snapshot_is_read_only_where_arrays_that_are_wanted_are():
    scribe = Scribe(MemoryFiles())
    rng = np.random.default_rng(0)
    for name in "abc":
        scribe.create(name, (300_000,))
    scribe.commit()
    values = {name: rng.standard_normal(300_000).astype(np.float32) for name in "abc"}
    for name, value in values.items():
        scribe.write(name, value)
    scribe.commit()
    scribe.snapshot(rotate=True)
    log = Log(scribe.files, "the log")
    read, sizes = scribe.files.read, []

    def counted(name, offset=0, size=None):
        raw = read(name, offset, size)
        sizes.append(len(raw) if name.startswith("snapshots") else 0)
        return raw

    scribe.files.read = counted
    state = log.state(log.version, lambda name: name == "b")
    assert 1_000_000 < sum(sizes) < 2_400_000
    assert list(state.words) == [2]
    assert state.bytes_of(2).tobytes() == values["b"].tobytes()


def test_extra_that_no_commit_gave_is_not_looked_for_in_snapshots():
    scribe = Scribe(MemoryFiles())
    scribe.create("a", (9,)).commit()
    scribe.snapshot(rotate=True)
    log, read, names = Log(scribe.files, "the log"), scribe.files.read, []

    def noted(name, offset=0, size=None):
        names.append(name)
        return read(name, offset, size)

    scribe.files.read = noted
    assert stored_extra(log, log.version) is None
    assert extra_in_force(log, log.version).blob is None
    assert not [name for name in names if name.startswith("snapshots")]


def test_versions_of_pages_stand_behind_the_records_of_their_arrays(monkeypatch):
    rng = np.random.default_rng(0)
    scribe = Scribe(MemoryFiles())
    for k in range(300):
        scribe.create(f"a{k}", (2000,), ("uint8", "float32", "int16")[k % 3])
    for k in range(300):
        scribe.write(f"a{k}", rng.integers(0, 9, 2000 * (1, 4, 2)[k % 3], np.uint8))
    scribe.commit()
    scribe.snapshot()
    log = Log(scribe.files, "the log")
    seen, rows, begin = set[int](), [], StoredState.begin

    def noted(self, record):
        rows.extend(record.rows())
        return begin(self, record)

    monkeypatch.setattr(StoredState, "begin", noted)
    log.state(log.version, page_bytes=PAGE_BYTES)
    for array_id, *_, flags in rows:
        assert not flags & PAGE_VERSIONS or array_id in seen
        seen.add(array_id)
    assert len(rows) == 600
    monkeypatch.undo()
    check_log(Log(scribe.files, "the log"), scribe.history)
