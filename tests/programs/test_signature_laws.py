"""Laws of signatures and causes, over trees of arrays: nothing is compiled."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from mmsb_jax.programs._watching.causes import MOST_CAUSES, explain_call
from mmsb_jax.programs._watching.signature import signature_of

LEAVES = st.builds(
    np.zeros,
    st.sampled_from([(), (2,), (3,), (2, 3)]),
    st.sampled_from([np.float32, np.int32, np.bool_]),
) | st.sampled_from([1, 2.5, True])
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
CALLS = st.tuples(TREES, TREES, st.integers(0, 2))


def of(call):
    x, y, n = call
    return signature_of("xyn".__getitem__, frozenset({2}), (x, y, n), {}, False)


def described(tree):
    """All that JAX would compile again for."""
    if isinstance(tree, dict):
        return "dict", tuple((key, described(tree[key])) for key in sorted(tree))
    if isinstance(tree, list | tuple):
        return type(tree).__name__, tuple(map(described, tree))
    if isinstance(tree, np.ndarray):
        return tree.shape, tree.dtype.name, False
    return (), {int: "int32", float: "float32", bool: "bool"}[type(tree)], type(tree) is not bool


@given(CALLS)
def test_equal_calls_show_nothing(call):
    (cause,) = explain_call(of(call), [of(call)])
    assert cause.kind == "nothing seen"


@given(CALLS, CALLS)
def test_calls_that_differ_name_a_difference_and_others_do_not(one, other):
    is_same = [described(x) for x in one[:2]] == [described(x) for x in other[:2]]
    is_same &= one[2] == other[2]
    causes = explain_call(of(other), [of(one)])
    assert (causes[0].kind == "nothing seen") == is_same
    assert 1 <= len(causes) <= MOST_CAUSES
    assert all(len(str(cause)) < 600 for cause in causes)


@given(st.lists(CALLS, min_size=1, max_size=5), CALLS)
def test_call_that_was_made_before_is_the_nearest(calls, call):
    earlier = [of(each) for each in [*calls, call]]
    assert explain_call(of(call), earlier)[0].kind == "nothing seen"
    assert explain_call(of(call), earlier[::-1])[0].kind == "nothing seen"


@given(CALLS, CALLS)
def test_causes_are_the_same_both_ways_round(one, other):
    there, back = explain_call(of(other), [of(one)]), explain_call(of(one), [of(other)])

    kinds = "shape", "dtype", "weak type", "static value"
    assert sorted((c.kind, c.before, c.after) for c in there if c.kind in kinds) == sorted(
        (c.kind, c.after, c.before) for c in back if c.kind in kinds
    )
