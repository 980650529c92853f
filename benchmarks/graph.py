"""The graph's structure: built, levelled, checked for cycles, beside rustworkx and networkx."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers import Rows, beside
from mmsb_jax._base.errors import GraphCycleError
from mmsb_jax._graph.dag.graph import PageGraph
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Bound, Row, figure_at_most

Pairs = list[tuple[str, str]]


def rows(folder: Path, long: bool) -> Rows:
    """Whole graphs of three sizes; then one edge more or less, and cycles."""
    del folder, long
    yield from _whole("1024", "1,024 nodes, fan-out 4", _tree(1_024, 4))
    yield from _whole(
        "10k", "10,000 nodes, 40,000 edges", _random_pairs(10_000, 40_000),
        must=figure_at_most(50e-3), aim=figure_at_most(10e-3),
    )  # fmt: skip
    yield from _whole("100k", "100,000 nodes, 200,000 edges", _random_pairs(100_000, 200_000))
    yield _of_integers()
    yield from _cycles()
    yield from _one_edge()
    yield _growth()


def _whole(
    slug: str, size: str, pairs: Pairs, must: Bound | None = None, aim: Bound | None = None
) -> Rows:
    what = f"graph of {size}, from names: built, levelled, checked"
    build = Work("PageGraph", lambda: PageGraph.from_edges(pairs))
    rounds = 3 if len(pairs) > 100_000 else 9

    def beside_rustworkx() -> Rows:
        from benchmarks.peers import graphs

        levels = Work("rustworkx", lambda: graphs.levels_by_rustworkx(pairs))
        yield compare(
            f"graph/{slug}-rustworkx", what, build, levels, rounds=rounds, must=must, aim=aim
        )

    def beside_networkx() -> Rows:
        from benchmarks.peers import graphs

        levels = Work("networkx", lambda: graphs.levels_by_networkx(pairs))
        yield compare(
            f"graph/{slug}-networkx", what, build, levels,
            rounds=max(rounds // 2, 1), must=must, aim=aim,
        )  # fmt: skip

    yield from beside("rustworkx", beside_rustworkx)
    yield from beside("networkx", beside_networkx)


def _of_integers() -> Row:
    names = _random_pairs(10_000, 40_000)
    pairs = np.array([(int(parent[6:]), int(child[6:])) for parent, child in names])
    return compare(
        "graph/10k-integers", "graph of 10,000 nodes, 40,000 edges, from integers: the same",
        Work("from integers", lambda: PageGraph.from_edges(pairs)),
        Work("from names", lambda: PageGraph.from_edges(names)),
        must=figure_at_most(50e-3), aim=figure_at_most(10e-3),
    )  # fmt: skip


def _cycles() -> Rows:
    """A graph with one edge too many, from its deepest node to its root."""
    pairs = _tree(1_024, 4)
    closed = [*pairs, (pairs[-1][1], pairs[0][0])]
    what = "graph of 1,024 nodes with a cycle: refused, the cycle named"

    def refused() -> None:
        try:
            PageGraph.from_edges(closed)
        except GraphCycleError:
            return
        raise AssertionError("a cycle was let in")

    def beside_rustworkx() -> Rows:
        from benchmarks.peers import graphs

        find = Work("rustworkx", lambda: graphs.cycle_by_rustworkx(closed))
        yield compare("graph/cycle-rustworkx", what, Work("PageGraph", refused), find)

    yield from beside("rustworkx", beside_rustworkx)


def _one_edge() -> Iterator[Row]:
    """Its price does not grow with the graph."""
    graphs = {size: PageGraph.from_edges(_layers(size)) for size in (1_000, 10_000, 100_000)}

    def of(graph: PageGraph, change: Callable[[PageGraph], int]) -> Work:
        return Work("one edge", lambda: change(graph), calls=200)

    for slug, what, change in (
        ("add", "add an edge, ask the level", _add),
        ("add-upwards", "add an edge upwards, ask the level", _add_upwards),
        ("remove", "remove an edge, ask the level", _remove),
    ):
        yield grow(
            f"graph/growth-{slug}", f"{what}, with the nodes",
            {size: of(graph, change) for size, graph in graphs.items()}, at_most=0.2, rounds=9,
        )  # fmt: skip


def _growth() -> Row:
    sizes = {nodes: _random_pairs(nodes, 4 * nodes) for nodes in (1_000, 10_000, 50_000)}
    return grow(
        "graph/growth-build", "graph of 4 edges a node, built, with the nodes",
        {
            nodes: Work("build", lambda pairs=pairs: PageGraph.from_edges(pairs))
            for nodes, pairs in sizes.items()
        },
        at_most=1.4, rounds=3,
    )  # fmt: skip


def _tree(nodes: int, fan_out: int) -> Pairs:
    return [(f"array/{(i - 1) // fan_out}", f"array/{i}") for i in range(1, nodes)]


def _random_pairs(nodes: int, edges: int) -> Pairs:
    """Edges from lower numbers to higher ones, some of them twice."""
    source = random.Random(0)
    found = (sorted(source.sample(range(nodes), 2)) for _ in range(edges))
    return [(f"array/{parent}", f"array/{child}") for parent, child in found]


def _layers(nodes: int) -> Pairs:
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
