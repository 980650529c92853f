"""What cannot come from Orbax, or go to it, is named, and nothing is written."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

import mmsb_jax as mmsb
from tests.orbax import _saved as saved
from tests.orbax._trees import a_tree


@pytest.fixture
def run(tmp_path) -> Path:
    """Three steps of Orbax."""
    return saved.by_manager(tmp_path / "run", {step: {"w": float(step)} for step in range(3)})


def refuse(match: str, error: type[Exception], src: Path, **options: object) -> None:
    """`from_orbax` raises, and makes no log."""
    dst = src.parent / "log"
    with pytest.raises(error, match=match):
        mmsb.from_orbax(src, dst, **options)
    assert not dst.exists()


def test_directory_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "src" / "logs").mkdir(parents=True)
    refuse("holds no finished checkpoint of Orbax", mmsb.LocationError, tmp_path / "src")


def test_file_and_what_is_not_there_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        refuse("is no directory", mmsb.LocationError, tmp_path / name)


def test_url_is_refused():
    with pytest.raises(mmsb.LocationError, match="is a URL"):
        mmsb.from_orbax("gs://bucket/run")


def test_log_of_this_library_is_refused(tmp_path):
    mmsb.open(tmp_path / "src").close()
    refuse("holds no finished checkpoint of Orbax", mmsb.LocationError, tmp_path / "src")


def test_what_orbax_was_writing_when_it_died_is_left_out(run):
    (run / "2").rename(run / "2.orbax-checkpoint-tmp")
    with mmsb.from_orbax(run) as bus:
        assert [commit.step for commit in bus.commits] == [0, 1]
    refuse("has no steps 2; it has 0, 1", mmsb.VersionError, run, steps=[1, 2])
    refuse("is no directory|not finished", mmsb.LocationError, run / "2.orbax-checkpoint-tmp")


def test_checkpoint_without_its_commit_is_refused_by_name_and_can_be_left_out(run):
    about = run / "1" / "_CHECKPOINT_METADATA"
    said = json.loads(about.read_text())
    about.write_text(json.dumps(said | {"commit_timestamp_nsecs": None}))
    refuse("1 checkpoints in .* are not finished.*: 1. Leave", mmsb.LocationError, run)
    with mmsb.from_orbax(run, steps=[0, 2]) as bus:
        assert [commit.step for commit in bus.commits] == [0, 2]


def test_directory_of_a_step_that_holds_nothing_is_refused_by_name(run):
    (run / "7").mkdir()
    refuse("are not finished.*: 7. Leave", mmsb.LocationError, run)


@pytest.mark.parametrize("lost", ["d", "manifest.ocdbt", "_METADATA"])
def test_checkpoint_of_which_a_part_is_lost_is_refused(lost, tmp_path):
    src = saved.by_manager(tmp_path / "run", {0: a_tree()})
    place = src / "0" / "default" / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    refuse("0", mmsb.MMSBError, src)


def test_metadata_that_is_no_json_is_refused(run):
    (run / "1" / "_CHECKPOINT_METADATA").write_text("{")
    refuse("is no JSON: .*leave it out", mmsb.CorruptionError, run)


@pytest.mark.parametrize("text", ["{}", "[]", '{"tree_metadata": {"a": 1}}', "3"])
def test_metadata_of_a_tree_that_say_nothing_are_refused(text, run):
    (run / "1" / "default" / "_METADATA").write_text(text)
    refuse("step 1: ", mmsb.StructureError, run)


def test_two_directories_of_one_step_are_refused(run):
    shutil.copytree(run / "1", run / "001")
    refuse("001 and 1 in .* are both of step 1", mmsb.LocationError, run)


def test_items_that_are_missing_are_named_with_all_steps(tmp_path):
    steps = {0: {"a": {"w": 1.0}, "b": {"w": 2.0}}, 1: {"a": {"w": 1.0}}, 2: {"a": {"w": 1.0}}}
    src = saved.by_items(tmp_path / "run", steps)
    match = r"2 things .*\n  step 1: it has no item 'b'\n  step 2: it has no item 'b'\n"
    refuse(match, mmsb.StructureError, src, items=["a", "b"])


def test_item_of_another_kind_is_named_and_can_be_left_out(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        key = ocp.args.JaxRandomKeySave(jax.random.key(0))
        tree = ocp.args.PyTreeSave({"w": 1.0})
        manager.save(0, args=ocp.args.Composite(tree=tree, key=key))
    refuse("step 0: item 'key' is neither a pytree nor JSON", mmsb.StructureError,
           tmp_path / "run")  # fmt: skip
    with mmsb.from_orbax(tmp_path / "run", items="tree") as bus:
        assert bus.tree() == {"w": 1.0}


def test_leaf_of_a_type_of_its_own_is_named(run):
    about = run / "1" / "default" / "_METADATA"
    about.write_text(about.read_text().replace('"scalar"', '"mine.Type"'))
    refuse(r"step 1: item 'default' has leaves of a type of its own: w \(mine.Type\)",
           mmsb.StructureError, run)  # fmt: skip


def test_like_of_other_paths_is_refused_with_each(run):
    match = "step 0: v is in `like` alone; w is not in `like`"
    refuse(match, mmsb.StructureError, run, like={"v": 1.0})


def test_metric_with_the_name_of_the_entry_is_refused(tmp_path):
    place, options = tmp_path / "run", {"best_fn": lambda metrics: 0.0}
    with ocp.CheckpointManager(place, options=ocp.CheckpointManagerOptions(**options)) as manager:
        manager.save(0, args=ocp.args.PyTreeSave({"w": 1.0}), metrics={"orbax": 1.0})
    refuse("a metric is called 'orbax'", mmsb.StructureError, place)


@pytest.fixture
def bus():
    with mmsb.open() as opened:
        yield opened


def test_leaves_that_orbax_cannot_save_are_named_and_nothing_is_written(bus, tmp_path):
    tree = {
        "act": jax.nn.relu, "big": 2**80, "complex": 1j, "none": np.zeros((0, 3)), "fine": 1.0,
        "text": np.array(["a"]), "small": jnp.ones(2, ml_dtypes.uint4),
    }  # fmt: skip
    bus.commit(tree)
    with pytest.raises(mmsb.StructureError, match="Orbax cannot save 6 leaves") as raised:
        bus.to_orbax(tmp_path / "out")
    for name in tree.keys() - {"fine"}:
        assert f"\n  {name}: " in str(raised.value)
    assert not (tmp_path / "out").exists()
    bus.to_orbax(tmp_path / "out", arrays=["fine"])
    assert saved.restored(tmp_path / "out", 1) == {"fine": 1.0}


def test_names_that_are_one_in_orbax_are_refused(bus, tmp_path):
    bus.commit({"a.b": np.ones(2), "a": {"b": np.zeros(2)}})
    with pytest.raises(mmsb.StructureError, match=r"a/b: is 'a\.b' there, as another is"):
        bus.to_orbax(tmp_path / "out")


def test_text_at_a_key_that_orbax_looks_up_as_another_is_refused(bus, tmp_path):
    bus.commit({"a~b": "x", "e/f": {"g": "y"}, "h~i": 1})
    with pytest.raises(
        mmsb.StructureError, match=r"cannot save 2 leaves:\n  a~0b: a text.*\n  e~1f/g: a"
    ):
        bus.to_orbax(tmp_path / "out")


def test_tree_without_leaves_is_refused(bus, tmp_path):
    bus.commit({})
    with pytest.raises(mmsb.StructureError, match="the tree has no leaves"):
        bus.to_orbax(tmp_path / "out")


def test_tree_that_is_one_leaf_is_refused(bus, tmp_path):
    bus.commit(np.ones(2))
    with pytest.raises(
        mmsb.StructureError, match=r"~: the tree is float64\[2\] \(numpy\), which is"
    ):
        bus.to_orbax(tmp_path / "out")


def test_like_that_is_one_leaf_is_refused(bus, tmp_path):
    bus.commit({"w": np.ones(3)})
    with pytest.raises(mmsb.StructureError, match="is one leaf"):
        bus.to_orbax(tmp_path / "out", arrays=["w"], like=np.ones(3))
    assert not (tmp_path / "out").exists()


def test_versions_of_one_step_are_refused(bus, tmp_path):
    for x in (1.0, 2.0):
        bus.commit({"x": x}, step=3)
    with pytest.raises(ValueError, match="several of the versions are of the steps 3"):
        bus.to_orbax(tmp_path / "out", refs=[1, 2])


def test_step_that_is_there_is_refused_and_stays(bus, tmp_path):
    bus.commit({"x": 1.0}, step=0)
    bus.commit({"x": 2.0}, step=1)
    bus.to_orbax(tmp_path / "out", steps=[0])
    with pytest.raises(mmsb.LocationError, match="has the steps 0 already"):
        bus.to_orbax(tmp_path / "out", steps=[0, 1])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0"]


def test_version_without_bytes_is_refused_before_anything_is_written(tmp_path):
    with mmsb.open(save=mmsb.Every(steps=10)) as bus:
        for step in range(3):
            bus.commit({"x": float(step)}, step=step)
        with pytest.raises(mmsb.VersionError, match="holds a digest only"):
            bus.to_orbax(tmp_path / "out", steps=[0, 1])
    assert not (tmp_path / "out").exists()


def test_empty_log_has_nothing_to_give(bus, tmp_path):
    with pytest.raises(mmsb.VersionError, match="the log is empty"):
        bus.to_orbax(tmp_path / "out")


def test_extra_that_is_no_json_is_refused(bus, tmp_path):
    bus.commit({"x": 1.0}, extra=b"bytes")
    with pytest.raises(mmsb.StructureError, match="an extra of bytes"):
        bus.to_orbax(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_orbax_that_is_not_installed_is_named_with_its_extra(bus, tmp_path, monkeypatch):
    bus.commit({"x": 1.0})
    monkeypatch.setitem(__import__("sys").modules, "orbax.checkpoint", None)
    for call in (lambda: bus.to_orbax(tmp_path), lambda: mmsb.from_orbax(tmp_path)):
        with pytest.raises(ImportError, match=r"pip install 'mmsb-jax\[orbax\]'"):
            call()
