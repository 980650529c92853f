"""Equality to the bit: of leaves with their types, and of the core's values with the oracle's."""

import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax import Delta, Pages, TLog
from mmsb_jax.testing import check_delta, check_log, check_pages, oracle


def is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> Any:
    """A leaf as the oracle takes it: keys as their data."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def what(leaf: Any) -> tuple[Any, ...]:
    """All that is to come back: type, dtype, shape and bytes."""
    if is_key(leaf):
        return ("key", leaf.dtype, *what(jax.random.key_data(leaf)))
    if isinstance(leaf, jax.Array):
        array = np.asarray(leaf)
        return ("jax", array.dtype, array.shape, array.tobytes())
    if isinstance(leaf, np.ndarray | np.generic):
        return (type(leaf), leaf.dtype, leaf.shape, leaf.tobytes())
    if type(leaf) is float:
        return (float, struct.pack("<d", leaf))
    if type(leaf) is complex:
        return (complex, struct.pack("<dd", leaf.real, leaf.imag))
    return (type(leaf), leaf)


def assert_same_tree(left: Any, right: Any) -> None:
    """Same structure, and leaf by leaf the same type, dtype, shape and bytes."""

    def is_none(x: Any) -> bool:
        return x is None

    ours, ours_def = jax.tree_util.tree_flatten(left, is_leaf=is_none)
    theirs, theirs_def = jax.tree_util.tree_flatten(right, is_leaf=is_none)
    assert ours_def == theirs_def
    for mine, yours in zip(ours, theirs, strict=True):
        assert what(mine) == what(yours)


def assert_same(left: Any, right: Any) -> None:
    """Two values of the core, array by array."""
    ours, ours_def = jax.tree_util.tree_flatten(left)
    theirs, theirs_def = jax.tree_util.tree_flatten(right)
    assert ours_def == theirs_def
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(yours))


def assert_pages(pages: Pages, expected: oracle.Pool) -> None:
    check_pages(pages)
    found = oracle.pool_of(pages)
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_array_equal(found.version, expected.version)


def assert_delta(delta: Delta, writes: oracle.Writes, overflow: bool = False) -> None:
    """A delta in normal form that says ``writes``, as many blocks of it as it has room for."""
    check_delta(delta)
    expected = oracle.delta_arrays(writes, delta.block_words, delta.capacity)
    expected["overflow"] = expected["overflow"] | overflow
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(getattr(delta, name)), array, err_msg=name)


def assert_log(log: TLog, expected: oracle.LogModel) -> None:
    check_log(log)
    assert oracle.log_of(log) == expected


def stack(*values: Any) -> Any:
    """Values of one structure as one batch."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


def unstack(batch: Any) -> list[Any]:
    """The values of a batch."""
    size = len(jax.tree.leaves(batch)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(size)]
