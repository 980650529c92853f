"""Derived arrays as callers see them: first values, when they run, cutoffs, stale marks."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.core._compare import what
from tests.graph._graphs import Compiled, F, insides, raw, runs, stale


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def bus(bus, compiled) -> mmsb.Bus:
    bus.commit({"a": F(1, 2), "b": F(10, 20)})
    return compiled.lend(bus)


def add(x: Any, y: Any) -> Any:
    return x + y


def double(x: Any) -> Any:
    return x * 2


class Scaled:
    def __init__(self, by: float) -> None:
        self.by = by

    def call(self, x: Any) -> Any:
        return x * self.by

    __call__ = call


def close(old: Any, new: Any) -> Any:
    return jnp.all(jnp.abs(old - new) < 0.5)


def test_first_value_is_a_commit_of_its_own_with_its_source(bus):
    commit = bus.derive("c", ["a", "b"], add, source="me")
    assert (commit.version, commit.changed, commit.source) == (2, ("c",), "me")
    np.testing.assert_array_equal(bus.read("c"), F(11, 22))
    assert [c.version for c in bus.log(array="c")] == [2]


def test_decorator_gives_the_function_back(bus):
    @bus.derive("c", inputs=["a"])
    def c(a):
        return a + 1

    np.testing.assert_array_equal(c(F(1, 1)), F(2, 2))
    np.testing.assert_array_equal(bus.read("c"), F(2, 3))
    assert bus.derived()["c"].function.endswith("<locals>.c")


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(add, 1),
        jax.jit(double),
        jax.jit(double, donate_argnums=0),
        jnp.tanh,
        jax.vmap(jnp.exp),
        jax.grad(lambda a: (a**2).sum()),
        jax.checkpoint(double),
        Scaled(3).call,
        Scaled(4),
    ],
    ids=[
        "partial",
        "jit",
        "donating jit",
        "ufunc",
        "vmap",
        "grad",
        "checkpoint",
        "bound method",
        "object",
    ],
)
def test_any_callable_of_arrays_can_derive(bus, function):
    bus.derive("c", ["a"], function)
    np.testing.assert_allclose(bus.read("c"), function(jnp.asarray(F(1, 2))), rtol=1e-6)
    bus.commit({"a": F(3, 4), "b": F(0, 0)})
    np.testing.assert_allclose(bus.read("c"), function(jnp.asarray(F(3, 4))), rtol=1e-6)


def test_commit_lists_the_derived_arrays_with_a_changed_byte(bus):
    with bus.batch():
        bus.derive("c", ["a", "b"], add)
        bus.derive("same", ["c"], lambda c: c * 0)
        bus.derive("never", ["c"], lambda c: c * 0, equal="never")
        bus.derive("behind", ["never"], double)
    assert bus.commit({"a": F(2, 1), "b": F(10, 20)}).changed == ("a", "c")
    assert runs(bus) == {"c": 2, "same": 2, "never": 2, "behind": 2}
    assert bus.commit({"a": F(2, 1), "b": F(10, 20)}).changed == ()
    assert bus.write("a", F(2, 1)).changed == ()
    assert runs(bus) == {"c": 2, "same": 2, "never": 2, "behind": 2}


def test_what_changes_nothing_in_sum_stops_the_wave_behind_it(bus):
    with bus.batch():
        bus.derive("sum", ["a", "b"], lambda a, b: a + b)
        bus.derive("out", ["sum"], double)
    with bus.batch():
        bus.write("a", F(11, 22))
        bus.write("b", F(0, 0))
    assert runs(bus) == {"sum": 2, "out": 1}


def test_equal_nans_are_unchanged_and_zeros_of_two_signs_differ(bus):
    bus.derive("c", ["a"], lambda a: jnp.where(a > 0, a * 0, jnp.nan))
    bus.derive("d", ["c"], lambda c: 1 / c)
    bus.write("a", F(-1, -2))
    assert runs(bus) == {"c": 2, "d": 2}
    bus.write("a", F(-3, -4))
    assert runs(bus) == {"c": 3, "d": 2}
    bus.derive("c", ["a"], lambda a: a * 0)
    before = runs(bus)["d"]
    bus.write("a", F(3, 4))  # -0.0 becomes 0.0
    assert runs(bus)["d"] == before + 1
    np.testing.assert_array_equal(bus.read("d"), F(np.inf, np.inf))


def test_cutoff_of_the_users_keeps_the_old_bytes_until_it_says_otherwise(bus):
    bus.write("a", F(0.1, 0.2))
    bus.derive("c", ["a"], lambda a: a * 1, equal=close)
    np.testing.assert_array_equal(bus.read("c"), F(0.1, 0.2))  # a first value is equal to nothing
    bus.derive("d", ["c"], double)
    for step, wanted in ((0.3, 0.1), (0.5, 0.1), (0.7, 0.7), (0.9, 0.7), (1.3, 1.3)):
        bus.write("a", F(step, 0.2))
        np.testing.assert_array_equal(bus.read("c"), F(wanted, 0.2))
        np.testing.assert_array_equal(bus.read("d"), F(wanted, 0.2) * 2)
    assert runs(bus) == {"c": 6, "d": 3}
    assert bus.verify(derive=True)
    bus.derive("c", ["a"], lambda a: a * 1.0625, equal=close)  # a new function has a new value
    np.testing.assert_array_equal(bus.read("c"), F(1.3, 0.2) * np.float32(1.0625))


@pytest.mark.parametrize("size", [2, 9000])
def test_first_value_that_is_read_late_is_no_more_equal_to_anything(bus, size):
    bus.create("x", (size,))
    bus.write("x", np.full(size, 0.25, np.float32))
    bus.derive("c", ["x"], lambda x: x * 1, when="read", equal=close)
    bus.write("x", np.full(size, 0.375, np.float32))
    assert np.asarray(bus.read("c"))[0] == np.float32(0.375)
    bus.write("x", np.full(size, 0.5, np.float32))
    assert np.asarray(bus.read("c"))[0] == np.float32(0.375)


def test_derive_of_a_name_again_replaces_it_and_what_follows(bus):
    with bus.batch():
        bus.derive("c", ["a"], double)
        bus.derive("d", ["c"], lambda c: c + 1)
    assert bus.derive("c", ["b"], double).changed == ("c", "d")
    np.testing.assert_array_equal(bus.read("d"), F(21, 41))
    assert bus.write("a", F(5, 5)).changed == ("a",)
    assert bus.derive("c", ["b"], lambda b: b * 2).changed == ()
    bus.delete("d")
    assert bus.derive("c", ["b"], lambda b: {"x": b, "y": b}).changed == ("c/x", "c/y")
    assert bus.derived()["c"].arrays == ("c/x", "c/y")
    with pytest.raises(mmsb.ArrayNotFoundError):
        bus.read("c")


def test_replacing_by_other_arrays_that_are_read_is_refused(bus):
    bus.derive("c", ["a"], double)
    bus.derive("d", ["c"], double)
    version = bus.version
    with pytest.raises(mmsb.StructureError, match=r"'c' cannot be deleted.*'d'"):
        bus.derive("c", ["a"], lambda a: {"x": a})
    assert bus.version == version
    bus.write("a", F(3, 3))
    np.testing.assert_array_equal(bus.read("d"), F(12, 12))


def test_derive_for_reads_runs_when_read_and_once(bus):
    bus.derive("c", ["a"], double, when="read")
    bus.derive("d", ["c"], double, when="read")
    assert runs(bus) == {"c": 0, "d": 0}
    for i in range(3):
        assert bus.write("a", F(i, i)).changed == (("a",))
    assert stale(bus) == {"c", "d"}
    version = bus.version
    np.testing.assert_array_equal(bus.read("d"), F(8, 8))
    assert bus.version == version + 1
    assert next(bus.log(since=bus.version)).changed == ("c", "d")
    np.testing.assert_array_equal(bus.read("c"), F(4, 4))
    assert bus.version == version + 1
    assert runs(bus) == {"c": 1, "d": 1}
    assert stale(bus) == set()


def test_read_of_what_a_cutoff_has_spared_runs_nothing_more(bus):
    bus.derive("sign", ["a"], jnp.sign, when="read")
    bus.derive("out", ["sign"], double, when="read")
    bus.read("out")
    bus.write("a", F(5, 6))
    assert stale(bus) == {"sign", "out"}
    np.testing.assert_array_equal(bus.read("out"), F(2, 2))
    assert runs(bus) == {"sign": 2, "out": 1}
    assert stale(bus) == set()


def test_eager_reader_makes_what_it_reads_eager(bus):
    bus.derive("lazy", ["a"], double, when="read")
    bus.derive("eager", ["lazy"], double)
    assert bus.write("a", F(4, 5)).changed == ("a", "eager", "lazy")
    bus.delete("eager")
    bus.write("a", F(6, 7))
    assert stale(bus) == {"lazy"}


def test_deferred_commits_mark_and_propagate_computes_once(bus):
    with bus.batch():
        bus.derive("c", ["a"], double)
        bus.derive("d", ["c", "b"], add)
        bus.derive("lazy", ["d"], double, when="read")
    bus.read("lazy")
    bus.mode = "deferred"
    assert bus.mode == "deferred"
    for i in range(5):
        assert bus.commit({"a": F(i, i), "b": F(1, 1)}).changed in (("a", "b"), ("a",))
    assert stale(bus) == {"c", "d", "lazy"}
    assert insides(bus).stale == {"c": "dirty", "d": "dirty", "lazy": "pending"}
    commit = bus.propagate(source="me")
    assert (commit.changed, commit.source) == (("c", "d"), "me")
    assert stale(bus) == {"lazy"}
    assert bus.propagate() is None
    np.testing.assert_array_equal(bus.read("lazy"), F(18, 18))
    assert runs(bus) == {"c": 2, "d": 2, "lazy": 2}


def test_deferred_read_computes_what_it_needs_and_no_more(bus):
    with bus.batch():
        bus.derive("c", ["a"], double)
        bus.derive("d", ["c"], double)
        bus.derive("side", ["c"], double)
    bus.mode = "deferred"
    bus.write("a", F(3, 4))
    np.testing.assert_array_equal(bus.read("d"), F(12, 16))
    assert stale(bus) == {"side"}
    bus.mode = "immediate"
    assert bus.write("a", F(5, 5)).changed == ("a", "c", "d", "side")
    assert stale(bus) == set()


def test_array_that_stays_stale_is_told_once(bus):
    bus.derive("c", ["a"], double, when="read")
    bus.derive("d", ["c"], double, when="read")
    bus.read("d")
    told: list[tuple[int, Any]] = []
    with bus.subscribe("stale", lambda event: told.append((event.version, event.array))):
        first = bus.write("a", F(3, 4)).version
        bus.write("a", F(5, 6))
        assert told == [(first, "c"), (first, "d")]
        bus.read("d")
        again = bus.write("a", F(7, 8)).version
    assert told[2:] == [(again, "c"), (again, "d")]


def test_change_that_is_deferred_and_taken_back_runs_up_to_the_cutoff(bus):
    bus.derive("c", ["a"], double)
    bus.derive("d", ["c"], double)
    bus.mode = "deferred"
    bus.write("a", F(9, 9))
    bus.write("a", F(1, 2))
    assert bus.propagate().changed == ()
    assert runs(bus) == {"c": 2, "d": 1}
    assert stale(bus) == set()


def test_propagate_inside_a_batch_is_part_of_it(bus):
    bus.derive("c", ["a"], double)
    bus.derive("d", ["b"], double)
    bus.mode = "deferred"
    bus.commit({"a": F(3, 3), "b": F(4, 4)})
    with bus.batch():
        bus.derive("e", ["b"], lambda b: b + 1)
        assert bus.propagate() is None
    assert stale(bus) == set()
    assert runs(bus) == {"c": 2, "d": 2, "e": 1}


def test_stale_array_is_never_read_with_a_warning_where_it_can_be_computed(bus):
    bus.derive("c", ["a"], double, when="read")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bus.read("c")


def kinds(bus: mmsb.Bus) -> dict[str, Any]:
    """A tree of every kind of leaf."""
    return {
        "bfloat16": jnp.arange(4, dtype=jnp.bfloat16),
        "float8": jnp.arange(4).astype(jnp.float8_e4m3fn),
        "int4": jnp.arange(-4, 4).astype(jnp.int4),
        "bool": np.array([True, False]),
        "complex": F(1, 2) * np.complex64(1j),
        "key": jax.random.split(jax.random.key(3), 2),
        "float64": np.arange(3) * np.pi,
        "int64": np.array([2**40, -1]),
        "flag": True,
        "number": 3,
        "ratio": 2.5,
        "scalar": jnp.float16(3),
        "empty": np.zeros((0, 3), np.float32),
    }


def test_every_dtype_passes_through_a_function_bit_for_bit(bus):
    tree = kinds(bus)
    bus.commit(tree, structure="new")
    with bus.batch():
        for name in tree:
            bus.derive(f"{name}!", [name], lambda x: x)
        bus.derive("all", ["**"], lambda everything: [everything["key"], everything["int4"]])
    for name, leaf in tree.items():
        found = bus.read(f"{name}!")
        if isinstance(leaf, int | float):
            assert float(found) == leaf
        else:
            assert raw(found) == raw(leaf)
            assert found.dtype == leaf.dtype
            assert found.shape == leaf.shape
    assert what(bus.read("all/0")) == what(tree["key"])
    assert bus.verify(derive=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "uint8", "bool"])
@pytest.mark.parametrize("size", [3, 1025, 1027, 2048])
def test_pagewise_array_that_ends_within_a_word_leaves_nothing_behind_its_end(bus, dtype, size):
    """The function gives one for the zeros that fill up the last row."""
    dtype = jnp.dtype(dtype)
    bus.commit({"x": jnp.zeros(size, jnp.bfloat16)}, structure="new")
    bus.derive("y", ["x"], lambda x: (x + 1).astype(dtype), pagewise=True)
    assert bus.verify()
    bus.write("x", jnp.ones(size, jnp.bfloat16))
    np.testing.assert_array_equal(bus.read("y"), np.full(size, 2).astype(dtype))
    assert bus.verify()


def test_numbers_of_python_are_weakly_typed_as_in_jax(bus):
    bus.commit({"half": jnp.arange(3, dtype=jnp.bfloat16), "n": 3, "f": 0.5}, structure="new")
    bus.derive("out", ["half", "n", "f"], lambda half, n, f: half * n + f)
    assert bus.read("out").dtype == jnp.bfloat16
    bus.commit({"half": jnp.arange(3, dtype=jnp.bfloat16), "n": 4, "f": 0.5})
    np.testing.assert_array_equal(bus.read("out").astype(np.float32), F(0.5, 4.5, 8.5))


def test_verify_finds_a_function_that_is_not_pure(bus):
    calls = []

    def impure(a: Any) -> Any:
        def host(a: np.ndarray) -> np.ndarray:
            calls.append(1)
            return np.asarray(a) + np.float32(len(calls))

        return jax.pure_callback(host, jax.ShapeDtypeStruct((2,), jnp.float32), a)

    bus.derive("good", ["a"], double)
    assert bus.verify(derive=True)
    bus.derive("bad", ["a"], impure)
    report = bus.verify(derive=True)
    assert not report
    assert "derived 'bad'" in str(report.faults)
    assert "different bytes" in str(report.faults)
    assert bus.verify()


def test_layout_has_the_derived_arrays_that_are_there_and_no_others():
    bus = mmsb.open()
    bus.commit({"a": F(1, 2, 3)})

    def names() -> set[str]:
        return {region.name for region in bus.layout.regions}

    assert names() == {"a"}
    bus.derive("twice", ["a"], lambda a: a * 2)
    assert names() == {"a", "twice"}
    bus.delete("twice")
    assert names() == {"a"}
    bus.create("b", (2,))
    bus.derive("sum", ["b"], lambda b: b.sum())
    assert names() == {"a", "b", "sum"}
    bus.resize("b", (5,))
    assert {region.name: region.spec.shape for region in bus.layout.regions}["b"] == (5,)
    bus.close()
