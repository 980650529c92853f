"""A shadow is never ahead of the log: commits that fail in the queue, interrupts, new trees."""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.device.programs import rank_wanted
from mmsb_jax._bus.engine.queue import CommitQueue
from mmsb_jax._bus.write import tree_writer
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree

SHADOWS = [None, "bytes", "digest"]


def slow(x, bad):
    """Waits, and fails where ``bad`` is above 0."""

    def wait(bad):
        time.sleep(0.3)
        if bad > 0:
            raise ValueError("bad")
        return np.float32(bad)

    return jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), bad)


def begin(shadow):
    """A bus on which every commit takes a while, with two commits of zeros."""
    bus, w = mmsb.open(shadow=shadow), jnp.zeros(1000)
    bus.commit({"w": w, "bad": jnp.float32(0)})
    bus.derive("d", ["w", "bad"], slow)
    bus.commit({"w": w + 0, "bad": jnp.float32(-1)})
    return bus


@pytest.mark.parametrize("shadow", SHADOWS)
def test_commit_that_landed_before_one_that_failed_does_not_vouch_for_it(shadow):
    bus = begin(shadow)
    first = jnp.zeros(1000).at[0].set(1)
    second = first.at[7].set(2)
    landing = bus.commit({"w": first, "bad": jnp.float32(-2)}, wait=False)
    failing = bus.commit({"w": second, "bad": jnp.float32(1)}, wait=False)
    landing.result()
    assert failing.exception() is not None
    with pytest.raises(mmsb.RecomputeError):
        bus.sync()
    bus.commit({"w": second + 0, "bad": jnp.float32(-3)})
    np.testing.assert_array_equal(bus.read("w"), second)
    assert bus.verify(deep=True)


@pytest.mark.parametrize("where", ["find", "seed", "stage", "submit"])
@pytest.mark.parametrize("shadow", SHADOWS)
def test_interrupt_on_the_way_to_the_queue_leaves_no_shadow_of_what_did_not_land(
    shadow, where, monkeypatch
):
    bus = begin(shadow)
    w = jnp.zeros(1000).at[0].set(1)
    before = bus.commit({"w": w, "bad": jnp.float32(-2)}, wait=False)
    trees = bus._arrays.trees
    owner, name = {
        "find": (tree_writer, "_without"),
        "seed": (tree_writer.LivingLeaves, "of"),
        "stage": (trees._stager, "stage"),
        "submit": (bus._session.engine.queue, "submit"),
    }[where]
    if where == "seed":
        trees._shadows.drop()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            bus.commit({"w": w.at[7].set(2), "bad": jnp.float32(-3)}, wait=False)
    after = bus.commit({"w": w.at[7].set(2).at[9].set(3), "bad": jnp.float32(-4)}, wait=False)
    assert before.result().version + 1 == after.result().version
    np.testing.assert_array_equal(bus.read("w"), w.at[7].set(2).at[9].set(3))
    assert bus.verify(deep=True)


def test_a_commit_that_is_queued_while_one_fails_is_not_behind_it():
    queue, ran = CommitQueue(lambda: None), []

    def land(landed):
        ran.append(1)
        landed("commit")

    def queue_another():
        with contextlib.suppress(ZeroDivisionError):
            queue.wait_for_room(9)
        another.append(queue.submit(land, lambda: None, queue.failures))

    another = []
    failing = queue.submit(lambda landed: 1 / 0, queue_another, queue.failures)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    assert another[0].result() == "commit"
    assert ran == [1]
    queue.stop()


def test_commit_made_of_one_that_failed_meanwhile_does_not_land():
    """Between the look at what is queued and the queue, that fails, and is told."""
    queue, ran = CommitQueue(lambda: None), []
    since = queue.failures
    failing = queue.submit(lambda landed: 1 / 0, lambda: None, since)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    with pytest.raises(ZeroDivisionError):
        queue.drain()
    behind = queue.submit(ran.append, lambda: ran.append("discarded"), since)
    with pytest.raises(mmsb.ClosedError, match="behind one that failed"):
        behind.result()
    assert ran == ["discarded"]
    anew = queue.submit(lambda landed: landed(7), lambda: None, queue.failures)
    assert anew.result() == 7
    queue.stop()


@pytest.mark.parametrize("shadow", SHADOWS)
def test_shadow_of_another_structure_is_forgotten(shadow):
    bus = mmsb.open(shadow=shadow)
    a, b, c = (jnp.full(100, float(i)) for i in range(3))
    bus.commit({"a": a, "b": b, "c": c})
    bus.create("tool", ())
    bus.link("tool", "b", kind="control")
    bus.commit({"b": b}, structure="new")
    bus.unlink("tool", "b", kind="control")
    bus.write("tool", np.float32(4))
    bus.commit({"b": b + 1})
    np.testing.assert_array_equal(bus.read("b"), b + 1)
    assert bus.verify(deep=True)


@pytest.mark.parametrize("shadow", SHADOWS)
def test_commit_of_arrays_while_something_else_is_traced(shadow):
    tree = {"w": jnp.zeros(100)}
    bus = mmsb.open(shadow=shadow)

    jax.jit(lambda x: (bus.commit(tree), x + 1)[1])(1.0)
    states = [{"w": tree["w"].at[step].set(1)} for step in range(3)]
    for state in states:
        jax.jit(lambda x, state=state: (bus.commit(state), x + 1)[1])(1.0)
        assert_same_tree(bus.tree(), state)
    bus.commit(tree)
    assert_same_tree(bus.tree(), tree)
    assert bus.verify(deep=True)


@pytest.mark.parametrize("is_wide", [True, False])
@pytest.mark.parametrize("dtype", ["complex128", "float64", "int64", "uint64", "complex64"])
@pytest.mark.parametrize("shadow", SHADOWS)
def test_every_bit_of_wide_types_whatever_the_setting(shadow, dtype, is_wide):
    rng = np.random.default_rng(0)
    states = [rng.integers(0, 256, 16 * 500, np.uint8).view(dtype) for _ in range(2)]
    states += [np.where(rng.random(states[1].shape) < 0.01, states[0], states[1])]
    with mmsb.open(shadow=shadow) as bus:
        for state in states:
            with jax.enable_x64(True):
                array = jnp.asarray(state)
            with jax.enable_x64(is_wide):
                bus.commit({"x": array})
                assert np.asarray(bus.read("x")).tobytes() == np.asarray(array).tobytes()
        assert bus.verify(deep=True)


def test_sharded_keys():
    code = """
        import jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        import mmsb_jax as mmsb
        mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("r", "c"))
        for spec in (P("r"), P(None, "c"), P("r", "c"), P()):
            place = NamedSharding(mesh, spec)
            for shadow in (None, "bytes", "digest"):
                with mmsb.open(shadow=shadow) as bus:
                    keys = jax.random.split(jax.random.key(0), (64, 8))
                    for step in range(4):
                        other = jax.random.split(jax.random.key(step), (64, 8))
                        keys = jax.device_put(keys.at[step::9].set(other[step::9]), place)
                        bus.commit({"k": keys})
                        found = jax.random.key_data(bus.read("k"))
                        np.testing.assert_array_equal(found, jax.random.key_data(keys))
                    assert bus.verify(deep=True)
        print("done")
    """
    flags = "--xla_force_host_platform_device_count=8"
    assert run_script(code, XLA_FLAGS=flags) == "done"


def test_program_that_takes_words_folds_no_constants():
    """With the sizes of the pieces in it, XLA computed for a second an array of 16 MB."""
    bits = jax.ShapeDtypeStruct((1 << 17,), np.uint32)
    wanted, firsts = jax.ShapeDtypeStruct((3,), np.bool_), jax.ShapeDtypeStruct((4,), np.int32)
    text = rank_wanted.lower(bits, wanted, firsts).as_text()
    assert "dense_resource" not in text
    assert len(text) < 20_000


def test_fork_has_the_shadow_of_its_bus_and_another_choice_is_refused(tmp_path):
    with mmsb.open(tmp_path / "log.mmsb", shadow="bytes", memory_kind="pinned_host") as bus:
        bus.commit({"w": jnp.zeros(1000)})
        for options, has_one in (({}, True), ({"shadow": None}, False)):
            with bus.fork(**options) as other:
                other.commit({"w": jnp.ones(1000)}, structure="new")
                assert (other.stats().device_bytes > 0) == has_one
                assert other.read("w").sharding.memory_kind == "pinned_host"
        assert mmsb.open(tmp_path / "log.mmsb") is bus
        for name, value in (("shadow", None), ("shadow", "digest"), ("memory_kind", "device")):
            with pytest.raises(ValueError, match=f"{name}=.*close it there before"):
                mmsb.open(tmp_path / "log.mmsb", **{name: value})
        with pytest.raises(ValueError, match="shadow='fast': expected"):
            bus.fork(shadow="fast")
