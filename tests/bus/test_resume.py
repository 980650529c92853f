"""Resuming into another tree than was committed: parts that came, went, were renamed, are cast."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree


def committed(tree, **options):
    bus = mmsb.open(**options)
    bus.commit(tree, step=3, extra={"next": 4})
    return bus


@pytest.mark.parametrize("wait", [True, False])
def test_an_added_part_is_kept_and_recorded_by_the_next_commit(wait):
    with committed({"params": jnp.ones(3)}) as bus:
        wanted = {"params": jnp.zeros(3), "ema": jnp.full(3, 7.0)}
        with pytest.raises(mmsb.StructureError, match=r"ema: .* not recorded"):
            bus.resume(wanted)
        with pytest.warns(UserWarning, match="ema"):
            state, extra = bus.resume(wanted, missing="keep")
        assert_same_tree(state, {"params": jnp.ones(3), "ema": jnp.full(3, 7.0)})
        assert extra == {"next": 4}
        handle = bus.commit(state, wait=wait)
        assert (handle if wait else handle.result()).changed == ("ema",)
        assert_same_tree(bus.tree(), state)
        with pytest.raises(mmsb.StructureError, match="ema: missing"):
            bus.commit({"params": jnp.ones(3)})


def test_only_what_came_back_is_accepted_without_a_word():
    with committed({"params": jnp.ones(3)}) as bus:
        with pytest.warns(UserWarning, match="ema"):
            bus.resume({"params": jnp.zeros(3), "ema": jnp.zeros(3)}, missing="keep")
        with pytest.raises(mmsb.StructureError, match="other: new"):
            bus.commit({"params": jnp.zeros(3), "other": jnp.zeros(3)})
        bus.resume({"params": jnp.zeros(3)})
        with pytest.raises(mmsb.StructureError, match="ema: new"):
            bus.commit({"params": jnp.zeros(3), "ema": jnp.zeros(3)})


def test_renamed_parts_and_leaves_come_back_to_the_bit():
    old = {"enc": {"w": jnp.arange(3.0), "b": np.int8([1])}, "head": 2.5, "name": "x"}
    new = {"encoder": {"w": jnp.zeros(3), "bias": np.int8([0])}, "head": 0.0, "name": "y"}
    with committed(old) as bus:
        state, _ = bus.resume(new, rename={"enc": "encoder", "enc/b": "encoder/bias"})
        assert_same_tree(
            state,
            {"encoder": {"w": jnp.arange(3.0), "bias": np.int8([1])}, "head": 2.5, "name": "x"},
        )
        bus.commit(state)
        assert_same_tree(bus.tree(), state)
        assert_same_tree(bus.checkout(version=1), old)


def test_what_is_no_leaf_and_weak_types_are_renamed_too():
    class Module(eqx.Module):
        w: jax.Array
        size: int = eqx.field(static=True)

    with committed({"a": Module(jax.lax.add(1.0, 1.0), 3)}) as bus:
        state, _ = bus.resume({"b": Module(jnp.zeros(()), 3)}, rename={"a": "b"})
        assert state["b"].w == 2
        assert state["b"].w.weak_type
        with pytest.raises(mmsb.StructureError, match=r"b/size: static 4 .* 3 recorded"):
            bus.resume({"b": Module(jnp.zeros(()), 4)}, rename={"a": "b"})


@pytest.mark.parametrize(
    ("rename", "error", "message"),
    [
        ({"nothing": "b"}, mmsb.ArrayNotFoundError, "nothing"),
        ({"a": "b"}, mmsb.StructureError, "two leaves would be at 'b'"),
        ({"a": 3}, TypeError, "rename="),
        (["a"], TypeError, "rename="),
        ({"": "c"}, TypeError, "rename="),
        ({"a": ""}, TypeError, "rename="),
        ({"a/": "c"}, TypeError, "rename="),
    ],
)
def test_a_rename_that_cannot_be_is_refused(rename, error, message):
    tree = {"a": 1.0, "b": 2.0}
    with committed(tree) as bus:
        with pytest.raises(error, match=message):
            bus.resume(tree, rename=rename)
        assert bus.commit(tree).version == 2


def test_two_names_may_be_exchanged():
    with committed({"a": 1.0, "b": 2.0}) as bus:
        assert bus.resume({"a": 0.0, "b": 0.0}, rename={"a": "b", "b": "a"})[0] == {
            "a": 2.0,
            "b": 1.0,
        }


CASTS = [
    (np.float32([1.5, -0.0, np.nan, 3e38]), ml_dtypes.bfloat16),
    (np.float32([1.5, 1e-9, np.inf]), np.float16),
    (np.array([1.5, 3.0], ml_dtypes.bfloat16), np.float32),
    (np.int8([-3, 7]), np.int32),
    (np.int32([70000]), np.int8),
    (np.array([-3, 7], ml_dtypes.int4), np.float32),
    (np.array([True, False]), np.float32),
    (np.float32([1.5]), np.complex64),
]


@pytest.mark.parametrize(("array", "dtype"), CASTS)
@pytest.mark.parametrize("make", [jnp.asarray, np.asarray])
def test_cast_is_that_of_numpy(make, array, dtype):
    with committed({"x": make(array)}) as bus:
        wanted = {"x": make(np.zeros(array.shape, dtype))}
        with pytest.raises(mmsb.StructureError, match="x: "):
            bus.resume(wanted)
        with np.errstate(all="ignore"):
            expected = array.astype(dtype)
        state, _ = bus.resume(wanted, cast=True)
        assert_same_tree(state, {"x": make(expected)})
        bus.commit(state)
        assert_same_tree(bus.tree(), state)
        assert_same_tree(bus.checkout(version=1), {"x": make(array)})


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (jnp.zeros(2), jnp.zeros(2, jnp.int32)),
        (jnp.zeros(2, jnp.complex64), jnp.zeros(2)),
        (jnp.zeros(2, jnp.int32), jnp.zeros(2, bool)),
        (jnp.zeros(2), jnp.zeros(3, jnp.bfloat16)),
        (jax.random.key(1), jnp.zeros(2, jnp.uint32)),
        (1.5, jnp.zeros(2)),
    ],
)
def test_what_would_lose_what_it_says_is_not_cast(was, now):
    with committed({"x": was}) as bus, pytest.raises(mmsb.StructureError, match="x: "):
        bus.resume({"x": now}, cast=True)


@pytest.mark.parametrize("name", ["missing", "cast"])
def test_a_choice_that_is_none_is_refused(bus, name):
    with pytest.raises((ValueError, TypeError), match=f"{name}="):
        bus.resume({"x": 1.0}, **{name: "yes"})


def test_one_to_eight_devices_and_back(tmp_path):
    """Committed on one device, gone on with on eight, and back on one: bit for bit."""
    state = {"w": jnp.arange(64.0).reshape(8, 8), "b": jnp.arange(8, dtype=jnp.bfloat16)}
    with committed(state, path=tmp_path / "run"):
        pass
    code = """
        import sys, jax, jax.numpy as jnp, mmsb_jax as mmsb
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        import numpy as np
        mesh = Mesh(np.array(jax.devices()), ("d",))
        split = NamedSharding(mesh, P("d"))
        init = jax.jit(
            lambda: {"w": jnp.zeros((8, 8)), "b": jnp.zeros(8, jnp.bfloat16)}, out_shardings=split
        )
        with mmsb.open(sys.argv[1]) as bus:
            state, extra = bus.resume_or_init(init, {"next": 0})
            assert extra == {"next": 4}, extra
            assert all(leaf.sharding == split for leaf in state.values())
            bus.commit({name: leaf * 2 for name, leaf in state.items()})
        print("done")
    """
    flags = "--xla_force_host_platform_device_count=8"
    assert run_script(code, tmp_path / "run", XLA_FLAGS=flags) == "done"
    with mmsb.open(tmp_path / "run") as bus:
        back, _ = bus.resume(state)
        assert_same_tree(back, {name: leaf * 2 for name, leaf in state.items()})


def test_resume_or_init_makes_a_state_only_where_there_is_none(bus):
    made = []

    def init():
        leaf = jnp.zeros(3)
        made.append(type(leaf))
        return {"w": leaf, "n": 3, "f": jax.nn.relu}

    state, extra = bus.resume_or_init(init, {"next": 0})
    assert_same_tree(state["w"], jnp.zeros(3))
    assert extra == {"next": 0}
    assert bus.version == 0
    bus.commit(state | {"w": jnp.ones(3), "n": 4}, extra={"next": 1})
    state, extra = bus.resume_or_init(init, {"next": 0})
    assert_same_tree(state["w"], jnp.ones(3))
    assert state["n"] == 4
    assert state["f"] is jax.nn.relu
    assert extra == {"next": 1}
    assert not issubclass(made[0], jax.core.Tracer)
    assert issubclass(made[1], jax.core.Tracer)
    bus.commit(state)


def test_resume_or_init_takes_modules_and_refuses_another_structure(bus):
    key = jax.random.key(0)
    init = functools.partial(eqx.nn.MLP, 2, 2, 4, 1, key=key)
    model, _ = bus.resume_or_init(init)
    bus.commit(eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.ones(4)))
    again, _ = bus.resume_or_init(init)
    assert isinstance(again, eqx.nn.MLP)
    assert (again.layers[0].bias == 1).all()
    with pytest.raises(mmsb.StructureError, match="weight"):
        bus.resume_or_init(functools.partial(eqx.nn.MLP, 2, 2, 5, 1, key=key))
    with pytest.raises(TypeError, match="init="):
        bus.resume_or_init({"w": 1})


def test_errors_name_what_would_help():
    with committed({"enc": {"w": jnp.ones(3)}}) as bus:
        with pytest.raises(mmsb.StructureError, match=r"missing='keep' .*rename="):
            bus.resume({"encoder": {"w": jnp.ones(3)}})
        with pytest.raises(mmsb.ArrayNotFoundError, match="Did you mean 'enc'"):
            bus.resume({"encoder": {"w": jnp.ones(3)}}, rename={"encc": "encoder"})
        init = lambda: {"encoder": {"w": jnp.ones(3, jnp.bfloat16)}}  # noqa: E731
        state, _ = bus.resume_or_init(init, cast=True, rename={"enc": "encoder"})
        assert state["encoder"]["w"].dtype == jnp.bfloat16
        with pytest.raises(TypeError, match="extra holds"):
            bus.commit(state, extra={"key": jax.random.key(0)})


def test_nothing_is_said_where_nothing_is_missing():
    with committed({"x": jnp.ones(2)}) as bus, warnings.catch_warnings():
        warnings.simplefilter("error")
        bus.resume({"x": jnp.zeros(2)}, missing="keep", cast=True, rename={"x": "x"})


def test_a_reader_resumes_too(tmp_path):
    with committed({"x": jnp.ones(2)}, path=tmp_path / "run") as bus:
        bus.commit({"x": jnp.zeros(2)})
        with mmsb.open(tmp_path / "run", mode="r") as reader:
            assert_same_tree(reader.resume({"x": jnp.zeros(2)}, at=1)[0], {"x": jnp.ones(2)})
            assert_same_tree(reader.tree(), {"x": jnp.zeros(2)})
