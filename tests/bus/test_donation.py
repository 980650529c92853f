"""Once commit returns, every array may be donated, deleted or overwritten."""

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.trees.staging import Stager, raw_bytes
from tests.core._compare import assert_same_tree, what


def _next(weights: Any, key: Any) -> Any:
    return weights * 1.5 + 1, jax.random.split(key, 1)[0]


_step = jax.jit(_next, donate_argnums=(0, 1))
_spoil = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
"""Writes into the very buffer of its argument."""


def _overwrite(tree: dict[str, Any], how: int) -> None:
    """Destroy what was committed, in one of the ways that a caller may."""
    tree["counts"][...] = -1
    if how == 0:
        _step(tree["weights"], tree["key"])
    elif how == 1:
        jax.tree.map(lambda x: x.delete() if isinstance(x, jax.Array) else None, tree)
    else:
        _spoil(tree["weights"])


def _tree(number: int, counts: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    counts[...] = rng.integers(0, 2**60, counts.shape)
    weights = rng.standard_normal(5000).astype(np.float32)
    return {
        "weights": jnp.array(weights) + 0,  # the result of a program that may still run
        "key": jax.random.key(number),
        "small": jnp.array(rng.integers(-8, 8, 7), jnp.int4),
        "complex": jnp.array(weights[:50] + 1j * weights[50:100]),
        "counts": counts,
        "number": number,
    }


@pytest.mark.parametrize("commits", [150, pytest.param(1000, marks=pytest.mark.long)])
def test_commit_then_donate_or_overwrite_many_times_keeps_every_version(commits):
    rng = random.Random(7)
    counts = np.zeros(300, np.int64)
    with mmsb.open(snapshots=False) as bus:
        expected, handles = [], []
        for number in range(commits):
            tree = _tree(number, counts)
            expected.append({name: what(leaf) for name, leaf in tree.items()})
            handles.append(bus.commit(tree, wait=False))
            for _ in range(rng.randrange(3000)):  # a delay of another length each time
                pass
            _overwrite(tree, number % 3)
        assert [h.result().version for h in handles] == list(range(1, commits + 1))
        for name in ("weights", "key", "small", "complex", "counts", "number"):
            versions = bus.history(name)
            found = {entry.version: what(entry.value) for entry in versions}
            value = None
            for version in range(1, commits + 1):
                value = found.get(version, value)
                assert value == expected[version - 1][name], (name, version)


@pytest.mark.parametrize("wait", [True, False])
def test_commit_of_results_that_are_still_computed_takes_their_values(wait):
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, y: jnp.sin(y) @ y, x))
    x = jnp.eye(64) * 0.5
    with mmsb.open() as bus:
        bus.commit({"x": x})
        result = slow(x)
        bus.commit({"x": result}, wait=wait)
        _spoil(result)
        assert_same_tree(bus.tree(), {"x": slow(x)})


def test_tree_given_back_is_the_callers_own_and_may_be_donated():
    with mmsb.open() as bus:
        bus.commit({"x": jnp.arange(1000.0), "n": np.arange(1000)})
        for read in (bus.tree, lambda: bus.checkout(version=1)):
            tree = read()
            _spoil(tree["x"])
            tree["n"][...] = 0
            x, n = bus.read("x"), bus.read("n")
            _spoil(x)
            n[...] = 0
        expected = {"x": jnp.arange(1000.0), "n": np.arange(1000)}
        assert_same_tree(bus.tree(), expected)
        assert bus.verify()


def test_write_inside_a_batch_then_overwrite_keeps_what_was_written():
    with mmsb.open() as bus:
        bus.create("x", nbytes=64)
        value = np.full(64, 5, np.uint8)
        with bus.batch():
            bus.write("x", value)
            value[...] = 6
        np.testing.assert_array_equal(bus.read("x"), np.full(64, 5, np.uint8))


class Buffer:
    """An array on a GPU, which keeps what is read of it; one on a CPU is its own copy."""

    is_fully_replicated = True

    def __init__(self, array: jax.Array) -> None:
        self._array = array

    def addressable_data(self, index: int) -> jax.Array:
        return self._array.addressable_data(index)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise AssertionError("what is read here stays on the host until the buffer is donated")


def test_bytes_of_a_staged_copy_are_not_kept_on_the_host_with_its_buffer():
    tree = [jnp.arange(5000.0) + 1, jnp.arange(5000) * 1j, jax.random.key(3)]
    staged = Stager().stage(tree, ["a", "b", "c"])
    copier, outputs = staged.device[0]
    staged.device[0] = copier, jax.tree.map(Buffer, outputs)
    for place, leaf in enumerate(map(raw_bytes, tree, "abc")):
        np.testing.assert_array_equal(staged.bytes_of(place), leaf)
