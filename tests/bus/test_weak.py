"""Weak types come back: what a leaf promotes to is a part of what it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._core.tree.leaves import with_weak_type

WEAK = {
    "0-d": lambda: jnp.asarray(0.1),
    "int": lambda: jnp.asarray(3),
    "complex": lambda: jnp.asarray(1j),
    "array": lambda: jnp.full((3, 2), 0.1),
    "nan": lambda: with_weak_type(
        jax.device_put(np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)), True
    ),
    "large": lambda: jnp.full(100_000, 0.25),
    "of no elements": lambda: jnp.full((0, 3), 0.5),
}


def bits(array: Any) -> tuple[Any, ...]:
    return array.aval, np.asarray(array).tobytes()


def committed(bus: mmsb.Bus, leaf: Any) -> dict[str, Any]:
    """A tree of a weakly typed leaf and another, committed both ways; versions 1 and 2."""
    tree = {"weak": leaf, "strong": jnp.ones(2)}
    bus.commit(tree)
    bus.commit(tree, wait=False)
    return tree


@pytest.mark.parametrize("name", WEAK)
def test_weakly_typed_leaf_comes_back_as_it_was(any_bus, name):
    tree = committed(any_bus, WEAK[name]())
    assert tree["weak"].weak_type
    like = {"weak": np.asarray(tree["weak"]), "strong": tree["strong"]}
    strong = {"weak": with_weak_type(tree["weak"], False), "strong": tree["strong"]}
    for found in (
        any_bus.tree(),
        any_bus.checkout(version=1),
        any_bus.checkout(arrays=["weak", "strong"]),
        any_bus.checkout(like=tree),
        any_bus.checkout(like=strong),
        any_bus.checkout(like=jax.eval_shape(lambda: strong)),
        any_bus.resume(strong)[0],
    ):
        assert jax.tree.map(bits, found) == jax.tree.map(bits, tree)
    assert bits(any_bus.read("weak")) == bits(tree["weak"])
    assert bits(any_bus.history("weak")[0].value) == bits(tree["weak"])
    assert type(any_bus.checkout(like=like)["weak"]) is np.ndarray
    assert any_bus.verify()


@pytest.mark.parametrize("name", WEAK)
def test_weakly_typed_leaf_reopened_elsewhere_comes_back_as_it_was(tmp_path, name):
    with mmsb.open(tmp_path / "run") as bus:
        tree = committed(bus, WEAK[name]())
        bus.snapshot()
        bus.compact(keep_since=2)
    with mmsb.open(tmp_path / "run") as bus:
        assert jax.tree.map(bits, bus.tree()) == jax.tree.map(bits, tree)
        assert jax.tree.map(bits, bus.resume(tree)[0]) == jax.tree.map(bits, tree)
        with bus.fork() as other:
            assert jax.tree.map(bits, other.tree()) == jax.tree.map(bits, tree)


@pytest.mark.parametrize("place", [None, "device"])
def test_weakly_typed_leaf_keeps_whether_it_is_committed_to_its_device(bus, place):
    leaf = jnp.full(3, 0.5)
    if place:
        leaf = jax.device_put(leaf, jax.devices()[0])
    assert leaf.weak_type
    bus.commit({"x": leaf})
    found = bus.checkout(like={"x": leaf})["x"]
    assert (found.committed, found.weak_type) == (leaf.committed, True)


def test_step_of_a_resumed_weakly_typed_state_gives_the_same_bits(any_bus):
    step = jax.jit(
        lambda s: {"lr": s["lr"] * 0.5, "w": s["w"] * (s["lr"] + jnp.bfloat16(0.3)), "b": s["b"]}
    )
    state = step({"lr": 0.1, "w": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)})
    any_bus.commit(state)
    found, _ = any_bus.resume(state)
    assert jax.tree.map(bits, step(found)) == jax.tree.map(bits, step(state))
    assert any_bus.commit(step(found)).version == 2


@pytest.mark.parametrize("wait", [True, False])
def test_weak_type_that_changes_is_recorded_and_no_other_structure(any_bus, wait):
    weak, strong = {"x": jnp.asarray(1.0)}, {"x": jnp.float32(1.0)}
    trees = [strong, weak, weak, strong, weak]
    for tree in trees:
        any_bus.commit(tree, wait=wait)
    any_bus.sync()
    assert [commit.changed for commit in any_bus.log()] == [("x",), (), (), (), ()]
    for version, tree in enumerate(trees, 1):
        assert jax.tree.map(bits, any_bus.checkout(version=version)) == jax.tree.map(bits, tree)
    assert any_bus.verify()


def test_weak_type_is_forgotten_with_its_leaf(any_bus):
    any_bus.commit({"x": jnp.asarray(1.0), "y": 1})
    any_bus.commit({"y": 1}, structure="new")
    any_bus.create("x", shape=())
    any_bus.write("x", jnp.float32(2.0))
    assert not any_bus.read("x").weak_type


@pytest.mark.parametrize("shape", [(), (40_000,)])
def test_replica_has_the_weak_types_of_each_version(tmp_path, shape):
    with mmsb.open(tmp_path / "run") as bus:
        values = [
            jnp.full(shape, 0.5),
            jnp.full(shape, 0.25),
            jnp.full(shape, 0.25, jnp.float32),
            jnp.full(shape, 0.25),
            jnp.full(shape, 0.125, jnp.float32),
            jnp.full(shape, 0.5, jnp.float32),
        ]
        assert [value.weak_type for value in values] == [True, True, False, True, False, False]
        bus.commit({"x": values[0]})
        with mmsb.Replica(tmp_path / "run", like={"x": jnp.zeros(shape)}) as replica:
            assert bits(replica.update()["x"]) == bits(values[0])
            for value in values[1:]:
                bus.commit({"x": value})
                assert bits(replica.update()["x"]) == bits(value)
