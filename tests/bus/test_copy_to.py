"""``copy_to=``, ``restore_from=``: a run whose disk may go goes on from its copy."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._dense import settled, state, train
from tests.bus._script import run_script

pytestmark = pytest.mark.usefixtures("small_segments")


def test_run_goes_on_from_its_copy_on_machine_after_machine(tmp_path: Path):
    copy, step = tmp_path / "elsewhere" / "copy", 0
    for machine in range(4):
        path = tmp_path / f"disk{machine}" / "run.mmsb"
        bus = mmsb.open(path, copy_to=copy, restore_from=copy, keep=mmsb.Keep(last=3))
        tree, extra = bus.resume(state(0), {"next": 0})
        assert (extra["next"] > 0) == (machine > 0)
        if machine:
            np.testing.assert_array_equal(tree["w"], state(extra["next"] - 1)["w"])
        for step in range(extra["next"], extra["next"] + 20):
            bus.commit(state(step), step=step, extra={"next": step + 1}, wait=step % 2 == 0)
        if machine % 2:
            settled(bus)
            assert 0 < bus.stats().copied_version <= bus.version
            shutil.copytree(copy, tmp_path / "then")  # the machine is gone; its copy is not
            bus.close()
            shutil.rmtree(copy)
            (tmp_path / "then").rename(copy)
        else:
            bus.close()
        shutil.rmtree(path)
        with mmsb.open(copy, mode="r") as reader:
            assert reader.verify()
            np.testing.assert_array_equal(reader.checkout()["w"], state(reader.latest.step)["w"])
            assert reader.latest.step == step or machine % 2
    assert step > 50


def test_fault_of_the_copy_stops_no_commit_and_is_told(tmp_path: Path):
    (tmp_path / "copy").write_text("a file")
    with mmsb.open(tmp_path / "run.mmsb", keep=mmsb.Keep(last=1)) as bus:
        for step in range(10):
            bus.commit(state(step), step=step)
    (tmp_path / "copy").unlink()
    with mmsb.open(tmp_path / "run.mmsb", copy_to=tmp_path / "copy") as bus:
        (tmp_path / "copy").write_text("a file")
        with pytest.warns(UserWarning, match="nothing was copied"):
            train(bus, range(10, 20))
        assert bus.stats().copy_fault
        (tmp_path / "copy").unlink()
        for step in range(20, 30):
            bus.commit(state(step), step=step)
        settled(bus)
        assert bus.stats().copy_fault is None
    with mmsb.open(tmp_path / "copy", mode="r") as reader:
        assert reader.latest.step == 29
        assert reader.verify()


def test_nothing_is_given_up_while_the_copy_fails(tmp_path: Path):
    copy = tmp_path / "copy"
    with mmsb.open(tmp_path / "run.mmsb", copy_to=copy, keep=mmsb.Keep(last=1)) as bus:
        copy.write_text("a file")
        with pytest.warns(UserWarning, match="nothing was copied"):
            train(bus, range(30))
        assert bus.stats().keep_runs == 0
        copy.unlink()
        train(bus, range(30, 40))
        assert bus.stats().keep_runs > 0


def test_nothing_is_given_up_that_was_not_copied(tmp_path: Path):
    copy = tmp_path / "copy"
    with mmsb.open(tmp_path / "run.mmsb", copy_to=copy, keep=mmsb.Keep(last=1)) as bus:
        for step in range(20):
            bus.commit(state(step), step=step)
        bus.compact(keep_since=bus.version)
        for step in range(20, 30):
            bus.commit(state(step), step=step)
        assert bus.stats().copy_fault is None
    with mmsb.open(copy, mode="r") as reader:
        assert [commit.step for commit in reader.commits] == [*range(30)]
        assert reader.verify()


def test_nothing_is_compacted_that_could_not_be_copied(tmp_path: Path):
    copy = tmp_path / "copy"
    with mmsb.open(tmp_path / "run.mmsb", copy_to=copy) as bus:
        for step in range(10):
            bus.commit(state(step), step=step)
        settled(bus)
        shutil.rmtree(copy, ignore_errors=True)
        copy.write_text("a file")
        with (
            pytest.warns(UserWarning, match="nothing was copied"),
            pytest.raises(mmsb.LocationError, match="nothing was compacted"),
        ):
            bus.compact(keep_since=9)
        copy.unlink()
        bus.compact(keep_since=9)
        assert bus.stats().copied_version == 10


def test_warnings_that_are_errors_hide_no_fault(tmp_path: Path):
    with mmsb.open(tmp_path / "run.mmsb", copy_to=tmp_path / "copy") as bus:
        (tmp_path / "copy").write_text("a file")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(bus, range(10))
        assert bus.stats().copy_fault


def test_restoring_that_was_killed_is_done_again(tmp_path: Path):
    path, copy = tmp_path / "b.mmsb", tmp_path / "copy"
    with mmsb.open(tmp_path / "a.mmsb", copy_to=copy) as bus:
        train(bus, range(10))
    run_script(
        """
        import os, sys
        import mmsb_jax as mmsb
        from mmsb_jax._store.files.disk import DiskFiles

        publish = DiskFiles.publish
        def die(self, name, buffers):
            if name == "manifest":
                os._exit(0)
            publish(self, name, buffers)
        DiskFiles.publish = die
        mmsb.open(sys.argv[1], restore_from=sys.argv[2])
        """,
        path,
        copy,
    )
    assert not path.exists()
    with mmsb.open(path, restore_from=copy) as bus:
        assert bus.latest.step == 9
        assert bus.verify()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mmsb", "b.mmsb", "copy"]


def test_disk_that_came_back_behind_its_copy_is_refused(tmp_path: Path):
    path, copy = tmp_path / "run.mmsb", tmp_path / "copy"
    with mmsb.open(path, copy_to=copy) as bus:
        bus.commit(state(1), step=1)
    with mmsb.open(tmp_path / "other.mmsb", copy_to=copy, restore_from=copy) as bus:
        bus.commit(state(2), step=2)
    for options in ({"restore_from": copy}, {"copy_to": copy}):
        with pytest.raises(mmsb.DivergenceError, match="version 1"):
            mmsb.open(path, **options)
    with mmsb.open(path) as bus:
        assert bus.latest.step == 1


def test_fork_has_no_copy_and_restoring_where_a_log_is_does_nothing(tmp_path: Path):
    copy = tmp_path / "copy"
    with mmsb.open(tmp_path / "run.mmsb", copy_to=copy, restore_from=tmp_path / "none") as bus:
        bus.commit(state(1), step=1)
        with pytest.raises(TypeError, match="copy_to"):
            bus.fork(tmp_path / "other.mmsb", copy_to=tmp_path / "there")
        with bus.fork(tmp_path / "fork.mmsb") as fork:
            assert fork.stats().copied_version is None
    with mmsb.open(tmp_path / "run.mmsb", restore_from=copy) as bus:
        assert bus.version == 1
        assert bus.stats().copied_version is None


def test_wrong_places_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="give its path"):
        mmsb.open(copy_to=tmp_path)
    with pytest.raises(ValueError, match="mode='r' writes no files"):
        mmsb.open(tmp_path / "run.mmsb", mode="r", restore_from=tmp_path)
    with pytest.raises(TypeError, match="copy_to"):
        mmsb.open(tmp_path / "run.mmsb", copy_to=3)
    for name in ("copy_to", "restore_from"):
        with pytest.raises(mmsb.LocationError, match="is a URL"):
            mmsb.open(tmp_path / "run.mmsb", **{name: "gs://bucket/run"})
        with pytest.raises(ValueError, match="within the log itself"):
            mmsb.open(tmp_path / "run.mmsb", **{name: tmp_path / "run.mmsb" / "log"})
    with mmsb.open(tmp_path / "a.mmsb", copy_to=tmp_path / "copy") as bus:
        bus.commit(state(1))
        with pytest.raises(ValueError, match="copy_to"):
            mmsb.open(tmp_path / "a.mmsb", copy_to=tmp_path / "another")
    with pytest.raises(mmsb.LocationError, match="a copy of another log"):
        mmsb.open(tmp_path / "b.mmsb", copy_to=tmp_path / "copy")
    assert mmsb.open(tmp_path / "b.mmsb").version == 0
