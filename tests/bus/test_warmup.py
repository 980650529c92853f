"""`Bus.warmup`: what commits run is compiled before the first, and the shadow is there."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb


def state(step: int = 0, more: int = 0) -> dict:
    return {
        "w": jnp.arange(40_000.0 + more) + step,
        "b": jnp.full((70,), step, jnp.bfloat16),
        "half": jnp.full((3, 70_000), step, jnp.float16),
        "n": np.int64(step),
        "name": "run",
    }


def shapes(tree: dict) -> dict:
    return jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else leaf
        ),
        tree,
    )


numbers = itertools.count()


@pytest.mark.parametrize("save", [None, mmsb.Every(steps=3)])
@pytest.mark.parametrize("make", [lambda tree: tree, shapes])
def test_commits_behind_it_compile_nothing(save, make, compilations):
    more = 1 + next(numbers)  # what another test has compiled is not compiled again
    states = [state(step, more) for step in range(6)]
    with mmsb.open(save=save) as bus:
        bus.warmup(make(states[0]))
        assert compilations
        compilations.clear()
        for step, tree in enumerate(states):
            bus.commit(tree, step=step, wait=False)
        bus.sync()
        assert compilations == []
        np.testing.assert_array_equal(bus.checkout(step=3)["w"], states[3]["w"])


def test_it_commits_nothing_and_may_be_called_at_any_time():
    with mmsb.open() as bus:
        bus.warmup(state())
        assert bus.version == 0
        bus.commit(state(1))
        bus.warmup({"another": jnp.zeros(3)})
        bus.warmup(state(7))
        bus.commit(state(2))
        assert bus.version == 2
        assert bus.tree()["n"] == 2


@pytest.mark.parametrize("shadow", ["bytes", "digest"])
def test_shadow_of_what_is_resumed_is_there_before_the_first_commit(tmp_path, shadow):
    path = tmp_path / "run.mmsb"
    with mmsb.open(path) as bus:
        bus.commit(state(3))
    with mmsb.open(path, shadow=shadow) as bus:
        tree, _ = bus.resume(state())
        bus.warmup(tree)
        assert bus.stats().device_bytes > 0
        tree = tree | {"b": tree["b"].at[5].set(9)}
        commit = bus.commit(tree)
        assert commit.changed == ("b",)
        assert bus.stats().moved_bytes < 3_000
        assert bus.verify()
        assert np.asarray(bus.tree()["b"])[5] == 9


def test_another_tree_than_the_newest_is_not_taken_for_it(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb", shadow="bytes") as bus:
        bus.commit(state(3))
        bus.warmup(state(4))
        bus.commit(state(4))
        np.testing.assert_array_equal(bus.tree()["w"], state(4)["w"])
        assert bus.latest.changed == ("b", "half", "n", "w")


@pytest.mark.parametrize(
    ("like", "match"),
    [
        ({"k": jax.eval_shape(lambda: jax.random.key(0))}, "Expected the key itself"),
        ({"w": object()}, "w"),
    ],
)
def test_what_cannot_be_committed_is_refused(like, match):
    with mmsb.open() as bus, pytest.raises(mmsb.StructureError, match=match):
        bus.warmup(like)
