"""rustworkx and networkx, libraries for graphs, given edges by name; each imported where used."""

from collections.abc import Sequence
from typing import Any

Pairs = list[tuple[str, str]]


def levels_by_rustworkx(pairs: Pairs) -> Sequence[object]:
    """A graph, and its nodes level by level; it numbers them itself."""
    import rustworkx

    return list(rustworkx.topological_generations(_by_rustworkx(pairs)))


def cycle_by_rustworkx(pairs: Pairs) -> Sequence[object]:
    """A graph, and the edges of a cycle in it."""
    import rustworkx

    cycle = list(rustworkx.digraph_find_cycle(_by_rustworkx(pairs)))
    assert cycle
    return cycle


def _by_rustworkx(pairs: Pairs) -> Any:
    import rustworkx

    numbers: dict[str, int] = {}
    edges = [
        (numbers.setdefault(parent, len(numbers)), numbers.setdefault(child, len(numbers)), None)
        for parent, child in pairs
    ]
    graph = rustworkx.PyDiGraph()
    graph.add_nodes_from(list(numbers))
    graph.add_edges_from(edges)
    return graph


def levels_by_networkx(pairs: Pairs) -> Sequence[object]:
    """A graph, and its nodes level by level."""
    import networkx

    return list(networkx.topological_generations(networkx.DiGraph(pairs)))
