"""A table of what may be passed, and must not: each answer is an error of the library, in words."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.format.record import MAX_NAME_BYTES
from tests.graph._graphs import F, head

LONG, HALF = "n" * 70_000, "\udce9"

NAMES: dict[str, Any] = {
    "None": None,
    "an int": 3,
    "bytes": b"a",
    "a list": ["a"],
    "an array": np.array(["a", "b"]),
    "empty": "",
    "NUL": "\0a",
    "half a surrogate": HALF,
    "70,000 characters": LONG,
    "not there": "nothing",
    "a pattern": "no/**",
}


class Picky:
    """Callable, and neither hashable nor comparable."""

    __hash__ = None  # type: ignore

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare")

    def __call__(self, a: Any) -> Any:
        return a + 1


async def later(a: Any) -> Any:
    return a


def one_by_one(a: Any) -> Iterator[Any]:
    yield a


GOOD: dict[str, Any] = {
    "a partial": functools.partial(jnp.multiply, 2),
    "a partial of what cannot be hashed": functools.partial(lambda a, by: a * by[0], by=[2]),
    "a lambda": lambda a: a,
    "a builtin": abs,
    "an object": Picky(),
    "a bound method": Picky().__call__,
    "jitted": jax.jit(jnp.sin),
    "a class that makes an array": jnp.float32,
}

BAD: dict[str, Any] = {
    "a class": Picky,
    "an exception": ValueError,
    "async": later,
    "a partial of async": functools.partial(later),
    "a generator": one_by_one,
    "one that takes nothing": lambda: 1,
    "None": None,
    "a string": "jnp.sum",
}

OTHERS: dict[str, Any] = {
    "None": None,
    "an int": 3,
    "bytes": b"commit",
    "a list": [],
    "an array": np.array(["commit", "read"]),
    "half a surrogate": HALF,
}

UNFIT: dict[str, Any] = {
    "None": None,
    "an int": 3,
    "bytes": b"ab",
    "empty": (),
    "a set": {"a", "b"},
    "mixed": ["a", 3],
    "nested": [["a"]],
    "an array": np.zeros(2),
    "an empty name": ["a", ""],
    "half a surrogate": ["a", HALF],
    "70,000 characters": [LONG],
    "NUL": ["\0stale/a"],
    "a pattern of nothing": ["z*"],
}


def _calls() -> dict[str, Callable[[mmsb.Bus], Any]]:
    def keep(a: Any) -> Any:
        return a

    calls: dict[str, Callable[[mmsb.Bus], Any]] = {}
    for what, name in NAMES.items():
        if what != "not there":
            calls[f"derive {what}"] = lambda bus, name=name: bus.derive(name, ["a"], keep)
            calls[f"link to {what}"] = lambda bus, name=name: bus.link("a", name)
        calls[f"link from {what}"] = lambda bus, name=name: bus.link(name, "copy")
        calls[f"unlink {what}"] = lambda bus, name=name: bus.unlink(name, "a", kind="control")
        for kind in ("control", "compiler"):
            calls[f"{kind} from {what}"] = lambda bus, n=name, k=kind: bus.link(n, "b", kind=k)
            calls[f"{kind} to {what}"] = lambda bus, n=name, k=kind: bus.link("a", n, kind=k)
        for verb in ("delete", "read", "page_versions"):
            calls[f"{verb} {what}"] = lambda bus, n=name, v=verb: getattr(bus, v)(n)
    for what, inputs in UNFIT.items():
        calls[f"inputs {what}"] = lambda bus, i=inputs: bus.derive("c", i, lambda *x: x[0])
    for what, function in BAD.items():
        if function is not None:  # which is a decorator
            calls[f"function {what}"] = lambda bus, f=function: bus.derive("c", ["a"], f)
        calls[f"decorating {what}"] = lambda bus, f=function: bus.derive("c", ["a"])(f)
    for what, other in OTHERS.items():
        calls[f"when {what}"] = lambda bus, o=other: bus.derive("c", ["a"], keep, when=o)
        calls[f"equal {what}"] = lambda bus, o=other: bus.derive("c", ["a"], keep, equal=o)
        calls[f"pagewise {what}"] = lambda bus, o=other: bus.derive("c", ["a"], keep, pagewise=o)
        calls[f"kind {what}"] = lambda bus, o=other: bus.link("a", "b", kind=o)
        calls[f"kind of unlink {what}"] = lambda bus, o=other: bus.unlink("a", "b", kind=o)
        calls[f"mode {what}"] = lambda bus, o=other: setattr(bus, "mode", o)
    for what, function in BAD.items():
        if function is not None:
            calls[f"equal by {what}"] = lambda bus, f=function: bus.derive(
                "c", ["a"], keep, equal=f
            )
    return calls


CALLS = _calls()


@pytest.fixture(scope="module")
def bus() -> Iterator[mmsb.Bus]:
    with mmsb.open() as opened:
        opened.commit({"a": F(1, 2), "b": F(3, 4)})
        yield opened


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", CALLS)
def test_bad_argument_is_refused_in_words_and_changes_nothing(bus, call):
    before = bus.version, head(bus), list(bus.graph.edges()), bus.derived(), bus.mode
    with pytest.raises((mmsb.MMSBError, TypeError, ValueError)) as caught:
        CALLS[call](bus)
    said = str(caught.value)
    words = ("xpected", "Did you mean", "does not begin", "it was traced", "is empty")
    assert any(word in said for word in words), said[:200]
    assert not isinstance(caught.value, UnicodeError)
    after = bus.version, head(bus), list(bus.graph.edges()), bus.derived(), bus.mode
    assert after == before


@pytest.mark.parametrize("function", GOOD)
def test_anything_that_can_be_called_is_a_function(function):
    with mmsb.open() as bus:
        bus.commit({"a": F(1, 2)})
        bus.derive("c", ["a"], GOOD[function])
        np.testing.assert_array_equal(bus.read("c"), GOOD[function](F(1, 2)))


def _nested(depth: int, key: str, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = {key: leaf}
    return leaf


RESULTS: dict[str, Callable[[Any], Any]] = {
    "a key over the limit": lambda a: {"y" * MAX_NAME_BYTES: a},
    "70,000 characters": lambda a: {LONG: a},
    "keys over the limit together": lambda a: _nested(9, "k" * 4000, a),
    "one byte over": lambda a: {"y" * (MAX_NAME_BYTES - 1): a},
    "characters of three bytes": lambda a: {"\u20ac" * 11_000: a},
    "half a surrogate": lambda a: {HALF: a},
    "a good one and a bad one": lambda a: {"x": a, "y" * MAX_NAME_BYTES: a},
}


@pytest.mark.parametrize("how", RESULTS)
def test_results_of_names_that_no_log_can_hold_are_refused_before_anything_is_written(
    tmp_path, how
):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1, 2)})
        with pytest.raises(mmsb.StructureError, match=r"derived 'd'.*makes an array 'd/") as caught:
            bus.derive("d", ["a"], RESULTS[how])
        assert len(str(caught.value)) < 500
        if "surrogate" not in how:
            assert f"{MAX_NAME_BYTES:,}" in str(caught.value)
        assert (bus.version, bus.derived()) == (1, {})
        bus.commit({"a": F(3, 4)})
        assert bus.verify()
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert bus.version == 2


KEYS = ["*", "?", "**", "/", "~", "", "\0", "\0stale/x", "0", 0, "a/b", "é\u20ac\U0001f600", "\n"]


def test_results_of_odd_keys_are_arrays_like_others(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1, 2)})
        for number, key in enumerate(KEYS):
            bus.derive(f"d{number}", ["a"], lambda a, key=key: {key: a * 2})
        largest = "y" * (MAX_NAME_BYTES - 3)
        bus.derive("dl", ["a"], lambda a: {largest: a * 2})
        bus.commit({"a": F(3, 4)})
        arrays = [name for derived in bus.derived().values() for name in derived.arrays]
        assert len(set(arrays)) == len(KEYS) + 1
        for name in arrays:
            np.testing.assert_array_equal(bus.read(name), F(6, 8))
        assert max(len(name.encode()) for name in arrays) == MAX_NAME_BYTES
        assert bus.verify(derive=True)
        known = bus.derived()
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert {n: d.arrays for n, d in bus.derived().items()} == {
            n: d.arrays for n, d in known.items()
        }
        for number, key in enumerate(KEYS):
            assert bus.derive(f"d{number}", ["a"], lambda a, key=key: {key: a * 2}) is None


def test_result_at_the_path_of_a_value_of_the_tree_is_refused_after_reopening(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1, 2), "t": {"name": "text"}})
    with mmsb.open(tmp_path / "run.mmsb") as bus:  # nobody knows here that `t` is a part
        with pytest.raises(mmsb.StructureError, match="makes an array 't/name'"):
            bus.derive("t", ["a"], lambda a: {"name": a})
        assert bus.version == 1


def test_array_derived_again_in_another_shape_is_bound_anew_where_it_is_read():
    with mmsb.open() as bus:
        bus.commit({"a": F(1, 2, 3)})
        bus.derive("c", ["a"], lambda a: a)
        bus.derive("d", ["c"], lambda c: c * 2)
        bus.derive("e", ["d"], lambda d: d.sum(), when="read")
        assert bus.derive("c", ["a"], lambda a: a[:2] + 5).changed == ("c", "d")
        np.testing.assert_array_equal(bus.read("d"), F(12, 14))
        assert float(bus.read("e")) == 26
        with bus.batch():  # the reader before what it reads
            bus.derive("d", ["c"], lambda c: c * 3)
            bus.derive("c", ["a"], lambda a: a[:1])
        np.testing.assert_array_equal(bus.read("d"), F(3))
        version = bus.version
        bus.derive("d", ["c"], lambda c: c @ jnp.ones(1))
        with pytest.raises(mmsb.RecomputeError, match="derived 'd'"):
            bus.derive("c", ["a"], lambda a: a[:2])
        assert bus.version == version + 1
        assert bus.verify(derive=True)


def test_results_that_are_made_no_longer_take_their_links_with_them():
    with mmsb.open() as bus:
        bus.commit({"a": F(1, 2), "gate": F(0)})
        bus.derive("pair", ["a"], lambda a: {"x": a, "y": a})
        bus.link("gate", "pair/y", kind="control")
        bus.derive("pair", ["a"], lambda a: {"x": a})
        assert "pair/y" not in bus.graph
        with bus.fork() as fork:
            assert set(fork.graph.edges()) == set(bus.graph.edges())


GRAPHS: dict[str, Callable[[mmsb.PageGraph, Any], Any]] = {
    "add": lambda graph, it: graph.add("a", it),
    "add_node": lambda graph, it: graph.add_node(it),
    "remove": lambda graph, it: graph.remove("a", it),
    "remove_node": lambda graph, it: graph.remove_node(it),
    "parents": lambda graph, it: graph.parents(it),
    "children": lambda graph, it: graph.children(it),
    "kinds": lambda graph, it: graph.kinds("a", it),
    "level": lambda graph, it: graph.level(it),
    "ancestors": lambda graph, it: graph.ancestors(it),
    "descendants": lambda graph, it: graph.descendants(it),
    "subgraph": lambda graph, it: graph.subgraph(it),
    "extend": lambda graph, it: graph.extend(it),
    "from_edges": lambda graph, it: mmsb.PageGraph.from_edges(it),
    "nodes": lambda graph, it: mmsb.PageGraph.from_edges([], nodes=it),
    "kind": lambda graph, it: graph.edges(it),
    "closure": lambda graph, it: graph.closure(it),
}


@pytest.mark.parametrize(
    "it", [3, b"a", [3], [None], object(), 1.5, [["a"]]], ids=lambda it: type(it).__name__
)
@pytest.mark.parametrize("call", GRAPHS)
def test_graph_refuses_what_is_no_name_in_words(call, it):
    graph = mmsb.PageGraph().add("a", "b")
    with pytest.raises((mmsb.MMSBError, TypeError, ValueError), match=r"[Ee]xpected"):
        GRAPHS[call](graph, it)


@pytest.mark.parametrize("it", [None, 3, b"a", ["nothing"], [3], [["a"]], "", "nothing"], ids=repr)
def test_function_of_a_graph_refuses_what_is_not_there_in_words(it):
    with mmsb.open() as bus:
        bus.commit({"a": F(1, 2)})
        bus.derive("c", ["a"], lambda a: a)
        for inputs, outputs in ((it, "c"), ("a", it)):
            with pytest.raises((mmsb.MMSBError, TypeError), match=r"[Ee]xpected"):
                bus.graph.as_function(inputs, outputs)


@pytest.mark.parametrize("capacity", [0, -1, None, "8", 2.0, [8]], ids=repr)
def test_event_log_of_no_number_of_rows_is_refused_in_words(capacity):
    with pytest.raises(ValueError, match=r"capacity=.*expected at least 1 row, an integer"):
        mmsb.EventLog(capacity)
