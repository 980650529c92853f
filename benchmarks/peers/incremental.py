"""Libraries for incremental computation, on a graph of NumPy functions.

Of those on PyPI, reaktiv, observ, streamz and loman are measured. Not param, whose watchers compute
a node once for every path that leads to it (2⁵⁰⁰ times here); nor graphtik 10.5, which fails with
networkx 3; nor fn-graph, which asks for networkx 2.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsb_jax.bench.measure import Work

Graph = list[tuple[str, tuple[str, ...], Callable[..., Any]]]
"""Of each node its name, what it reads, its function; parents first."""

THREE = (
    lambda a, b: a * np.float32(0.5) + b,
    lambda a, b: np.maximum(a, b) - np.float32(0.25),
    lambda a, b: a - b * np.float32(0.5),
)

Sources = dict[str, np.ndarray]
Update = Callable[[Sources], np.ndarray]
"""Sets the sources, computes what follows, and gives the value of the last node."""


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        name: what it is called.
        build: makes a graph with its first values.
        layers_at_most: of a layered graph, where it is too slow for more; 0 for any number.
    """

    name: str
    build: Callable[[Graph, Sources], Update]
    layers_at_most: int = 0

    @contextlib.contextmanager
    def updating(self, graph: Graph, sources: int) -> Iterator[Work]:
        """An update of all sources; its result is checked.

        Raises:
            ImportError: the library is not installed.
        """
        numbers = itertools.count()

        def values() -> Sources:
            number = next(numbers)
            return {f"s{i}": np.full(256, number + i, np.float32) for i in range(sources)}

        def check(got: np.ndarray) -> None:
            assert np.array_equal(got, wanted(new))
            new.update(values())

        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)  # all of them go down the graph by calls
        try:
            update, wanted = self.build(graph, values()), _plain(graph, values())
            new = values()
            yield Work(self.shown, lambda: update(new), after=check)
        finally:
            sys.setrecursionlimit(limit)

    @property
    def shown(self) -> str:
        """Its name, and what it is given."""
        fewer = f", {self.layers_at_most} layers" if self.layers_at_most else ""
        return f"{self.name} with NumPy{fewer}"

    @property
    def slug(self) -> str:
        """Its name in the name of a row."""
        return self.name.replace(" ", "-")


def _plain(graph: Graph, sources: Sources) -> Update:
    del sources

    def update(values: Sources) -> np.ndarray:
        known = dict(values)
        for name, reads, function in graph:
            known[name] = function(*(known[read] for read in reads))
        return known[graph[-1][0]]

    return update


def _reaktiv(graph: Graph, sources: Sources) -> Update:
    import reaktiv

    def node(function: Callable[..., Any], reads: list[Any]) -> Any:
        return reaktiv.Computed(lambda: function(*(read() for read in reads)), equal=np.array_equal)

    signals = {n: reaktiv.Signal(x, equal=np.array_equal) for n, x in sources.items()}
    nodes: dict[str, Any] = dict(signals)
    for name, reads, function in graph:
        nodes[name] = node(function, [nodes[read] for read in reads])
    last = nodes[graph[-1][0]]
    last()

    def update(values: Sources) -> np.ndarray:
        with reaktiv.batch():
            for name, value in values.items():
                signals[name].set(value)
        return last()

    return update


def _observ(graph: Graph, sources: Sources) -> Update:
    import observ

    class Held:  # it compares what it holds with !=, which arrays do not answer
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

    def source(state: Any) -> Callable[[], np.ndarray]:
        return lambda: state["value"].array

    def node(function: Callable[..., Any], reads: list[Any]) -> Any:
        return observ.computed(lambda: function(*(read() for read in reads)))

    states = {name: observ.ref(Held(value)) for name, value in sources.items()}
    nodes: dict[str, Any] = {name: source(state) for name, state in states.items()}
    for name, reads, function in graph:
        nodes[name] = node(function, [nodes[read] for read in reads])
    last = nodes[graph[-1][0]]
    last()

    def update(values: Sources) -> np.ndarray:
        for name, value in values.items():
            states[name]["value"] = Held(value)
        return last()

    return update


def _streamz(graph: Graph, sources: Sources) -> Update:
    import streamz

    streams: dict[str, Any] = {name: streamz.Stream() for name in sources}
    begin = dict(streams)
    for name, reads, function in graph:
        first, *others = (streams[read] for read in reads)
        streams[name] = first.zip(*others).starmap(function)
    results: list[np.ndarray] = []
    streams[graph[-1][0]].sink(results.append)

    def update(values: Sources) -> np.ndarray:
        for name, value in values.items():
            begin[name].emit(value)
        return results.pop()

    return update


def _loman(graph: Graph, sources: Sources) -> Update:
    import loman

    computation = loman.Computation()
    for name, value in sources.items():
        computation.add_node(name, value=value)
    for name, reads, function in graph:
        computation.add_node(name, function, kwds=dict(zip("ab", reads, strict=False)))
    computation.compute_all()

    def update(values: Sources) -> np.ndarray:
        for name, value in values.items():
            computation.insert(name, value)
        computation.compute_all()
        return computation.value(graph[-1][0])

    return update


PEERS = (
    Peer("plain loop", _plain),
    Peer("observ", _observ),
    Peer("streamz", _streamz),
    Peer("reaktiv", _reaktiv),
    Peer("loman", _loman, layers_at_most=20),
)
