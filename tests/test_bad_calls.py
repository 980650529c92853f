"""Every public function beside a bus with every kind of bad argument: the library's own error."""

import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax import algebra, programs
from tests.bus.test_bad_arguments import BAD, judge


class Call(NamedTuple):
    """A function, and arguments with which it is fine."""

    function: Callable[..., Any]
    arguments: dict[str, Any]


def of_core() -> list[Call]:
    tree, x = {"w": np.ones(3, np.float32)}, np.ones(3, np.float32)
    layout = mmsb.Layout.of(tree, 256)
    old, new = layout.pack(tree), layout.pack({"w": np.zeros(3, np.float32)})
    delta, digest = mmsb.diff(old, new), mmsb.digest(old, layout)
    log = mmsb.TLog.empty(2, 4).append(delta)
    of_layout, room = {"pages": old, "layout": layout}, {"capacity": 2, "block_words": 32}
    raw = {"mask": np.ones(12, bool), "data": np.ones(12, np.uint8)}
    return [
        Call(mmsb.apply, {"pages": old, "delta": delta, "version": 1, "first_page": 0}),
        Call(mmsb.compose, {"first": delta, "second": delta, "capacity": 4}),
        Call(
            mmsb.diff, {"old": old, "new": new, "capacity": 4, "block_words": 32, "first_page": 0}
        ),
        Call(mmsb.digest, {**of_layout, "first_page": 0}),
        Call(
            mmsb.update_digest, {"before": digest, "pages": old, "layout": layout, "delta": delta}
        ),
        Call(mmsb.invert, {"pages": old, "delta": delta, "first_page": 0}),
        Call(
            mmsb.replay,
            {
                "base": old,
                "log": log,
                "until": 1,
                "first_page": 0,
                "wave": a_wave(layout),
                "capacity": 1,
            },
        ),
        Call(mmsb.Layout.of, {"tree": tree, "page_bytes": 256}),
        Call(layout.get, {"pages": old, "name": "w"}),
        Call(layout.set, {"pages": old, "name": "w", "value": x, "version": 1}),
        Call(layout.pack, {"tree": tree}),
        Call(layout.unpack, {"pages": old}),
        Call(layout.region, {"name": "w"}),
        Call(mmsb.Delta.empty, room),
        Call(
            mmsb.Delta.from_bytes,
            {"region": layout.region("w"), **raw, "capacity": 2, "block_words": 32},
        ),
        Call(
            mmsb.Delta.from_slice,
            {"region": layout.region("w"), "values": x[:2], "start": (1,), "block_words": 32},
        ),
        Call(layout.capacity, {"names": ["w"], "block_words": 32}),
        Call(mmsb.TLog.empty, {"commits": 2, "blocks": 2, "block_words": 32, "version": 0}),
        Call(log.append, {"delta": delta}),
        Call(log.delta, {"entry": 0, "capacity": 2}),
        Call(log.slice, {"start": 0, "stop": 1}),
    ]


def of_page_tables() -> list[Call]:
    layout = mmsb.Layout.of({"w": np.ones(3, np.float32)}, 256)
    state = layout.pack({"w": np.ones(3, np.float32)})
    table, room = mmsb.PageTable.of(state, 3, 4), {"branches": 3, "pages": 4}
    words = np.ones((2, 64), np.uint32)
    return [
        Call(mmsb.PageTable.empty, {"layout": layout, **room}),
        Call(mmsb.PageTable.of, {"state": state, **room}),
        Call(table.fork, {"source": 0, "into": [1, 2]}),
        Call(table.release, {"branch": [1, 2]}),
        Call(table.grow, {"pages": 2}),
        Call(table.gather, {"branch": [0, 1], "page": 0}),
        Call(table.read, {"branch": 0}),
        Call(table.get, {"branch": 0, "region": layout.region("w")}),
        Call(table.scatter, {"branch": [0, 1], "page": 0, "words": words}),
        Call(table.write, {"branch": 1, "state": state}),
        Call(table.apply, {"branch": [0, 1], "delta": mmsb.Delta.empty(2)}),
    ]


def a_wave(layout: mmsb.Layout) -> mmsb.CompiledWave:
    """One in which nothing is derived."""
    return mmsb.open().graph.compile(layout)


def of_waves() -> list[Call]:
    with mmsb.open(page_bytes=256) as bus:
        bus.commit({"x": jnp.ones(3)})
        bus.derive("y", ["x"], lambda x: x + 1, when="read")
        bus.read("y")
        layout, graph = bus.layout, bus.graph
    pages = layout.pack({"x": jnp.ones(3), "y": jnp.ones(3)})
    delta = mmsb.diff(pages, layout.set(pages, "x", jnp.zeros(3)))
    wave = graph.compile(layout, also=["y"])
    return [
        Call(graph.compile, {"layout": layout, "also": ["y"]}),
        Call(wave.__call__, {"pages": pages, "delta": delta, "version": 1, "capacity": 2}),
        Call(wave.start, {"pages": pages, "version": 1}),
    ]


def of_graphs() -> list[Call]:
    graph = mmsb.PageGraph.from_edges([("a", "b"), ("b", "c")])
    edge = {"parent": "a", "child": "b"}
    return [
        Call(graph.from_edges, {"edges": [("a", "b")], "nodes": ["c"], "kind": "data"}),
        Call(graph.from_networkx, {"graph": graph.to_networkx()}),
        Call(graph.from_rustworkx, {"graph": graph.to_rustworkx()}),
        Call(graph.extend, {"edges": [("x", "y")], "kind": "data"}),
        Call(graph.add, edge | {"kind": "data"}),
        Call(graph.remove, edge | {"kind": "data"}),
        Call(graph.kinds, edge),
        Call(graph.add_node, {"name": "z"}),
        Call(graph.remove_node, {"name": "a"}),
        Call(graph.level, {"name": "a"}),
        Call(graph.ancestors, {"names": "a", "kind": "data"}),
        Call(graph.descendants, {"names": "a", "kind": "data"}),
        Call(graph.children, {"name": "a", "kind": "data"}),
        Call(graph.parents, {"name": "a", "kind": "data"}),
        Call(graph.edges, {"kind": "data"}),
        Call(graph.closure, {"kind": "data"}),
        Call(graph.subgraph, {"names": ["a"]}),
        Call(graph.draw, {"limit": 4}),
        Call(mmsb.EventLog, {"capacity": 4}),
        Call(mmsb.EventLog.hash_of, {"name": "a"}),
        Call(mmsb.EventLog.rows_of, {"array": mmsb.EventLog(2).rows()}),
    ]


def of_algebra() -> list[Call]:
    ring, wide = algebra.min_plus, algebra.max_min
    A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], [1.0, 2.0], (3, 3), "float32")
    D, x = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    graph = mmsb.PageGraph.from_edges([("a", "b"), ("b", "c")])
    like = {"dtype": "float32", "combine": ring}
    entries = {"data": [1.0], "shape": (2, 2), **like}
    options, source = {"mask": None, "into": None}, {"source": 0}
    fields = {"name": "q", "add": jnp.minimum, "multiply": jnp.add, "zero": 0.0, "one": 0.0}
    fields |= {"dtypes": ("float32",), "idempotent": False}
    paths = {"A": A, "source": 0, "predecessors": False}
    made = [
        Call(A.from_coo, {"row": [0], "col": [1], **entries}),
        Call(A.from_csr, {"indptr": [0, 1, 1], "indices": [1], **entries}),
        Call(A.from_dense, {"matrix": D, "zero": 0.0, "dtype": "float32"}),
        Call(A.from_scipy, {"matrix": A.to_scipy(), "dtype": "float32"}),
        Call(
            A.from_graph,
            {"graph": graph, "weight": 1.0, "dtype": "float32", "kinds": ["data"], "combine": ring},
        ),
        Call(A.map, {"function": lambda data: data * 2}),
        Call(A.with_data, {"data": jnp.ones(2)}),
        Call(A.to_dense, {"zero": 0.0}),
        Call(ring.accumulate, {"xs": x, "axis": 0}),
        Call(ring.fold_add, {"xs": x, "axis": 0}),
        Call(ring.fold_mul, {"xs": x, "axis": 0}),
        Call(ring.check, {"dtype": "float32", "values": [1.0, 2.0]}),
        Call(ring.check_dtype, {"dtype": "float32"}),
        Call(ring.eye, {"n": 3, "dtype": "float32"}),
        Call(ring.zero_of, {"dtype": "float32"}),
        Call(ring.one_of, {"dtype": "float32"}),
        Call(ring.endless_of, {"dtype": "float32"}),
        Call(ring.star_of, {"a": x}),
        Call(ring.star, {"A": D}),
        Call(ring.power, {"A": D, "exponent": 2}),
        Call(ring.matmul, {"A": A, "B": A, **options, "plan": algebra.plan_matmul(A, A)}),
        Call(ring.matvec, {"A": A, "x": x, **options}),
        Call(ring.vecmat, {"x": x, "A": A, **options}),
        Call(algebra.plan_matmul, {"A": A, "B": A, "mask": A}),
        Call(algebra.best_paths, {"semiring": wide, **paths}),
        Call(algebra.k_hop, {"A": A, **source, "k": 1}),
        Call(algebra.path_counts, {"A": A, **source, "dtype": "uint32"}),
        Call(
            algebra.Semiring,
            {
                "name": "q",
                "add": jnp.minimum,
                "multiply": jnp.add,
                "zero": 0.0,
                "one": 0.0,
                "dtypes": ("float32",),
                "idempotent": False,
            },
        ),
    ]
    special = algebra.shortest_paths, algebra.longest_paths, algebra.widest_paths, algebra.reachable
    return made + [Call(each, paths) for each in special]


def of_weights() -> list[Call]:
    bus = mmsb.open()
    bus.commit({"w": np.ones(3, np.float32)})
    folder = Path(tempfile.mkdtemp())
    path = bus.to_safetensors(folder / "w.safetensors")
    publisher = bus.publish(folder / "versions")
    options = {"arrays": ["w"], "rename": {"w": "x"}, "missing": "keep", "cast": True}
    return [
        Call(
            mmsb.from_safetensors, {"path": path, "like": {"x": np.ones(3, np.float32)}, **options}
        ),
        Call(publisher.push, {"ref": 1}),
        Call(publisher.prune, {"keep": 1}),
    ]


def of_orbax() -> list[Call]:
    src = Path(tempfile.mkdtemp())
    with mmsb.open() as bus:
        bus.commit({"w": np.ones(3)}, step=1)
        bus.to_orbax(src / "run")
    options = {"items": "default", "steps": [1], "like": {"w": np.ones(3)}}
    return [Call(mmsb.from_orbax, {"src": src / "run", "dst": None, **options})]


def of_programs() -> list[Call]:
    bus, f = mmsb.open(), jax.jit(lambda x: x * 2)
    captured = programs.capture(bus, "f", f.trace(jnp.ones(3)))
    how = {"stages": ["hlo"], "export": False, "note": {"why": "a test"}}
    options = {"bus": mmsb.open(), "max_compiles": 3, "name": "f", "show_values": False}
    return [
        Call(programs.watch, {"function": f, **options}),
        Call(programs.capture, {"bus": bus, "name": "f", "program": f.trace(jnp.ones(3)), **how}),
        Call(programs.load, {"bus": bus, "name": "f", "ref": 1}),
        Call(programs.names, {"bus": bus, "ref": 1}),
        Call(programs.diff, {"a": captured, "b": captured}),
        Call(captured.text, {"stage": "hlo"}),
    ]


ALL = (
    of_core()
    + of_page_tables()
    + of_waves()
    + of_graphs()
    + of_algebra()
    + of_weights()
    + of_orbax()
    + of_programs()
)
CALLS = {call.function.__qualname__: call for call in ALL}


def public() -> Iterator[tuple[str, str]]:
    """The functions and methods that have arguments, and how Python calls them."""
    for name, module in (
        (name, module) for module in (mmsb, algebra, programs) for name in module.__all__
    ):
        found = getattr(module, name)
        methods = {name: found} if inspect.isfunction(found) else {}
        if inspect.isclass(found) and not issubclass(found, Exception):
            methods = {f"{name}.{each}": getattr(found, each) for each in dir(found)}
        for label, method in methods.items():
            is_method = inspect.isroutine(method) and callable(method) and "._" not in label
            if is_method and inspect.signature(method).parameters.keys() - {"self"}:
                yield label, method.__qualname__


@pytest.fixture(autouse=True)
def _without_type_checks():
    """As for a user: these tests' own checks of annotations come before the library's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_table_has_every_public_function():
    elsewhere = ("Bus.", "Replica.", "open", "Subscription.", "EventLog.write_to", "ProductPlan.")
    elsewhere += ("CompiledFunctions.", "Explanation.")  # what a sequence has
    missing = {label for label, name in public() if name not in CALLS}
    assert not {label for label in missing if not label.startswith(elsewhere)}


@pytest.mark.parametrize("name", CALLS)
def test_call_is_fine(name):
    CALLS[name].function(**CALLS[name].arguments)


@pytest.mark.parametrize("name", CALLS)
def test_bad_argument_is_refused_in_the_library_s_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = CALLS[name]
    for parameter in arguments:
        for bad, value in BAD.items():
            changed = functools.partial(function, **arguments | {parameter: value})
            judge(changed, f"{parameter} = {bad}")
