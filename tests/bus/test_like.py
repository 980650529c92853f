"""A template gives the class and the place of every array, whatever was committed."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

import mmsb_jax as mmsb
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree, what

DEVICE = SingleDeviceSharding(jax.devices()[0])
SMALL, LARGE = (3,), (40_000,)

CLASSES = {
    "numpy": lambda shape: np.zeros(shape, np.float32),
    "jax": lambda shape: jnp.zeros(shape),
    "jax, committed": lambda shape: jax.device_put(jnp.zeros(shape), DEVICE),
    "shape": lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    "shape with a sharding": lambda shape: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=DEVICE
    ),
}


def check(found: Any, like: Any, values: np.ndarray) -> None:
    """Whether an array has the class and the place of its template."""
    assert isinstance(found, jax.Array) is not isinstance(like, np.ndarray)
    assert np.asarray(found).tobytes() == values.tobytes()
    if isinstance(found, jax.Array):
        is_placed = getattr(like, "_committed", isinstance(like, jax.ShapeDtypeStruct))
        is_placed &= like.sharding is not None
        assert found.committed == is_placed
        assert found.sharding == (like.sharding or DEVICE)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("like", CLASSES)
@pytest.mark.parametrize("committed", ["numpy", "jax"])
def test_template_decides_class_and_place(tmp_path, committed, like, shape):
    template = {"w": CLASSES[like](shape)}
    with (
        mmsb.open(tmp_path / "run") as bus,
        mmsb.Replica(tmp_path / "run", like=template) as replica,
    ):
        values = np.zeros(shape, np.float32)
        for number in range(3):
            values = values.copy()
            values[number] = number + 1
            bus.commit({"w": values if committed == "numpy" else jnp.asarray(values)})
            check(replica.update()["w"], template["w"], values)
        check(bus.checkout(like=template)["w"], template["w"], values)
        found, _ = bus.resume(template)
        check(found["w"], template["w"], values)
        assert np.asarray(bus.tree()["w"]).tobytes() == values.tobytes()
        bus.commit(found)
        assert what(bus.tree()["w"]) == what(found["w"])
        assert bus.checkout(version=4, like=template)["w"].shape == shape
        check(replica.update()["w"], template["w"], values)


def test_template_decides_the_class_of_numbers_of_one_dtype(bus):
    leaves = [3, np.int64(3), np.array(3), np.float64(0.5), 0.5, True, np.bool_(True)]
    for leaf in leaves:
        bus.commit({"x": leaf}, structure="new")
        for like in leaves:
            if np.asarray(like).dtype == np.asarray(leaf).dtype:
                assert what(bus.checkout(like={"x": like})["x"]) == what(
                    type(like)(leaf) if not isinstance(like, np.ndarray) else np.asarray(leaf)
                )


def test_numpy_array_that_was_resumed_is_the_callers_own(any_bus):
    any_bus.commit({"n": np.arange(3)})
    tree, _ = any_bus.resume({"n": np.zeros(3, np.int64)})
    tree["n"] += 1
    np.testing.assert_array_equal(any_bus.read("n"), np.arange(3))
    assert any_bus.commit(tree).changed == ("n",)
    assert any_bus.verify()


def test_template_without_a_value_cannot_stand_for_what_is_missing(bus):
    bus.commit({"a": 1})
    like = {"a": 0, "b": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(mmsb.StructureError, match=r"b: .* in `like`, not recorded"):
        bus.checkout(like=like, missing="keep")


def test_template_with_an_array_made_by_name_says_so(bus):
    bus.commit({"a": jnp.ones(2)})
    bus.derive("s", ["a"], jnp.sum)
    with pytest.raises(mmsb.StructureError, match=r"s: .* in `state`, made by name"):
        bus.resume(bus.checkout() | {"s": jnp.zeros(())})


def test_sharding_that_does_not_divide_an_array_is_a_fault_of_the_template():
    run_script(
        """
        import jax, jax.numpy as jnp, mmsb_jax as mmsb
        from jax.sharding import NamedSharding, PartitionSpec
        sharding = NamedSharding(jax.make_mesh((2,), ("a",)), PartitionSpec("a"))
        for dtype in (jnp.float16, jnp.float32):
            bus = mmsb.open()
            bus.commit({"w": jnp.ones(3, dtype), "x": jnp.ones(4)})
            like = {"w": jax.ShapeDtypeStruct((3,), dtype, sharding=sharding),
                    "x": jax.ShapeDtypeStruct((5,), jnp.float32)}
            for call in (lambda: bus.checkout(like=like), lambda: bus.resume(like),
                         lambda: mmsb.Replica(bus.export(), like=like).update()):
                try:
                    call()
                except mmsb.StructureError as error:
                    text = str(error)
                    assert "at 2 paths" in text and "x: " in text, text
                    assert "w: " in text and "cannot be made: " in text, text
                else:
                    raise AssertionError
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["device", "pinned_host", "unpinned_host"])
def test_replica_in_any_memory_is_updated_again_and_again(tmp_path, kind, shape):
    sharding = SingleDeviceSharding(jax.devices()[0], memory_kind=kind)
    like = {"w": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)}
    values, rng = np.zeros(shape, np.float32), np.random.default_rng(0)
    with mmsb.open(tmp_path / "run") as bus, mmsb.Replica(tmp_path / "run", like=like) as replica:
        for change in ("first", "one", "all", "low bits", "one"):
            values = values.copy()
            if change in ("first", "one"):
                values[1] += 1
            elif change == "all":
                values[:] = rng.standard_normal(shape)
            else:
                values.view(np.uint32)[:] ^= rng.integers(0, 4, shape, np.uint32)
            bus.commit({"w": values})
            found = replica.update()["w"]
            assert np.asarray(found).tobytes() == values.tobytes()
            assert found.sharding.memory_kind == kind
        assert bus.checkout(like=like)["w"].sharding.memory_kind == kind


@pytest.mark.parametrize("wait", [True, False])
def test_array_that_every_process_has_whole_is_committed(any_bus, wait):
    """A process is not the only one; `is_fully_addressable` is what tells."""

    def make() -> dict[str, jax.Array]:
        return {"w": jnp.arange(6.0), "half": jnp.ones(3, jnp.bfloat16), "key": jax.random.key(3)}

    tree, others = make(), make()
    any_bus.commit(make())
    for leaf in tree.values():
        assert leaf.is_fully_replicated
    kinds = {type(leaf) for leaf in tree.values()}
    with _spread(kinds):
        any_bus.commit(tree, wait=wait)
        any_bus.sync()
    assert_same_tree(any_bus.tree(), tree)
    with _spread(kinds, replicated=False), pytest.raises(mmsb.StructureError, match="other proc"):
        any_bus.commit(others, wait=wait)


class _spread:
    """Inside, arrays say that they lie on devices of several processes."""

    def __init__(self, kinds: set[type], replicated: bool = True) -> None:
        said = {"is_fully_addressable": False, "is_fully_replicated": replicated}
        self._patches = [mock.patch.object(kind, n, v) for kind in kinds for n, v in said.items()]

    def __enter__(self) -> None:
        for patch in self._patches:
            patch.start()

    def __exit__(self, *exception: object) -> None:
        for patch in self._patches:
            patch.stop()
