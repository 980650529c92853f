"""Export and import: a bus elsewhere that has the same history, bit for bit."""

import ml_dtypes
import numpy as np
import pytest

import mmsb_jax as mmsb


def tree(i: int) -> dict[str, object]:
    rng = np.random.default_rng(i)
    sparse = np.zeros(5000, np.float32)
    sparse[: i + 1] = i
    return {
        "dense": rng.standard_normal(3000).astype(ml_dtypes.bfloat16),
        "sparse": sparse,
        "name": f"step {i // 4}",
        "n": i,
    }


def train(bus: mmsb.Bus, steps: int) -> None:
    for _ in range(steps):
        i = bus.version + 1
        bus.commit(tree(i), step=i, source="train", note={"loss": i}, extra=b"e" * i)


def same(left: mmsb.Bus, right: mmsb.Bus, since: int = 1) -> None:
    """Equal commits, states and chains from ``since`` on, and both whole."""
    mine, theirs = list(left.log(since=since)), list(right.log(since=since))
    assert mine == theirs
    assert [c.extra for c in mine] == [c.extra for c in theirs]
    for commit in mine:
        here, there = (b.checkout(version=commit.version) for b in (left, right))
        assert {n: np.asarray(x).tobytes() for n, x in here.items()} == {
            n: np.asarray(x).tobytes() for n, x in there.items()
        }
    assert left.verify()
    assert right.verify()


@pytest.mark.parametrize("is_file", [False, True])
def test_import_of_exports_gives_the_same_bus(any_bus, tmp_path, is_file):
    with mmsb.open() as sender:
        for steps in (3, 1, 0, 5):
            train(sender, steps)
            path = tmp_path / f"{sender.version}.stream" if is_file else None
            shipped = sender.export(any_bus.version, path)
            assert shipped == path or not is_file
            new = any_bus.import_(shipped)
            assert [c.version for c in new] == list(
                range(sender.version - steps + 1, sender.version + 1)
            )
        same(any_bus, sender)
        assert any_bus.durable_version in (0, 9)


def test_import_without_since_begins_an_empty_bus_late(any_bus):
    with mmsb.open() as sender:
        train(sender, 6)
        sender.snapshot()
        train(sender, 2)
        assert [c.version for c in any_bus.import_(sender.export())] == [6, 7, 8]
        same(any_bus, sender, 6)
        with pytest.raises(mmsb.VersionError):
            any_bus.checkout(version=5)
        train(sender, 1)
        assert [c.version for c in any_bus.import_(sender.export(8))] == [9]
        same(any_bus, sender, 6)


def test_imported_bus_goes_on_by_itself_and_survives_reopening(tmp_path):
    with mmsb.open() as sender:
        train(sender, 4)
        with mmsb.open(tmp_path / "copy.mmsb") as copy:
            copy.import_(sender.export(0))
            assert copy.resume(tree(0))[0]["n"] == 4
        with mmsb.open(tmp_path / "copy.mmsb") as copy:
            train(copy, 2)
            train(sender, 2)
            with pytest.raises(mmsb.DivergenceError, match="from version 5 on"):
                copy.import_(sender.export(4))
            with pytest.raises(mmsb.DivergenceError, match="from version 5 on"):
                sender.import_(copy.export(4))
            assert copy.version == 6
            assert copy.verify()
        with mmsb.open(tmp_path / "copy.mmsb", mode="r") as copy:
            assert copy.verify()
            assert copy.recovered == []


def test_import_takes_new_strings_and_structures_and_the_next_commit_knows_them(bus):
    with mmsb.open() as sender:
        train(sender, 1)
        bus.import_(sender.export(0))
        assert bus.commit(tree(1)).changed_bytes == 0
    with mmsb.open() as sender, mmsb.open() as bus:
        train(sender, 3)
        bus.import_(sender.export(0))
        bus_tree = tree(3)
        sender.commit(tree(4) | {"more": np.ones(3)}, structure="new")
        bus.import_(sender.export(3))
        with pytest.raises(mmsb.StructureError, match="more: missing"):
            bus.commit(bus_tree)
        assert bus.tree()["name"] == "step 1"
        assert bus.tree()["more"].tolist() == [1, 1, 1]


def test_import_takes_derived_bytes_and_runs_no_function(bus):
    runs = []

    def double(x):
        runs.append(x.shape)
        return x * 2

    with mmsb.open() as sender:
        sender.commit({"x": np.arange(4.0, dtype=np.float32)})
        sender.derive("twice", ["x"], double)
        sender.write("x", np.ones(4, np.float32))
        traced = len(runs)
        bus.import_(sender.export(0))
        assert bus.read("twice").tolist() == [2, 2, 2, 2]
        assert bus.derived()["twice"].is_attached is False
        assert len(runs) == traced
        bus.derive("twice", ["x"], double)
        sender.write("x", np.full(4, 3, np.float32))
        before = bus.derived()["twice"].runs
        bus.import_(sender.export(3))
        assert bus.read("twice").tolist() == [6, 6, 6, 6]
        assert bus.derived()["twice"].runs == before
        assert bus.derived()["twice"].is_attached
        bus.write("x", np.full(4, 5, np.float32))  # its own commit runs it
        assert bus.read("twice").tolist() == [10, 10, 10, 10]


def test_import_tells_subscribers(bus):
    seen = []
    with mmsb.open() as sender, bus.subscribe("commit", lambda e: seen.append(e.commit.version)):
        train(sender, 3)
        bus.import_(sender.export(0))
    assert seen == [1, 2, 3]


def test_import_with_a_gap_says_what_is_missing(bus):
    with mmsb.open() as sender:
        train(sender, 5)
        with pytest.raises(mmsb.VersionError, match="versions 1 to 3 are missing"):
            bus.import_(sender.export(3))
        assert bus.version == 0


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_import_of_a_stream_cut_short_changes_nothing(bus, keep):
    with mmsb.open() as sender:
        train(sender, 2)
        bus.import_(sender.export(0))
        train(sender, 3)
        with pytest.raises(mmsb.CorruptionError, match="no whole stream"):
            bus.import_(sender.export(2)[:keep])
        assert bus.version == 2
        bus.import_(sender.export(2))
        same(bus, sender)


def test_import_where_arrays_were_created_is_refused(bus):
    bus.create("mine", (3,))
    with mmsb.open() as sender:
        train(sender, 1)
        with pytest.raises(mmsb.DivergenceError, match="'mine'"):
            bus.import_(sender.export(0))


def test_import_inside_a_batch_and_on_a_reader_is_refused(tmp_path):
    with mmsb.open() as sender, mmsb.open(tmp_path / "x.mmsb") as bus:
        train(sender, 1)
        stream = sender.export(0)
        with pytest.raises(mmsb.ClosedError, match="inside a batch"), bus.batch():
            bus.import_(stream)
        with (
            mmsb.open(tmp_path / "x.mmsb", mode="r") as reader,
            pytest.raises(mmsb.ClosedError, match="mode='r'"),
        ):
            reader.import_(stream)


def test_import_of_no_file_says_so(bus, tmp_path):
    with pytest.raises(mmsb.LocationError, match="cannot be read"):
        bus.import_(tmp_path / "none")


def test_export_of_a_writer_is_durable_and_of_a_reader_stops_there(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        train(bus, 3)
        assert bus.durable_version == 0
        with mmsb.open(tmp_path / "x.mmsb", mode="r") as reader, mmsb.open() as copy:
            assert copy.import_(reader.export(0)) == []
            bus.export(0)
            assert bus.durable_version == 3
            train(bus, 1)  # its frames say that what is before is durable
            copy.import_(reader.export(0))
            assert copy.version == reader.durable_version == 3


def test_export_takes_what_is_queued_and_what_was_created(bus):
    bus.create("x", (3,))
    with mmsb.open() as copy:
        copy.import_(bus.export(0))
        assert copy.read("x").tolist() == [0, 0, 0]
    with mmsb.open() as sender, mmsb.open() as copy:
        train(sender, 1)
        for i in range(2, 6):
            sender.commit(tree(i), wait=False)
        copy.import_(sender.export(0))
        same(copy, sender)


def test_export_to_a_place_that_cannot_be_leaves_nothing(bus, tmp_path):
    train(bus, 1)
    with pytest.raises(mmsb.LocationError, match="cannot be written"):
        bus.export(0, tmp_path / "none" / "x")
    with pytest.raises(mmsb.LocationError, match="cannot be written"):
        bus.export(0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_behind_what_was_compacted_says_how_to_join_late(bus):
    train(bus, 8)
    bus.compact(keep_since=5)
    with pytest.raises(mmsb.VersionError, match=r"versions 2 to 4 cannot be had.*Join late"):
        bus.export(1)
    with mmsb.open() as copy:
        copy.import_(bus.export())
        same(copy, bus, 8)


@pytest.mark.parametrize("since", [-1, 4, "x", 1.5])
def test_export_since_no_version_is_refused(bus, since):
    train(bus, 3)
    with pytest.raises((mmsb.VersionError, TypeError)):
        bus.export(since)


def test_imported_bus_can_be_forked_compacted_and_exported_again(tmp_path):
    with mmsb.open() as sender, mmsb.open(tmp_path / "middle.mmsb") as middle:
        train(sender, 6)
        middle.import_(sender.export(0))
        with middle.fork() as fork:
            train(fork, 2)
            assert fork.verify()
            assert fork.version == 8
        middle.compact(keep_since=3)
        same(middle, sender, 3)
        with mmsb.open() as last:
            last.import_(middle.export())
            same(last, sender, 6)
        train(sender, 1)
        middle.import_(sender.export(6))
        same(middle, sender, 3)
