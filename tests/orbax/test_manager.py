"""The manager with Orbax's surface: a loop written for the one runs with the other."""

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import mmsb_jax as mmsb
from mmsb_jax.orbax import CheckpointManager
from tests.bus._script import run_script
from tests.orbax._trees import a_tree, assert_equal, with_classes

LOSSES = {0: 3.0, 1: 1.0, 2: 2.0, 3: 5.0}


@pytest.fixture
def place(tmp_path) -> pathlib.Path:
    return tmp_path / "run"


def loop(manager: Any) -> list[Any]:
    """What a loop sees that saves, is cut short, and goes on."""
    seen: list[Any] = [manager.latest_step()]
    for step, loss in LOSSES.items():
        tree = {"w": jnp.arange(3.0) + step, "n": step}
        saved = ocp.args.StandardSave(tree)
        seen.append(manager.should_save(step))
        seen.append(manager.save(step, args=saved, metrics={"loss": loss}))
    manager.wait_until_finished()
    seen += [manager.all_steps(), manager.latest_step(), manager.best_step(), manager.metrics(1)]
    like = {"w": jax.ShapeDtypeStruct((3,), jnp.float32), "n": 0}
    for step in manager.all_steps():
        found = manager.restore(step, args=ocp.args.StandardRestore(like))
        seen += [np.asarray(found["w"]).tolist(), found["n"]]
    return seen


@pytest.mark.parametrize("options", [
    {},
    {"save_interval_steps": 3, "save_on_steps": [1]},
    {"save_interval_steps": 10, "save_on_steps": [1, 3]},
    {"should_save_fn": lambda step, latest: step in (0, 1, 2)},
    {"best_mode": "min"},
    {"enable_async_checkpointing": False},
])  # fmt: skip
def test_loop_sees_what_it_sees_with_orbax(options, tmp_path):
    options = {"best_fn": lambda metrics: metrics["loss"], **options}
    made = ocp.CheckpointManagerOptions(**options)
    seen = []
    for manager_of in (ocp.CheckpointManager, CheckpointManager):
        with manager_of(tmp_path / manager_of.__module__, options=made) as manager:
            seen.append(loop(manager))
    assert seen[0] == seen[1]


def test_any_tree_comes_back(place):
    for number, make in enumerate([a_tree, with_classes]):
        with CheckpointManager(place / str(number)) as manager:
            manager.save(0, make(1))
            manager.wait_until_finished()
            assert_equal(manager.restore(0, make(2)), make(1))


def test_without_a_tree_dicts_and_lists_come_back_as_from_orbax(place, tmp_path):
    with CheckpointManager(place) as manager, ocp.CheckpointManager(tmp_path / "theirs") as theirs:
        for each in (manager, theirs):
            each.save(0, args=ocp.args.StandardSave(with_classes(1)))
            each.wait_until_finished()
        expected = theirs.restore(0, args=ocp.args.StandardRestore())
        found = manager.restore(0)
        assert jax.tree.leaves(found["model"])[0].tolist() == [1.0, 2.0, 3.0]
        assert_equal({**found, "numbered": None}, {**expected, "numbered": None})


def test_items_by_name_are_saved_and_restored_alone_and_together(place):
    args = ocp.args.Composite(
        params=ocp.args.StandardSave({"w": jnp.ones(2)}),
        opt=ocp.args.PyTreeSave({"m": 2.0}),
        place=ocp.args.JsonSave({"next": 3}),
    )
    with CheckpointManager(place) as manager:
        manager.save(0, args=args)
        manager.wait_until_finished()
        alone = manager.restore(
            0, args=ocp.args.Composite(opt=ocp.args.StandardRestore({"m": 0.0}))
        )
        assert alone.opt == {"m": 2.0}
        found = manager.restore(
            args=ocp.args.Composite(
                place=ocp.args.JsonRestore(), params=ocp.args.StandardRestore({"w": jnp.zeros(2)})
            )
        )
        assert found["place"] == {"next": 3}
        assert found.params["w"].tolist() == [1.0, 1.0]
        assert manager.restore().keys() == {"params", "opt", "place"}
        metadata = manager.item_metadata(0)
        assert metadata["params"]["w"] == jax.ShapeDtypeStruct((2,), jnp.float32)
        assert metadata["place"] is None
        with pytest.raises(mmsb.VersionError, match="step 0 has no item 'other'"):
            manager.restore(0, args=ocp.args.Composite(other=ocp.args.StandardRestore()))


def test_json_of_one_step_is_not_that_of_the_next(place):
    with CheckpointManager(place) as manager:
        tree = ocp.args.StandardSave({"w": 1.0})
        manager.save(0, args=ocp.args.Composite(a=tree, b=ocp.args.JsonSave([1])))
        manager.save(1, args=ocp.args.Composite(a=tree))
        assert manager.restore(0)["b"] == [1]
        assert manager.restore(1).keys() == {"a"}
        assert manager.bus.extra() is None


def test_step_that_is_not_due_is_a_commit_of_digests_and_the_newest_has_bytes_at_the_end(place):
    options = ocp.CheckpointManagerOptions(save_interval_steps=10)
    with CheckpointManager(place, options=options) as manager:
        saved = [manager.save(step, {"w": np.ones(3) * step}) for step in range(13)]
        manager.wait_until_finished()
        assert [step for step, is_saved in enumerate(saved) if is_saved] == [0, 10]
        assert (manager.all_steps(), len(manager.bus.commits)) == ([0, 10], 13)
        with pytest.raises(mmsb.VersionError, match=r"step=7 was not saved, .*: 0, 10"):
            manager.restore(7)
    with CheckpointManager(place, options=options) as manager:
        assert manager.all_steps() == [0, 10, 12]
        assert manager.restore()["w"].tolist() == [12.0] * 3


def test_forced_save_of_a_step_that_was_not_due(place):
    options = ocp.CheckpointManagerOptions(save_interval_steps=10)
    with CheckpointManager(place, options=options) as manager:
        assert manager.save(0, {"w": 0.0})
        assert not manager.save(1, {"w": 1.0})
        assert manager.save(1, {"w": 1.0}, force=True)
        assert (manager.latest_step(), manager.restore()) == (1, {"w": 1.0})


def test_newest_is_saved_again_after_a_look_at_an_older_one(place):
    options = ocp.CheckpointManagerOptions(save_interval_steps=2)
    with CheckpointManager(place, options=options) as manager:
        for step in range(4):
            manager.save(step, {"w": float(step)})
        manager.restore(0)
        assert manager.save(3, {"w": 3.0}, force=True)
        assert manager.all_steps() == [0, 2, 3]


def test_saving_behind_an_older_step_goes_on_from_it(place):
    with CheckpointManager(place) as manager:
        for step in range(5):
            manager.save(step, {"w": float(step)})
    with CheckpointManager(place) as manager:
        assert manager.restore(1) == {"w": 1.0}
        assert manager.save(2, {"w": 20.0})
        assert (manager.all_steps(), manager.restore(2)) == ([0, 1, 2], {"w": 20.0})
        assert manager.save(3, {"w": 30.0})
        assert manager.restore() == {"w": 30.0}
    with mmsb.open(place) as bus:
        assert bus.checkout(step=4, lineage="all") == {"w": 4.0}


def test_looking_at_an_older_step_does_not_go_back(place):
    with CheckpointManager(place) as manager:
        for step in range(3):
            manager.save(step, {"w": float(step)})
        manager.restore(0)
        manager.save(3, {"w": 3.0})
        assert manager.all_steps() == [0, 1, 2, 3]


def test_saving_an_older_step_of_which_none_was_restored_is_warned_of(place):
    with CheckpointManager(place) as manager:
        manager.save(3, {"w": 3.0})
        with pytest.warns(UserWarning, match="step 1 is not saved: step 3 is not older"):
            assert not manager.save(1, {"w": 1.0})
        assert manager.all_steps() == [3]


def test_run_that_was_killed_between_saved_steps_goes_on_from_the_last(place):
    script = """
        import os, sys
        from mmsb_jax.orbax import CheckpointManager
        import orbax.checkpoint as ocp
        options = ocp.CheckpointManagerOptions(save_interval_steps=2)
        manager = CheckpointManager(sys.argv[1], options=options)
        for step in range(4):
            manager.save(step, {"w": float(step)})
        manager.wait_until_finished()
        os._exit(0)
    """
    run_script(script, place)
    with CheckpointManager(place) as manager:
        assert (manager.latest_step(), manager.restore()) == (2, {"w": 2.0})
        assert manager.save(3, {"w": 3.5})
        assert manager.restore(3) == {"w": 3.5}
        assert [commit.version for commit in manager.bus._commits_in("living")] == [1, 2, 3, 5]


@pytest.mark.parametrize("ranked", [False, True])
def test_what_need_not_be_kept_is_given_up(ranked, place):
    options: dict[str, Any] = {"max_to_keep": 2, "keep_period": 20}
    if ranked:
        options |= {"best_fn": lambda metrics: -abs(metrics["step"] - 17)}
    with CheckpointManager(place, options=ocp.CheckpointManagerOptions(**options)) as manager:
        numbers = np.random.default_rng(0)
        for step in range(45):
            state = {"w": numbers.integers(0, 255, 200_000, np.uint8)}
            manager.save(step, state, metrics={"step": step})
        manager.wait_until_finished()
        policy = manager.bus._choices["keep"]
        kept = {commit.step for commit in policy(list(manager.bus.commits))}
    expected = {0, 20, 40, 44} | ({16, 17, 18} & kept if ranked else {43})
    assert kept == expected
    assert len(kept) == (6 if ranked else 5)


def test_options_that_cannot_be_honoured_are_all_named(place):
    options = ocp.CheckpointManagerOptions(step_prefix="at", todelete_subdir="old")
    with pytest.raises(ValueError, match="options step_prefix, todelete_subdir cannot"):
        CheckpointManager(place, options=options)
    assert not place.exists()


def test_read_only_manager_reads_and_one_that_must_not_create_does_not(place):
    with pytest.raises(mmsb.LocationError, match=r"options\.create is False"):
        CheckpointManager(place, options=ocp.CheckpointManagerOptions(create=False))
    with CheckpointManager(place) as manager:
        manager.save(0, {"w": 1.0})
    options = ocp.CheckpointManagerOptions(read_only=True)
    with CheckpointManager(place, options=options) as manager:
        manager.wait_until_finished()
        assert manager.restore() == {"w": 1.0}
        with pytest.raises(mmsb.ClosedError):
            manager.save(1, {"w": 1.0})


def test_checkpoints_that_came_from_orbax_are_restored_by_name(place, tmp_path):
    with ocp.CheckpointManager(tmp_path / "theirs") as theirs:
        args = ocp.args.Composite(
            a=ocp.args.StandardSave({"w": 1.0}), b=ocp.args.JsonSave({"next": 1})
        )
        theirs.save(5, args=args)
    mmsb.from_orbax(tmp_path / "theirs", place).close()
    with CheckpointManager(place) as manager:
        args = ocp.args.Composite(a=ocp.args.StandardRestore({"w": 0.0}), b=ocp.args.JsonRestore())
        found = manager.restore(manager.latest_step(), args=args)
        assert (found.a, found.b) == ({"w": 1.0}, {"next": 1})


REFUSED: list[tuple[Callable[[CheckpointManager], Any], type[Exception], str]] = [
    (lambda m: m.save(0), ValueError, "give one of items and args"),
    (lambda m: m.save(0, {"w": 1.0}, args=ocp.args.StandardSave({})), ValueError, "give one"),
    (lambda m: m.save(-1, {"w": 1.0}), mmsb.VersionError, "step=-1 is negative"),
    (lambda m: m.save("1", {"w": 1.0}), TypeError, "step"),
    (lambda m: m.save(0, args=3), TypeError, "Expected StandardSave, PyTreeSave or JsonSave"),
    (lambda m: m.save(0, args=ocp.args.ArraySave(jnp.ones(2))), TypeError, "ArraySave"),
    (lambda m: m.save(0, args=ocp.args.StandardRestore()), TypeError, "Expected StandardSave"),
    (lambda m: m.save(0, {"w": 1.0}, metrics={"orbax": 1}), ValueError, "metric is called"),
    (lambda m: m.save(0, {"w": object()}), mmsb.StructureError, "w: a leaf of type"),
    (lambda m: m.restore(), mmsb.VersionError, "There are: none"),
    (lambda m: m.restore(3), mmsb.VersionError, "step=3 was not saved"),
    (lambda m: m.restore("3"), TypeError, "step"),
    (lambda m: m.metrics(3), mmsb.VersionError, "step=3 was not saved"),
    (lambda m: m.delete(3), NotImplementedError, "max_to_keep gives up"),
    (lambda m: CheckpointManager("gs://bucket/run"), mmsb.LocationError, "is a URL"),
    (lambda m: CheckpointManager("x", options=3), TypeError, "CheckpointManagerOptions"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSED, ids=itertools.count())
def test_bad_call_is_refused_and_changes_nothing(call, error, match, place):
    with CheckpointManager(place) as manager:
        with pytest.raises(error, match=match):
            call(manager)
        assert manager.latest_step() is None
        assert manager.save(0, {"w": 1.0})


def test_restore_arguments_that_cannot_be_honoured_are_refused(place):
    with CheckpointManager(place) as manager:
        manager.save(0, {"w": 1.0})
        restore = ocp.args.PyTreeRestore({"w": 0.0}, restore_args={"w": ocp.RestoreArgs()})
        with pytest.raises(ValueError, match="restore_args cannot be honoured"):
            manager.restore(0, args=restore)
        with pytest.raises(mmsb.StructureError, match=r"v: .* not recorded"):
            manager.restore(0, {"v": 0.0})
