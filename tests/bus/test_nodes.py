"""Nodes of the user's classes: those that check what they hold never see a placeholder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.core._compare import assert_same_tree, what


class Checked:
    """A node whose class looks at its children, and holds an array beside them."""

    def __init__(self, x: Any, bounds: Any) -> None:
        self.x = jnp.asarray(x)
        if self.x.ndim != 1:
            raise TypeError(f"expected a vector, got {self.x.shape}")
        self.bounds = bounds


jax.tree_util.register_pytree_with_keys(
    Checked,
    lambda node: (((jax.tree_util.GetAttrKey("x"), node.x),), node.bounds),
    lambda bounds, children: Checked(*children, bounds),
)


def make_tree(number: int = 0) -> dict[str, Any]:
    part = Checked(jnp.arange(3.0) + number, np.arange(2))
    return {"m": {"a": part, "b": [1, None, "text"]}, "w": jnp.ones(2)}


def check(found: Any, expected: Any) -> None:
    assert type(found["a"]) is Checked
    assert what(found["a"].x) == what(expected["a"].x)
    np.testing.assert_array_equal(found["a"].bounds, expected["a"].bounds)
    assert found["b"] == expected["b"]


def test_part_that_holds_a_checked_node_comes_back(any_bus):
    for number in range(3):
        any_bus.commit(make_tree(number), wait=number != 1)
    expected = make_tree(2)
    check(any_bus.tree()["m"], expected["m"])
    check(any_bus.checkout(arrays=["m/**"]), expected["m"])
    assert what(any_bus.checkout(arrays=["m/a/x"])) == what(expected["m"]["a"].x)
    assert_same_tree(any_bus.checkout(arrays=["w"]), expected["w"])
    assert any_bus.checkout(arrays=["m/b"]) == [1, None, "text"]
    check(any_bus.resume(make_tree(7))[0]["m"], expected["m"])
    with pytest.raises(mmsb.StructureError, match="other nodes or static fields"):
        any_bus.layout.pack(make_tree(1))  # by the caller's hand: arrays have no truth value


def test_function_of_a_checked_node_gets_it_whole(any_bus):
    any_bus.commit(make_tree())
    any_bus.derive("sum", ["m/a"], lambda node: node.x.sum() + len(node.bounds))
    any_bus.derive("twin", ["m/**"], lambda m: Checked(2 * m["a"].x, np.zeros(1)))
    any_bus.derive("of twin", ["twin"], lambda node: node.x[0], equal="never")
    any_bus.derive("kept", ["m/a"], lambda node: node, equal=lambda a, b: (a.x == b.x).all())
    any_bus.commit(make_tree(5))
    x = jnp.arange(3.0) + 5
    assert float(any_bus.read("sum")) == float(x.sum()) + 2
    np.testing.assert_array_equal(any_bus.read("twin/x"), 2 * x)
    assert float(any_bus.read("of twin")) == 10
    np.testing.assert_array_equal(any_bus.read("kept/x"), x)


def test_graph_as_a_function_of_a_checked_node_takes_and_gives_it(bus):
    bus.commit(make_tree())
    bus.derive("twin", ["m/a"], lambda node: Checked(2 * node.x, np.zeros(1)))
    bus.derive("sum", ["twin"], lambda node: node.x.sum())
    function = bus.graph.as_function(["m/a"], ["twin", "sum"])
    given = make_tree(1)["m"]["a"]
    given.bounds = bus.tree()["m"]["a"].bounds
    with pytest.raises(mmsb.StructureError, match=r"a tree of .* arrived"):
        function({"x": given.x})
    twin, total = function(given)
    np.testing.assert_array_equal(twin.x, 2 * given.x)
    assert float(total) == 12


def test_graph_as_a_function_of_a_part_with_constants_takes_it(bus):
    tree = {"m": {"a": [jnp.ones(2), None, "text"]}, "w": 1.0}
    bus.commit(tree)
    bus.derive("all", ["m/**"], lambda m: m["a"][0].sum())
    assert float(bus.graph.as_function("m/**", "all")(tree["m"])) == 2


def test_node_that_cannot_be_put_together_is_named(bus):
    bus.commit(make_tree())
    like = {"m": {"a": Checked(jnp.zeros(3), np.arange(2)), "b": [0, None, ""]}, "w": jnp.zeros(2)}
    object.__setattr__(like["m"]["a"], "x", jax.ShapeDtypeStruct((3,), jnp.float32))
    check(bus.checkout(like=like)["m"], make_tree()["m"])
    shape = bus._arrays.trees.shape
    with pytest.raises(mmsb.StructureError, match=r"'m' cannot be put together.*a vector, got"):
        shape.build(lambda name: jnp.zeros(()), shape.part(lambda name: name.startswith("m/")))
