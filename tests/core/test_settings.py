"""The user's settings of JAX do not matter: the same bytes come of every operation."""

import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mmsb_jax import (
    Delta,
    Layout,
    TLog,
    apply,
    compose,
    diff,
    digest,
    invert,
    replay,
    update_digest,
)
from mmsb_jax._core import tlog
from mmsb_jax._core.delta import check_whole
from tests.core._compare import assert_same, assert_same_tree


def a_mesh(axis_type):
    return jax.make_mesh((1,), ("x",), axis_types=(axis_type,))


SETTINGS = {
    "x64": lambda: jax.enable_x64(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    "explicit_transfer_guard": lambda: jax.transfer_guard("disallow_explicit"),
    "check_tracer_leaks": lambda: jax.check_tracer_leaks(True),
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "auto_mesh": lambda: jax.set_mesh(a_mesh(AxisType.Auto)),
    "explicit_mesh": lambda: jax.set_mesh(a_mesh(AxisType.Explicit)),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]


@pytest.fixture(scope="module")
def tree():
    return {
        "a": jnp.arange(40, dtype=jnp.float32).at[3].set(jnp.nan).at[4].set(jnp.inf),
        "b": jnp.full((3, 5), -0.0, jnp.bfloat16),
        "k": jax.random.key(0),
        "i": 3,
        "f": float("nan"),
        "n": np.arange(3.0),
    }


@pytest.fixture(scope="module")
def changed(tree):
    return {**tree, "a": tree["a"] + 1, "i": 4}


def every_operation(tree, changed):
    """Whatever the core makes of two states, outside of transformations."""
    layout = Layout.of(tree, page_bytes=128)
    old, new = layout.pack(tree), layout.pack(changed)
    by_set = layout.set(layout.set(old, "i", 4, version=2), "a", changed["a"], version=2)
    delta = diff(old, new)
    back = invert(old, delta)
    made = Delta.from_bytes(layout.region("i"), np.ones(8, bool), np.full(8, 7, np.uint8))
    log = TLog.empty(3, 16, version=5).append(delta).append(back).append(made)
    before = digest(old, layout)
    return {
        "pages": (old, new, by_set, apply(old, delta, version=3)),
        "deltas": (delta, back, made, compose(delta, back), log.delta(1)),
        "logs": (log, log[1:]),
        "replays": (replay(old, log, until=2),),
        "digests": (before, update_digest(before, old, layout, delta)),
        "numbers": (log.blocks, delta.changed_bytes, len(log)),
        "trees": (layout.unpack(new), layout.get(new, "a"), layout.get(new, "i")),
    }


@pytest.fixture(scope="module")
def expected(tree, changed):
    return every_operation(tree, changed)


def test_operations_under_a_setting_give_what_they_give_without(setting, tree, changed, expected):
    with setting():
        found = every_operation(tree, changed)
    for part in expected:
        if part in ("trees", "numbers"):
            assert_same_tree(found[part], expected[part])
        else:
            assert_same(found[part], expected[part])


class OnDevice:
    """An array whose bytes are somewhere else, as on a GPU: a CPU's are read without a transfer."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = np.asarray(array), array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        if jax.config.jax_transfer_guard_device_to_host != "allow":
            raise RuntimeError("disallowed device-to-host transfer")
        return self._array

    def __int__(self):
        return int(np.asarray(self))


@pytest.mark.parametrize("level", ["disallow", "disallow_explicit"])
def test_numbers_read_from_a_device_pass_a_transfer_guard(level, monkeypatch):
    region = Layout.of({"a": np.zeros(8, np.uint8)}, page_bytes=128).region("a")
    delta = Delta.from_bytes(region, np.ones(8, bool), np.full(8, 7, np.uint8))
    log = TLog.empty(3, 4).append(delta)
    far_delta = eqx.tree_at(lambda delta: delta.overflow, delta, OnDevice(delta.overflow))
    far = OnDevice(log.ends), OnDevice(log.count)
    far_log = eqx.tree_at(lambda log: (log.ends, log.count), log, far)
    monkeypatch.setattr(tlog, "_delta", lambda log, entry, capacity: Delta.empty(capacity))
    with jax.transfer_guard(level):
        check_whole(far_delta)
        assert far_log.delta(0).capacity == len(far_log) == 1


@pytest.mark.parametrize("name", ["auto_mesh", "explicit_mesh"])
def test_pages_made_under_a_mesh_work_outside_of_it(name, tree, changed, expected):
    layout = Layout.of(tree, page_bytes=128)
    with SETTINGS[name]():
        old = layout.pack(tree)
    new = layout.pack(changed)
    assert_same(diff(old, new), expected["deltas"][0])
    assert_same_tree(layout.unpack(old), tree)


def test_jitted_operations_under_x64_give_32_bit_words(tree, changed, expected):
    layout = Layout.of(tree, page_bytes=128)
    with jax.enable_x64(True):
        old, new = layout.pack(tree), layout.pack(changed)
        delta = jax.jit(lambda a, b: diff(a, b, capacity=4))(old, new)
        written = jax.jit(apply)(old, delta, 3)
    assert_same(written, expected["pages"][3])


def test_arrays_of_a_mesh_of_several_devices_come_back():
    """In a process of its own, which has four devices."""
    code = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from mmsb_jax import Layout, apply, diff

    assert jax.device_count() == 4
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("x",), axis_types=(axis_type,))
        split = NamedSharding(mesh, PartitionSpec("x"))
        tree = {"a": jax.device_put(jnp.arange(40.0), split), "b": jnp.ones(3), "n": 3}
        layout = Layout.of(tree, page_bytes=128)
        old = layout.pack(tree)
        with jax.set_mesh(mesh):
            new = layout.pack({**tree, "a": jax.device_put(-jnp.arange(40.0), split)})
            pages = apply(old, diff(old, new))
            back = layout.unpack(pages)
        np.testing.assert_array_equal(back["a"], -np.arange(40.0))
        np.testing.assert_array_equal(layout.unpack(pages)["b"], np.ones(3))
    """
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_operations_without_jit_give_what_they_give_with_it():
    tree, changed = {"a": jnp.arange(3.0), "i": 3}, {"a": -jnp.arange(3.0), "i": 3}
    layout = Layout.of(tree, page_bytes=128)

    def operations():
        old, new = layout.pack(tree), layout.pack(changed)
        delta = diff(old, new)
        return apply(old, delta, version=2), replay(old, TLog.empty(1, 1).append(delta)), new

    with jax.disable_jit():
        found = operations()
    assert_same(found, operations())
    assert_same_tree(layout.unpack(found[0]), changed)
