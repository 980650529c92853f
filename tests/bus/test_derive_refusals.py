"""What `derive` and its kin refuse: what arrived, what was expected, what to do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.graph._graphs import F, head, runs


@pytest.fixture
def bus() -> Any:
    with mmsb.open() as opened:
        opened.commit({"a": F(1, 2, 3), "b": F(4, 5, 6), "t": {"x": F(7), "y": 3, "name": "run"}})
        opened.create("raw", nbytes=8)
        opened.write("raw", np.arange(8, dtype=np.uint8))
        yield opened


def untouched(bus: mmsb.Bus) -> tuple[Any, ...]:
    """All that a refusal leaves as it was."""
    return (
        bus.version,
        head(bus),
        bus.derived(),
        list(bus.graph.edges()),
        dict(bus._session.head().table.graph),
    )


def refuses(bus: mmsb.Bus, error: type[Exception], said: list[str], act: Callable[[], Any]) -> None:
    """``act`` raises ``error`` with all these words, and nothing has changed."""
    before = untouched(bus)
    with pytest.raises(error) as caught:
        act()
    for words in said:
        assert words in str(caught.value), str(caught.value)
    assert untouched(bus) == before
    assert bus.verify()


def test_derive_of_an_unknown_input_names_what_is_near(bus):
    refuses(
        bus,
        mmsb.ArrayNotFoundError,
        ["'aa'", "Did you mean 'a'"],
        lambda: bus.derive("c", ["aa"], lambda a: a),
    )
    refuses(
        bus,
        mmsb.ArrayNotFoundError,
        ["'z/**'"],
        lambda: bus.derive("c", ["z/**"], lambda a: a),
    )


def test_derive_of_itself_is_not_found_or_a_cycle_that_is_shown(bus):
    refuses(bus, mmsb.ArrayNotFoundError, ["'c'"], lambda: bus.derive("c", ["c"], lambda c: c))
    with bus.batch():
        bus.derive("c", ["a"], lambda a: a + 1)
        bus.derive("d", ["c"], lambda c: c + 1)
        bus.derive("e", ["d", "b"], lambda d, b: d + b)
    refuses(
        bus,
        mmsb.GraphCycleError,
        ["d → e → c → d", "leave out one"],
        lambda: bus.derive("c", ["a", "e"], lambda a, e: a + e),
    )
    refuses(
        bus,
        mmsb.GraphCycleError,
        ["closes the cycle"],
        lambda: bus.derive("c", ["c"], lambda c: c),
    )
    refuses(
        bus,
        mmsb.GraphCycleError,
        ["closes the cycle"],
        lambda: bus.link("e", "c", kind="control"),
    )


def test_derive_with_the_name_of_a_written_array_is_refused(bus):
    for name in ("a", "raw", "t/x", "t/name"):
        refuses(
            bus,
            mmsb.StructureError,
            [repr(name), "written", "another"],
            lambda name=name: bus.derive(name, ["b"], lambda b: b),
        )


def test_derive_with_the_name_of_another_rules_part_is_refused(bus):
    bus.derive("c", ["a"], lambda a: {"x": a, "y": a + 1})
    refuses(
        bus,
        mmsb.StructureError,
        ["'c/x' is a part of derived 'c'", "another"],
        lambda: bus.derive("c/x", ["a"], lambda a: a),
    )
    refuses(
        bus,
        mmsb.StructureError,
        ["'t'", "part of the committed tree", "another name"],
        lambda: bus.derive("t", ["a"], lambda a: {"x": a}),
    )
    bus.create("u/x", shape=(2,))
    bus.write("u/x", F(1, 2))
    refuses(
        bus,
        mmsb.StructureError,
        ["'u/x'", "one of that name", "another"],
        lambda: bus.derive("u", ["a"], lambda a: {"x": a}),
    )


def looks_at_values(a: Any) -> Any:
    return a if a[0] > 0 else -a


@pytest.mark.parametrize(
    "function",
    [
        looks_at_values,
        lambda a: a[: int(a[0])],
        lambda a: np.asarray(a) + 1,
        lambda a: jnp.zeros(a[0].astype(int)),
        lambda a: a[a > 0],
        lambda a: [a, -a][a[0].astype(int)],
    ],
    ids=["if", "int", "numpy", "shape", "mask", "index"],
)
def test_derive_of_a_function_that_looks_at_values_says_what_to_use(bus, function):
    refuses(
        bus,
        mmsb.RecomputeError,
        ["derived 'c'", "looks at the values", "lax.cond", "inputs="],
        lambda: bus.derive("c", ["a"], function),
    )


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda a: "text", ["returned a str", "Expected arrays"]),
        (lambda a: {"x": a, "y": object()}, ["returned a object", "Expected arrays"]),
        (lambda a: None, ["returned no array"]),
        (lambda a: {}, ["returned no array"]),
        (lambda a, b: a, ["raised TypeError", "missing 1 required positional argument"]),
        (lambda a: a @ jnp.ones((5, 5)), ["raised TypeError", "while it was traced"]),
        (lambda a: 1 / 0, ["raised ZeroDivisionError", "while it was traced"]),
        (lambda a: jax.lax.reshape(a, (2, 2)), ["raised ValueError", "elements"]),
        (lambda a: jax.lax.reshape(jnp.tile(a, 9000), (2, 2)), ["raised ValueError", "elements"]),
    ],
)
def test_derive_of_a_function_that_fails_when_traced_says_how(bus, function, said):
    refuses(
        bus,
        mmsb.RecomputeError,
        ["derived 'c'", *said],
        lambda: bus.derive("c", ["a"], function),
    )
    bus.derive("c", ["a"], lambda a: a + 1)
    bus.derive("d", ["c"], lambda c: c * 2)
    bus.write("a", F(1, 1, 1))
    np.testing.assert_array_equal(bus.read("d"), F(4, 4, 4))


def test_function_that_uses_the_bus_is_told_to_take_arguments(bus):
    for act in (
        lambda: bus.read("b"),
        lambda: bus.write("b", F(0, 0, 0)),
        lambda: bus.derive("d", ["b"], lambda b: b),
        lambda: bus.tree(),
        lambda: bus.version,
    ):
        refuses(
            bus,
            mmsb.RecomputeError,
            ["derived 'c'", "uses the bus", "inputs="],
            lambda act=act: bus.derive("c", ["a"], lambda a: (act(), a)[1]),
        )


def test_derive_of_what_jax_cannot_compute_with_is_refused(bus):
    bus.commit({"a": np.array(["x"], "U3")}, structure="new")
    refuses(
        bus,
        mmsb.StructureError,
        ["'a'", "JAX cannot compute with"],
        lambda: bus.derive("c", ["a"], lambda a: a),
    )


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        (("", ["a"]), {}, mmsb.StructureError, ["name=''", "expected a string"]),
        ((3, ["a"]), {}, mmsb.StructureError, ["name=3"]),
        (("c*", ["a"]), {}, mmsb.StructureError, ["wildcards"]),
        (("\0c", ["a"]), {}, mmsb.StructureError, ["NUL"]),
        (("x" * 100_000, ["a"]), {}, mmsb.StructureError, ["bytes"]),
        (("c", []), {}, TypeError, ["inputs=()", "at least one"]),
        (("c", [3]), {}, TypeError, ["inputs=(3,)", "names or patterns"]),
        (("c", ["a"]), {"when": "later"}, ValueError, ["when='later'", "'commit' or 'read'"]),
        (("c", ["a"]), {"equal": "almost"}, ValueError, ["equal='almost'", "'never'"]),
    ],
)
def test_derive_with_a_wrong_argument_says_what_was_expected(bus, arguments, options, error, said):
    refuses(bus, error, said, lambda: bus.derive(*arguments, lambda a: a, **options))


def test_derive_of_no_function_is_refused(bus):
    refuses(bus, TypeError, ["expected a function", "3"], lambda: bus.derive("c", ["a"], 3))


@pytest.mark.parametrize(
    ("equal", "said"),
    [
        (lambda old, new: old == new, ["bool[3]", "Expected one bool"]),
        (lambda old, new: jnp.sum(old), ["float32[]", "Expected one bool"]),
        (lambda old: True, ["raised TypeError"]),
        (lambda old, new: bool(jnp.all(old == new)), ["looks at the values"]),
    ],
)
def test_cutoff_that_is_no_bool_is_refused(bus, equal, said):
    refuses(
        bus,
        mmsb.RecomputeError,
        said,
        lambda: bus.derive("c", ["a"], lambda a: a, equal=equal),
    )


def test_derived_array_is_written_by_its_function_only(bus):
    bus.derive("c", ["a"], lambda a: {"x": a * 2})
    said = ["'c/x' is derived 'c'", "only its function writes it", "delete 'c' first"]
    region = bus.layout.region("c/x")
    delta = mmsb.Delta.from_bytes(region, np.ones(12, bool), np.zeros(12, np.uint8))
    for act in (
        lambda: bus.write("c/x", F(0, 0, 0)),
        lambda: bus.resize("c/x", shape=(9,)),
        lambda: bus.delete("c/x"),
        lambda: bus.apply(delta),
        lambda: bus.extend(mmsb.TLog.empty(commits=1, blocks=4).append(delta)),
    ):
        refuses(bus, mmsb.StructureError, said, act)

    def in_a_batch() -> None:
        with bus.batch():
            bus.write("a", F(9, 9, 9))
            bus.write("c/x", F(0, 0, 0))

    refuses(bus, mmsb.StructureError, said, in_a_batch)
    for act in (lambda: bus.create("c/x", shape=(3,)), lambda: bus.clone("a", "c/x")):
        refuses(bus, mmsb.StructureError, ["'c/x'", "already"], act)
    tree = {"a": F(1, 2, 3), "c": {"x": F(1, 2, 3)}}
    refuses(bus, mmsb.StructureError, ["'c/x'"], lambda: bus.commit(tree, structure="new"))


def test_array_that_others_are_made_from_cannot_go(bus):
    bus.create("s", shape=(2,))
    bus.write("s", F(1, 2))
    with bus.batch():
        bus.derive("c", ["s"], lambda s: s)
        bus.derive("d", ["c", "a"], lambda c, a: c[0] + a)
    said = ["cannot be deleted", "Delete these first"]
    refuses(bus, mmsb.StructureError, ["'s'", "'c'", *said], lambda: bus.delete("s"))
    refuses(bus, mmsb.StructureError, ["'c'", "'d'", *said], lambda: bus.delete("c"))
    tree = {"b": F(4, 5, 6)}
    refuses(
        bus,
        mmsb.StructureError,
        ["'a'", "'d'", *said],
        lambda: bus.commit(tree, structure="new"),
    )
    bus.delete("d")
    bus.delete("c")
    bus.delete("s")
    bus.commit(tree, structure="new")
    assert bus.derived() == {}
    assert bus.verify()


def test_function_that_no_longer_fits_a_resized_input_refuses_the_resize(bus):
    bus.create("s", shape=(3,))
    bus.write("s", F(1, 2, 3))
    with bus.batch():
        bus.derive("c", ["s"], lambda s: s * 2)
        bus.derive("d", ["c", "a"], lambda c, a: c + a)
    refuses(
        bus,
        mmsb.RecomputeError,
        ["derived 'd'", "raised TypeError", "(4,)"],
        lambda: bus.resize("s", shape=(4,)),
    )
    bus.write("s", F(9, 9, 9))
    np.testing.assert_array_equal(bus.read("d"), F(19, 20, 21))


def test_integer_that_jax_has_no_room_for_refuses_the_commit(bus):
    tree = {"a": F(1, 2, 3), "b": F(4, 5, 6), "t": {"x": F(7), "y": 3, "name": "run"}}
    bus.derive("small", ["t/y"], lambda y: y + 1)
    bus.derive("large", ["t/y"], lambda y: jnp.ones(9000) * y)
    tree["t"]["y"] = 2**40
    refuses(
        bus,
        mmsb.RecomputeError,
        ["derived 's", "1099511627776", "does not fit int32", "64-bit types"],
        lambda: bus.commit(tree),
    )
    bus.delete("small")
    refuses(
        bus,
        mmsb.RecomputeError,
        ["derived 'large'", "does not fit int32"],
        lambda: bus.commit(tree),
    )


def test_pagewise_function_that_mixes_elements_is_refused(bus):
    for function, said in (
        (lambda a: a / a.sum(), "reduce_sum"),
        (lambda a: a[::-1], "rev"),
        (lambda a: a + F(1, 2, 3), "shape (3,)"),
        (lambda a: a.sum(), "reduce_sum"),
    ):
        refuses(
            bus,
            mmsb.RecomputeError,
            ["derived 'c'", "element by element", said, "Leave pagewise out"],
            lambda function=function: bus.derive("c", ["a"], function, pagewise=True),
        )


def test_modes_and_reads_of_a_reader_are_refused_by_name(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1)})
        with pytest.raises(ValueError, match=r"mode='later'.*'immediate' or 'deferred'"):
            bus.mode = "later"
        with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
            with pytest.raises(mmsb.ClosedError, match="mode='r'"):
                reader.mode = "deferred"
            with pytest.raises(mmsb.ClosedError, match="mode='r'"):
                reader.propagate()
            assert reader.mode == "immediate"


def test_refused_derive_in_a_batch_drops_the_batch(bus):
    def batch() -> None:
        with bus.batch():
            bus.write("a", F(9, 9, 9))
            bus.derive("good", ["a"], lambda a: a)
            bus.derive("bad", ["nothing"], lambda a: a)

    refuses(bus, mmsb.ArrayNotFoundError, ["'nothing'"], batch)
    assert runs(bus) == {}
