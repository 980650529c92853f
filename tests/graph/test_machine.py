"""The machine: few programs, one body a function, and bytes that depend on nothing else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus.conftest import compilations  # noqa: F401  (a fixture)
from tests.graph._graphs import F, head, insides, programs

SIZES = (3, 17)

SMALL: dict[str, Callable[[Any], Any]] = {
    "exp": jnp.exp,
    "tanh": lambda x: jnp.tanh(x) * x + 1.1 * x,
    "softmax": jax.nn.softmax,
    "sum": jnp.sum,
    "norm": lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5),
    "fma": lambda x: x * x + x * 3.7 - x * x * x,
    "two": lambda x: (jnp.exp(x), jnp.sin(x).sum()),
    "noise": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
}


def rng_write(bus: mmsb.Bus, trial: int) -> None:
    rng = np.random.default_rng(trial)
    with bus.batch():
        for size in SIZES:
            bus.write(f"x{size}", rng.standard_normal(size).astype(np.float32) * 3)


def open_with(names: list[str], sizes: tuple[int, ...] = SIZES) -> mmsb.Bus:
    bus = mmsb.open()
    for size in SIZES:
        bus.create(f"x{size}", (size,))
    with bus.batch():
        for size in sizes:
            for name in names:
                bus.derive(f"{name}{size}", [f"x{size}"], SMALL[name])
    return bus


def values(bus: mmsb.Bus) -> dict[str, bytes]:
    return {name: data for name, data in head(bus).items() if name in insides(bus).flow.makers}


def test_bytes_of_a_node_do_not_depend_on_what_else_is_on_the_bus():
    everything = open_with(list(SMALL))
    crowded = open_with(list(SMALL))  # other sizes of buffer, more operands, more results, wider
    with crowded.batch():
        crowded.create("wide", (4000,))
        crowded.create("y", (3,))
        crowded.derive("wider", ["wide"], lambda x: x * 2)
        crowded.derive("many", ["wide", "x3", "y"], lambda w, x, y: (w[:3], x[1:], y, w.sum()))
        for i in range(200):
            crowded.derive(f"more{i}", ["x3", "y"], lambda x, y: x * y[0])
    alone = [open_with([name], (3,)) for name in ("exp", "tanh", "norm", "two")]
    for trial in range(3):
        for bus in (everything, crowded, *alone):
            rng_write(bus, trial)
        wanted = values(everything)
        assert values(crowded).items() >= wanted.items()
        for bus in alone:
            assert values(bus).items() <= wanted.items()
            assert values(bus)
    for bus in (everything, crowded, *alone):
        bus.close()


def test_bytes_do_not_depend_on_which_inputs_changed_or_in_what_order():
    together, apart = open_with(["exp", "two", "norm"]), open_with(["exp", "two", "norm"])
    rng_write(together, 1)
    rng = np.random.default_rng(1)
    new = {f"x{size}": rng.standard_normal(size).astype(np.float32) * 3 for size in SIZES}
    for name in reversed(new):
        apart.write(name, new[name])
    assert values(together) == values(apart)
    apart.mode = "deferred"
    apart.write("x3", new["x3"] + 1)
    apart.write("x3", new["x3"])
    apart.propagate()
    assert values(together) == values(apart)
    assert apart.verify(derive=True)


def test_more_functions_than_one_program_holds_still_have_their_bytes():
    bus = mmsb.open()
    bus.create("x", (5,))
    with bus.batch():
        for i in range(1, 41):  # each another body
            bus.derive(f"f{i}", ["x"], lambda x, i=i: jnp.tile(x, i).sum())
    bus.write("x", F(1, 2, 3, 4, 5))
    for i in range(1, 41):
        assert float(bus.read(f"f{i}")) == 15 * i
    assert {derived.runs for derived in bus.derived().values()} == {2}
    assert bus.verify(derive=True)


def test_function_with_the_most_results_beside_one_with_few_disturbs_no_flag():
    bus = mmsb.open()
    for name in ("many", "x", "y", "z"):
        bus.create(name, (4,))
    with bus.batch():
        bus.derive("four", ["many"], lambda m: tuple(m))
        bus.derive("x2", ["x"], lambda x: x * 2)
        bus.derive("y2", ["y"], lambda y: y * 2)
        bus.derive("z2", ["z", "four/3"], lambda z, last: z * 2 + last)
    with bus.batch():
        for name in ("x", "y", "z"):
            bus.write(name, F(1, 2, 3, 4))
    for name in ("x2", "y2", "z2"):
        np.testing.assert_array_equal(bus.read(name), F(2, 4, 6, 8))
    assert {n: d.runs for n, d in bus.derived().items()} == {"four": 1, "x2": 2, "y2": 2, "z2": 2}


def test_many_sets_of_changed_sources_need_few_programs(compilations):  # noqa: F811
    bus = mmsb.open()
    names = [f"s{i}" for i in range(12)]
    for name in names:
        bus.create(name, (3,))
    with bus.batch():
        for i in range(60):
            reads = [names[i % 12], names[(i * 5 + 1) % 12]]
            bus.derive(f"n{i}", reads, lambda x, y, i=i: x * 2 + y - i)
        for i in range(60):
            bus.derive(f"m{i}", [f"n{i}", f"n{(i + 7) % 60}"], lambda x, y: x - y)
    rng = np.random.default_rng(0)
    for trial in range(3):
        bus.write(names[trial], F(trial + 1, 1, 1))
    compiled, before = programs(bus), len(compilations)
    for trial in range(60):
        with bus.batch():
            for name in rng.choice(names, size=rng.integers(1, 12), replace=False):
                bus.write(str(name), rng.standard_normal(3).astype(np.float32))
    assert programs(bus) <= compiled + 3
    assert len(compilations) - before <= 3
    assert programs(bus) <= 8


def test_nodes_of_one_function_share_a_body_whatever_they_close_over(compilations):  # noqa: F811
    bus = mmsb.open()
    bus.create("x", (3,))
    bus.create("large", (9000,))
    with bus.batch():
        for i in range(50):
            bus.derive(f"n{i}", ["x"], lambda x, i=i: x * i + np.full(3, i, np.float32))
            bus.derive(f"l{i}", ["large"], lambda x, i=i: x * i + 1)
    bodies = {node.recipe.body for node in insides(bus).flow.nodes.values() if node.recipe}
    assert len(bodies) == 2
    assert programs(bus) == 2
    bus.write("x", F(1, 2, 3))
    bus.write("large", np.ones(9000, np.float32))
    assert programs(bus) <= 3
    np.testing.assert_array_equal(bus.read("n49"), F(98, 147, 196))
    assert float(bus.read("l49")[0]) == 50


def test_new_values_and_new_numbers_compile_nothing(compilations):  # noqa: F811
    bus = mmsb.open()
    tree = {"x": F(1, 2, 3), "n": 1, "f": 0.5}
    bus.commit(tree)
    with bus.batch():
        bus.derive("y", ["x", "n", "f"], lambda x, n, f: x * n + f)
        bus.derive("big", ["x"], lambda x: jnp.tile(x, 3000))
    bus.commit(tree | {"n": 2})
    bus.commit(tree | {"x": F(2, 3, 4)})
    before = len(compilations)
    for i in range(20):
        bus.commit({"x": F(i, i, i), "n": i, "f": i / 7})
    assert len(compilations) == before
    np.testing.assert_allclose(bus.read("y"), F(19, 19, 19) * 19 + np.float32(19 / 7), rtol=1e-6)


@pytest.mark.parametrize("size", [3, 9000])
def test_function_that_cannot_be_compiled_leaves_the_machine_as_it_was(size):
    bus = mmsb.open()
    bus.create("x", (size,))
    bus.derive("y", ["x"], lambda x: x + 1)
    for _ in range(3):
        with pytest.raises(mmsb.RecomputeError, match="derived 'bad'"):
            bus.derive("bad", ["x"], lambda x: jax.lax.reshape(x, (size + 1, 7)))
    bus.write("x", np.ones(size, np.float32))
    bus.derive("z", ["y"], lambda y: y * 3)
    bus.write("x", np.full(size, 2, np.float32))
    assert float(bus.read("z")[0]) == 9
    assert set(bus.derived()) == {"y", "z"}
