"""Inputs of derived arrays: patterns that come to select others, arrays that are resized or go."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.graph._graphs import Compiled, F, runs


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def bus(bus, compiled) -> mmsb.Bus:
    return compiled.lend(bus)


def norms(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.sum(jnp.abs(x)), tree)


def total(tree: Any) -> Any:
    return sum(jax.tree.leaves(norms(tree)), jnp.float32(0))


def params(count: int = 2) -> dict[str, Any]:
    return {f"layer{i}": {"w": F(i, -1), "b": F(i)} for i in range(count)}


def seen_by(bus: mmsb.Bus, pattern: str) -> Any:
    """The structure in which an input arrives."""
    seen = []

    def look(tree: Any) -> Any:
        seen.append(
            jax.tree.map(lambda leaf: "array" if isinstance(leaf, jax.Array) else leaf, tree)
        )
        return jnp.float32(0)

    bus.derive("look", [pattern], look)
    bus.delete("look")
    return seen[-1]


LAYER = {"b": "array", "w": "array"}


@pytest.mark.parametrize("more", [{}, {"step": 3}], ids=["alone", "beside"])
@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("params", {"layer0": LAYER, "layer1": LAYER}),
        ("params/**", {"layer0": LAYER, "layer1": LAYER}),
        ("params/layer1", LAYER),
        ("params/layer1/**", LAYER),
        ("params/layer1/*", LAYER),
        ("params/layer1/w", "array"),
        ("params/*/b", {"params/layer0/b": "array", "params/layer1/b": "array"}),
        ("*/layer0/**", LAYER),
    ],
)
def test_pattern_arrives_as_its_part_whatever_else_the_tree_holds(bus, pattern, wanted, more):
    bus.commit({"params": params()} | more)
    assert seen_by(bus, pattern) == wanted


def test_part_of_a_tree_keeps_its_strings_and_none(bus):
    bus.commit({"config": {"x": F(1), "name": "run", "nothing": None}, "y": F(2)})
    assert seen_by(bus, "config") == {"x": "array", "name": "run", "nothing": None}
    assert seen_by(bus, "config/**") == {"x": "array", "name": "run", "nothing": None}
    assert seen_by(bus, "**")["config"]["name"] == "run"


def test_part_of_a_module_arrives_as_the_module(bus):
    model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    bus.commit({"model": model, "x": F(1, 2)})
    bus.derive("y", ["model", "x"], lambda model, x: model(x))
    np.testing.assert_allclose(bus.read("y"), model(F(1, 2)), rtol=1e-6)


def test_result_of_another_derive_arrives_in_its_structure(bus):
    bus.commit({"a": F(1, 2)})
    bus.derive("pair", ["a"], lambda a: (a + 1, {"x": a * 2}))
    bus.derive("out", ["pair"], lambda pair: pair[0] + pair[1]["x"])
    bus.commit({"a": F(3, 4)})
    np.testing.assert_array_equal(bus.read("out"), F(10, 13))


def test_arrays_made_by_name_arrive_as_a_dict_by_name(bus):
    for i in range(3):
        bus.create(f"w/{i}", shape=(2,))
    assert seen_by(bus, "w/**") == {f"w/{i}": "array" for i in range(3)}


def test_pattern_grows_and_shrinks_with_the_tree(bus):
    bus.commit({"params": params(2), "step": 0})
    with bus.batch():
        bus.derive("norm", ["params/**"], norms)
        bus.derive("total", ["params"], total)
    assert bus.derived()["norm"].arrays == tuple(
        f"norm/layer{i}/{x}" for i in range(2) for x in "bw"
    )
    commit = bus.commit({"params": params(4), "step": 0}, structure="new")
    assert {"norm/layer3/w", "norm/layer2/b", "total"} <= set(commit.changed)
    assert "norm/layer1/w" not in commit.changed
    assert float(bus.read("total")) == 16
    commit = bus.commit({"params": params(1), "step": 0}, structure="new")
    assert bus.derived()["norm"].arrays == ("norm/layer0/b", "norm/layer0/w")
    assert float(bus.read("total")) == 1
    with pytest.raises(mmsb.ArrayNotFoundError):
        bus.read("norm/layer1/w")
    assert runs(bus) == {"norm": 3, "total": 3}
    assert bus.verify()
    past = bus.checkout(version=commit.version - 1, arrays=["norm/**"])
    assert len(jax.tree.leaves(past)) == 8


def test_pattern_over_arrays_made_by_name_follows_them(bus):
    bus.create("w/0", shape=(2,))
    bus.write("w/0", F(1, 2))
    bus.derive("sum", ["w/*"], lambda w: sum(x.sum() for x in w.values()))
    with bus.batch():
        bus.create("w/1", shape=(3,))
        bus.write("w/1", F(10, 20, 30))
    assert float(bus.read("sum")) == 63
    bus.clone("w/1", "w/2")
    assert float(bus.read("sum")) == 123
    bus.delete("w/0")
    assert float(bus.read("sum")) == 120
    assert bus.derived()["sum"].reads == ("w/1", "w/2")
    bus.create("v", shape=(2,))  # nothing that it selects
    bus.write("v", F(1, 1))
    assert runs(bus) == {"sum": 4}
    bus.delete("w/1")
    with pytest.raises(mmsb.StructureError, match=r"'w/2' cannot be deleted.*'sum'"):
        bus.delete("w/2")


def test_pattern_selects_derived_arrays_but_never_its_own(bus):
    bus.commit({"a": F(1, 2)})
    bus.derive("stat/mean", ["a"], jnp.mean)
    bus.derive("stat/all", ["stat/*"], lambda stat: sum(stat.values()))
    bus.derive("stat/max", ["a"], jnp.max)  # changes what stat/all reads
    assert bus.derived()["stat/all"].reads == ("stat/mean", "stat/max")
    assert float(bus.read("stat/all")) == 3.5
    with pytest.raises(mmsb.GraphCycleError):
        bus.derive("stat/twice", ["stat/all"], lambda x: x * 2)
    bus.delete("stat/max")
    assert float(bus.read("stat/all")) == 1.5


def test_resized_input_gives_outputs_of_the_new_shape_all_the_way_down(bus):
    bus.create("a", shape=(3,))
    bus.write("a", F(1, 2, 3))
    with bus.batch():
        bus.derive("b", ["a"], lambda a: a * 2)
        bus.derive("c", ["b"], lambda b: {"all": jnp.concatenate([b, b]), "sum": b.sum()})
        bus.derive("d", ["c/sum"], lambda s: s + 1)
    with bus.batch():
        bus.resize("a", shape=(5,))
        bus.write("a", F(1, 2, 3, 0, 1))
    assert bus.read("c/all").shape == (10,)
    assert float(bus.read("d")) == 15
    assert runs(bus) == {"b": 2, "c": 2, "d": 2}
    bus.resize("a", shape=(5,), dtype="int32")
    assert bus.read("b").dtype == jnp.int32
    bus.resize("a", shape=(2,), dtype="float32")
    assert bus.read("c/all").shape == (4,)
    assert bus.verify()
    assert bus.checkout(version=bus.version - 2, arrays=["c/all"])["c/all"].shape == (10,)


def test_function_that_returns_fewer_arrays_for_a_new_shape_takes_the_others_away(bus):
    bus.create("a", shape=(3,))
    bus.derive("c", ["a"], lambda a: {str(i): a[i] for i in range(a.shape[0])})
    assert len(bus.derived()["c"].arrays) == 3
    bus.resize("a", shape=(1,))
    assert len(bus.derived()["c"].arrays) == 1
    bus.resize("a", shape=(2,))
    first, second = bus.derived()["c"].arrays
    bus.derive("d", [second], lambda x: x)
    with pytest.raises(mmsb.StructureError, match=r"cannot be deleted.*'d'"):
        bus.resize("a", shape=(1,))
    bus.write("a", F(4, 5))
    assert float(bus.read("d")) == 5
    assert float(bus.read(first)) == 4


def test_numpy_and_jax_leaves_share_a_body_and_exchange_without_a_run(bus):
    bus.commit({"a": F(1, 2), "b": jnp.asarray(F(1, 2))})
    bus.derive("a2", ["a"], lambda x: x * 3)
    bus.derive("b2", ["b"], lambda x: x * 3)
    bus.commit({"a": jnp.asarray(F(1, 2)), "b": F(1, 2)})
    assert runs(bus) == {"a2": 1, "b2": 1}
    bus.commit({"a": jnp.asarray(F(5, 6)), "b": F(5, 6)})
    np.testing.assert_array_equal(bus.read("a2"), bus.read("b2"))


def test_array_that_is_deleted_and_made_again_in_a_batch_counts_as_new(bus):
    bus.create("a", shape=(2,))
    bus.write("a", F(1, 2))
    bus.derive("c", ["a"], lambda a: a + 1)
    with bus.batch():
        bus.delete("a")
        bus.create("a", shape=(2,))
    np.testing.assert_array_equal(bus.read("c"), F(1, 1))
    assert bus.verify(derive=True)


def test_batch_that_derives_writes_and_deletes_together_is_one_commit(bus):
    bus.commit({"a": F(1, 2)})
    bus.create("s", shape=(2,))
    bus.write("s", F(3, 4))
    with bus.batch():
        bus.derive("old", ["s"], lambda s: s * 2)
        bus.derive("kept", ["old"], lambda x: x + 1)
    version = bus.version
    with bus.batch():
        bus.write("s", F(9, 9))
        bus.create("fresh", shape=(2,))
        bus.write("fresh", F(7, 7))
        bus.derive("kept", ["fresh", "a"], lambda x, a: x + a)
        bus.derive("behind", ["kept"], lambda x: x * 10)
        bus.delete("old")
        bus.delete("s")
        with pytest.raises(mmsb.ArrayNotFoundError):
            bus.read("behind")  # it has no value before the batch ends
        np.testing.assert_array_equal(bus.read("kept"), F(7, 9))  # as before
    assert bus.version == version + 1
    np.testing.assert_array_equal(bus.read("behind"), F(80, 90))
    assert set(bus.derived()) == {"kept", "behind"}
    assert runs(bus) == {"kept": 2, "behind": 1}
    assert bus.verify()


def test_batch_in_which_a_derive_is_taken_back_leaves_nothing_of_it(bus):
    bus.commit({"a": F(1, 2)})
    with bus.batch():
        bus.derive("new", ["a"], lambda a: a)
        bus.delete("new")
    assert bus.derived() == {}
    bus.derive("c", ["a"], lambda a: a + 1)
    with bus.batch():  # made anew, and then not wanted
        bus.derive("c", ["a"], lambda a: a + 2)
        bus.delete("c")
    assert bus.derived() == {}
    bus.derive("c", ["a"], lambda a: {"x": a})
    with bus.batch():  # gone, and then wanted in another shape
        bus.delete("c")
        bus.derive("c/x", ["a"], lambda a: a * 3)
    assert list(bus.derived()) == ["c/x"]
    np.testing.assert_array_equal(bus.read("c/x"), F(3, 6))
    assert runs(bus) == {"c/x": 1}
    assert bus.verify()


def test_batch_in_which_a_read_array_is_deleted_and_derived_anew_keeps_its_readers(bus):
    bus.commit({"a": F(1, 2)})
    with bus.batch():
        bus.derive("c", ["a"], lambda a: a + 1)
        bus.derive("d", ["c"], lambda c: c * 2)
    with bus.batch():
        bus.delete("c")
        bus.derive("c", ["a"], lambda a: a + 10)
    np.testing.assert_array_equal(bus.read("d"), F(22, 24))
    with pytest.raises(mmsb.StructureError, match=r"'c' cannot be deleted.*'d'"), bus.batch():
        bus.delete("c")
    assert set(bus.derived()) == {"c", "d"}


def test_new_node_over_an_array_that_the_same_batch_resizes_sees_the_new_shape(bus):
    bus.create("a", shape=(3,))
    bus.derive("b", ["a"], lambda a: a * 2)
    with bus.batch():
        bus.resize("a", shape=(4,))
        bus.write("a", F(1, 2, 3, 4))
        bus.derive("c", ["b"], lambda b: b + F(1, 1, 1, 1))
    np.testing.assert_array_equal(bus.read("c"), F(3, 5, 7, 9))


def test_lazy_node_that_the_same_batch_makes_eager_is_computed(bus):
    bus.commit({"a": F(1, 2), "gate": F(0)})
    with bus.batch():
        bus.derive("gate of it", ["gate"], lambda g: g + 1)
        bus.derive("lazy", ["a"], lambda a: a * 2, when="read")
        bus.link("gate of it", "lazy", kind="control")
        bus.derive("eager", ["lazy"], lambda x: x + 1)
    assert not any(derived.is_stale for derived in bus.derived().values())
    np.testing.assert_array_equal(bus.read("eager"), F(3, 5))


def test_derive_over_what_is_stale_computes_that_first(bus):
    bus.commit({"a": F(1, 2)})
    bus.derive("lazy", ["a"], lambda a: a * 2, when="read")
    bus.mode = "deferred"
    commit = bus.derive("c", ["lazy"], lambda x: x + 1)
    assert commit.changed == ("c", "lazy")
    bus.commit({"a": F(5, 5)})
    commit = bus.derive("d", ["c"], lambda x: x + 1)
    assert commit.changed == ("c", "d", "lazy")
    np.testing.assert_array_equal(bus.read("d"), F(12, 12))
    assert not any(derived.is_stale for derived in bus.derived().values())
