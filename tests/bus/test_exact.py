"""What is committed comes back with the same bytes, dtype, shape and Python type."""

import dataclasses
import math
import struct
import warnings
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

import mmsb_jax as mmsb
from mmsb_jax.testing import strategies
from tests.core._compare import assert_same_tree, what


def _bits(dtype: Any, *words: int) -> np.ndarray:
    return np.array(words, f"u{np.dtype(dtype).itemsize}").view(dtype)


_NAN64 = struct.unpack("<d", struct.pack("<Q", 0x7FF4_0000_DEAD_BEEF))[0]
_SPECIAL32 = _bits(np.float32, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 1, 0x7F800000)
_SPECIAL16 = np.arange(2**16, dtype=np.uint16)

LEAVES = {
    "float32": lambda: jax.device_put(_SPECIAL32),
    "every bfloat16": lambda: jax.device_put(_SPECIAL16.view(ml_dtypes.bfloat16)),
    "every float16": lambda: jax.device_put(_SPECIAL16.view(np.float16)),
    "every float8_e4m3fn": lambda: jax.device_put(
        np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    ),
    "every float8_e5m2": lambda: jax.device_put(
        np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2)
    ),
    "int4": lambda: jax.device_put(np.arange(-8, 8).astype(ml_dtypes.int4)),
    "uint4": lambda: jax.device_put(np.arange(16).astype(ml_dtypes.uint4)),
    "int2": lambda: jax.device_put(np.arange(-2, 2).astype(ml_dtypes.int2)),
    "bool": lambda: jax.device_put(np.array([True, False, True])),
    "complex64": lambda: jax.device_put(_SPECIAL32.view(np.complex64)),
    "int8": lambda: jax.device_put(np.arange(-128, 128).astype(np.int8)),
    "uint32": lambda: jax.device_put(np.array([0, 2**32 - 1], np.uint32)),
    "zero-size": lambda: jnp.zeros((0, 3), jnp.bfloat16),
    "0-d": lambda: jax.device_put(np.float32(-0.0)),
    "key": lambda: jax.random.key(7),
    "keys": lambda: jax.random.split(jax.random.key(7), (2, 3)),
    "rbg key": lambda: jax.random.key(7, impl="rbg"),
    "raw key": lambda: jax.random.PRNGKey(7),
    "numpy float64": lambda: np.array([_NAN64, -0.0, 1 / 3]),
    "numpy 0-d": lambda: np.array(1 / 3),
    "numpy zero-size": lambda: np.zeros((3, 0), np.int64),
    "numpy strided": lambda: np.arange(24).reshape(4, 6)[::2, ::-3],
    "numpy Fortran": lambda: np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    "numpy big-endian": lambda: np.arange(5, dtype=">i4"),
    "numpy strings": lambda: np.array(["a", "bcd"]),
    "numpy dates": lambda: np.array(["2020-01-01", "NaT"], "M8[D]"),
    "numpy longdouble": lambda: np.arange(3, dtype=np.complex128),
    "numpy scalar": lambda: np.float64(1 / 3),
    "numpy bool scalar": lambda: np.bool_(True),
    "bfloat16 scalar": lambda: ml_dtypes.bfloat16(1.5),
    "True": lambda: True,
    "int": lambda: -(2**63),
    "float": lambda: -0.0,
    "nan": lambda: _NAN64,
    "complex": lambda: complex(_NAN64, -0.0),
    "large int": lambda: 2**200,
    "str": lambda: "π\n\0/~",
    "empty str": lambda: "",
    "None": lambda: None,
    "function": lambda: jax.nn.relu,
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_committed_comes_back_to_the_bit(any_bus, name):
    leaf, filler = LEAVES[name](), np.arange(3)
    any_bus.commit({"x": leaf, "filler": filler})
    any_bus.commit({"x": leaf, "filler": filler + 1}, wait=False)
    any_bus.commit({"x": leaf, "filler": filler + 2})
    for version in (1, 2, 3):
        expected = {"x": leaf, "filler": filler + version - 1}
        assert_same_tree(any_bus.checkout(version=version), expected)
        assert_same_tree(any_bus.checkout(version=version, like=expected), expected)
    for commit in any_bus.log(since=2):  # the leaf did not change, so its bytes were not logged
        assert commit.changed == ("filler",)
    assert_same_tree(any_bus.tree()["x"], leaf)


@pytest.mark.parametrize("name", [n for n in LEAVES if n not in ("function", "None")])
def test_leaf_reopened_elsewhere_comes_back_to_the_bit(tmp_path, name):
    leaf = LEAVES[name]()
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit({"x": leaf})
    with mmsb.open(tmp_path / "run", mode="r") as bus:
        assert_same_tree(bus.tree(), {"x": leaf})
        assert_same_tree(bus.checkout(like={"x": leaf}), {"x": leaf})


@hypothesis.given(
    tree=strategies.trees(), number=st.integers(), wait=st.booleans(), is_reopened=st.booleans()
)
def test_any_tree_comes_back_to_the_bit(tmp_path_factory, tree, number, wait, is_reopened):
    path = tmp_path_factory.mktemp("bus") / "run" if is_reopened else None
    pair = {"tree": tree, "number": number}
    with mmsb.open(path) as bus:
        bus.commit(pair)
        bus.commit(pair, wait=wait)
        assert_same_tree(bus.tree(), pair)
        assert_same_tree(bus.checkout(version=1), pair)
        assert_same_tree(bus.resume(pair)[0], pair)
        assert list(bus.log())[-1].changed == ()
        assert bus.verify()
    if path is not None:
        with mmsb.open(path, mode="r") as bus:
            assert_same_tree(bus.checkout(like=pair), pair)


def test_bare_leaf_and_tree_without_leaves_come_back(bus):
    bus.commit(jnp.arange(3))
    assert_same_tree(bus.tree(), jnp.arange(3))
    bus.commit((), structure="new")
    assert bus.tree() == ()
    bus.commit({"a": (), "b": []}, structure="new")
    assert bus.tree() == {"a": (), "b": []}


def test_optax_state_comes_back_with_its_classes(any_bus):
    params = {"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}
    optimizer = optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.adam)(1e-3))
    state = optimizer.init(params)
    tree = (params, state)
    any_bus.commit(tree)
    assert_same_tree(any_bus.tree(), tree)
    _, state = optimizer.update(params, state, params)
    any_bus.commit((params, state), wait=False)
    assert_same_tree(any_bus.resume(tree)[0], (params, state))


def test_equinox_module_takes_its_functions_from_like(tmp_path):
    def model(seed: int) -> eqx.nn.MLP:
        return eqx.nn.MLP(2, 3, 4, 1, activation=jnp.tanh, key=jax.random.key(seed))

    with mmsb.open(tmp_path / "run") as bus:
        bus.commit(model(0))
        assert_same_tree(bus.tree(), model(0))
    with mmsb.open(tmp_path / "run") as bus:
        found, _ = bus.resume(model(1))
        assert_same_tree(found, model(0))
        assert found.activation is jnp.tanh
        np.testing.assert_array_equal(found(jnp.ones(2)), model(0)(jnp.ones(2)))
        bus.commit(found, wait=False).result()
        assert_same_tree(bus.checkout(version=2), model(0))


def test_equinox_module_with_another_function_is_another_structure(bus):
    layer = eqx.nn.Lambda(jnp.tanh)
    bus.commit(layer)
    with pytest.raises(mmsb.StructureError, match=r"fn: function .*relu.*, was function .*tanh"):
        bus.commit(eqx.nn.Lambda(jax.nn.relu))
    with pytest.raises(mmsb.StructureError, match=r"relu.* in `like`, function .*tanh.* recorded"):
        bus.checkout(like=eqx.nn.Lambda(jax.nn.relu))


def test_nnx_state_comes_back_and_updates_the_model(any_bus):
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    any_bus.commit(state)
    kernel = np.asarray(model.kernel[...])
    model.kernel[...] = model.kernel[...] * 2
    any_bus.commit(nnx.state(model), wait=False)
    nnx.update(model, any_bus.checkout(version=1, like=nnx.state(model)))
    np.testing.assert_array_equal(np.asarray(model.kernel[...]), kernel)


class _Network(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(2, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.dropout(self.norm(x))


def test_nnx_module_comes_back_as_itself(any_bus):
    model = _Network(3, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    x, outputs = jnp.arange(4.0).reshape(2, 2), []
    for wait in (True, False, True):
        any_bus.commit({"model": model, "optimizer": optimizer}, wait=wait)
        outputs.append(np.asarray(nnx.clone(model)(x)))
        gradients = nnx.grad(lambda model: model(x).sum())(model)
        optimizer.update(model, gradients)
    like = {"model": _Network(3, nnx.Rngs(1))}
    like["optimizer"] = nnx.Optimizer(like["model"], optax.adam(1e-3), wrt=nnx.Param)
    for version, output in enumerate(outputs, 1):
        for found in (
            any_bus.checkout(version=version)["model"],
            any_bus.checkout(version=version, arrays=["model/**"]),
            any_bus.checkout(version=version, like=like)["model"],
        ):
            np.testing.assert_array_equal(found(x), output)
    np.testing.assert_array_equal(any_bus.resume(like)[0]["model"](x), outputs[-1])
    for width, message in ((4, "layers/0/kernel/value"), (3, "dropout: static .*0.9")):
        other = _Network(width, nnx.Rngs(0))
        other.dropout.rate = 0.9
        with pytest.raises(mmsb.StructureError, match=message):
            any_bus.commit({"model": other, "optimizer": optimizer})


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Particle:
    place: jax.Array
    mass: float
    name: str = dataclasses.field(metadata={"static": True})


def test_dataclass_comes_back_as_itself(any_bus):
    particle = _Particle(jnp.arange(3.0), 1 / 3, "electron")
    any_bus.commit(particle)
    found = any_bus.checkout(version=1, like=_Particle(jnp.zeros(3), 0.0, "electron"))
    assert isinstance(found, _Particle)
    assert_same_tree(found, particle)


def test_colliding_names_stay_apart(any_bus):
    tree = {
        "a/b": jnp.zeros(1),
        "a": {"b": jnp.ones(1), "": 2.0},
        "0": 3,
        "l": [4, {"0": 5}, {0.5: 6}],
        "~": "seven",
    }
    any_bus.commit(tree)
    assert_same_tree(any_bus.tree(), tree)
    with any_bus.fork() as other:
        assert len(other.tree()) == len(jax.tree.leaves(tree))
        assert_same_tree(other.checkout(like=tree), tree)


def test_python_number_and_0d_array_of_a_kind_are_no_difference(any_bus):
    values = [3, jnp.int32(4), np.int32(5), 6, np.array(7, np.uint16), 8]
    floats = [0.5, jnp.bfloat16(1.5), 2.5, np.float64(3.5), 4.5, jnp.float32(5.5)]
    for value, ratio in zip(values, floats, strict=True):
        any_bus.commit({"n": value, "x": ratio})
    with pytest.raises(mmsb.StructureError, match="n: float64"):
        any_bus.commit({"n": 1.0, "x": 1.0})
    for version, pair in enumerate(zip(values, floats, strict=True), 1):
        found = any_bus.checkout(version=version)
        assert (what(found["n"]), what(found["x"])) == tuple(map(what, pair))


def test_checkout_like_shape_structs_makes_arrays_with_their_sharding(any_bus):
    tree = {"w": jnp.arange(12.0).reshape(3, 4), "key": jax.random.key(1), "n": 3}
    any_bus.commit(tree)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        "w": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=sharding),
        "key": jax.eval_shape(lambda: jax.random.key(0)),
        "n": 0,
    }
    found = any_bus.checkout(like=like)
    assert_same_tree(found, tree)
    assert found["w"].sharding == sharding


def test_checkout_like_with_missing_keep_takes_what_is_not_recorded(any_bus):
    any_bus.commit({"a": jnp.ones(2)})
    like = {"a": jnp.zeros(2), "new": {"b": jnp.full(3, 7.0), "c": 5}}
    with pytest.raises(mmsb.StructureError, match=r"(?s)2 paths:\n  new/b: .*\n  new/c: "):
        any_bus.checkout(like=like)
    with pytest.warns(UserWarning, match="2 paths are not recorded at version 1 .*: new/b, new/c"):
        found = any_bus.checkout(like=like, missing="keep")
    assert_same_tree(found, {"a": jnp.ones(2), "new": like["new"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        any_bus.checkout(like={"a": jnp.zeros(2)}, missing="keep")
    with pytest.raises(mmsb.StructureError, match="a: recorded, not in `like`"):
        any_bus.checkout(like={}, missing="keep")


def test_checkout_like_names_every_path_that_differs(any_bus):
    any_bus.commit({"a": jnp.ones(2), "b": jnp.ones(3), "s": "x", "gone": 1})
    like = {"a": jnp.ones(3), "b": jnp.ones(3, jnp.int32), "s": None, "more": 2}
    with pytest.raises(mmsb.StructureError) as caught:
        any_bus.checkout(like=like)
    lines = str(caught.value).splitlines()[1:-1]
    assert [line.split(":")[0].strip() for line in lines] == ["a", "b", "gone", "more", "s"]


def test_checkout_of_a_subtree_gives_that_subtree(any_bus):
    tree = {"params": {"w": jnp.ones(2), "b": [1, jnp.zeros(3)]}, "opt": {"w": jnp.ones(2)}}
    any_bus.commit(tree)
    assert_same_tree(any_bus.checkout(arrays=["params/**"]), tree["params"])
    assert_same_tree(any_bus.checkout(arrays=["params"]), tree["params"])
    assert_same_tree(any_bus.checkout(arrays=["params/b/1"]), tree["params"]["b"][1])
    assert_same_tree(any_bus.checkout(arrays=["**"]), tree)
    several = any_bus.checkout(arrays=["*/w"])
    assert_same_tree(several, {"params/w": jnp.ones(2), "opt/w": jnp.ones(2)})
    like = jax.tree.map(lambda x: x, tree["params"])
    assert_same_tree(any_bus.checkout(arrays=["params/**"], like=like), tree["params"])


def test_checkout_of_a_subtree_and_an_array_made_by_name_gives_both(any_bus):
    any_bus.create("x", shape=(2,))
    any_bus.commit({"params": {"w": jnp.ones(2)}, "rest": 1})
    found = any_bus.checkout(arrays=["params/**", "x"])
    assert_same_tree(found, {"params/w": jnp.ones(2), "x": jnp.zeros(2)})


def test_checkout_by_step_and_time_finds_the_newest(any_bus):
    commits = [any_bus.commit({"n": n}, step=n // 2) for n in range(6)]
    assert any_bus.checkout(step=1) == {"n": 3}
    for commit in commits:
        newest = max(c.version for c in commits if c.time_ns <= commit.time_ns)
        assert any_bus.checkout(time_ns=commit.time_ns) == {"n": newest - 1}
    assert any_bus.checkout() == {"n": 5}
    assert any_bus.checkout(version=0) == {}


def test_extra_and_note_come_back(any_bus):
    state = {"epoch": 3, "order": [1, 2, None, True], "seed": 2**70, "x": 0.1}
    commit = any_bus.commit({"a": 1}, extra=state, note={"loss": jnp.float32(0.5), "why": "try"})
    assert commit.extra == state
    assert commit.note == {"loss": 0.5, "why": "try"}
    raw = bytes(range(256)) * 10_000
    handle = any_bus.commit({"a": 1}, extra=raw, note=jnp.bfloat16(1.5), wait=False)
    assert handle.result().extra == raw
    any_bus.commit({"a": 1}, note=[jnp.int4(-3), np.int64(4), np.array(5)], wait=False, extra=b"")
    read = list(any_bus.log())
    assert [c.note for c in read] == [{"loss": 0.5, "why": "try"}, 1.5, [-3, 4, 5]]
    assert [c.extra for c in read] == [state, raw, b""]
    assert any_bus.resume({"a": 0}) == ({"a": 1}, b"")


def test_note_of_nan_comes_back_as_nan(any_bus):
    any_bus.commit({"a": 1}, note={"loss": jax.device_put(np.float32(np.nan))}, wait=False)
    assert math.isnan(next(any_bus.log()).note["loss"])


def test_resume_of_an_empty_log_gives_what_was_passed(any_bus):
    state, extra = {"a": object()}, object()
    assert any_bus.resume(state, extra) == (state, extra)
    any_bus.create("x", nbytes=3)
    any_bus.write("x", np.ones(3, np.uint8))
    assert any_bus.resume(state, extra) == (state, extra)


def test_checkout_of_a_part_that_is_all_of_the_tree_gives_what_lies_at_the_path():
    bus = mmsb.open()
    bus.commit({"t": {"z": jnp.ones(1)}})
    assert list(bus.checkout(arrays=["t/**"])) == ["z"]
    assert list(bus.checkout(arrays=["**"])) == ["t"]
    assert bus.checkout(arrays=["t/z"]).shape == (1,)
