"""Drawings: every name is there, nothing in a name acts, and large graphs are summarised."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._graph import PageGraph
from mmsb_jax._graph.dag.kinds import KINDS

_SVG = "{http://www.w3.org/2000/svg}"

_graphs = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 11), st.sampled_from(KINDS)).filter(
        lambda e: e[0] < e[1]
    ),
    max_size=30,
).map(lambda edges: PageGraph.from_edges([(f"n{a}", f"n{b}", k) for a, b, k in edges]))


def _parse(graph: PageGraph) -> ElementTree.Element:
    return ElementTree.fromstring(graph._repr_svg_())


def _titles(root: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in root.iter(f"{_SVG}title")]


@given(_graphs)
def test_text_of_a_graph_names_every_node_once_with_its_parents(graph):
    lines = graph.draw().splitlines()
    assert lines[0].startswith(f"PageGraph: {len(graph)} node")
    level, found = 0, []
    for line in lines[1:]:
        margin, name, parents = re.fullmatch(r"(.{1,2})  (\w+)(?: ← (.*))?", line).groups()
        level = int(margin) if margin.strip() else level
        found.append(name)
        assert graph.level(name) == level
        named = re.sub(r" \([^)]*\)", "", parents).split(", ") if parents else []
        assert tuple(named) == graph.parents(name)
    assert tuple(found) == graph.order()


def test_text_of_a_graph_says_kinds_other_than_data():
    graph = PageGraph.from_edges(
        [("a", "b"), ("a", "c", "control"), ("b", "c"), ("b", "c", "compiler")]
    )
    assert graph.draw() == (
        "PageGraph: 3 nodes, 4 edges, 3 levels\n"
        "0  a\n"
        "1  b ← a\n"
        "2  c ← a (control), b (data, compiler)"
    )
    assert str(graph) == graph.draw()


def test_text_of_an_empty_graph_is_its_title():
    assert str(PageGraph()) == "PageGraph: 0 nodes, 0 edges, 0 levels"


def test_text_with_a_limit_says_how_many_nodes_and_parents_are_left_out():
    graph = PageGraph.from_edges([(f"n{i}", "sum") for i in range(20)])
    lines = graph.draw(limit=3).splitlines()
    assert lines[1:] == ["0  n0", "   n1", "   n2", "   … and 18 nodes more"]
    assert graph.draw(limit=21).splitlines()[-1] == (
        "1  sum ← n0, n1, n2, n3, n4, n5, n6, n7, … 12 more"
    )
    assert len(str(PageGraph.from_edges([], map(str, range(500)))).splitlines()) == 102


def test_text_aligns_levels_of_several_digits():
    graph = PageGraph.from_edges([(f"n{i}", f"n{i + 1}") for i in range(11)])
    assert graph.draw().splitlines()[1:3] == [" 0  n0", " 1  n1 ← n0"]
    assert graph.draw().splitlines()[-1] == "11  n11 ← n10"


@given(_graphs)
def test_svg_of_a_graph_has_a_box_a_node_and_a_line_an_edge(graph):
    root = _parse(graph)
    titles = _titles(root)
    edges = [f"{parent} → {child} ({kind})" for parent, child, kind in graph.edges()]
    assert sorted(titles) == sorted([*graph.nodes, *edges])
    shown = [text.text for text in root.iter(f"{_SVG}text")]
    assert set(graph.nodes) <= set(shown)
    assert len(list(root.iter(f"{_SVG}rect"))) == len(graph)


@given(_graphs)
def test_svg_of_a_graph_keeps_everything_inside_and_boxes_apart(graph):
    root = _parse(graph)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{_SVG}rect")
    ]
    for at, (x, y, wide, high) in enumerate(boxes):
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
        for x2, y2, wide2, high2 in boxes[:at]:
            apart = x + wide <= x2 or x2 + wide2 <= x or y + high <= y2 or y2 + high2 <= y
            assert apart
    if graph.edge_count:
        # Levels go from left to right.
        named = dict(zip([t for t in _titles(root) if "→" not in t], boxes, strict=True))
        for parent, child, _ in graph.edges():
            assert named[parent][0] + named[parent][2] < named[child][0]


def test_svg_strokes_kinds_in_different_ways_and_explains_them():
    graph = PageGraph.from_edges([("a", "b", kind) for kind in KINDS])
    root = _parse(graph)
    strokes = {p.attrib["stroke-dasharray"] for p in root.iter(f"{_SVG}path") if len(p.attrib) == 2}
    assert len(strokes) == len(KINDS)
    shown = [text.text for text in root.iter(f"{_SVG}text")]
    assert shown[-4:] == list(KINDS)
    plain = _parse(PageGraph().add("a", "b"))
    assert [text.text for text in plain.iter(f"{_SVG}text")] == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '" onload="alert(1)',
        "a & b",
        "'quoted'",
        "bell\x07",
        "clear\x1b[2J",
        "line\nbreak",
        "null\x00",
        "\ud800 alone",
        "right\u202eleft",
        "größe/ü",
    ],
)
def test_drawings_escape_what_a_name_holds(name):
    graph = PageGraph().add(name, "plain").add("root", name)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    for root in (_parse(graph), _parse(graph.extend([(name, f"n{i}") for i in range(200)]))):
        assert {element.tag for element in root.iter()} <= {
            f"{_SVG}{tag}" for tag in ("svg", "g", "title", "text", "rect", "path")
        }
        assert not [key for element in root.iter() for key in element.attrib if "on" in key[:2]]
    assert shown in _titles(_parse(graph))
    text = graph.draw()
    assert text.count("\n") == 3
    assert f"{shown} ← root" in text
    assert all(c.isprintable() for c in text.replace("\n", ""))


def test_svg_of_a_long_name_shows_both_ends_and_has_all_of_it():
    name = "params/layers/0/attention/query/kernel/weight"
    root = _parse(PageGraph().add_node(name))
    assert _titles(root) == [name]
    assert [text.text for text in root.iter(f"{_SVG}text")] == ["params/l…query/kernel/weight"]


def test_svg_of_an_empty_graph_says_so():
    assert [text.text for text in _parse(PageGraph()).iter(f"{_SVG}text")] == ["empty PageGraph"]


@pytest.mark.parametrize(
    ("edges", "levels", "bars"),
    [
        ([("hub", f"n{i}") for i in range(5_000)], 2, 2),
        ([(f"n{i}", f"n{i + 1}") for i in range(5_000)], 5_001, 40),
        # Few nodes, and edges over so many levels that they would fill the drawing.
        ([(f"n{i}", f"n{j}") for i in range(60) for j in range(i + 1, 60)], 60, 30),
    ],
)
def test_svg_of_a_large_graph_is_a_bar_for_some_levels(edges, levels, bars):
    root = _parse(PageGraph.from_edges(edges))
    shown = [text.text for text in root.iter(f"{_SVG}text")]
    assert shown[0].endswith(f" edges, {levels:,} levels")
    assert len(list(root.iter(f"{_SVG}rect"))) == bars
    counted = sum(int(text.replace(",", "")) for text in shown[1:] if text[0].isdigit())
    assert counted == len({name for edge in edges for name in edge})
