"""Deep and wide graphs: no recursion, and no work that grows with what is not affected."""

import random

import pytest

from mmsb_jax._base.errors import GraphCycleError
from mmsb_jax._graph import PageGraph
from mmsb_jax._graph.dag.records import Records

DEEP, WIDE = 12_000, 100_000


def _one_by_one(edges) -> PageGraph:
    graph = PageGraph()
    for parent, child in edges:
        graph = graph.add(parent, child)
    return graph


_DEEP_EDGES = [(f"n{i}", f"n{i + 1}") for i in range(DEEP)]


@pytest.mark.parametrize("way", ["forwards", "backwards", "shuffled", "bulk"])
def test_deep_chain_has_its_levels_whichever_way_it_was_built(way):
    edges = list(_DEEP_EDGES)
    if way == "shuffled":
        random.Random(0).shuffle(edges)
    if way == "backwards":
        edges.reverse()
    graph = PageGraph.from_edges(edges) if way == "bulk" else _one_by_one(edges)
    order = tuple(f"n{i}" for i in range(DEEP + 1))
    assert graph.order() == order
    assert graph.depth == DEEP + 1
    assert graph.descendants("n0") == order[1:]
    assert graph.ancestors(f"n{DEEP}") == order[:-1]
    with pytest.raises(GraphCycleError, match=f"n{DEEP} → n0"):
        graph.add(f"n{DEEP}", "n0")
    cut = graph.remove(f"n{DEEP // 2}", f"n{DEEP // 2 + 1}")
    assert cut.depth == DEEP // 2 + 1
    assert graph.remove_node("n1").level(f"n{DEEP}") == DEEP - 2


def test_deep_chain_survives_hashing_comparison_and_drawing():
    graph = PageGraph.from_edges(_DEEP_EDGES)
    other = PageGraph.from_edges(_DEEP_EDGES[::-1])
    assert graph == other
    assert hash(graph) == hash(other)
    assert len(graph.draw().splitlines()) == DEEP + 2
    assert len(str(graph).splitlines()) == 102
    assert len(graph._repr_svg_()) < 20_000


@pytest.mark.parametrize("wide", [WIDE // 5, pytest.param(WIDE, marks=pytest.mark.long)])
@pytest.mark.parametrize("way", ["one by one", "bulk"])
def test_wide_fan_out_is_built_asked_and_taken_apart(way, wide):
    names = tuple(f"n{i}" for i in range(wide))
    edges = [("hub", name) for name in names]
    graph = _one_by_one(edges) if way == "one by one" else PageGraph.from_edges(edges)
    assert graph.children("hub") == graph.descendants("hub") == graph.leaves == names
    assert graph.parents("n7") == ("hub",)
    assert graph.depth == 2
    more = graph.add("root", "hub").add("hub", "more")
    assert more.level("n7") == 2
    assert len(more.children("hub")) == wide + 1
    assert graph.level("n7") == 1
    assert graph.remove_node("hub").roots == names


def test_wide_fan_in_is_drained_edge_by_edge():
    graph = PageGraph.from_edges([(f"n{i}", "sum") for i in range(WIDE)])
    for i in range(1000):
        graph = graph.remove(f"n{i}", "sum")
        assert graph.level("sum") == 1
    assert len(graph.parents("sum")) == WIDE - 1000


def _count_visits(monkeypatch, change) -> int:
    """Nodes whose neighbours or label were looked at while something was changed."""
    visits = 0

    class Counted(Records):
        __slots__ = ()

    for name in ("label", "parents", "children", "node"):

        def counted(self, *args, _run=getattr(Records, name)):
            nonlocal visits
            visits += 1
            return _run(self, *args)

        monkeypatch.setattr(Records, name, counted)
    change()
    monkeypatch.undo()
    return visits


@pytest.mark.parametrize("size", [100, 10_000])
def test_add_and_remove_visit_only_what_is_affected(monkeypatch, size):
    """A change at a chain's end, beside other chains: as many visits whatever the size."""
    edges = [(f"{c}{i}", f"{c}{i + 1}") for c in "abc" for i in range(size)]
    graph = PageGraph.from_edges(edges)
    last = f"a{size}"

    def change():
        new = graph.add(last, "b_new").add("top", "b_new").add("d0", "d1").add("d1", f"c{size}")
        new = new.add(last, f"b{size}").remove(last, f"b{size}")
        new = new.remove(f"a{size - 1}", last).remove_node("top").add(last, "z")
        assert new.level("z") == 1
        assert new.level("b_new") == 1

    assert _count_visits(monkeypatch, change) < 150


def test_edge_against_the_labels_moves_the_smaller_side(monkeypatch):
    """Joining a short chain below a long one, and a long one below a short one."""
    short = [(f"s{i}", f"s{i + 1}") for i in range(3)]
    long = [(f"l{i}", f"l{i + 1}") for i in range(5_000)]
    graph = PageGraph.from_edges(short + long)
    assert _count_visits(monkeypatch, lambda: graph.add("l5000", "s0")) < 60
    assert _count_visits(monkeypatch, lambda: graph.add("s3", "l0")) < 60
    assert graph.add("s3", "l0").level("l5000") == 5_004
