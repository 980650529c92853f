"""The caller's settings of JAX neither stop nor change a commit, a write or a checkout."""

import threading
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree, what


def make_tree(number: int = 0) -> dict[str, Any]:
    """A tree of every kind of leaf, NaNs among them, which no setting keeps from being made."""
    rng = np.random.default_rng(number)
    weights = rng.standard_normal((4, 8)).astype(np.float32)
    weights[0, 0], weights[0, 1], weights[0, 2] = np.nan, -0.0, np.inf

    def put(array: np.ndarray) -> jax.Array:
        return jax.device_put(array)

    return {
        "weights": put(weights),
        "half": put(weights.astype(jnp.bfloat16)),
        "narrow": put(np.arange(-8, 8).astype(jnp.int4)),
        "complex": put(weights.view(np.complex64)),
        "flags": put(weights > 0),
        "key": jax.random.key(number),
        "wide": weights.astype(np.float64) * np.pi,
        "number": number,
        "ratio": float("nan"),
        "name": "run",
    }


def everything(bus: mmsb.Bus) -> None:
    """Every call of a bus that moves bytes, each checked."""
    trees = [make_tree(number) for number in range(4)]
    loss = jax.device_put(np.float32(np.nan))
    bus.commit(trees[0], note={"loss": loss})
    for tree in trees[1:3]:
        bus.commit(tree, wait=False, note={"loss": loss})
    bus.commit(trees[3])
    assert_same_tree(bus.tree(), trees[3])
    assert_same_tree(bus.checkout(version=2), trees[1])
    assert_same_tree(bus.checkout(version=3, like=trees[0]), trees[2])
    assert np.isnan(list(bus.log())[1].note["loss"])
    bus.create("x", shape=(3,), dtype="float32")
    value = jax.device_put(np.array([np.nan, -0.0, 1], np.float32))
    bus.write("x", value)
    assert what(bus.read("x")) == what(value)
    with bus.batch():
        bus.write("x", jax.device_put(np.zeros(3, np.float32)))
        bus.clone("x", "y")
    bus.resize("y", shape=(5,))
    layout = bus.layout
    region = layout.region("x")
    delta = mmsb.Delta.from_bytes(region, np.ones(12, bool), np.full(12, 255, np.uint8))
    bus.apply(delta)
    bus.apply(bus.diff(bus.version - 1, bus.version).delta)
    log = mmsb.TLog.empty(commits=2, blocks=4).append(delta)
    assert len(bus.extend(log)) == 1
    assert [what(entry.value) for entry in bus.history("number")][-1] == (int, 3)
    assert bus.verify()
    with bus.fork() as fork:
        assert_same_tree(fork.checkout(like=trees[0]), trees[3])
    assert_same_tree(bus.resume(trees[0])[0], trees[3])


@pytest.mark.parametrize("is_on", [True, False])
def test_x64_on_and_off_gives_the_same_bytes(any_bus, is_on):
    with jax.enable_x64(is_on):
        everything(any_bus)


def test_x64_arrays_come_back_where_64_bit_types_are_off(any_bus):
    with jax.enable_x64(True):
        tree = {"f": jnp.arange(3.0), "i": jnp.arange(3), "c": jnp.arange(3) * 1j}
        assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)} == {8, 16}
        any_bus.commit(tree)
        any_bus.commit(tree, wait=False).result()
    with jax.enable_x64(False):
        any_bus.commit(tree)
        any_bus.commit(tree, wait=False).result()
        assert_same_tree(any_bus.tree(), tree)


@pytest.mark.parametrize("setting", ["debug_nans", "debug_infs"])
def test_debug_nans_and_infs_let_them_be_committed(any_bus, setting):
    with getattr(jax, setting)(True):
        everything(any_bus)


@pytest.mark.parametrize("guard", ["disallow", "disallow_explicit"])
def test_transfer_guard_lets_the_bus_move_its_bytes(any_bus, guard):
    everything(any_bus)  # what the test itself needs is compiled and on the device then
    tree, like, loss = make_tree(1), make_tree(2), jax.device_put(np.float32(1))
    with jax.transfer_guard(guard):
        any_bus.commit(tree)
        any_bus.commit(tree, wait=False, note={"loss": loss})
        any_bus.tree()
        any_bus.checkout(version=1, like=like)
        any_bus.write("weights", tree["weights"])
        any_bus.read("weights")
        newest = any_bus.version
        any_bus.apply(any_bus.diff(newest - 1, newest).delta)
        assert any_bus.verify()


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_mesh_in_scope_changes_nothing(any_bus, axis_type):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(getattr(jax.sharding.AxisType, axis_type),))
    with jax.set_mesh(mesh):
        everything(any_bus)


def test_strict_promotion_checks_and_no_jit_change_nothing(any_bus):
    with ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.check_tracer_leaks(False))
        everything(any_bus)


def test_jit_switched_off_lets_trees_be_committed(bus):
    with jax.disable_jit():
        bus.commit(make_tree(0))
        bus.commit(make_tree(1), wait=False).result()
        assert_same_tree(bus.tree(), make_tree(1))


def test_threads_that_commit_side_by_side_land_whole_commits_in_one_order(any_bus):
    failures: list[BaseException] = []
    template = make_tree(0)
    any_bus.commit(template)

    def work(first: int) -> None:
        try:
            for number in range(first, first + 10):
                done = any_bus.commit(make_tree(number), step=number, wait=number % 2 == 0)
                done = done if number % 2 == 0 else done.result()
                assert_same_tree(any_bus.checkout(version=done.version), make_tree(number))
                any_bus.read("number")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    commits = list(any_bus.log(since=2))
    assert [c.version for c in commits] == list(range(2, 42))
    assert sorted(c.step for c in commits) == sorted(
        100 * i + n for i in range(1, 5) for n in range(10)
    )
    for first in range(1, 5):  # the commits of one thread are in its order
        mine = [c.step for c in commits if c.step // 100 == first]
        assert mine == sorted(mine)
    assert any_bus.verify()


_EVERYTHING = """
    import jax, mmsb_jax as mmsb
    {}
    from tests.bus.test_settings import everything
    with mmsb.open() as bus:
        everything(bus)
    print("done")
"""


@pytest.mark.parametrize("is_on", [True, False])
def test_async_dispatch_on_and_off_gives_the_same_bytes(is_on):
    setting = f'jax.config.update("jax_cpu_enable_async_dispatch", {is_on})'
    assert run_script(_EVERYTHING.format(setting)) == "done"


def test_several_devices_and_shardings_are_kept():
    code = """
        import jax, numpy as np, mmsb_jax as mmsb
        import jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from tests.core._compare import assert_same_tree
        mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=2 * (jax.sharding.AxisType.Auto,))
        put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, P(*axes)))
        square = np.arange(16, dtype=np.float32).reshape(4, 4)
        tree = {
            "w": put(square, "x", "y"), "c": put(square * 1j, "x"), "f": put(square > 3, None, "y"),
            "i": put(square.astype(jnp.int4)),
            "key": put(jax.random.split(jax.random.key(0), 4), "x"),
            "on 1": jax.device_put(square, jax.devices()[1]),
            "key on 3": jax.device_put(jax.random.key(7), jax.devices()[3]),
            "scalar": jax.device_put(np.complex64(1j), jax.devices()[2]), "host": square,
        }
        with mmsb.open() as bus:
            bus.commit(tree)
            for _ in range(3):
                bus.commit(tree, wait=False)
            assert_same_tree(bus.tree(), tree)
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                if isinstance(x, jax.Array) else x, tree)
            for like in (tree, shapes):
                found = bus.checkout(like=like)
                assert_same_tree(found, tree)
                for name, leaf in found.items():
                    assert name == "host" or leaf.sharding == tree[name].sharding, name
            assert bus.stats().unchanged_commits == 3
        print("done")
    """
    flags = "--xla_force_host_platform_device_count=4"
    assert run_script(code, XLA_FLAGS=flags) == "done"
