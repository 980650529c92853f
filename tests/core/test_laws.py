"""The algebra: deltas are a monoid under `compose`, and `apply` is its action."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import Delta, apply, compose, diff, invert
from mmsb_jax.testing import strategies
from tests.core._compare import assert_same
from tests.core.test_delta import CAPACITY, ROOM


@st.composite
def pages_and_deltas(draw, count):
    block_words = draw(st.sampled_from([1, 32]))
    one = strategies.deltas(capacity=CAPACITY, block_words=block_words)
    return draw(strategies.pages()), *(draw(one) for _ in range(count))


def together(first, second):
    """`compose` with room for all that is composed here, so that results compare by array."""
    return compose(first, second, capacity=ROOM)


def padded(delta):
    return together(delta, Delta.empty(CAPACITY, delta.block_words))


@given(pages_and_deltas(2))
def test_apply_of_compose_equals_apply_twice(drawn):
    pages, first, second = drawn
    twice = apply(apply(pages, first), second)
    assert_same(apply(pages, together(first, second)), twice)


@given(pages_and_deltas(3))
def test_compose_is_associative(drawn):
    _, a, b, c = drawn
    assert_same(together(together(a, b), c), together(a, together(b, c)))


@given(pages_and_deltas(1))
def test_empty_delta_is_the_identity_of_compose(drawn):
    _, delta = drawn
    empty = Delta.empty(CAPACITY, delta.block_words)
    assert_same(together(empty, delta), padded(delta))
    assert_same(together(delta, empty), padded(delta))


@given(pages_and_deltas(1))
def test_compose_and_apply_are_idempotent(drawn):
    pages, delta = drawn
    assert_same(together(delta, delta), padded(delta))
    once = apply(pages, delta, version=3)
    assert_same(apply(once, delta, version=4), once)


@given(pages_and_deltas(1))
def test_apply_of_invert_after_apply_gives_the_pages_back(drawn):
    pages, delta = drawn
    assert_same(apply(apply(pages, delta), invert(pages, delta)), pages)


@given(pages_and_deltas(1))
def test_invert_of_invert_is_the_delta(drawn):
    pages, delta = drawn
    changed = apply(pages, delta)
    assert_same(invert(changed, invert(pages, delta)), delta)


@given(pages_and_deltas(1), strategies.pages())
def test_apply_of_diff_gives_the_new_pages(drawn, new):
    old, delta = drawn
    for target in (new, apply(old, delta)):
        found = diff(old, target, capacity=256, block_words=delta.block_words)
        np.testing.assert_array_equal(apply(old, found).words, target.words)
        assert not found.overflow


@given(pages_and_deltas(1))
def test_diff_of_apply_is_within_the_delta(drawn):
    """What `diff` finds is what `apply` changed: composing it with the delta adds nothing."""
    pages, delta = drawn
    changed = apply(pages, delta)
    found = diff(pages, changed, capacity=CAPACITY, block_words=delta.block_words)
    assert_same(together(found, delta), padded(delta))


@given(strategies.pages())
def test_diff_of_equal_pages_is_empty(pages):
    assert_same(diff(pages, pages, capacity=4), Delta.empty(4))


@given(strategies.pages(), strategies.writes(), strategies.writes())
def test_compose_of_deltas_of_other_bytes_commutes(pages, first, second):
    others = {place: value for place, value in second.items() if place not in first}
    one, other = (strategies.delta_of(writes, CAPACITY, 32) for writes in (first, others))
    assert_same(together(one, other), together(other, one))
    assert_same(apply(apply(pages, one), other), apply(apply(pages, other), one))


def test_compose_does_not_commute_where_both_write():
    first, second = (strategies.delta_of({(0, 0): value}, 1, 32) for value in (1, 2))
    assert compose(first, second).data[0, 0] == 2
    assert compose(second, first).data[0, 0] == 1
