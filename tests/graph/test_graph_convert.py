"""Graphs to and from edge lists, networkx and rustworkx."""

import networkx as nx
import pytest
import rustworkx as rx
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.errors import GraphCycleError
from mmsb_jax._graph import PageGraph
from mmsb_jax._graph.dag.kinds import KINDS

_places = st.integers(0, 9)
_edges = st.lists(
    st.tuples(_places, _places, st.sampled_from(KINDS)).filter(lambda e: e[0] < e[1]), max_size=30
)
_graphs = st.builds(
    lambda edges, nodes: PageGraph.from_edges([(f"n{a}", f"n{b}", k) for a, b, k in edges], nodes),
    _edges,
    st.lists(st.sampled_from(["n3", "n1", "alone"])),
)


@given(_graphs)
def test_graph_through_edges_and_nodes_is_the_same(graph):
    again = PageGraph.from_edges(graph.to_edges(), graph.nodes)
    assert (again, again.nodes, again.order()) == (graph, graph.nodes, graph.order())


@given(_graphs)
def test_graph_through_networkx_is_the_same(graph):
    made = graph.to_networkx()
    assert isinstance(made, nx.MultiDiGraph)
    again = PageGraph.from_networkx(made)
    assert (again, again.nodes, again.order()) == (graph, graph.nodes, graph.order())


@given(_graphs)
def test_graph_through_rustworkx_is_the_same(graph):
    made = graph.to_rustworkx()
    assert isinstance(made, rx.PyDiGraph)
    again = PageGraph.from_rustworkx(made)
    assert (again, again.nodes, again.order()) == (graph, graph.nodes, graph.order())


def test_from_networkx_takes_edges_without_a_kind_for_data():
    peer = nx.DiGraph()
    peer.add_edge("a", "b")
    peer.add_edge("b", "c", kind="control", weight=3)
    assert PageGraph.from_networkx(peer).to_edges() == [
        ("a", "b", "data"),
        ("b", "c", "control"),
    ]


def test_from_rustworkx_takes_graphs_with_holes_and_edges_without_a_kind():
    peer = rx.PyDiGraph()
    one, gone, two = peer.add_nodes_from(["a", "gone", "b"])
    peer.remove_node(gone)
    peer.add_edge(one, two, None)
    assert PageGraph.from_rustworkx(peer).to_edges() == [("a", "b", "data")]


def test_graph_with_a_cycle_is_refused_from_either_library():
    peer = nx.DiGraph([("a", "b"), ("b", "a")])
    other = rx.PyDiGraph()
    other.add_nodes_from(["a", "b"])
    other.add_edges_from([(0, 1, None), (1, 0, None)])
    for make in (
        lambda: PageGraph.from_networkx(peer),
        lambda: PageGraph.from_rustworkx(other),
    ):
        with pytest.raises(GraphCycleError, match=r"a → b → a|b → a → b"):
            make()


def test_graph_without_directions_is_refused_from_either_library():
    with pytest.raises(ValueError, match="the Graph is undirected: expected edges from parent"):
        PageGraph.from_networkx(nx.Graph([("a", "b")]))
    with pytest.raises(ValueError, match="the PyGraph is undirected: expected edges from parent"):
        PageGraph.from_rustworkx(rx.PyGraph())


def test_graph_whose_nodes_are_no_names_is_refused_from_either_library():
    with pytest.raises(TypeError, match="1 is a int: expected the name of a node"):
        PageGraph.from_networkx(nx.DiGraph([(1, 2)]))
    other = rx.PyDiGraph()
    other.add_node(1)
    with pytest.raises(TypeError, match="1 is a int: expected the name of a node"):
        PageGraph.from_rustworkx(other)


def test_from_rustworkx_with_two_nodes_of_one_name_is_refused():
    peer = rx.PyDiGraph()
    peer.add_nodes_from(["a", "b", "b"])
    with pytest.raises(ValueError, match="two nodes have the name 'b'"):
        PageGraph.from_rustworkx(peer)


def test_graph_with_an_unknown_kind_is_refused_from_either_library():
    peer = nx.DiGraph()
    peer.add_edge("a", "b", kind="date")
    with pytest.raises(ValueError, match="kind='date': expected one of 'data'"):
        PageGraph.from_networkx(peer)
    other = rx.PyDiGraph()
    other.add_nodes_from(["a", "b"])
    other.add_edge(0, 1, 3.5)
    with pytest.raises(ValueError, match=r"kind=3\.5: expected one of 'data'"):
        PageGraph.from_rustworkx(other)
