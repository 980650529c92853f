"""The graph's structure: budget 13, and how the cost of one edge grows with the graph."""

import math
import random
from collections.abc import Iterator

import networkx
import numpy as np
import rustworkx

from benchmarks._measure import Row, mean_us, median_ms
from mmsb_jax._graph import PageGraph

_NODES, _EDGES = 10_000, 40_000


def rows() -> Iterator[Row]:
    """A whole graph beside the libraries; one edge more in graphs of three sizes."""
    pairs = _random_pairs(_NODES, _EDGES)
    named = [(f"array/{parent}", f"array/{child}") for parent, child in pairs]
    array = np.array(pairs)

    def with_rustworkx() -> None:
        numbers: dict[str, int] = {}
        edges = [
            (
                numbers.setdefault(parent, len(numbers)),
                numbers.setdefault(child, len(numbers)),
                None,
            )
            for parent, child in named
        ]
        graph = rustworkx.PyDiGraph()
        graph.add_nodes_from(list(numbers))
        graph.add_edges_from(edges)
        list(rustworkx.topological_generations(graph))

    def with_networkx() -> None:
        list(networkx.topological_generations(networkx.DiGraph(named)))

    of_names = median_ms(lambda: PageGraph.from_edges(named))
    peer = median_ms(with_rustworkx)
    slow_peer = median_ms(with_networkx, 5, 1)
    of_integers = median_ms(lambda: PageGraph.from_edges(array))
    what = "graph of 10,000 nodes, 40,000 edges: built, levelled, checked"
    yield Row("13", f"{what}; from names", of_names, "ms",
              "rustworkx", peer, "≤ 50 ms", "10 ms", of_names <= 50)  # fmt: skip
    yield Row("13", f"{what}; from names", of_names, "ms",
              "networkx", slow_peer, "≤ 50 ms", "10 ms", of_names <= 50)  # fmt: skip
    yield Row("13", f"{what}; from integers", of_integers, "ms",
              "rustworkx, from names", peer, "≤ 50 ms", "10 ms", of_integers <= 50)  # fmt: skip

    sizes = (1_000, 10_000, 100_000)
    graphs = [PageGraph.from_edges(_layers(size)) for size in sizes]
    for what, change in (
        ("add an edge, ask the level", _add),
        ("add an edge upwards, ask the level", _add_upwards),
        ("remove an edge, ask the level", _remove),
    ):
        times = [mean_us(lambda graph=graph, change=change: change(graph), 500) for graph in graphs]
        exponent = float(np.polyfit(list(map(math.log, sizes)), list(map(math.log, times)), 1)[0])
        shown = ", ".join(f"{time:.3g}" for time in times)
        yield Row("growth", f"{what}, with the nodes: {shown} µs", exponent, "exponent",
                  "at most", 0.2, "≤", "–", exponent <= 0.2)  # fmt: skip


def _random_pairs(nodes: int, edges: int) -> list[tuple[int, int]]:
    """Edges from lower numbers to higher ones, some of them twice."""
    random_source = random.Random(0)
    return [
        (min(pair), max(pair))
        for pair in (random_source.sample(range(nodes), 2) for _ in range(edges))
    ]


def _layers(nodes: int) -> list[tuple[str, str]]:
    """Groups of ten layers of ten nodes, each node with two parents in the layer before."""
    return [
        (f"{group}/{layer}/{parent % 10}", f"{group}/{layer + 1}/{place}")
        for group in range(nodes // 100)
        for layer in range(9)
        for place in range(10)
        for parent in (place, place + 1)
    ]


def _add(graph: PageGraph) -> int:
    return graph.add("0/8/0", "0/9/5").level("0/9/5")


def _add_upwards(graph: PageGraph) -> int:
    """From a last layer to a layer of another group, which sinks with all below it."""
    return graph.add("0/9/0", "1/5/0").level("1/9/0")


def _remove(graph: PageGraph) -> int:
    return graph.remove("0/0/0", "0/1/0").level("0/1/0")
