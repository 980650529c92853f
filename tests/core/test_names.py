"""Names: the path of a leaf as one string, unique, whatever the keys are."""

import collections

import equinox as eqx
import jax
import pytest
from hypothesis import given

from mmsb_jax._core.tree.paths import BARE_LEAF, flatten_with_names
from mmsb_jax.testing import strategies

Point = collections.namedtuple("Point", ["x", "y"])


class Linear(eqx.Module):
    weight: float
    bias: float


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"params": {"layers": [{"weight": 1}]}}, ["params/layers/0/weight"]),
        ({"a/b": 1, "a": {"b": 2}}, ["a/b", "a~1b"]),
        ([1, 2], ["0", "1"]),
        ({"0": 1}, ["~s0"]),
        ({0: 1}, ["0"]),
        ({-3: 1}, ["-3"]),
        ({"-3": 1}, ["~s-3"]),
        ({"": 1}, ["~s"]),
        ({"~": 1}, ["~0"]),
        ({"~s0": 1}, ["~0s0"]),
        ({"~1": 1}, ["~01"]),
        ({True: 1}, ["~kTrue"]),
        ({(1, "/"): 1}, ["~k(1, '~1')"]),
        (Point(1, 2), ["x", "y"]),
        (Linear(1.0, 2.0), ["weight", "bias"]),
        ({"a": None}, ["a"]),
        (3, [BARE_LEAF]),
        (None, [BARE_LEAF]),
        ({}, []),
    ],
)
def test_names_of_tree_are_its_escaped_paths(tree, names):
    assert sorted(flatten_with_names(tree)[0]) == sorted(names)


@given(strategies.trees())
def test_names_of_any_tree_are_unique(tree):
    names, leaves, treedef = flatten_with_names(tree)
    assert len(set(names)) == len(names) == len(leaves) == treedef.num_leaves


@given(strategies.trees())
def test_flatten_with_names_of_any_tree_keeps_every_leaf_in_order(tree):
    _, leaves, treedef = flatten_with_names(tree)
    expected = jax.tree_util.tree_leaves(tree, is_leaf=lambda x: x is None)
    assert all(mine is yours for mine, yours in zip(leaves, expected, strict=True))
    assert jax.tree_util.tree_structure(treedef.unflatten(leaves), is_leaf=lambda x: x is None) == (
        treedef
    )
