"""Deltas of slices against NumPy, and the capacities that are always enough."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import (
    ArrayNotFoundError,
    Delta,
    InvalidDeltaError,
    Layout,
    PageTable,
    TLog,
    apply,
    diff,
)
from mmsb_jax._core.tree.slices import SliceGrid
from mmsb_jax.testing import check_delta
from tests.core._compare import assert_same

SHAPES = [(100,), (5, 6, 9), (40, 3), ()]


def of_dtype(dtype, shape, seed):
    """An array of any bytes that the dtype has, of JAX where it can hold it."""
    rng = np.random.default_rng(seed)
    if dtype == "<U3":
        return rng.choice(["abc", "de", "f"], shape).astype(dtype)
    if dtype == "bool":
        return jnp.asarray(rng.integers(0, 2, shape).astype(bool))
    array = rng.integers(-100, 100, shape).astype(dtype)
    return array if dtype == "float64" else jnp.asarray(array)


@pytest.mark.parametrize("dtype", ["float32", "int8", "bfloat16", "complex64", "float64", "bool"])
@pytest.mark.parametrize("block_words", [32, 1])
def test_slice_is_written_as_numpy_writes_it(dtype, block_words):
    for number, shape in enumerate(SHAPES):
        array = of_dtype(dtype, shape, 1)
        tree = {"before": np.zeros(70, np.uint8), "x": array}
        layout = Layout.of(tree, 256)
        lengths = tuple(max(1, n // (2 + axis)) for axis, n in enumerate(shape))
        values = of_dtype(dtype, lengths, 2)
        start = tuple((n - length) // (1 + number % 2) for n, length in zip(shape, lengths))
        delta = Delta.from_slice(layout.region("x"), values, start, block_words)
        check_delta(delta, layout.pages, layout.page_words)
        expected = np.array(array)
        expected[tuple(slice(s, s + n) for s, n in zip(start, lengths))] = np.asarray(values)
        after = layout.unpack(apply(layout.pack(tree), delta))
        assert np.asarray(after["x"]).tobytes() == expected.tobytes()
        assert not after["before"].any()
        assert int(delta.changed_bytes) == np.asarray(values).nbytes


def test_slice_of_what_jax_cannot_hold():
    array = of_dtype("<U3", (7, 5), 1)
    layout = Layout.of({"x": array}, 128)
    delta = Delta.from_slice(layout.region("x"), np.array([["zz"], ["y"]], "<U3"), (4, 3))
    expected = array.copy()
    expected[4:6, 3] = ["zz", "y"]
    assert layout.unpack(apply(layout.pack({"x": array}), delta))["x"].tolist() == expected.tolist()


def test_slice_of_a_key_is_of_its_data():
    keys = jax.random.split(jax.random.key(0), 6)
    layout = Layout.of({"x": keys})
    one = jax.random.split(jax.random.key(9), 1)
    after = apply(layout.pack({"x": keys}), Delta.from_slice(layout.region("x"), one, (2, 0)))
    found = jax.random.key_data(layout.unpack(after)["x"])
    assert_same(found, jax.random.key_data(keys).at[2].set(jax.random.key_data(one)[0]))


@given(st.data())
def test_capacity_is_reached_and_never_passed(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    lengths = tuple(data.draw(st.integers(1, n)) for n in shape)
    block_units = data.draw(st.sampled_from([1, 4, 32]))
    capacity = SliceGrid.of(shape, lengths, block_units).capacity
    numbers = np.arange(math.prod(shape)).reshape(shape) // block_units
    starts = np.ndindex(*(n - length + 1 for n, length in zip(shape, lengths)))
    most = max(
        np.unique(numbers[tuple(slice(s, s + n) for s, n in zip(start, lengths))]).size
        for start in starts
    )
    assert most <= capacity
    if len(shape) == 1:
        assert capacity <= most + (lengths != shape)


def test_traced_start_has_one_program_and_vmaps():
    layout = Layout.of({"x": jnp.zeros((50, 4))}, 128)
    region, values = layout.region("x"), jnp.ones((2, 4))
    one = lambda i: Delta.from_slice(region, values, (i, 0))  # noqa: E731
    batch = jax.vmap(one)(jnp.arange(49))
    for i in (0, 7, 48):
        assert_same(jax.tree.map(lambda x, i=i: x[i], batch), one(i))


@pytest.mark.parametrize("start", [-1, 49, 2**31 - 1, -(2**31)])
def test_traced_start_outside_of_the_array_overflows_and_writes_nothing(start):
    layout = Layout.of({"x": jnp.zeros((50, 4))}, 128)
    delta = Delta.from_slice(layout.region("x"), jnp.ones((2, 4)), (jnp.int32(start), 0))
    check_delta(delta)
    assert (int(delta.count), bool(delta.overflow)) == (0, True)
    assert TLog.empty(1, 9).append(delta).overflow
    with pytest.raises(InvalidDeltaError, match="a slice did not lie within its array"):
        apply(layout.pack({"x": jnp.zeros((50, 4))}), delta)


def test_slice_without_elements_is_the_empty_delta():
    layout = Layout.of({"x": jnp.zeros((50, 4)), "none": jnp.zeros((0, 4))})
    assert_same(Delta.from_slice(layout.region("x"), jnp.ones((0, 4)), (3, 0)), Delta.empty())
    assert_same(Delta.from_slice(layout.region("none"), jnp.ones((0, 4)), (0, 0)), Delta.empty())


@pytest.mark.parametrize(
    ("values", "start", "error", "message"),
    [
        (np.ones((2, 4), np.float32), (49, 0), InvalidDeltaError, "does not lie within 'x' of"),
        (np.ones((2, 4), np.float32), (-1, 0), InvalidDeltaError, "does not lie within"),
        (np.ones((51, 4), np.float32), (0, 0), InvalidDeltaError, "a slice of 'x', float32"),
        (np.ones((2, 4), np.float16), (0, 0), InvalidDeltaError, "Cast or reshape it first"),
        (np.ones(4, np.float32), (0, 0), InvalidDeltaError, "number of axes"),
        (jax.ShapeDtypeStruct((2, 4), "float32"), (0, 0), InvalidDeltaError, "arrived"),
        (np.ones((2, 4), np.float32), (0,), TypeError, "an integer for each of the 2 axes"),
        (np.ones((2, 4), np.float32), 3, TypeError, "an integer for each of the 2 axes"),
        (np.ones((2, 4), np.float32), (0.5, 0), TypeError, "an integer for each"),
    ],
)
def test_what_is_no_slice_is_refused(values, start, error, message):
    layout = Layout.of({"x": jnp.zeros((50, 4))})
    with pytest.raises(error, match=message):
        Delta.from_slice(layout.region("x"), values, start)


def test_array_too_large_to_count_is_refused():
    layout = Layout.of({"x": jax.ShapeDtypeStruct((2**32,), jnp.int8)})
    with pytest.raises(InvalidDeltaError, match="more than from_slice can count"):
        Delta.from_slice(layout.region("x"), jnp.ones(1, jnp.int8), (0,))


# Capacities of whole arrays


def test_capacity_of_arrays_is_enough_for_any_change():
    tree = {"a": jnp.zeros(1000), "b": jnp.zeros(3), "c": jnp.zeros((7, 33), jnp.int8)}
    layout = Layout.of(tree, 256)
    old = layout.pack(tree)
    for block_words in (32, 8, 1):
        assert layout.capacity(block_words=block_words) == layout.capacity(tree, block_words)
        for names in (["a"], ["a", "b"], ["a", "a", "c"], []):
            changed = {n: x + 1 if n in names else x for n, x in tree.items()}
            capacity = layout.capacity(names, block_words)
            delta = diff(old, layout.pack(changed), capacity, block_words)
            assert not delta.overflow
            assert int(delta.count) == capacity


def test_capacity_of_what_is_not_there_is_refused():
    layout = Layout.of({"a": jnp.zeros(1000)})
    with pytest.raises(ArrayNotFoundError, match="no array is named 'b'"):
        layout.capacity(["a", "b"])
    with pytest.raises(InvalidDeltaError, match="does not divide a page"):
        layout.capacity("a", 7)


def test_delta_of_a_batch_that_overflowed_is_named():
    layout = Layout.of({"x": jnp.zeros(50)})
    make = lambda i: Delta.from_slice(layout.region("x"), jnp.ones(3), (i,))  # noqa: E731
    batch = jax.vmap(make)(jnp.array([3, 47, 48]))
    table = PageTable.of(layout.pack({"x": jnp.zeros(50)}), 3, 4)
    with pytest.raises(InvalidDeltaError, match="delta 2 of the batch overflowed"):
        table.apply(range(3), batch)
