"""The graph's rules: what is added, removed, asked, refused and said."""

import copy
import itertools
import pickle
import subprocess
import sys

import pytest

from mmsb_jax._base.errors import ArrayNotFoundError, GraphCycleError, MMSBError
from mmsb_jax._graph import PageGraph


def _chain(*names: str) -> list[tuple[str, str]]:
    return list(itertools.pairwise(names))


def test_graph_module_imports_neither_jax_nor_graph_libraries():
    code = """
import sys
import mmsb_jax._graph.dag.graph as module
module.PageGraph().add("a", "b").order()
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"jax", "jaxlib", "equinox", "networkx", "rustworkx", "scipy"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_graph_that_is_empty_answers_everything():
    graph = PageGraph()
    assert (len(graph), graph.edge_count, graph.depth) == (0, 0, 0)
    assert graph.nodes == graph.roots == graph.leaves == graph.order() == ()
    assert graph.levels() == {}
    assert graph.descendants([]) == graph.ancestors([]) == ()
    assert graph.to_edges() == []
    assert graph == PageGraph.from_edges([]) == graph.extend([]) == graph.closure()
    assert repr(graph) == "PageGraph(0 nodes, 0 edges, depth 0)"


def test_add_of_an_edge_that_exists_changes_nothing():
    graph = PageGraph().add("a", "b")
    again = graph.add("a", "b")
    assert again == graph
    assert again.edge_count == 1


def test_add_of_a_second_kind_keeps_both_and_remove_takes_one():
    graph = PageGraph().add("a", "b", kind="compiler").add("a", "b")
    assert graph.kinds("a", "b") == ("data", "compiler")
    assert graph.edge_count == 2
    assert graph.remove("a", "b", kind="data").kinds("a", "b") == ("compiler",)
    assert graph.remove("a", "b").kinds("a", "b") == ()
    assert graph.remove("a", "b").nodes == ("a", "b")


def test_cycle_over_edges_of_other_kinds_is_refused_and_shown():
    graph = PageGraph().add("a", "b", kind="control").add("b", "c", kind="compiler")
    with pytest.raises(GraphCycleError) as refused:
        graph.add("c", "a", kind="device_sync")
    assert str(refused.value) == (
        "the edge c → a closes the cycle a → b → c → a. Expected edges that lead from what is "
        "read to what is made of it: leave out one of them, or turn it around."
    )
    assert isinstance(refused.value, MMSBError)
    assert graph.to_edges() == [("a", "b", "control"), ("b", "c", "compiler")]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PageGraph().add("a", "a"),
        lambda: PageGraph().extend([("a", "a")]),
        lambda: PageGraph.from_edges([("b", "a"), ("a", "a")]),
    ],
)
def test_edge_from_a_node_to_itself_is_refused(make):
    with pytest.raises(GraphCycleError, match="the edge a → a closes the cycle a → a"):
        make()


def test_cycle_found_from_either_side_is_shown_in_the_same_way():
    """The search with fewer edges ends first: here what follows, there what comes before."""
    path = [("a", "b"), ("b", "c"), ("c", "d")]
    wide = [("d", f"leaf{i}") for i in range(20)]
    high = [(f"root{i}", "a") for i in range(20)]
    for more in (wide, high):
        graph = PageGraph.from_edges(path + more)
        with pytest.raises(GraphCycleError, match="closes the cycle a → b → c → d → a"):
            graph.add("d", "a")


def test_cycle_of_many_nodes_is_shown_by_its_ends():
    graph = PageGraph.from_edges(_chain(*(f"n{i}" for i in range(1000))))
    with pytest.raises(GraphCycleError) as refused:
        graph.add("n999", "n0")
    message = str(refused.value)
    assert "the cycle n0 → n1 → " in message
    assert " → … 901 more … → " in message
    assert " → n999 → n0. " in message
    assert message.count("→") == 1 + 100


def test_extend_that_closes_a_cycle_adds_nothing():
    graph = PageGraph.from_edges(_chain(*"abcdefghijkl"))
    with pytest.raises(GraphCycleError, match="c → d → c"):
        graph.extend([("x", "y"), ("d", "c")])
    assert "x" not in graph
    with pytest.raises(GraphCycleError, match=r"c → d → c|d → c → d"):
        graph.extend([("x", f"y{i}") for i in range(50)] + [("d", "c")])
    assert "x" not in graph


def test_extend_by_few_and_by_many_edges_keeps_the_order_of_add():
    graph = PageGraph.from_edges(_chain(*"abcdefghijkl"))
    for count in (1, 2, 40):
        edges = [("z", f"n{i}") for i in range(count)] + [("n0", "y")]
        one_by_one = graph
        for edge in edges:
            one_by_one = one_by_one.add(*edge)
        assert graph.extend(edges) == one_by_one
        assert graph.extend(edges).nodes == one_by_one.nodes


def test_extend_gives_edges_without_a_kind_the_kind_named():
    graph = PageGraph().extend([("a", "b"), ("b", "c", "data")], kind="control")
    assert graph.to_edges() == [("a", "b", "control"), ("b", "c", "data")]


def test_raised_levels_are_the_longest_of_several_paths():
    """What raises a node last is not what raises it most."""
    graph = PageGraph.from_edges(
        [
            *_chain("p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "u"),
            *_chain("v", "a", "b", "x"),
            *_chain("q0", "q1", "q2", "q3", "c", "x"),
            ("v", "c"),
        ]
    )
    graph = graph.add("u", "v")
    assert [graph.level(name) for name in "uvabcx"] == [10, 11, 12, 13, 12, 14]


def test_levels_below_a_node_that_moved_down_to_its_own_level_are_right():
    graph = PageGraph.from_edges(
        [
            *_chain("r0", "r1", "r2", "r3", "r4", "w", "y"),
            *_chain("s", "t", "w"),
            *_chain("k0", "k1", "k2", "z"),
            *(("z", f"leaf{i}") for i in range(5)),
        ]
    )
    graph = graph.remove("r4", "w").add("w", "z")
    assert [graph.level(name) for name in ("w", "y", "z", "leaf0")] == [2, 3, 3, 4]


def test_levels_of_old_graphs_stay_after_new_ones_are_asked():
    old = PageGraph().add("b", "c")
    new = old.add("a", "b")
    newest = new.add("z", "a")
    assert newest.levels() == {"z": 0, "a": 1, "b": 2, "c": 3}
    assert new.levels() == {"a": 0, "b": 1, "c": 2}
    assert old.levels() == {"b": 0, "c": 1}


def test_node_that_is_added_again_comes_last():
    graph = PageGraph.from_edges([("a", "b"), ("c", "d")])
    again = graph.remove_node("a").add("a", "b")
    assert again.nodes == ("b", "c", "d", "a")
    assert again == graph
    assert again.remove_node("a").nodes == ("b", "c", "d")


def test_descendants_of_a_name_include_it_only_where_another_leads_to_it():
    graph = PageGraph.from_edges(_chain(*"abc"))
    assert graph.descendants("a") == ("b", "c")
    assert graph.descendants(["a", "b"]) == ("b", "c")
    assert graph.descendants(name for name in "ac") == ("b", "c")
    assert graph.ancestors(["b", "c"]) == ("a", "b")


def test_descendants_of_a_kind_follow_no_other():
    graph = PageGraph.from_edges([("a", "b"), ("b", "c", "control"), ("c", "d")])
    assert graph.descendants("a", kind="data") == ("b",)
    assert graph.descendants("b", kind="control") == ("c",)


@pytest.mark.parametrize(
    "ask",
    [
        lambda g: g.parents("weight"),
        lambda g: g.children("weight"),
        lambda g: g.level("weight"),
        lambda g: g.ancestors(["bias", "weight"]),
        lambda g: g.descendants("weight"),
        lambda g: g.subgraph(["weight"]),
        lambda g: g.remove("weight", "bias"),
        lambda g: g.remove("bias", "weight"),
        lambda g: g.kinds("bias", "weight"),
        lambda g: g.remove_node("weight"),
    ],
)
def test_name_that_no_node_has_is_refused_with_those_near_it(ask):
    graph = PageGraph.from_edges([("weights", "bias")])
    with pytest.raises(ArrayNotFoundError) as refused:
        ask(graph)
    assert str(refused.value) == ("no node of the graph is named 'weight'. Did you mean 'weights'?")


def test_name_asked_of_an_empty_graph_is_refused():
    with pytest.raises(ArrayNotFoundError, match=r"named 'a'\. The graph is empty."):
        PageGraph().parents("a")


def test_remove_of_an_edge_that_there_is_not_says_what_there_is():
    graph = PageGraph.from_edges([("a", "b"), ("a", "c")])
    for edge, said in (
        (("b", "c"), "no edge leads from 'b' to 'c'. No edge leads from 'b'."),
        (("a", "a"), "no edge leads from 'a' to 'a'. Edges lead from 'a' to 'b', 'c'."),
        (
            ("a", "b", "control"),
            "no edge of kind 'control' leads from 'a' to 'b'. What leads there is of kind 'data'.",
        ),
    ):
        with pytest.raises(ArrayNotFoundError) as refused:
            graph.remove(*edge)
        assert str(refused.value) == said


@pytest.mark.parametrize(
    "ask",
    [
        lambda g: g.add("a", "b", kind="date"),
        lambda g: g.add("a", "b", kind=None),
        lambda g: g.add("a", "b", kind=["data"]),
        lambda g: g.remove("a", "b", kind="date"),
        lambda g: g.extend([("a", "b", "date")]),
        lambda g: g.extend([], kind="date"),
        lambda g: g.edges(kind="date"),
        lambda g: g.parents("a", kind="date"),
        lambda g: g.descendants("a", kind="date"),
        lambda g: g.closure(kind="date"),
        lambda g: PageGraph.from_edges([], kind="date"),
    ],
)
def test_kind_that_there_is_not_is_refused(ask):
    with pytest.raises(ValueError, match="expected one of 'data', 'control', 'device_sync', 'comp"):
        ask(PageGraph().add("a", "b"))


@pytest.mark.parametrize("name", [1, None, b"a", ("a",)])
def test_name_that_is_no_string_is_refused(name):
    for make in (
        lambda: PageGraph().add(name, "b"),
        lambda: PageGraph().add("b", name),
        lambda: PageGraph().add_node(name),
        lambda: PageGraph().parents(name),
        lambda: PageGraph().extend([("a", name)]),
        lambda: PageGraph.from_edges([], nodes=[name]),
    ):
        with pytest.raises(TypeError, match="expected the name of a node, a string"):
            make()
    assert name not in PageGraph().add("a", "b")


def test_name_that_is_empty_is_refused():
    for make in (
        lambda: PageGraph().add("", "b"),
        lambda: PageGraph().add_node(""),
        lambda: PageGraph.from_edges([("a", "")]),
        lambda: PageGraph.from_edges([], nodes=[""]),
    ):
        with pytest.raises(ValueError, match="the name of a node is empty"):
            make()


def test_graph_is_not_equal_to_something_else():
    assert PageGraph() != ()
    assert PageGraph().add("a", "b") != PageGraph().add("a", "b", kind="control")
    assert PageGraph().add("a", "b") != PageGraph().add("b", "a")
    assert PageGraph().add_node("a") != PageGraph().add_node("b")


def test_graph_takes_no_new_attribute():
    with pytest.raises(AttributeError):
        PageGraph().colour = "red"


def test_graph_copied_and_pickled_is_equal_and_in_order():
    graph = PageGraph().add("b", "c", kind="control").add("a", "b").add_node("z")
    for twin in (copy.copy(graph), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert twin == graph
        assert twin.nodes == graph.nodes
        assert twin.order() == graph.order()
