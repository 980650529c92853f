"""Finding where a run went wrong, from what its commits say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb

POLICIES = [None, mmsb.Every(steps=4), mmsb.Every(steps=1)]
with_policies = pytest.mark.parametrize("save", POLICIES, ids=["none", "every 4", "every 1"])


def state(step: int, bad: int = 10**9, large: int = 30_000) -> dict:
    """Numbers, of which one is none from the step ``bad`` on."""
    w = jnp.full(large, float(step)).at[7].set(jnp.where(step >= bad, jnp.nan, 0.0))
    return {
        "params": {"w": w, "b": jnp.ones(3) * step},
        "count": jnp.asarray(step),
        "here": np.full(5, step, np.float64),
    }


@with_policies
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("bad", [0, 4, 7])
def test_the_first_number_that_is_none_is_found_at_its_step(save, wait, bad):
    with mmsb.open(save=save) as bus:
        for step in range(10):
            bus.commit(state(step, bad), step=step, wait=wait)
        commit, names = bus.first_nonfinite()
        assert (commit.step, names) == (bad, ("params/w",))
        assert bus.first_nonfinite("params/b") is None
        assert bus.first_nonfinite(["here", "count"]) is None
        assert bus.first_nonfinite("params/**")[0].step == bad
        with pytest.raises((TypeError, ValueError), match="arrays="):
            bus.first_nonfinite(3)
        with pytest.raises(mmsb.ArrayNotFoundError, match="weight"):
            bus.first_nonfinite("params/weight")


@with_policies
def test_where_all_is_finite_there_is_none(save):
    with mmsb.open(save=save) as bus:
        assert bus.first_nonfinite() is None
        for step in range(6):
            bus.commit(state(step), step=step)
        assert bus.first_nonfinite() is None


@with_policies
def test_several_arrays_are_named(save):
    with mmsb.open(save=save) as bus:
        for step in range(6):
            value = state(step, 3)
            if step >= 3:
                value["here"][2] = -np.inf
            bus.commit(value, step=step)
        commit, names = bus.first_nonfinite()
        assert (commit.step, names) == (3, ("here", "params/w"))


def test_commits_of_arrays_by_name_are_looked_at(bus):
    bus.commit(state(0))
    bus.create("x", (4,), "float16")
    bus.derive("inverse", ["x"], lambda x: 1 / x)
    assert bus.first_nonfinite()[1] == ("inverse",)
    assert bus.first_nonfinite()[0].version == 2
    bus.write("x", np.ones(4, np.float16))
    bus.write("x", np.float16([1, 2, np.nan, 4]))
    assert bus.first_nonfinite("x")[0].version == bus.version
    bus.compact(keep_since=bus.version)
    assert bus.first_nonfinite("x")[0].version == bus.version


def test_counts_outlive_the_bytes(tmp_path):
    with mmsb.open(tmp_path, save=mmsb.Every(steps=4)) as bus:
        for step in range(12):
            bus.commit(state(step, 6), step=step)
        bus.compact(keep_since=bus.at(step=10))
        assert bus.first_nonfinite()[0].step == 6
    with mmsb.open(tmp_path, mode="r") as bus:
        assert bus.first_nonfinite()[0].step == 6
        assert bus.verify()


def test_a_log_whose_policy_came_later_is_looked_at_from_the_beginning(tmp_path):
    with mmsb.open(tmp_path) as bus:
        for step in range(3):
            bus.commit(state(step, 2), step=step)
    with mmsb.open(tmp_path, save=mmsb.Every(steps=4)) as bus:
        for step in range(3, 6):
            bus.commit(state(step, 2), step=step)
        assert bus.first_nonfinite()[0].step == 2


@pytest.mark.parametrize("ours", POLICIES[:2])
@pytest.mark.parametrize("theirs", POLICIES[:2])
def test_two_runs_part_at_the_first_step_that_differs(ours, theirs):
    with mmsb.open(save=ours) as one, mmsb.open(save=theirs) as other:
        for step in range(10):
            one.commit(state(step, large=50), step=step)
            value = state(step, large=50)
            if step >= 6:
                value["params"]["b"] = value["params"]["b"].at[1].add(1)
            other.commit(value, step=step, note="other")
        left, right, names = one.first_divergence(other)
        assert (left.step, right.step, right.note, names) == (6, 6, "other", ("params/b",))
        assert one.first_divergence(one) is None
        right, left, _ = other.first_divergence(one)
        assert (left.step, right.note) == (6, "other")


def test_runs_are_held_against_each_other_by_step(bus):
    with mmsb.open() as other:
        for step in range(0, 12, 2):
            bus.commit(state(step, large=9), step=step)
        for step in range(0, 12, 3):
            other.commit(state(step + (step > 5), large=9), step=step)
        left, right, _ = bus.first_divergence(other)
        assert (left.step, right.step) == (6, 6)
        other.resume(state(0, large=9), at=other.at(step=3))
        other.commit(state(6, large=9), step=6)
        assert bus.first_divergence(other) is None
        other.commit({"count": jnp.asarray(8)}, step=8, structure="new")
        assert bus.first_divergence(other)[2] == ("here", "params/b", "params/w")


def test_runs_that_share_no_step_do_not_part(bus):
    with mmsb.open() as other:
        assert bus.first_divergence(other) is None
        bus.commit(state(1, large=9), step=1)
        other.commit(state(1, large=9))
        other.commit(state(2, large=9), step=2)
        assert bus.first_divergence(other) is None
    with pytest.raises(TypeError, match="other="):
        bus.first_divergence("path")


def test_compacted_and_reading_buses_are_compared_as_far_as_they_go(tmp_path):
    paths = tmp_path / "one", tmp_path / "two"
    for path in paths:
        with mmsb.open(path) as bus:
            for step in range(10):
                bus.commit(state(step + (step == 7 and path.name == "two"), large=9), step=step)
            bus.compact(keep_since=4 if path.name == "one" else 6)
    with mmsb.open(paths[0], mode="r") as one, mmsb.open(paths[1], mode="r") as two:
        assert one.first_divergence(two)[0].step == 7


def test_sharded_arrays_and_keys_are_no_matter(bus):
    with mmsb.open(save=mmsb.Every(steps=2)) as other:
        for step in range(3):
            value = {"key": jax.random.key(step), "empty": jnp.zeros((0, 2)), "text": "x"}
            bus.commit(value, step=step)
            other.commit(value, step=step)
        assert bus.first_divergence(other) is None
        assert other.first_nonfinite() is None
