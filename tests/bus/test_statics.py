"""What of a tree is no leaf is structure: refused where it changes, and found again."""

import dataclasses
import enum
import functools
import subprocess
import sys
from collections import OrderedDict
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

import mmsb_jax as mmsb
from tests.core._compare import assert_same_tree


@flax.struct.dataclass
class State:
    w: Any
    epoch: Any = flax.struct.field(pytree_node=False, default=1)


class Module(eqx.Module):
    w: Any
    epoch: Any = eqx.field(static=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Data:
    w: Any
    epoch: Any = dataclasses.field(metadata={"static": True})


class Node:
    """Registered by hand; its metadata are one object."""

    def __init__(self, w: Any, epoch: Any) -> None:
        self.w, self.epoch = w, epoch


jax.tree_util.register_pytree_node(
    Node, lambda node: ((node.w,), node.epoch), lambda epoch, w: Node(*w, epoch)
)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Settings:
    rate: float
    sizes: list[int]


class Pair(NamedTuple):
    a: Any
    b: Any


class Opaque:
    """Compared by `==`; nothing of it means anything elsewhere."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.number == self.number

    def __hash__(self) -> int:
        return self.number


def double(x: Any) -> Any:
    return 2 * x


def triple(x: Any) -> Any:
    return 3 * x


VALUES: dict[str, tuple[Any, Any, str]] = {
    "None": (None, 0, "static 0, was None"),
    "bool": (True, False, "static False, was True"),
    "int": (1, 2, "static 2, was 1"),
    "large int": (2**80, 2**80 + 1, "static 0x1.*1, was 0x1"),
    "float": (0.1, 0.2, "static 0.2, was 0.1"),
    "zero": (0.0, -1e-300, "static -1e-300, was 0.0"),
    "complex": (1j, 2j, "static 2j, was 1j"),
    "str": ("a", "b", 'static "b", was "a"'),
    "surrogate": ("\udce9", "\udcea", r'static "\\udcea", was "\\udce9"'),
    "bytes": (b"a", b"b", "static b'b', was b'a'"),
    "long bytes": (b"a" * 999, b"a" * 998 + b"b", r"static bytes\[999\] [0-9a-f]+, was bytes"),
    "enum": (Color.RED, Color.BLUE, "static Color.BLUE, was Color.RED"),
    "dtype": (np.dtype("int8"), np.dtype("int16"), "static dtype int16, was dtype int8"),
    "dtype of jax": (jnp.float32, jnp.bfloat16, "static dtype bfloat16, was dtype float32"),
    "function": (double, triple, r"static function .*\.triple, was function .*\.double"),
    "partial": (
        functools.partial(pow, 2),
        functools.partial(pow, 3),
        r"static partial\(function builtins.pow, 3\), was partial\(function builtins.pow, 2\)",
    ),
    "method": (
        Settings(0.1, []).__eq__,
        Settings(0.2, []).__eq__,
        r"static function .* of Settings\(rate=0.2",
    ),
    "ufunc of jax": (jnp.add, jnp.multiply, "static function jax.numpy.ufunc multiply, was"),
    "class": (Settings, Pair, r"static function .*\.Pair, was function .*\.Settings"),
    "tuple": ((1, (2, 3)), (1, (2, 4)), r"static \(1, \(2, 4\)\), was \(1, \(2, 3\)\)"),
    "list": ([1, 2], [1, 3], r"static \[1, 3\], was \[1, 2\]"),
    "dict": ({"b": 1, "a": 2}, {"a": 2, "b": 3}, r'static \{"a": 2, "b": 3\}, was'),
    "set": ({1, 2}, {1, 3}, r"static set\(1, 3\), was set\(1, 2\)"),
    "named tuple": (Pair(1, 2), Pair(1, 3), r"static Pair\(a=1, b=3\), was Pair\(a=1, b=2\)"),
    "dataclass": (
        Settings(0.1, [1]),
        Settings(0.1, [2]),
        r"static Settings\(.*=\[2\]\), was Settings\(",
    ),
    "array": (np.arange(3), np.arange(3) + 1, r"static int64\[3\] [0-9a-f]{32}, was int64"),
    "array of jax": (jnp.arange(3), jnp.arange(3) + 1, r"static int32\[3\] [0-9a-f]{32}, was"),
    "numpy scalar": (np.float32(0.5), np.float64(0.1), r"static np.float64\(0.1\), was np.flo"),
    "long tuple": (
        tuple(range(900)),
        (*range(899), 0),
        r"static ….*\.\.\. [0-9a-f]{32}, was ….*\.\.\. [0-9a-f]{32}",
    ),
    "opaque": (Opaque(1), Opaque(2), r"static a .*Opaque, which does not equal \(==\) the one"),
}
KINDS = (State, Module, Data, Node)


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VALUES)
def test_static_that_changes_is_refused_with_path_and_both_values(bus, name, kind):
    before, after, message = VALUES[name]
    bus.commit({"s": kind(jnp.zeros(1), before)})
    bus.commit({"s": kind(jnp.ones(1), before)})
    path = "s" if kind is Node else "s/epoch"
    if kind is Node and before is None:  # which is to hold nothing
        message = "new, static 0"
    for wait in (True, False):
        with pytest.raises(mmsb.StructureError, match=f"1 paths:\n  {path}: {message}"):
            bus.commit({"s": kind(jnp.ones(1), after)}, wait=wait)
    assert bus.version == 2
    bus.commit({"s": kind(jnp.ones(1), before)})
    bus.commit({"s": kind(jnp.ones(1), after)}, structure="new")
    for version, expected in ((1, before), (3, before), (4, after)):
        assert bus.checkout(version=version)["s"].epoch is expected
    assert bus.tree()["s"].epoch is after
    assert bus.verify()


@pytest.mark.parametrize("name", [name for name in VALUES if "jax" not in name])
def test_static_made_anew_is_the_same(bus, name):
    import copy

    value = VALUES[name][0]
    twin = copy.deepcopy(value)
    for wait in (True, True, False):
        bus.commit({"s": Node(jnp.zeros(1), value), "t": State(jnp.ones(1), value)}, wait=wait)
        value, twin = twin, value
    assert bus.sync() == 3


@pytest.mark.parametrize("name", [name for name in VALUES if name != "opaque"])
def test_static_that_differs_from_that_recorded_is_refused_by_like(tmp_path, name):
    before, after, _ = VALUES[name]
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit({"s": Data(jnp.zeros(1), before)})
    with mmsb.open(tmp_path / "run") as bus:
        for call in (
            lambda: bus.resume({"s": Data(jnp.ones(1), after)}),
            lambda: bus.checkout(like={"s": Data(jnp.ones(1), after)}),
            lambda: bus.checkout(arrays=["s/**"], like=Data(jnp.ones(1), after)),
            lambda: mmsb.Replica(tmp_path / "run", like={"s": Data(jnp.ones(1), after)}).update(),
        ):
            with pytest.raises(
                mmsb.StructureError, match=r"1 paths:\n  s/epoch: static .* in `(like|state)`"
            ):
                call()
        assert bus.resume({"s": Data(jnp.ones(1), before)})[0]["s"].epoch is before
        assert bus.checkout(arrays=["s/**"], like=Data(jnp.ones(1), before)).epoch is before


def test_static_of_another_process_is_compared(tmp_path):
    script = f"""
import functools, sys
sys.path.insert(0, {sys.path[0]!r})
from tests.bus.test_statics import *
import mmsb_jax as mmsb
bus = mmsb.open({str(tmp_path / "run")!r})
values = {{n: v[0] for n, v in VALUES.items() if n != "method"}}
bus.commit({{n: Node(jnp.zeros(1), v) for n, v in values.items()}})
bus.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    like = {n: Node(jnp.zeros(1), v[0]) for n, v in VALUES.items() if n != "method"}
    with mmsb.open(tmp_path / "run") as bus:
        with pytest.warns(UserWarning, match=r"what 1 static values .* not compared: opaque \(a "):
            bus.resume(like)
        like |= {n: Node(jnp.zeros(1), v[1]) for n, v in VALUES.items() if n != "method"}
        with pytest.raises(mmsb.StructureError) as caught:
            bus.resume(like)
    lines = str(caught.value).splitlines()[1:-1]
    named = [line.split(": ")[0].strip() for line in lines]
    assert set(named) == VALUES.keys() - {"method", "opaque"}


def test_resume_with_another_static_names_path_and_values(tmp_path):
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit(State(jnp.ones(1), 7))
    with mmsb.open(tmp_path / "run") as bus:
        with pytest.raises(mmsb.StructureError, match="epoch: static 0 in `state`, 7 recorded"):
            bus.resume(State(jnp.zeros(1), 0))
        assert sorted(bus.checkout()) == ["w"]
        assert_same_tree(bus.resume(State(jnp.zeros(1), 7))[0], State(jnp.ones(1), 7))
        bus.commit(State(jnp.ones(1), 8), structure="new")
        assert bus.checkout(version=1) == State(jnp.ones(1), 7)


EMPTY = {"dict": {}, "list": [], "tuple": (), "named tuple": optax.EmptyState()}


@pytest.mark.parametrize("after", EMPTY)
@pytest.mark.parametrize("before", EMPTY)
def test_kind_of_an_empty_node_is_structure(bus, before, after):
    bus.commit({"a": 1, "b": {"c": EMPTY[before]}})
    if before == after:
        bus.commit({"a": 1, "b": {"c": EMPTY[after]}})
        return
    with pytest.raises(mmsb.StructureError, match=r"1 paths:\n  b/c: static .*, was "):
        bus.commit({"a": 1, "b": {"c": EMPTY[after]}})
    with pytest.raises(mmsb.StructureError, match=r"b/c: static .* in `like`, .* recorded"):
        bus.checkout(like={"a": 1, "b": {"c": EMPTY[after]}})
    bus.commit({"a": 1, "b": {"c": EMPTY[after]}}, structure="new")
    assert_same_tree(bus.checkout(version=1), {"a": 1, "b": {"c": EMPTY[before]}})


def test_empty_node_that_comes_or_goes_is_structure(bus):
    bus.commit({"a": 1})
    with pytest.raises(mmsb.StructureError, match=r"b: new, static \{\}"):
        bus.commit({"a": 1, "b": {}})
    bus.commit({"a": 1, "b": {}}, structure="new")
    with pytest.raises(mmsb.StructureError, match=r"b: missing, was static \{\}"):
        bus.commit({"a": 1})
    for like, message in (({"a": 1}, r"b: static \{\} recorded, not"), ({}, "3 paths")):
        with pytest.raises(mmsb.StructureError, match=message):
            bus.checkout(like=like)
    with pytest.raises(mmsb.StructureError, match=r"c: static .* in `like`, not recorded"):
        bus.checkout(like={"a": 1, "b": {}, "c": []})
    assert bus.checkout(like={"a": 1, "b": {}, "c": []}, missing="keep") == {
        "a": 1,
        "b": {},
        "c": [],
    }


def test_tree_without_leaves_is_a_structure(bus):
    bus.commit(())
    with pytest.raises(mmsb.StructureError, match=r"~: static \[\], was \(\)"):
        bus.commit([])


def test_arguments_of_a_partial_function_are_structure(bus):
    bus.commit({"f": functools.partial(pow, 2), "g": pow})
    with pytest.raises(mmsb.StructureError, match=r"g: new, static partial\("):
        bus.commit({"f": functools.partial(pow, 2), "g": functools.partial(pow, 3)})
    bus.commit({"f": functools.partial(pow, 3), "g": pow}, structure="new")
    assert bus.checkout(version=1)["f"](2) == 4
    assert bus.checkout(version=2)["f"](2) == 9
    with pytest.raises(mmsb.StructureError, match=r"f: static partial\(.*3\) in `like`, partial"):
        bus.checkout(version=1, like={"f": functools.partial(pow, 3), "g": pow})


def test_class_of_a_container_is_that_of_its_version(bus):
    """The class of a node is what `like` says; where nothing is said, it is the one committed."""
    trees = [[1, 2], (1, 2), [3, 4], OrderedDict(b=1, a=2), {"a": 1, "b": 2}, OrderedDict(a=1, b=2)]
    for tree in trees:
        bus.commit({"x": tree}, structure="new" if isinstance(tree, dict) else "same")
    for version, tree in enumerate(trees, 1):
        found = bus.checkout(version=version)["x"]
        assert (type(found), found) == (type(tree), tree)
    assert bus.checkout(version=1, like={"x": (0, 0)}) == {"x": (1, 2)}


def test_earlier_structures_are_kept_up_to_a_bound(bus):
    for number in range(40):
        bus.commit(State(jnp.full(1, number), number), structure="new")
    assert all(bus.checkout(version=v).epoch == v - 1 for v in range(25, 41))
    assert sorted(bus.checkout(version=1)) == ["w"]


def test_structure_committed_again_is_known_whatever_its_strings_are(bus):
    bus.commit({"s": State(jnp.zeros(1), 1), "text": ""})
    bus.commit({"s": State(jnp.zeros(1), 2), "text": ""}, structure="new")
    for number in range(40):
        bus.commit({"s": State(jnp.zeros(1), 2), "text": str(number)})
    assert bus.checkout(version=1)["s"].epoch == 1


def test_array_in_metadata_that_is_written_to_is_seen(bus):
    settings = np.zeros(3)
    bus.commit(Node(1.0, settings))
    settings[1] = 5
    with pytest.raises(mmsb.StructureError, match=r"~: static float64\[3\] .*, was float64"):
        bus.commit(Node(1.0, settings))


def test_train_state_of_flax_is_committed_and_resumed(any_bus):
    model = flax.linen.Dense(3)
    variables = model.init(jax.random.key(0), jnp.ones((1, 2)))

    def make() -> Any:
        return train_state.TrainState.create(
            apply_fn=flax.linen.Dense(3).apply, params=variables["params"], tx=optax.adam(1e-3)
        )

    any_bus.commit(make())
    any_bus.commit(make(), wait=False)
    found, _ = any_bus.resume(make())
    np.testing.assert_array_equal(found.params["kernel"], variables["params"]["kernel"])
    wider = make().replace(apply_fn=flax.linen.Dense(4).apply)
    with pytest.raises(
        mmsb.StructureError, match=r"apply_fn: static .*features=4.*was .*features=3"
    ):
        any_bus.commit(wider)


def test_log_without_statics_takes_them_at_its_next_commit(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("mmsb_jax._bus.trees.tree.entries_of", lambda statics, weak: {})
        with mmsb.open(tmp_path / "run") as bus:
            bus.commit({"s": State(jnp.ones(1), 7), "e": {}})
    with mmsb.open(tmp_path / "run") as bus:
        found, _ = bus.resume({"s": State(jnp.zeros(1), 0), "e": []})
        assert_same_tree(found, {"s": State(jnp.ones(1), 0), "e": []})
        assert_same_tree(bus.tree(), found)
        with pytest.raises(mmsb.StructureError, match="s/epoch: static 2, was 0"):
            bus.commit({"s": State(jnp.zeros(1), 2), "e": []})
        bus.commit(found)
        with pytest.raises(mmsb.StructureError, match="s/epoch: static 2, was 0"):
            bus.commit({"s": State(jnp.zeros(1), 2), "e": []})
        assert bus.verify()
    with mmsb.open(tmp_path / "run") as bus:
        with pytest.raises(mmsb.StructureError, match="s/epoch: static 7 in `state`, 0 recorded"):
            bus.resume({"s": State(jnp.zeros(1), 7), "e": []})
        assert_same_tree(bus.checkout(version=1, like=found), found)


def test_replica_refuses_a_static_that_changes(tmp_path):
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit(State(jnp.ones(1), 1))
        with mmsb.Replica(tmp_path / "run", like=State(jnp.ones(1), 1)) as replica:
            assert replica.update().epoch == 1
            bus.commit(State(jnp.zeros(1), 2), structure="new")
            with pytest.raises(mmsb.StructureError, match="epoch: static 1 in `like`, 2 recorded"):
                replica.update()
