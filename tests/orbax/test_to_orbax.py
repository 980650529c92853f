"""Versions go out as checkpoints that Orbax's own manager restores."""

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import mmsb_jax as mmsb
from tests.bus._script import run_script
from tests.orbax import _saved as saved
from tests.orbax._trees import a_tree, assert_equal, with_classes


@pytest.fixture
def bus():
    with mmsb.open() as opened:
        yield opened


def test_manager_of_orbax_restores_what_was_committed(bus, tmp_path):
    for step in (10, 20):
        bus.commit(a_tree(step), step=step, note={"loss": 1.0 / step})
    paths = bus.to_orbax(tmp_path / "out", steps=[10, 20])
    assert paths == [tmp_path / "out" / "10", tmp_path / "out" / "20"]
    with jax.enable_x64(True):
        for step in (10, 20):
            assert_equal(saved.restored(tmp_path / "out", step), a_tree(step))
    best = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"], best_mode="min")
    with ocp.CheckpointManager(tmp_path / "out", options=best) as manager:
        assert (manager.all_steps(), manager.best_step()) == ([10, 20], 20)
        assert manager.metrics(10) == {"loss": 0.1}


def test_target_of_classes_is_restored_with_and_without_like(bus, tmp_path):
    tree = with_classes(2)
    bus.commit(tree)
    target = with_classes(0)
    for name, like in (("with", target), ("without", None)):
        bus.to_orbax(tmp_path / name, like=like)
        assert_equal(saved.restored(tmp_path / name, 1, target), tree)


def test_newest_version_goes_by_default_with_its_number(bus, tmp_path):
    for x in (1.0, 2.0):
        bus.commit({"x": x})
    assert bus.to_orbax(tmp_path / "out") == [tmp_path / "out" / "2"]
    assert saved.restored(tmp_path / "out", 2) == {"x": 2.0}


def test_versions_are_given_by_numbers_tags_and_commits(bus, tmp_path):
    commits = [bus.commit({"x": float(x)}, step=10 * x) for x in range(3)]
    bus.tag("middle", 2)
    bus.to_orbax(tmp_path / "out", refs=[1, "middle", commits[2], 3])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "10", "20"]


def test_log_that_another_process_wrote_gives_nested_dicts_and_lists(tmp_path):
    script = """
        import sys, jax.numpy as jnp, mmsb_jax as mmsb
        from tests.orbax._trees import with_classes
        with mmsb.open(sys.argv[1]) as bus:
            bus.commit(with_classes(1))
    """
    run_script(script, tmp_path / "log")
    with mmsb.open(tmp_path / "log", mode="r") as bus:
        bus.to_orbax(tmp_path / "out")
    found = saved.restored(tmp_path / "out", 1)
    assert found["opt"][0] is None
    assert found["opt"][1]["nu"] is None
    assert_equal(saved.restored(tmp_path / "out", 1, with_classes(0)), with_classes(1))


def test_state_of_an_optimiser_goes_and_comes(bus, tmp_path):
    params = {"w": np.ones(3, np.float32)}
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(
        jax.tree.map(jax.numpy.array, params)
    )
    bus.commit({"params": params, "opt": state}, step=1)
    bus.to_orbax(tmp_path / "out")
    target = {"params": params, "opt": state}
    assert_equal(saved.restored(tmp_path / "out", 1, target), target)
    with mmsb.from_orbax(tmp_path / "out", like=target) as again:
        assert_equal(again.tree(), target)


def test_extra_goes_as_json_beside_the_tree_and_comes_back(bus, tmp_path):
    bus.commit({"x": 1.0}, step=1)
    bus.commit({"x": 2.0}, step=2, extra={"next": 3})
    bus.to_orbax(tmp_path / "out", refs=[1, 2])
    with ocp.CheckpointManager(tmp_path / "out") as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), extra=ocp.args.JsonRestore())
        found = manager.restore(2, args=args)
    assert (found["state"], found["extra"]) == ({"x": 2.0}, {"next": 3})
    with mmsb.from_orbax(tmp_path / "out") as again:
        assert [commit.extra for commit in again.commits] == [None, {"next": 3}]
        assert again.tree() == {"x": 2.0}


def test_items_metrics_and_metadata_go_out_as_they_came(tmp_path):
    steps = {
        step: {"params": {"w": step + 0.5}, "opt": {"m": 2.0}, "at_json": {"next": step}}
        for step in range(2)
    }
    src = saved.by_items(tmp_path / "run", steps)
    with mmsb.from_orbax(src) as bus:
        bus.to_orbax(tmp_path / "out", refs=bus.commits)
    for place in (src, tmp_path / "out"):
        with ocp.CheckpointManager(place) as manager:
            for step, items in steps.items():
                args = ocp.args.Composite(
                    params=ocp.args.StandardRestore(),
                    opt=ocp.args.StandardRestore(),
                    at_json=ocp.args.JsonRestore(),
                )
                assert dict(manager.restore(step, args=args)) == items


def test_custom_metadata_go_out_as_they_came(tmp_path):
    src = saved.by_v1(tmp_path / "run", {3: {"w": np.ones(2)}})
    with mmsb.from_orbax(src) as bus:
        (path,) = bus.to_orbax(tmp_path / "out")
    with mmsb.from_orbax(path) as again:
        assert again.latest.note["loss"] == 0.25
        assert again.latest.note["orbax"]["custom_metadata"] == {"run": "a"}
        assert again.latest.note["orbax"]["items"] == {"state": "tree"}


def test_note_that_is_no_dict_is_the_metrics(bus, tmp_path):
    bus.commit({"x": 1.0}, note="warm-up")
    bus.to_orbax(tmp_path / "out")
    with mmsb.from_orbax(tmp_path / "out") as again:
        assert again.latest.note == {"note": "warm-up", "orbax": again.latest.note["orbax"]}


def test_scalars_of_numpy_go_as_arrays_of_their_dtypes(bus, tmp_path):
    bus.commit({"x": np.float16(1.5), "y": np.bool_(True)})
    bus.to_orbax(tmp_path / "out")
    found = saved.restored(tmp_path / "out", 1)
    assert (found["x"].dtype, found["y"].dtype) == (np.float16, np.bool_)


def test_arrays_by_name_go_where_no_tree_was_committed(bus, tmp_path):
    bus.create("a/b", (2,))
    bus.write("a/b", np.ones(2, np.float32))
    bus.to_orbax(tmp_path / "out")
    assert np.array_equal(saved.restored(tmp_path / "out", 1)["a"]["b"], np.ones(2))


def test_arrays_selects_a_part(bus, tmp_path):
    bus.commit({"params": {"w": 1.0, "b": 2.0}, "opt": {"m": 3.0}})
    bus.to_orbax(tmp_path / "out", arrays=["params/**"])
    assert saved.restored(tmp_path / "out", 1) == {"params": {"w": 1.0, "b": 2.0}}


def test_importing_the_library_does_not_import_orbax():
    script = """
        import sys
        import mmsb_jax as mmsb
        import mmsb_jax.orbax

        mmsb.open().commit({"x": 1.0})
        assert callable(mmsb.from_orbax)
        print("orbax" in sys.modules)
    """
    assert run_script(script) == "False"
