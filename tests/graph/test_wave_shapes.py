"""Graphs with a name: each node at most once, after all that it reads, and how many run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.graph._graphs import F, programs, raw, runs


@pytest.fixture
def bus() -> Any:
    with mmsb.open() as opened:
        yield opened


def sources(bus: mmsb.Bus, *names: str, size: int = 2) -> None:
    with bus.batch():
        for name in names:
            bus.create(name, (size,), "int32")


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def peak(*arrays: Any) -> Any:
    """One more than the largest: it changes whenever the largest does, and overflows nothing."""
    return functools.reduce(jnp.maximum, arrays) + 1


def value(bus: mmsb.Bus, name: str) -> list[int]:
    return np.asarray(bus.read(name)).tolist()


def ran(bus: mmsb.Bus, act: Callable[[], Any]) -> dict[str, int]:
    """How often each node runs during ``act``; those that do not are left out."""
    before = runs(bus)
    act()
    return {
        name: n - before.get(name, 0) for name, n in runs(bus).items() if n > before.get(name, 0)
    }


def test_diamond_runs_each_node_once_and_sees_no_mixture(bus):
    sources(bus, "x")
    with bus.batch():
        bus.derive("left", ["x"], lambda x: x * 2)
        bus.derive("right", ["x"], lambda x: x * 3)
        bus.derive("both", ["left", "right"], lambda a, b: b * 2 - a * 3)  # 0, but of a mixture
        bus.derive("alarm", ["both"], lambda x: x + 1)
    for number in range(1, 5):
        done = ran(bus, lambda: bus.write("x", ints(number, -number)))
        assert done == {"left": 1, "right": 1, "both": 1}
    assert value(bus, "both") == [0, 0]
    assert runs(bus)["alarm"] == 1


def test_triangle_with_paths_of_two_lengths_runs_the_tip_once(bus):
    sources(bus, "x")
    with bus.batch():
        bus.derive("a", ["x"], lambda x: x + 1)
        bus.derive("b", ["a"], lambda a: a * 2)
        bus.derive("tip", ["x", "a", "b"], lambda x, a, b: x + a + b)
    assert ran(bus, lambda: bus.write("x", ints(1, 2))) == {"a": 1, "b": 1, "tip": 1}
    assert value(bus, "tip") == [1 + 2 + 4, 2 + 3 + 6]


def test_order_of_nodes_that_are_called_is_parents_first(bus):
    order = []

    def noted(name: str) -> Callable[..., Any]:
        def host(*arrays: Any) -> np.ndarray:
            order.append(name)
            return np.asarray(sum(np.asarray(a) for a in arrays), np.int32)

        def function(*arrays: Any) -> Any:
            return jax.pure_callback(host, jax.ShapeDtypeStruct((2,), jnp.int32), *arrays)

        return function

    sources(bus, "x")
    with bus.batch():  # the deep one is derived first, and wanted last
        bus.derive("a", ["x"], noted("a"))
        bus.derive("b", ["a"], noted("b"))
        bus.derive("c", ["b", "x"], noted("c"))
        bus.derive("d", ["x"], noted("d"))
        bus.derive("e", ["d", "c"], noted("e"))
    order.clear()
    bus.write("x", ints(1, 2))
    assert sorted(order) == ["a", "b", "c", "d", "e"]
    for parent, child in [("a", "b"), ("b", "c"), ("c", "e"), ("d", "e")]:
        assert order.index(parent) < order.index(child)
    assert value(bus, "e") == [3, 6]


def test_wide_fan_of_a_hundred_runs_each_once_and_the_sum_once(bus):
    sources(bus, "x")
    with bus.batch():
        for i in range(100):
            bus.derive(f"w/{i}", ["x"], lambda x, i=i: x + i)
        bus.derive("sum", ["w/**"], lambda w: sum(w.values()))
    done = ran(bus, lambda: bus.write("x", ints(1, 2)))
    assert done == {f"w/{i}": 1 for i in range(100)} | {"sum": 1}
    assert value(bus, "sum") == [100 + 4950, 200 + 4950]


def chain(bus: mmsb.Bus, length: int) -> None:
    sources(bus, "x0")
    with bus.batch():
        for i in range(length):
            bus.derive(f"x{i + 1}", [f"x{i}"], peak)


def check_chain(bus: mmsb.Bus, length: int) -> None:
    chain(bus, length)
    assert bus.graph.depth == length + 1
    for number in (1, 5):
        done = ran(bus, lambda number=number: bus.write("x0", ints(number, 0)))
        assert done == {f"x{i + 1}": 1 for i in range(length)}
        assert value(bus, f"x{length}") == [number + length, length]
    middle = f"x{length // 2}"
    assert value(bus, middle) == [5 + length // 2, length // 2]
    assert programs(bus) <= 3


def test_chain_of_a_thousand_runs_each_once(bus):
    check_chain(bus, 1000)


@pytest.mark.long
def test_chain_of_ten_thousand_runs_each_once(bus):
    check_chain(bus, 10_000)


@pytest.mark.long
def test_fan_of_a_hundred_thousand_runs_each_once(bus):
    sources(bus, "x")
    with bus.batch():
        for i in range(100_000):
            bus.derive(f"w{i}", ["x"], peak)
    done = ran(bus, lambda: bus.write("x", ints(3, 4)))
    assert len(done) == 100_000
    assert set(done.values()) == {1}
    assert value(bus, "w99999") == [4, 5]


def test_mux_reads_both_sides_and_cuts_off_what_is_not_taken(bus):
    sources(bus, "a", "b", "pick")
    bus.derive(
        "mux", ["pick", "a", "b"], lambda p, a, b: jax.lax.cond(p[0] > 0, lambda: a, lambda: b)
    )
    bus.derive("after", ["mux"], lambda x: x + 1)
    assert ran(bus, lambda: bus.write("a", ints(7, 7))) == {"mux": 1}
    assert ran(bus, lambda: bus.write("b", ints(5, 5))) == {"mux": 1, "after": 1}
    assert ran(bus, lambda: bus.write("pick", ints(1, 0))) == {"mux": 1, "after": 1}
    assert value(bus, "after") == [8, 8]
    assert ran(bus, lambda: bus.write("b", ints(6, 6))) == {"mux": 1}
    assert ran(bus, lambda: bus.write("pick", ints(2, 0))) == {"mux": 1}


def test_repeated_input_runs_once_with_both_arguments_new(bus):
    sources(bus, "x")
    with bus.batch():
        bus.derive("twice", ["x", "x"], lambda x, y: x * 10 + y)
        bus.derive("more", ["twice", "x", "twice"], lambda a, x, b: a - b + x)
    assert ran(bus, lambda: bus.write("x", ints(3, 4))) == {"twice": 1, "more": 1}
    assert value(bus, "twice") == [33, 44]
    assert value(bus, "more") == [3, 4]
    assert bus.derived()["more"].reads == ("twice", "x")


def test_unstable_source_that_swings_back_and_forth_runs_what_each_swing_changes(bus):
    sources(bus, "x")
    with bus.batch():
        bus.derive("parity", ["x"], lambda x: x % 2)
        bus.derive("label", ["parity"], lambda p: p * 100)
    total = {"parity": 1, "label": 1}
    for swing in range(10):
        bus.write("x", ints(swing // 2, 0))  # 0 0 1 1 2 2 …
        total["parity"] += swing > 0 and swing % 2 == 0
        total["label"] += swing > 0 and swing % 2 == 0
        assert runs(bus) == total
    with bus.batch():  # it swings and comes to rest where it was
        bus.write("x", ints(8, 0))
        bus.write("x", ints(4, 0))
    assert runs(bus) == total


def layered(bus: mmsb.Bus, width: int, layers: int, reads: int) -> None:
    """Layers of ``width`` nodes; a node reads ``reads`` nodes of the layer above."""
    sources(bus, *(f"n0/{i}" for i in range(width)))
    with bus.batch():
        for layer in range(1, layers):
            for i in range(width):
                above = [f"n{layer - 1}/{(i + k) % width}" for k in range(reads)]
                bus.derive(f"n{layer}/{i}", above, peak)


def reached(width: int, layers: int, reads: int, begun: list[int]) -> set[str]:
    """The nodes below some sources."""
    found, now = set(), set(begun)
    for layer in range(1, layers):
        now = {(i - k) % width for i in now for k in range(reads)}
        found |= {f"n{layer}/{i}" for i in now}
    return found


def check_layered(bus: mmsb.Bus, width: int, layers: int, reads: int) -> None:
    layered(bus, width, layers, reads)
    assert len(bus.derived()) == width * (layers - 1)
    before = runs(bus)
    assert set(before.values()) == {1}
    for number, begun in enumerate([[0], [width // 2, 1 % width], list(range(width))]):
        wanted = reached(width, layers, reads, begun)
        with bus.batch():
            for i in begun:
                bus.write(f"n0/{i}", ints(10 * number + 10, i))
        after = runs(bus)
        assert {n for n in after if after[n] != before[n]} == wanted
        assert {after[n] - before[n] for n in wanted} == {1}
        before = after
        last = value(bus, f"n{layers - 1}/{(begun[0] - 1) % width}")
        assert last[0] == 10 * number + 10 + layers - 1
    assert programs(bus) <= 12


@pytest.mark.parametrize(
    ("width", "layers", "reads"),
    [
        (10, 5, 2),
        (100, 15, 6),
        (5, 500, 3),
        pytest.param(1000, 12, 4, marks=pytest.mark.long),
        pytest.param(1000, 5, 25, marks=pytest.mark.long),
    ],
    ids=lambda number: str(number),
)
def test_layered_graph_runs_exactly_what_is_below_the_change(bus, width, layers, reads):
    check_layered(bus, width, layers, reads)


def test_batch_of_writes_equals_the_writes_one_by_one_and_runs_less(bus):
    one_by_one = mmsb.open()
    for opened in (bus, one_by_one):
        sources(opened, "a", "b")
        with opened.batch():
            opened.derive("sum", ["a", "b"], lambda a, b: a + b)
            opened.derive("out", ["sum", "a"], lambda s, a: s * a)
    with bus.batch():
        bus.write("a", ints(2, 3))
        bus.write("b", ints(4, 5))
    one_by_one.write("a", ints(2, 3))
    one_by_one.write("b", ints(4, 5))
    assert raw(bus.read("out")) == raw(one_by_one.read("out"))
    assert runs(bus) == {"sum": 2, "out": 2}
    assert runs(one_by_one) == {"sum": 3, "out": 3}
    one_by_one.close()


def test_branch_that_did_not_change_is_skipped_in_a_mixed_graph(bus):
    bus.create("x", (3,))
    bus.create("large", (9000,))
    with bus.batch():
        bus.derive("clipped", ["large"], lambda x: jnp.clip(x, 0, 1))  # called by itself
        bus.derive("top", ["clipped"], lambda x: x[:3])  # this too
        bus.derive("out", ["top", "x"], lambda top, x: top + x)
    grown = np.zeros(9000, np.float32)
    grown[0] = 5
    assert ran(bus, lambda: bus.write("large", grown)) == {"clipped": 1, "top": 1, "out": 1}
    assert ran(bus, lambda: bus.write("large", grown * 2)) == {"clipped": 1}
    assert ran(bus, lambda: bus.write("x", F(1, 2, 3))) == {"out": 1}
    grown[8000] = 1
    assert ran(bus, lambda: bus.write("large", grown)) == {"clipped": 1, "top": 1}
    np.testing.assert_array_equal(bus.read("out"), F(2, 2, 3))
