"""Graphs made by random changes, beside networkx: every query, every refusal, every version."""

import itertools
from dataclasses import dataclass, field

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.errors import ArrayNotFoundError, GraphCycleError
from mmsb_jax._graph import PageGraph

KINDS = ("data", "control", "device_sync", "compiler")
NAMES = "abcdefgh"

_names = st.sampled_from(NAMES)
_kinds = st.sampled_from(KINDS)
_edges = st.tuples(_names, _names, _kinds)
_changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _edges),
        st.tuples(st.just("add"), _edges),
        st.tuples(st.just("add"), _edges),
        st.tuples(st.just("extend"), st.lists(_edges, max_size=4)),
        st.tuples(st.just("add_node"), _names),
        st.tuples(st.just("remove"), st.tuples(_names, _names, st.none() | _kinds)),
        st.tuples(st.just("remove_existing"), st.integers(0, 30)),
        st.tuples(st.just("remove_node"), _names),
        st.tuples(st.just("ask"), st.none()),
    ),
    max_size=40,
)


@dataclass
class Model:
    """What a graph is to be: nodes in order, and edges."""

    nodes: list[str] = field(default_factory=list)
    edges: set[tuple[str, str, str]] = field(default_factory=set)

    def copy(self) -> "Model":
        return Model(list(self.nodes), set(self.edges))

    def add(self, parent: str, child: str, kind: str) -> None:
        self.nodes += [name for name in dict.fromkeys((parent, child)) if name not in self.nodes]
        self.edges.add((parent, child, kind))

    def to_networkx(self, kind: str | None = None) -> nx.DiGraph:
        made = nx.DiGraph()
        made.add_nodes_from(self.nodes)
        made.add_edges_from((p, c) for p, c, k in self.edges if kind in (None, k))
        return made

    def levels(self) -> dict[str, int]:
        generations = nx.topological_generations(self.to_networkx())
        return {name: level for level, names in enumerate(generations) for name in names}


def _apply(graph: PageGraph, model: Model, what: str, argument) -> tuple[PageGraph, Model]:
    """The graph and the model after one change, or the same two where it is refused."""
    new = model.copy()
    if what == "ask":
        graph.order()
    elif what == "add_node":
        new.nodes += [] if argument in model.nodes else [argument]
        graph = graph.add_node(argument)
    elif what in ("add", "extend"):
        edges = [argument] if what == "add" else argument
        for edge in edges:
            new.add(*edge)
        change = (lambda: graph.add(*edges[0])) if what == "add" else (lambda: graph.extend(edges))
        if not nx.is_directed_acyclic_graph(new.to_networkx()):
            with pytest.raises(GraphCycleError) as refused:
                change()
            _check_cycle(str(refused.value), new)
            return graph, model
        graph = change()
    elif what == "remove_node":
        if argument not in model.nodes:
            with pytest.raises(ArrayNotFoundError):
                graph.remove_node(argument)
            return graph, model
        new.nodes.remove(argument)
        new.edges = {edge for edge in model.edges if argument not in edge[:2]}
        graph = graph.remove_node(argument)
    else:
        if what == "remove_existing":
            if not model.edges:
                return graph, model
            parent, child, kind = sorted(model.edges)[argument % len(model.edges)]
        else:
            parent, child, kind = argument
        gone = {e for e in model.edges if e[:2] == (parent, child) and kind in (None, e[2])}
        if not gone:
            with pytest.raises(ArrayNotFoundError):
                graph.remove(parent, child, kind)
            return graph, model
        new.edges -= gone
        graph = graph.remove(parent, child, kind)
    return graph, new


def _check_cycle(message: str, model: Model) -> None:
    """The cycle that a message shows is one."""
    assert "closes the cycle " in message
    shown = message.split("closes the cycle ")[1].split(". ")[0].split(" → ")
    assert shown[0] == shown[-1]
    assert len(set(shown)) == len(shown) - 1
    pairs = {edge[:2] for edge in model.edges}
    assert all(pair in pairs for pair in itertools.pairwise(shown))
    # The edge that is named closes it.
    assert message.startswith(f"the edge {shown[-2]} → {shown[-1]} ")


def _check(graph: PageGraph, model: Model) -> None:
    """Every query gives what networkx gives for the model."""
    levels = model.levels()
    order = sorted(model.nodes, key=levels.__getitem__)
    position = {name: at for at, name in enumerate(order)}
    assert graph.nodes == tuple(model.nodes) == tuple(graph)
    assert len(graph) == len(model.nodes)
    assert graph.edge_count == len(model.edges)
    assert [name in graph for name in NAMES] == [name in model.nodes for name in NAMES]
    assert graph.levels() == levels
    assert list(graph.levels()) == order
    assert graph.order() == tuple(order)
    assert graph.depth == max(levels.values(), default=-1) + 1
    assert {name: graph.level(name) for name in model.nodes} == levels
    place = model.nodes.index
    listed = sorted(model.edges, key=lambda e: (place(e[0]), place(e[1]), KINDS.index(e[2])))
    assert graph.to_edges() == listed
    whole = model.to_networkx()
    assert graph.roots == tuple(name for name in model.nodes if not whole.in_degree(name))
    assert graph.leaves == tuple(name for name in model.nodes if not whole.out_degree(name))
    for kind in (None, *KINDS):
        peer = model.to_networkx(kind)
        assert list(graph.edges(kind)) == [edge for edge in listed if kind in (None, edge[2])]
        for name in model.nodes:
            assert graph.parents(name, kind) == tuple(sorted(peer.predecessors(name), key=place))
            assert graph.children(name, kind) == tuple(sorted(peer.successors(name), key=place))
            above = sorted(nx.ancestors(peer, name), key=position.__getitem__)
            below = sorted(nx.descendants(peer, name), key=position.__getitem__)
            assert graph.ancestors(name, kind) == tuple(above)
            assert graph.descendants(name, kind) == tuple(below)


def _check_labels(graph: PageGraph) -> None:
    """Labels grow along every edge, settled or not: what finding cycles relies on."""
    records = graph._records
    for number in records.live():
        below = map(records.label, records.children(number))
        assert all(records.label(number) < label for label in below)


_steps = st.lists(
    st.tuples(
        st.sampled_from(["add"] * 6 + ["remove_existing"] * 2 + ["remove_node", "ask"]),
        st.integers(0, 23),
        st.integers(0, 23),
    ),
    min_size=40,
    max_size=200,
)


@given(_steps, st.sampled_from([0.0, 0.1]))
def test_graph_of_many_nodes_keeps_labels_and_levels_right(steps, against):
    """Edges mostly from lower numbers to higher, in any order: labels move both ways."""
    graph, model = PageGraph(), Model()
    for at, (what, one, other) in enumerate(steps):
        if what == "add":
            if one == other:
                continue
            ends = sorted((one, other), reverse=at % 100 < 100 * against)
            graph, model = _apply(graph, model, what, (f"n{ends[0]}", f"n{ends[1]}", "data"))
        else:
            argument = f"n{one}" if what == "remove_node" else one * 24 + other
            graph, model = _apply(graph, model, what, argument)
        _check_labels(graph)
        if what == "ask":
            assert graph.levels() == model.levels()
    _check(graph, model)


@given(_changes)
def test_graph_after_random_changes_equals_networkx(changes):
    graph, model = PageGraph(), Model()
    for what, argument in changes:
        graph, model = _apply(graph, model, what, argument)
        _check_labels(graph)
    _check(graph, model)


@given(_changes, st.lists(_edges, max_size=20), st.booleans())
def test_graph_every_version_stays_as_it_was(changes, start, forwards):
    """From a graph made in bulk on, and asked in either order."""
    start = [(*sorted(edge[:2]), edge[2]) for edge in start if edge[0] != edge[1]]
    graph, model = PageGraph.from_edges(start), Model()
    for edge in start:
        model.add(*edge)
    versions = [(graph, model)]
    for what, argument in changes:
        graph, model = _apply(graph, model, what, argument)
        versions.append((graph, model))
    for graph, model in versions if forwards else reversed(versions):
        _check(graph, model)


@given(_changes)
def test_graph_from_its_edges_is_the_same_graph(changes):
    graph, model = PageGraph(), Model()
    for what, argument in changes:
        graph, model = _apply(graph, model, what, argument)
    again = PageGraph.from_edges(graph.to_edges(), graph.nodes)
    assert again == graph
    assert hash(again) == hash(graph)
    _check(again, model)


@given(_changes, _changes)
def test_graph_is_equal_to_another_where_nodes_and_edges_are(one, other):
    made = []
    for changes in (one, other):
        graph, model = PageGraph(), Model()
        for what, argument in changes:
            graph, model = _apply(graph, model, what, argument)
        made.append((graph, model))
    (graph, model), (other_graph, other_model) = made
    same = set(model.nodes) == set(other_model.nodes) and model.edges == other_model.edges
    assert (graph == other_graph) is same
    assert (hash(graph) == hash(other_graph)) is same


@given(_changes, st.sets(_names))
def test_subgraph_equals_networkx(changes, names):
    graph, model = PageGraph(), Model()
    for what, argument in changes:
        graph, model = _apply(graph, model, what, argument)
    kept = [name for name in model.nodes if name in names]
    edges = {edge for edge in model.edges if names.issuperset(edge[:2])}
    _check(graph.subgraph(kept[::-1]), Model(kept, edges))


@given(_changes, st.none() | _kinds)
def test_closure_equals_networkx(changes, kind):
    graph, model = PageGraph(), Model()
    for what, argument in changes:
        graph, model = _apply(graph, model, what, argument)
    peer = nx.transitive_closure_dag(model.to_networkx(kind))
    edges = {(parent, child, kind or "data") for parent, child in peer.edges}
    _check(graph.closure(kind), Model(model.nodes, edges))


@given(_changes, st.lists(_names, min_size=1))
def test_reach_of_several_nodes_is_the_union_of_that_of_each(changes, names):
    graph, model = PageGraph(), Model()
    for what, argument in changes:
        graph, model = _apply(graph, model, what, argument)
    names = [name for name in names if name in graph]
    peer = model.to_networkx()
    below = set().union(*(nx.descendants(peer, name) for name in names))
    above = set().union(*(nx.ancestors(peer, name) for name in names))
    assert graph.descendants(names) == tuple(name for name in graph.order() if name in below)
    assert graph.ancestors(iter(names)) == tuple(name for name in graph.order() if name in above)
