"""Compilation is a cost: how often the core's programs are traced."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsb_jax import Delta, Layout, Pages, TLog, apply, diff
from mmsb_jax._core import delta as _delta
from mmsb_jax._core import layout as _layout
from mmsb_jax._core import pack, tlog
from mmsb_jax.testing import strategies

READ = pack._read.__wrapped__


@pytest.fixture
def at_most(monkeypatch):
    """Replaces a jitted function of a module by one that fails when it is traced too often."""

    chex.clear_trace_counter()
    names = []

    def replace(module, name, function, traces, **jit):
        def traced(*args):
            return function(*args)

        traced.__name__ = f"{name} of {len(names)}"  # chex counts by name
        names.append(name)
        counted = chex.assert_max_traces(traced, n=traces)
        monkeypatch.setattr(module, name, jax.jit(counted, **jit))

    return replace


def count_packs(at_most, traces):
    at_most(_layout, "put_donated", pack._write, traces, donate_argnums=0)


def count_reads(at_most, traces):
    at_most(pack, "_read", READ, traces, static_argnums=(2, 3))


def many_leaves(count):
    shapes = [(3, 4), (70,), (5,)]
    return {f"w{i}": jnp.full(shapes[i % 3], i, jnp.float32) for i in range(count)}


@pytest.mark.parametrize("count", [count_packs, count_reads])
def test_packing_compiles_once_for_each_shape_and_dtype(at_most, count):
    tree = many_leaves(30)
    layout = Layout.of(tree, page_bytes=128)
    pages = layout.pack(tree)
    act = layout.unpack if count is count_reads else layout.pack
    value = pages if count is count_reads else tree
    count(at_most, 3)
    act(value)
    act(value)
    count(at_most, 2)
    with pytest.raises(AssertionError, match="traced > 2 times"):
        act(value)


def test_pack_of_another_layout_of_the_pool_compiles_for_new_shapes_only(at_most):
    tree = many_leaves(6)
    changed = {**{name: tree[name] for name in reversed(tree)}, "w2": jnp.zeros((5, 1))}
    changed["a"] = changed.pop("w5")
    first, second = (Layout.of(t, page_bytes=128) for t in (tree, changed))
    assert first.pages == second.pages
    assert first != second
    count_packs(at_most, 4)
    first.pack(tree)
    second.pack(changed)
    count_packs(at_most, 3)
    first.pack(tree)
    with pytest.raises(AssertionError, match="traced > 3 times"):
        second.pack(changed)


def test_hundred_states_with_other_scalars_compile_once(at_most):
    count_packs(at_most, 2)  # the array, and the words of any Python number
    traced = chex.assert_max_traces(lambda layout, pages: layout.get(pages, "w"), n=1)
    function = jax.jit(traced, static_argnums=0)
    for step in range(100):
        tree = {"w": jnp.full(3, step, jnp.float32), "step": step, "lr": 1 / (1 + step)}
        layout = Layout.of(tree)
        assert function(layout, layout.pack(tree))[0] == step


def test_apply_of_many_deltas_of_one_capacity_compiles_once(at_most):
    at_most(_delta, "_apply_jit", _delta._apply_jit.__wrapped__, 1)
    pages = Pages(jnp.zeros((4, 64), jnp.uint32), jnp.zeros(4, jnp.uint32))
    for i in range(20):
        pages = apply(pages, strategies.delta_of({(i % 4, i): i}, 8, 32), version=i)
    assert pages.version.tolist() == [16, 17, 18, 19]
    with pytest.raises(AssertionError, match="traced > 1 times"):
        apply(pages, Delta.empty(9))


def test_diff_without_capacity_compiles_for_powers_of_two(at_most):
    gather = _delta._gather_diff.__wrapped__
    at_most(_delta, "_gather_diff", gather, 6, static_argnums=(4, 5))
    old = Pages(jnp.zeros((32, 32), jnp.uint32), jnp.zeros(32, jnp.uint32))
    for changed in range(33):
        if changed == 1:
            continue
        words = np.zeros((32, 32), np.uint32)
        words[:changed] = 1
        assert int(diff(old, Pages(jnp.asarray(words), old.version)).count) == changed


def test_entries_of_a_log_compile_for_powers_of_two(at_most):
    log = TLog.empty(16, 64)
    for entry in range(9):
        log = log.append(strategies.delta_of({(page, 0): 1 for page in range(entry)}, 8, 32))
    at_most(tlog, "_delta", tlog._delta.__wrapped__, 5, static_argnums=2)
    assert [int(delta.count) for delta in log] == list(range(9))


def test_append_and_slice_of_many_entries_compile_once(at_most):
    at_most(tlog, "_append", tlog._append.__wrapped__, 1)
    at_most(tlog, "_slice", tlog._slice.__wrapped__, 1)
    log = TLog.empty(16, 64)
    for i in range(10):
        log = log.append(strategies.delta_of({(i, i): i}, 4, 32))
    assert [len(log[i:]) for i in range(10)] == list(range(10, 0, -1))
