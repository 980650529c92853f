"""Whole graphs at once: what a caller may list, and that it comes out as one edge after another."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.errors import GraphCycleError
from mmsb_jax._graph import PageGraph
from mmsb_jax._graph.dag import bulk

_pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=150)


@given(_pairs)
@pytest.mark.parametrize("wide", [1, 4, 10**9])
def test_from_edges_equals_networkx_whatever_is_called_wide(wide, pairs):
    """Levels by arrays alone, by both, and by the loop alone."""
    edges = [(f"n{a}", f"n{b}") for a, b in pairs]
    peer = nx.DiGraph(edges)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_WIDE", wide)
        if not nx.is_directed_acyclic_graph(peer):
            with pytest.raises(GraphCycleError) as refused:
                PageGraph.from_edges(edges)
            shown = str(refused.value).split("closes the cycle ")[1].split(". ")[0].split(" → ")
            assert nx.is_simple_path(peer, shown[:-1])
            assert peer.has_edge(shown[-2], shown[-1])
            assert shown[0] == shown[-1]
            return
        graph = PageGraph.from_edges(edges)
    levels = {name: i for i, names in enumerate(nx.topological_generations(peer)) for name in names}
    assert graph.levels() == levels
    assert graph.nodes == tuple(peer.nodes)
    assert set(graph.edges()) == {(*edge, "data") for edge in peer.edges}


@given(_pairs, st.sampled_from(["i1", "u2", "i4", "i8", "u8"]), st.sampled_from([0, -20, 10**5]))
def test_from_edges_of_an_array_equals_that_of_its_names(pairs, dtype, shift):
    pairs = [(min(p) + shift, max(p) + shift) for p in pairs if p[0] != p[1]]
    info = np.iinfo(dtype)
    if any(not info.min <= value <= info.max for pair in pairs for value in pair):
        dtype = "i8"
    graph = PageGraph.from_edges(np.array(pairs, dtype).reshape(-1, 2), ["x", "3"], kind="control")
    named = [(str(a), str(b)) for a, b in pairs]
    expected = PageGraph.from_edges(named, ["x", "3"], kind="control")
    assert graph == expected
    assert graph.nodes == expected.nodes


def test_from_edges_takes_iterators_lists_kinds_and_nodes():
    edges = iter([["b", "c"], ("a", "b", "control"), ("b", "c", "compiler"), ("b", "c")])
    graph = PageGraph.from_edges(edges, nodes=iter(["z", "c", "z"]))
    assert graph.nodes == ("z", "c", "b", "a")
    assert graph.to_edges() == [
        ("b", "c", "data"),
        ("b", "c", "compiler"),
        ("a", "b", "control"),
    ]
    assert graph.edge_count == 3


def test_from_edges_takes_an_array_of_names():
    graph = PageGraph.from_edges(np.array([["a", "b"], ["b", "c"]]))
    assert graph == PageGraph().add("a", "b").add("b", "c")
    assert {type(name) for name in graph} == {str}


def test_from_edges_makes_plain_strings_of_numpy_strings():
    graph = PageGraph.from_edges([(np.str_("a"), "b")])
    assert {type(name) for name in graph} == {str}


@pytest.mark.parametrize(
    ("edges", "error", "said"),
    [
        (["ab"], TypeError, r"the edge 'ab' is a str: expected a tuple \(parent, child\) or"),
        ([("a", "b"), 3], TypeError, "the edge 3 is a int: expected a tuple"),
        ([("a",)], ValueError, r"the edge \('a',\): expected \(parent, child\) or"),
        ([("a", "b", "data", 1)], ValueError, r"expected \(parent, child\) or \(parent, child, k"),
        ([("a", ["b"])], TypeError, r"\['b'\] is a list: expected the name of a node, a string"),
        ([("a", 1)], TypeError, "1 is a int: expected the name of a node, a string"),
        (np.zeros((2, 3), int), ValueError, r"array int64\[2, 3\]: expected integers or strings"),
        (np.zeros(4, int), ValueError, r"array int64\[4\]: expected integers or strings of shape"),
        (np.zeros((2, 2)), ValueError, r"array float64\[2, 2\]: expected integers or strings of"),
        (np.zeros((2, 2), bool), ValueError, r"array bool\[2, 2\]: expected integers"),
    ],
)
def test_from_edges_of_another_form_is_refused(edges, error, said):
    with pytest.raises(error, match=said):
        PageGraph.from_edges(edges)


def test_from_edges_with_one_name_for_nodes_is_refused():
    with pytest.raises(TypeError, match=r"nodes='abc': expected several names"):
        PageGraph.from_edges([], nodes="abc")


def test_from_edges_shows_a_cycle_below_other_nodes():
    """What follows from a cycle is never reached, and is not part of it."""
    edges = [("root", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e")]
    with pytest.raises(GraphCycleError) as refused:
        PageGraph.from_edges(edges)
    shown = str(refused.value).split("closes the cycle ")[1].split(". ")[0]
    assert shown in ("a → b → c → a", "b → c → a → b", "c → a → b → c")
