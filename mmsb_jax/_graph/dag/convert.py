"""Graphs as edge lists, and as those of networkx and rustworkx, which only these methods import."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Self

from mmsb_jax._base.arguments import show


class Convertible(ABC):
    """A graph of names that is made from edges and can list them."""

    __slots__ = ()

    @property
    @abstractmethod
    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes."""

    @abstractmethod
    def edges(self, kind: str | None = None) -> Iterator[tuple[str, str, str]]:
        """The edges as (parent, child, kind)."""

    @classmethod
    @abstractmethod
    def from_edges(cls, edges: Any, nodes: Iterable[str] = (), kind: str = "data") -> Self:
        """A whole graph at once."""

    def to_edges(self) -> list[tuple[str, str, str]]:
        """All edges as (parent, child, kind), in the order of `edges`.

        ``PageGraph.from_edges(graph.to_edges(), graph.nodes) == graph``, with the same order.

        >>> from mmsb_jax._graph import PageGraph
        >>> PageGraph().add("a", "b").to_edges()
        [('a', 'b', 'data')]
        """
        return list(self.edges())

    def to_networkx(self) -> Any:
        """A `networkx.MultiDiGraph`; each edge has its kind as key and as attribute ``kind``.

        Raises:
            ImportError: networkx is not installed.

        >>> from mmsb_jax._graph import PageGraph
        >>> PageGraph().add("a", "b").to_networkx().edges["a", "b", "data"]
        {'kind': 'data'}
        """
        networkx: Any = importlib.import_module("networkx")
        made = networkx.MultiDiGraph()
        made.add_nodes_from(self.nodes)
        made.add_edges_from((*edge, {"kind": edge[2]}) for edge in self.edges())
        return made

    @classmethod
    def from_networkx(cls, graph: Any) -> Self:
        """The graph of a `networkx.DiGraph` or `MultiDiGraph`; ``"data"`` where no kind is given.

        Raises:
            GraphCycleError: it has a cycle; the message shows one.
            TypeError, ValueError: it is undirected; a node that is no string; an unknown kind.

        >>> import networkx
        >>> from mmsb_jax._graph import PageGraph
        >>> PageGraph.from_networkx(networkx.DiGraph([("a", "b")])).to_edges()
        [('a', 'b', 'data')]
        """
        if isinstance(graph, type) or not hasattr(graph, "is_directed"):
            raise TypeError(f"graph={show(graph)}: expected a networkx.DiGraph or MultiDiGraph")
        if not graph.is_directed():
            raise ValueError(
                f"the {type(graph).__name__} is undirected: expected edges from parent to child, "
                f"a DiGraph or a MultiDiGraph"
            )
        return cls.from_edges(list(graph.edges(data="kind", default="data")), graph.nodes)

    def to_rustworkx(self) -> Any:
        """A `rustworkx.PyDiGraph`: nodes are names, in the order of `nodes`; edges are kinds.

        Raises:
            ImportError: rustworkx is not installed.

        >>> from mmsb_jax._graph import PageGraph
        >>> list(PageGraph().add("a", "b").to_rustworkx().weighted_edge_list())
        [(0, 1, 'data')]
        """
        rustworkx: Any = importlib.import_module("rustworkx")
        made = rustworkx.PyDiGraph(check_cycle=False, multigraph=True)
        numbers = dict(zip(self.nodes, made.add_nodes_from(self.nodes), strict=True))
        made.add_edges_from(
            [(numbers[parent], numbers[child], kind) for parent, child, kind in self.edges()]
        )
        return made

    @classmethod
    def from_rustworkx(cls, graph: Any) -> Self:
        """The graph of a `rustworkx.PyDiGraph` of names; ``"data"`` for edges that are None.

        Raises:
            GraphCycleError: it has a cycle; the message shows one.
            TypeError, ValueError: it is undirected; a node that is no string, or two of one name;
                an unknown kind.

        >>> from mmsb_jax._graph import PageGraph
        >>> PageGraph.from_rustworkx(PageGraph().add("a", "b").to_rustworkx()).to_edges()
        [('a', 'b', 'data')]
        """
        if isinstance(graph, type) or not hasattr(graph, "node_indices"):
            raise TypeError(f"graph={show(graph)}: expected a rustworkx.PyDiGraph")
        if not hasattr(graph, "successors"):
            raise ValueError(
                f"the {type(graph).__name__} is undirected: expected edges from parent to child, "
                f"a PyDiGraph"
            )
        names = dict(zip(graph.node_indices(), graph.nodes(), strict=True))
        edges = [
            (names[parent], names[child], "data" if kind is None else kind)
            for parent, child, kind in graph.weighted_edge_list()
        ]
        made = cls.from_edges(edges, names.values())
        if len(made.nodes) < len(names):
            listed = list(names.values())
            twice = next(name for name in listed if listed.count(name) > 1)
            raise ValueError(f"two nodes have the name {twice!r}: expected a name of its own each")
        return made
