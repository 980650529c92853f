"""A graph as text, and as SVG with its levels as columns."""

import html
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

from mmsb_jax._base.arguments import check_size
from mmsb_jax._graph.dag.kinds import KINDS

_MOST_PARENTS = 8
"""Parents that a line of text names where the number of lines is limited."""


class Drawable(Protocol):
    """What is drawn: a `PageGraph`."""

    @property
    def edge_count(self) -> int: ...

    @property
    def depth(self) -> int: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...

    def order(self) -> tuple[str, ...]: ...

    def level(self, name: str) -> int: ...

    def parents(self, name: str) -> tuple[str, ...]: ...

    def children(self, name: str) -> tuple[str, ...]: ...

    def kinds(self, parent: str, child: str) -> tuple[str, ...]: ...

    def edges(self) -> Iterator[tuple[str, str, str]]: ...

    def levels(self) -> dict[str, int]: ...


def counts(graph: Drawable) -> str:
    """``4 nodes, 1 edge``."""
    return f"{_count(len(graph), 'node')}, {_count(graph.edge_count, 'edge')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _printable(name: str) -> str:
    # A name may hold what a terminal acts on, or what XML has no way to write.
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def text(graph: Drawable, limit: int | None) -> str:
    """A node a line, by level, with its parents; at most ``limit`` nodes."""
    if limit is not None:
        check_size("limit", limit)
    title = f"PageGraph: {counts(graph)}, {_count(graph.depth, 'level')}"
    shown = graph.order()[:limit]
    width = len(str(max(graph.depth - 1, 0)))
    most = None if limit is None else _MOST_PARENTS
    lines, last = [title], None
    for name in shown:
        level = graph.level(name)
        margin = "" if level == last else str(level)
        lines.append(f"{margin:>{width}}  {_printable(name)}{_parents(graph, name, most)}")
        last = level
    if len(shown) < len(graph):
        lines.append(f"{'':>{width}}  … and {_count(len(graph) - len(shown), 'node')} more")
    return "\n".join(lines)


def _parents(graph: Drawable, name: str, most: int | None) -> str:
    parents = graph.parents(name)
    if not parents:
        return ""
    shown = []
    for parent in parents[:most]:
        kinds = graph.kinds(parent, name)
        note = "" if kinds == ("data",) else f" ({', '.join(kinds)})"
        shown.append(_printable(parent) + note)
    if len(shown) < len(parents):
        shown.append(f"… {len(parents) - len(shown):,} more")
    return " ← " + ", ".join(shown)


_MOST_DRAWN = 120
"""Nodes that are drawn one by one."""

_MOST_PLACES = 1_000
"""Places that the edges may pass through in a drawing of single nodes."""

_MOST_BARS = 40
"""Bars of the summary of a large graph."""

_SWEEPS = 4
"""Times that the nodes of each level are sorted by where their neighbours lie."""

_LETTER, _ROW, _LANE, _GAP, _BOX, _MARGIN = 7.3, 36, 16, 64, 24, 12
"""Pixels: width of a letter; height of the place of a node, and of an edge that passes; between
columns; height of a box; around it all."""

_LEGEND = 132
"""Pixels of each kind in the legend."""

_MOST_LETTERS = 28
"""Letters of a name that are drawn; its title has all."""

_DASHES = dict(zip(KINDS, ("none", "6 4", "2 3", "9 3 2 3"), strict=True))


def svg(graph: Drawable) -> str:
    """The graph as SVG: columns are levels, strokes are kinds; a large graph as bars.

    Colours are those of the text around it, so that it can be read on any ground.
    """
    if not len(graph):
        return _document(150, 40, [_text(_MARGIN, 24, "empty PageGraph")])
    if len(graph) <= _MOST_DRAWN:
        columns, routes = _columns(graph)
        if sum(map(len, columns)) <= _MOST_PLACES:
            return _drawing(graph, columns, routes)
    return _bars(graph)


class _Place(NamedTuple):
    """Where a node lies in its column, or where an edge passes through one."""

    parent: str
    child: str | None = None
    column: int = 0


_Route = tuple[str, str, list[_Place]]


def _columns(graph: Drawable) -> tuple[list[list[_Place]], list[_Route]]:
    """The places of each level, and the places that each edge leads through.

    Layered drawing after Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of
    Hierarchical System Structures", 1981: an edge over several levels takes a place in each, and
    places are sorted by the mean place of their neighbours.
    """
    levels = graph.levels()
    columns: list[list[_Place]] = [[] for _ in range(graph.depth)]
    for name, level in levels.items():
        columns[level].append(_Place(name, None, level))
    routes: list[_Route] = []
    for parent in graph:
        for child in graph.children(parent):
            inner = [_Place(parent, child, at) for at in range(levels[parent] + 1, levels[child])]
            for place in inner:
                columns[place.column].append(place)
            ends = _Place(parent, None, levels[parent]), _Place(child, None, levels[child])
            routes.append((parent, child, [ends[0], *inner, ends[1]]))
    left: dict[_Place, list[_Place]] = defaultdict(list)
    right: dict[_Place, list[_Place]] = defaultdict(list)
    for _, _, places in routes:
        for one, other in pairwise(places):
            right[one].append(other)
            left[other].append(one)
    for _ in range(_SWEEPS):
        for column, before in zip(columns[1:], columns, strict=False):
            _sort_beside(column, before, left)
        for column, before in zip(columns[-2::-1], columns[:0:-1], strict=False):
            _sort_beside(column, before, right)
    return columns, routes


def _sort_beside(
    column: list[_Place], before: list[_Place], neighbours: dict[_Place, list[_Place]]
) -> None:
    position = {place: i / len(before) for i, place in enumerate(before)}
    own = {place: i / len(column) for i, place in enumerate(column)}

    def mean(place: _Place) -> float:
        found = [position[neighbour] for neighbour in neighbours[place]]
        return sum(found) / len(found) if found else own[place]

    column.sort(key=mean)


class _Geometry(NamedTuple):
    """Pixels: the left and right edge of each column, the middle of each place, the whole."""

    lefts: list[float]
    rights: list[float]
    middles: dict[_Place, float]
    width: float
    height: float


def _geometry(columns: list[list[_Place]], labels: dict[str, str]) -> _Geometry:
    rows = [[_LANE if place.child else _ROW for place in column] for column in columns]
    height = max(map(sum, rows))
    lefts, rights, middles = [], [], {}
    right = float(_MARGIN - _GAP)
    for column, heights in zip(columns, rows, strict=True):
        lefts.append(right + _GAP)
        letters = max(len(labels[place.parent]) for place in column if not place.child)
        right = lefts[-1] + letters * _LETTER + 16
        rights.append(right)
        top = _MARGIN + (height - sum(heights)) / 2
        for place, row in zip(column, heights, strict=True):
            middles[place] = top + row / 2
            top += row
    return _Geometry(lefts, rights, middles, right + _MARGIN, height + 2 * _MARGIN)


def _drawing(graph: Drawable, columns: list[list[_Place]], routes: list[_Route]) -> str:
    labels = {name: _shortened(name) for name in graph}
    lefts, rights, middles, width, height = _geometry(columns, labels)
    parts = []
    for parent, child, places in routes:
        kinds = graph.kinds(parent, child)
        for i, kind in enumerate(kinds):
            shift = 5 * (i - (len(kinds) - 1) / 2)
            points = [(lefts[p.column], rights[p.column], middles[p] + shift) for p in places]
            parts.append(_curve(points, kind, f"{parent} → {child} ({kind})"))
    for place, middle in middles.items():
        if not place.child:
            left, right = lefts[place.column], rights[place.column]
            parts.append(_box(left, middle, right - left, place.parent, labels[place.parent]))
    used = {kind for _, _, kind in graph.edges()}
    if used - {"data"}:
        parts += _legend([kind for kind in KINDS if kind in used], height)
        width, height = max(width, _LEGEND * len(used)), height + 24
    return _document(width, height, parts)


def _curve(points: list[tuple[float, float, float]], kind: str, title: str) -> str:
    """An edge with its head: straight through columns, bent between them."""
    _, x, y = points[0]
    steps = [f"M{x:.1f} {y:.1f}"]
    for left, right, to in points[1:]:
        half = (x + left) / 2
        steps.append(f"C{half:.1f} {y:.1f} {half:.1f} {to:.1f} {left:.1f} {to:.1f}")
        steps.append(f"H{right:.1f}")
        x, y = right, to
    end = points[-1][0]
    return (
        f'<g stroke-opacity="0.6"><title>{_escaped(title)}</title>'
        f'<path d="{"".join(steps[:-1])}" stroke-dasharray="{_DASHES[kind]}"/>'
        f'<path d="M{end - 7:.1f} {y - 4:.1f}L{end:.1f} {y:.1f}L{end - 7:.1f} {y + 4:.1f}"/></g>'
    )


def _box(x: float, y: float, width: float, name: str, label: str) -> str:
    return (
        f"<g><title>{_escaped(name)}</title>"
        f'<rect x="{x:.1f}" y="{y - _BOX / 2:.1f}" width="{width:.1f}" height="{_BOX}" rx="5"/>'
        f"{_text(x + width / 2, y + 4, label, 'middle')}</g>"
    )


def _legend(kinds: Iterable[str], y: float) -> list[str]:
    parts = []
    for i, kind in enumerate(kinds):
        x = _MARGIN + _LEGEND * i
        parts.append(f'<path d="M{x} {y:.1f}h28" stroke-dasharray="{_DASHES[kind]}"/>')
        parts.append(_text(x + 34, y + 4, kind))
    return parts


def _bars(graph: Drawable) -> str:
    """How many nodes each level has, several levels a bar where there are many."""
    widths = [0] * graph.depth
    for level in graph.levels().values():
        widths[level] += 1
    step = -(-len(widths) // _MOST_BARS)
    most = max(sum(widths[first : first + step]) for first in range(0, len(widths), step))
    parts = [_text(_MARGIN, 24, f"{counts(graph)}, {_count(graph.depth, 'level')}")]
    y = 34
    for first in range(0, len(widths), step):
        last = min(first + step, len(widths)) - 1
        nodes = sum(widths[first : last + 1])
        named = f"{first}" if first == last else f"{first}–{last}"
        parts.append(_text(140, y + 11, f"level {named}", "end"))
        length = max(300 * nodes / most, 1)
        parts.append(f'<rect x="148" y="{y}" width="{length:.1f}" height="13" rx="2"/>')
        parts.append(_text(154 + length, y + 11, f"{nodes:,}"))
        y += 18
    return _document(540, y + _MARGIN, parts)


def _shortened(name: str) -> str:
    name = _printable(name)
    if len(name) <= _MOST_LETTERS:
        return name
    # The end of a path tells more than its beginning.
    return f"{name[:8]}…{name[9 - _MOST_LETTERS :]}"


def _escaped(name: str) -> str:
    return html.escape(_printable(name))


def _text(x: float, y: float, shown: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" '
        f'stroke="none">{_escaped(shown)}</text>'
    )


def _document(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, monospace" '
        f'font-size="12" fill="none" stroke="currentColor">{"".join(parts)}</svg>'
    )
