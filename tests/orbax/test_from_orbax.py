"""Checkpoints of Orbax come in: every byte, type and step, and what stands beside the trees."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings

import mmsb_jax as mmsb
from tests.bus._script import run_script
from tests.orbax import _saved as saved
from tests.orbax._trees import a_tree, assert_equal, trees, with_classes

SAVERS = {"manager": saved.by_manager, "v1": saved.by_v1}


@pytest.mark.parametrize("how", SAVERS)
def test_steps_come_with_their_bytes_types_and_numbers(how, tmp_path):
    trees = {step: a_tree(step) for step in (0, 3, 7)}
    src = SAVERS[how](tmp_path / "run", trees)
    with mmsb.from_orbax(src, tmp_path / "log") as bus:
        assert [commit.step for commit in bus.commits] == [0, 3, 7]
        assert bus.notes("loss").values == [1.0, 0.25, 0.125]
        assert bus.latest.note["orbax"]["custom_metadata"] == {"run": "a"}
        for step, tree in trees.items():
            assert_equal(bus.checkout(step=step), tree)
    with mmsb.open(tmp_path / "log", mode="r") as bus:
        assert bus.verify(deep=True)
        assert_equal(bus.checkout(step=3, like=trees[0]), trees[3])


@pytest.mark.parametrize("how", [saved.one, saved.one_by_v1])
def test_one_checkpoint_comes_as_one_commit(how, tmp_path):
    src = how(tmp_path / "checkpoint", a_tree(1))
    with mmsb.from_orbax(src) as bus:
        assert len(bus.commits) == 1
        assert bus.latest.step is None
        assert_equal(bus.tree(), a_tree(1))


def test_checkpoint_alone_has_the_step_that_it_is_called_by(tmp_path):
    src = saved.by_manager(tmp_path / "run", {4: {"w": 1.0}, 5: {"w": 2.0}})
    with mmsb.from_orbax(src / "5") as bus:
        assert (bus.latest.step, bus.tree()) == (5, {"w": 2.0})


def test_steps_with_prefix_and_zeros_are_found(tmp_path):
    options = {"step_prefix": "at", "step_format_fixed_length": 6}
    src = saved.by_manager(tmp_path / "run", {2: {"w": 2.0}, 10: {"w": 1.0}}, **options)
    with mmsb.from_orbax(src) as bus:
        assert [commit.step for commit in bus.commits] == [2, 10]


@settings(max_examples=10)
@given(tree=trees)
def test_any_tree_comes_and_goes_out_again_equal(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    expected = {"tree": tree, "one": np.ones(1)}  # Orbax saves no tree without arrays
    with mmsb.from_orbax(saved.by_manager(folder / "run", {1: expected})) as bus:
        assert_equal(bus.tree(), expected)
        bus.to_orbax(folder / "out")
    with mmsb.from_orbax(folder / "out") as again:
        assert_equal(again.tree(), expected)


def test_fields_of_classes_come_by_name_and_resume_takes_them_for_classes(tmp_path):
    tree = {"model": with_classes(1)["model"]}
    with mmsb.from_orbax(saved.by_manager(tmp_path / "run", {0: tree})) as bus:
        assert isinstance(bus.tree()["model"], dict)
    with mmsb.from_orbax(tmp_path / "run") as bus:
        state, _ = bus.resume({"model": with_classes(0)["model"]})
        assert np.array_equal(state["model"].w, tree["model"].w)


def test_like_gives_the_classes_and_nodes_without_leaves(tmp_path):
    trees = {step: with_classes(step) for step in (0, 1)}
    src = saved.by_manager(tmp_path / "run", trees)
    like = jax.eval_shape(lambda: with_classes(0))
    with mmsb.from_orbax(src, tmp_path / "log", like=like) as bus:
        assert_equal(bus.tree(), trees[1])
    with mmsb.open(tmp_path / "log") as bus:
        state, _ = bus.resume(with_classes(7))
        assert_equal(state, trees[1])


def test_items_that_are_trees_are_entries_and_json_is_the_extra(tmp_path):
    steps = {
        0: {"params": {"w": 1.0}, "opt": {"m": 2.0}, "at_json": {"next": 1}},
        1: {"params": {"w": 3.0}, "opt": {"m": 4.0}, "at_json": {"next": 2}},
    }
    src = saved.by_items(tmp_path / "run", steps)
    with mmsb.from_orbax(src) as bus:
        assert bus.tree() == {"params": {"w": 3.0}, "opt": {"m": 4.0}}
        assert [commit.extra for commit in bus.commits] == [
            {"at_json": {"next": 1}}, {"at_json": {"next": 2}},
        ]  # fmt: skip
    with mmsb.from_orbax(src, items="params") as bus:
        assert (bus.tree(), bus.extra()) == ({"w": 3.0}, None)
    with mmsb.from_orbax(src, items=["opt", "at_json"]) as bus:
        assert (bus.tree(), bus.extra()) == ({"m": 4.0}, {"at_json": {"next": 2}})


def test_step_without_json_ends_what_was_in_force(tmp_path):
    steps = {0: {"params": {"w": 1.0}, "at_json": {"next": 1}}, 1: {"params": {"w": 1.0}}}
    with mmsb.from_orbax(saved.by_items(tmp_path / "run", steps)) as bus:
        assert (bus.extra(1), bus.extra(2)) == ({"at_json": {"next": 1}}, None)


def test_steps_of_another_structure_come_too(tmp_path):
    src = saved.by_manager(tmp_path / "run", {0: {"w": 1.0}, 1: {"v": "text", "w": np.ones(2)}})
    with mmsb.from_orbax(src) as bus:
        assert bus.checkout(step=0) == {"w": 1.0}
        assert_equal(bus.checkout(step=1), {"v": "text", "w": np.ones(2)})


def test_chosen_steps_come_alone_in_order(tmp_path):
    src = saved.by_manager(tmp_path / "run", {step: {"w": float(step)} for step in range(4)})
    with mmsb.from_orbax(src, steps=[3, 1]) as bus:
        assert [commit.step for commit in bus.commits] == [1, 3]


def test_second_call_does_nothing_and_takes_steps_that_were_added(tmp_path):
    src = saved.by_manager(tmp_path / "run", {0: {"w": 1.0}})
    mmsb.from_orbax(src, tmp_path / "log").close()
    with mmsb.from_orbax(src, tmp_path / "log") as bus:
        assert bus.version == 1
    saved.by_manager(src, {5: {"w": 2.0}})
    with mmsb.from_orbax(src, tmp_path / "log") as bus:
        assert [commit.step for commit in bus.commits] == [0, 5]
        bus.commit({"w": 3.0}, step=6)
    with pytest.raises(mmsb.LocationError, match="is a log already, and version 3 is not"):
        mmsb.from_orbax(src, tmp_path / "log")


def test_log_of_other_checkpoints_is_refused_and_stays(tmp_path):
    one = saved.by_manager(tmp_path / "one", {0: {"w": 1.0}})
    two = saved.by_manager(tmp_path / "two", {0: {"w": 2.0}})
    mmsb.from_orbax(one, tmp_path / "log").close()
    with pytest.raises(mmsb.LocationError, match="Give a path where nothing is yet"):
        mmsb.from_orbax(two, tmp_path / "log")
    with mmsb.open(tmp_path / "log") as bus:
        assert bus.tree() == {"w": 1.0}


KILLED = """
    import os, sys
    import mmsb_jax as mmsb
    from mmsb_jax._bus.orbax.read import ItemReader

    read, left = ItemReader.read, [int(sys.argv[3])]

    def counting(self, item):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return read(self, item)

    ItemReader.read = counting
    mmsb.from_orbax(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("whole", [0, 1, 3])
def test_what_was_killed_is_a_prefix_and_the_same_call_goes_on(whole, tmp_path):
    steps = {step: {"w": np.arange(4.0) + step} for step in range(4)}
    src = saved.by_manager(tmp_path / "run", steps)
    with pytest.raises(AssertionError):
        run_script(KILLED, src, tmp_path / "log", whole)
    with mmsb.open(tmp_path / "log", mode="r") as bus:
        assert [commit.step for commit in bus.commits] == list(range(whole))
    with mmsb.from_orbax(src, tmp_path / "log") as bus:
        assert [commit.step for commit in bus.commits] == list(range(4))
        assert_equal(bus.checkout(step=3), steps[3])


SHARDED = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    import orbax.checkpoint as ocp
    import mmsb_jax as mmsb

    src, log, out = sys.argv[1:]
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    over = NamedSharding(mesh, P("a", "b"))
    w = jax.device_put(jnp.arange(64.0).reshape(8, 8), over)
    key = jax.device_put(jax.random.split(jax.random.key(1), 8), NamedSharding(mesh, P("a")))
    state = {"w": w, "key": key}
    with ocp.CheckpointManager(src) as manager:
        for step in range(2):
            manager.save(step, args=ocp.args.StandardSave({"w": w + step, "key": key}))
    with mmsb.from_orbax(src, log) as bus:
        found, _ = bus.resume(state)
        assert found["w"].sharding == over and np.array_equal(found["w"], w + 1)
        bus.to_orbax(out, steps=[0, 1], like=state)
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    with ocp.CheckpointManager(out) as manager:
        for step in range(2):
            again = manager.restore(step, args=ocp.args.StandardRestore(like))
            assert again["w"].sharding == over and np.array_equal(again["w"], w + step)
            assert np.array_equal(jax.random.key_data(again["key"]), jax.random.key_data(key))
    print("whole")
"""


def test_sharded_arrays_come_and_go(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    paths = [tmp_path / name for name in ("run", "log", "out")]
    assert run_script(SHARDED, *paths, XLA_FLAGS=flags, JAX_PLATFORMS="cpu") == "whole"


def test_checkpoint_of_eight_devices_comes_on_one(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    paths = [tmp_path / name for name in ("run", "log", "out")]
    run_script(SHARDED, *paths, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    with mmsb.from_orbax(paths[0]) as bus:
        assert np.array_equal(bus.tree()["w"], np.arange(64.0).reshape(8, 8) + 1)
