"""Where a bus puts the arrays that it gives: memory kinds and shardings, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

import mmsb_jax as mmsb
from mmsb_jax._core.tree import leaves
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree

KINDS = sorted(memory.kind for memory in jax.devices()[0].addressable_memories())
DEFAULT = jax.devices()[0].default_memory().kind


def state():
    return {
        "params": {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.zeros(3, jnp.bfloat16)},
        "moments": {"w": jnp.ones((3, 4)), "b": jnp.ones(3)},
        "key": jax.random.key(3),
        "weak": jnp.asarray(1.0) * 2,
        "host": np.arange(5),
        "step": 7,
    }


def kinds(tree):
    """The memory kind of each array of JAX."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(key.key for key in path): leaf.sharding.memory_kind
        for path, leaf in flat
        if isinstance(leaf, jax.Array)
    }


@pytest.fixture
def bus():
    with mmsb.open() as bus:
        bus.commit(state())
        yield bus


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_a_bus_is_that_of_all_that_it_gives(kind, tmp_path):
    with mmsb.open(tmp_path / "log.mmsb", memory_kind=kind) as bus:
        bus.commit(state())
        bus.derive("sum", ["params/w"], jnp.sum)
        assert_same_tree(bus.tree(), state())
        assert set(kinds(bus.tree()).values()) == {kind}
        assert bus.read("sum").sharding.memory_kind == kind
        assert bus.history("params/w")[0].value.sharding.memory_kind == kind
        assert set(kinds(bus.checkout(version=1, arrays=["moments/**"])).values()) == {kind}
        with bus.batch():
            bus.write("params/w", jnp.zeros((3, 4)))
            assert bus.read("params/w").sharding.memory_kind == kind
        bus.commit(bus.tree())  # and takes them as they are
        assert bus.verify(deep=True)
    with mmsb.open(tmp_path / "log.mmsb", "r", memory_kind=kind) as reader:
        assert set(kinds(reader.tree()).values()) == {kind}


def test_like_goes_before_it_and_resume_too(tmp_path):
    with mmsb.open(tmp_path / "log.mmsb", memory_kind="pinned_host") as bus:
        here = SingleDeviceSharding(jax.devices()[0])
        tree = jax.tree.map(
            lambda x: jax.device_put(x, here) if isinstance(x, jax.Array) else x, state()
        )
        bus.commit(tree)
        assert set(kinds(bus.checkout(like=tree)).values()) == {DEFAULT}
        assert set(kinds(bus.resume(tree)[0]).values()) == {DEFAULT}


def test_moved_arrays_go_there_and_the_newest_rule_counts(bus):
    assert bus.move("moments/**", "pinned_host") == ("moments/b", "moments/w")
    assert bus.move(["moments/b", "key"], "unpinned_host") == ("key", "moments/b")
    expected = dict.fromkeys(kinds(state()), DEFAULT)
    expected |= {"moments/w": "pinned_host", "moments/b": "unpinned_host", "key": "unpinned_host"}
    assert kinds(bus.tree()) == expected
    assert_same_tree(bus.tree(), state())
    bus.move("moments/**", None)
    assert kinds(bus.tree()) == dict.fromkeys(kinds(state()), DEFAULT) | {"key": "unpinned_host"}


def test_arrays_that_are_made_later_follow_the_rule(bus):
    bus.create("cache/1", (3,))
    bus.move("cache/*", "pinned_host")
    bus.create("cache/2", (4,))
    assert bus.read("cache/2").sharding.memory_kind == "pinned_host"


def test_place_is_no_part_of_the_log(bus):
    before = bus.version, bus.stats().logged_bytes
    bus.move("**", "pinned_host")
    assert (bus.version, bus.stats().logged_bytes) == before
    assert bus.commit(bus.tree()).changed == ()


def test_sharding_is_a_place():
    code = """
        import jax, jax.numpy as jnp, numpy as np, pytest
        from jax.sharding import NamedSharding, PartitionSpec as P
        import mmsb_jax as mmsb
        mesh = jax.make_mesh((8,), ("d",))
        rows = NamedSharding(mesh, P("d"))
        for kind in ("device", "pinned_host"):
            place = rows.with_memory_kind(kind)
            with mmsb.open() as bus:
                bus.commit({"w": jnp.arange(64.0).reshape(16, 4), "odd": jnp.ones(3)})
                assert bus.move("w", place) == ("w",)
                assert bus.read("w").sharding == place
                with pytest.raises(mmsb.StructureError, match="'odd' is .*cannot lie in"):
                    bus.move("**", place)
                bus.create("number", ())
                deep = NamedSharding(mesh, P("d", None)).with_memory_kind(kind)
                for name, other in (("number", place), ("odd", deep)):
                    with pytest.raises(mmsb.StructureError, match=f"'{name}' is .*cannot lie in"):
                        bus.move(name, other)
                assert bus.tree()["odd"].sharding.is_fully_replicated
                bus.commit(bus.tree())
                np.testing.assert_array_equal(bus.tree()["w"], np.arange(64.0).reshape(16, 4))
                bus.create("w2", (4,))
                bus.move("w2", NamedSharding(mesh, P()))
                bus.resize("w2", (5,))
                assert bus.read("w2").shape == (5,)
                bus.create("x1", (8,))
                bus.move("x*", place)
                bus.create("x2", (3,))  # what cannot lie there says so when it is read
                with pytest.raises(mmsb.StructureError, match="'x2' is .*cannot lie in"):
                    bus.read("x2")
                assert bus.read("x1").sharding == place
        print("done")
    """
    flags = "--xla_force_host_platform_device_count=8"
    assert run_script(code, XLA_FLAGS=flags) == "done"


@pytest.mark.parametrize(
    ("arrays", "place", "error", "said"),
    [
        (
            "nothing/**",
            None,
            mmsb.ArrayNotFoundError,
            "selects nothing: no array is named 'nothing/",
        ),
        ("params/**", "attic", ValueError, "place='attic': expected 'device', 'pinned_host'"),
        ("params/**", 3, TypeError, "place=3: expected a memory kind"),
        (3, None, TypeError, "arrays=3: expected a list of patterns"),
    ],
)
def test_what_is_no_place_is_refused(bus, arrays, place, error, said):
    with pytest.raises(error, match=said):
        bus.move(arrays, place)
    assert set(kinds(bus.tree()).values()) == {DEFAULT}


def test_kind_that_the_device_does_not_have_is_refused_at_open():
    with pytest.raises(ValueError, match="memory_kind='attic': expected 'device'"):
        mmsb.open(memory_kind="attic")


@pytest.mark.parametrize("how", ["tree", "read", "like"])
def test_device_without_room_for_an_array_says_which_and_how_large(bus, how, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 48 bytes.")

    calls = {
        "tree": bus.tree,
        "read": lambda: bus.read("params/w"),
        "like": lambda: bus.checkout(like=state()),
    }
    with monkeypatch.context() as patch:
        patch.setattr(leaves.jax, "device_put", fail)
        with pytest.raises(mmsb.DeviceMemoryError, match=r"array '.*' of \d+ bytes: .*48 bytes"):
            calls[how]()
    assert_same_tree(bus.tree(), state())
    assert bus.version == 1
