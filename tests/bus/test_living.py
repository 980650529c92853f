"""Arrays of JAX that are the very ones of the commit before are not read again."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.trees import staging
from mmsb_jax._bus.write import tree_writer

waits = pytest.mark.parametrize("wait", [True, False])


@pytest.fixture
def read(monkeypatch):
    """The names of the leaves that commits read, in order."""
    names: list[str] = []
    for module in (tree_writer, staging):
        raw_bytes = module.raw_bytes

        def counted(leaf, name, raw_bytes=raw_bytes):
            names.append(name)
            return raw_bytes(leaf, name)

        monkeypatch.setattr(module, "raw_bytes", counted)
    stage = staging.Stager.stage

    def staged(self, leaves, labels):
        names.extend(n for leaf, n in zip(leaves, labels, strict=True) if is_of_jax(leaf))
        return stage(self, leaves, labels)

    monkeypatch.setattr(staging.Stager, "stage", staged)
    return names


def is_of_jax(leaf):
    return isinstance(leaf, jax.Array)


def land(bus, tree, wait, **options):
    commit = bus.commit(tree, wait=wait, **options)
    return commit if wait else commit.result()


@waits
def test_same_arrays_are_not_read_and_others_are(read, wait):
    bus = mmsb.open()
    tree = {"a": jnp.arange(5.0), "b": jnp.arange(3), "n": 1, "numpy": np.zeros(4)}
    land(bus, tree, wait)
    read.clear()
    assert land(bus, tree, wait).changed == ()
    assert read == ["n", "numpy"]
    tree = {**tree, "b": tree["b"] + 1}
    read.clear()
    assert land(bus, tree, wait).changed == ("b",)
    assert sorted(read) == ["b", "n", "numpy"]
    np.testing.assert_array_equal(bus.checkout()["b"], [1, 2, 3])


@waits
def test_equal_array_that_is_another_is_read(read, wait):
    bus = mmsb.open()
    land(bus, {"a": jnp.arange(5.0)}, wait)
    read.clear()
    assert land(bus, {"a": jnp.arange(5.0)}, wait).changed == ()
    assert read == ["a"]


@waits
def test_array_of_numpy_that_was_changed_in_place_is_committed(wait):
    bus, array = mmsb.open(), np.zeros(3)
    land(bus, {"a": array, "b": jnp.ones(2)}, wait)
    array[1] = 7
    assert land(bus, {"a": array, "b": jnp.ones(2)}, wait).changed == ("a",)


@waits
@pytest.mark.parametrize(
    "write",
    [
        lambda bus: bus.write("a", np.full(5, 9, np.float32)),
        lambda bus: bus.apply(
            mmsb.Delta.from_bytes(
                bus.layout.region("a"), np.arange(20) == 3, np.full(20, 65, np.uint8)
            )
        ),
        lambda bus: batch(bus),
        lambda bus: bus.commit({"a": jnp.full(5, 8.0), "b": jnp.arange(3)}),
    ],
    ids=["write", "apply", "batch", "commit"],
)
def test_array_that_something_else_has_written_is_read_again(write, wait):
    bus = mmsb.open()
    tree = {"a": jnp.arange(5.0), "b": jnp.arange(3)}
    land(bus, tree, wait)
    write(bus)
    assert land(bus, tree, wait).changed == ("a",)
    np.testing.assert_array_equal(bus.checkout()["a"], tree["a"])


def batch(bus):
    with bus.batch():
        bus.write("a", np.full(5, 9, np.float32))


@waits
def test_array_of_a_commit_that_failed_is_read_again(faulty_bus, faults, wait):
    first, second = {"a": jnp.arange(5.0)}, {"a": jnp.arange(5.0) + 1}
    land(faulty_bus, first, wait)
    faults.arm(0, 0)
    with pytest.raises(mmsb.LocationError):
        land(faulty_bus, second, wait)
    faults.disarm()
    if not wait:
        with pytest.raises(mmsb.LocationError):
            faulty_bus.sync()
    assert land(faulty_bus, second, wait).changed == ("a",)
    assert land(faulty_bus, first, wait).changed == ("a",)


def test_arrays_of_commits_that_wait_in_the_queue_are_known():
    bus = mmsb.open()
    trees = [{"a": jnp.full(5, float(i)), "b": jnp.arange(3.0)} for i in range(3)]
    bus.commit(trees[0])
    order = [0, 1, 1, 0, 2, 1, 0, 0, 2]
    futures = [bus.commit({**trees[i], "b": trees[0]["b"]}, wait=False) for i in order]
    changed = [future.result().changed for future in futures]
    pairs = zip([0, *order], order, strict=False)
    assert changed == [() if before == after else ("a",) for before, after in pairs]
    for version, i in enumerate(order, 2):
        np.testing.assert_array_equal(bus.checkout(version=version)["a"], trees[i]["a"])


@waits
def test_same_array_that_was_donated_is_refused(wait):
    bus = mmsb.open()
    tree = {"a": jnp.arange(5.0), "b": jnp.arange(3)}
    land(bus, tree, wait)
    jax.jit(lambda x: x + 1, donate_argnums=0)(tree["a"]).block_until_ready()
    assert tree["a"].is_deleted()
    with pytest.raises(mmsb.StructureError, match="a was donated or deleted"):
        land(bus, tree, wait)
    assert bus.version == 1


@waits
def test_no_array_is_kept_alive(wait):
    bus = mmsb.open()
    array = jnp.arange(5.0)
    land(bus, {"a": array}, wait)
    bus.sync()
    reference = weakref.ref(array)
    del array
    gc.collect()
    assert reference() is None


@waits
def test_structure_that_was_another_meanwhile_is_read_whole(read, wait):
    bus = mmsb.open()
    a, b = jnp.arange(5.0), jnp.arange(3)
    land(bus, {"a": a, "b": b}, wait)
    land(bus, {"a": a, "c": b}, wait, structure="new")
    read.clear()
    land(bus, {"a": a, "b": b + 1}, wait, structure="new")
    assert sorted(read) == ["a", "b"]
    np.testing.assert_array_equal(bus.checkout()["b"], [1, 2, 3])


@waits
def test_array_that_was_committed_beside_what_controls_it_waits_for_nobody(wait):
    bus = mmsb.open()
    tree = {"a": jnp.arange(5.0), "b": jnp.arange(3)}
    land(bus, tree, wait)
    bus.link("a", "b", kind="control")
    waiting = []
    bus.subscribe("stale", lambda event: waiting.append(event.array))
    land(bus, {"a": tree["a"] + 1, "b": tree["b"]}, wait)
    bus.write("a", np.zeros(5, np.float32))
    bus.sync()
    assert waiting == ["b"]  # of the write alone
