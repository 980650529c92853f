"""A whole graph at once: edges as callers list them, numbered, levelled and checked in arrays."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from rpds import HashTrieMap

from mmsb_jax._graph.dag.kinds import ALL_KINDS, check_name, each, mask_of
from mmsb_jax._graph.dag.refusals import cycle_error

_WIDE = 128
"""Nodes of a level from which on array operations are faster than a loop."""

_MOST_COPIED = 64
"""Neighbours up to which copying a dict to change it costs less than a persistent map."""

Links: TypeAlias = "dict[int, int] | HashTrieMap[int, int]"
"""Neighbours of a node, and the kinds of the edges to them. A dict is copied to be changed."""


class Listing(NamedTuple):
    """Edges with their nodes numbered, in the order in which the nodes are to be kept.

    Attributes:
        numbers: the number of each node's name, from 0 on, in order.
        parents, children: int64[edges], numbers of nodes.
        masks: uint8[edges], the kinds of each edge; edges may come several times.
    """

    numbers: dict[str, int]
    parents: np.ndarray
    children: np.ndarray
    masks: np.ndarray


class Adjacency(NamedTuple):
    """The neighbours of every node, on one side: those of ``n`` lie in
    ``ends[starts[n]:starts[n + 1]]``, in ascending order, each with its kinds in ``masks``."""

    starts: list[int]
    ends: list[int]
    masks: bytes
    made: dict[int, Links]

    def of(self, number: int, mask: int = ALL_KINDS) -> list[int]:
        """The neighbours of a node that an edge with a kind in ``mask`` leads to."""
        begin, end = self.starts[number], self.starts[number + 1]
        if mask == ALL_KINDS:
            return self.ends[begin:end]
        pairs = zip(self.ends[begin:end], self.masks[begin:end], strict=True)
        return [neighbour for neighbour, kinds in pairs if kinds & mask]

    def links(self, number: int) -> Links:
        """The neighbours of a node, and the kinds of the edges to them."""
        begin, end = self.starts[number], self.starts[number + 1]
        made = self.made.get(number)
        if made is None:
            pairs = zip(self.ends[begin:end], self.masks[begin:end], strict=True)
            made = compact(dict(pairs))
            if end - begin > _MOST_COPIED:
                # Once: every graph made from this one may start here.
                self.made[number] = made
        return made


def compact(links: dict[int, int]) -> Links:
    """``links`` as they are kept: persistent where they are many."""
    return links if len(links) <= _MOST_COPIED else HashTrieMap.convert(links)


class Base(NamedTuple):
    """A graph that does not change: nodes are numbered from 0 in the order they were given.

    Attributes:
        names: the name of each node.
        numbers: the number of each name.
        levels: the level of each node.
        parents, children: the neighbours of each node.
        edges: how many edges there are; several kinds between two nodes count each.
    """

    names: list[str]
    numbers: dict[str, int]
    levels: list[int]
    parents: Adjacency
    children: Adjacency
    edges: int


EMPTY = Base([], {}, [], Adjacency([0], [], b"", {}), Adjacency([0], [], b"", {}), 0)
"""The base of a graph that was made edge by edge."""


def build(listing: Listing) -> Base:
    """The graph of ``listing``: duplicate edges merged, levels found.

    Cost: two sorts of the edges, and one visit of each node and edge.
    """
    names = list(listing.numbers)
    parents, children, masks = _merged(len(names), *listing[1:])
    down = _Rows.of(len(names), parents, children)
    by_child = _stable_order(children, len(names))
    up = _Rows.of(len(names), children[by_child], parents[by_child])
    levels, waiting = _levels(down, np.diff(up.starts))
    above = up.listed(masks[by_child])
    if any(waiting):
        raise cycle_error([names[number] for number in _cycle(above, waiting)])
    edges = int(np.bitwise_count(masks).sum())
    return Base(names, listing.numbers, levels, above, down.listed(masks), edges)


def _merged(
    nodes: int, parents: np.ndarray, children: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges sorted by (parent, child), those between the same two nodes as one."""
    order = _stable_order(children, nodes)
    order = order[_stable_order(parents[order], nodes)]
    parents, children, masks = parents[order], children[order], masks[order]
    differs = (np.diff(parents, prepend=-1) != 0) | (np.diff(children, prepend=-1) != 0)
    if differs.all():
        return parents, children, masks
    first = np.flatnonzero(differs)
    return parents[first], children[first], np.bitwise_or.reduceat(masks, first)


def _stable_order(numbers: np.ndarray, nodes: int) -> np.ndarray:
    # NumPy sorts two-byte integers by radix, several times faster than wider ones.
    return np.argsort(numbers.astype(np.min_scalar_type(nodes)), kind="stable")


class _Rows(NamedTuple):
    """An `Adjacency` in arrays: int64[nodes + 1] and int64[edges]."""

    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, nodes: int, begins: np.ndarray, ends: np.ndarray) -> "_Rows":
        starts = np.zeros(nodes + 1, np.int64)
        np.cumsum(np.bincount(begins, minlength=nodes), out=starts[1:])
        return cls(starts, ends)

    def listed(self, masks: np.ndarray) -> Adjacency:
        return Adjacency(self.starts.tolist(), self.ends.tolist(), masks.tobytes(), {})

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """The ends of all of ``numbers``, one after the other."""
        counts = self.starts[numbers + 1] - self.starts[numbers]
        shift = self.starts[numbers] - np.cumsum(counts) + counts
        return self.ends[np.repeat(shift, counts) + np.arange(counts.sum())]


def _levels(down: _Rows, waiting: np.ndarray) -> tuple[list[int], list[int]]:
    """The level of each node, and how many of its parents were never reached: none, unless a
    cycle lies above it.

    Level by level, a node is reached with its last parent (Kahn, "Topological sorting of large
    networks", 1962). Wide levels are array operations; from the first narrow one on, a loop.
    """
    levels = np.zeros(len(waiting), np.int64)
    place = np.zeros(len(waiting), np.int64)
    ready = np.flatnonzero(waiting == 0)
    level = 0
    while len(ready) >= _WIDE:
        levels[ready] = level
        children = down.gather(ready)
        np.subtract.at(waiting, children, 1)
        reached = children[waiting[children] == 0]
        # Each of them once: only one of its places stays written.
        places = np.arange(len(reached))
        place[reached] = places
        ready = reached[place[reached] == places]
        level += 1
    return _finish_levels(down, waiting.tolist(), levels.tolist(), ready.tolist(), level)


def _finish_levels(
    down: _Rows, waiting: list[int], levels: list[int], ready: list[int], level: int
) -> tuple[list[int], list[int]]:
    starts, ends = down.starts.tolist(), down.ends.tolist()
    while ready:
        following = []
        for number in ready:
            levels[number] = level
            for child in ends[starts[number] : starts[number + 1]]:
                waiting[child] -= 1
                if not waiting[child]:
                    following.append(child)
        ready = following
        level += 1
    return levels, waiting


def _cycle(up: Adjacency, waiting: Sequence[int]) -> list[int]:
    """A cycle among the nodes that still wait: each of them has a parent that waits."""
    number = next(n for n, parents in enumerate(waiting) if parents)
    seen: dict[int, int] = {}
    while number not in seen:
        seen[number] = len(seen)
        number = next(parent for parent in up.of(number) if waiting[parent])
    walked = list(seen)[seen[number] :]
    return walked[::-1]


def list_edges(edges: Any, nodes: Iterable[str] = (), kind: str = "data") -> Listing:
    """Edges as a caller lists them: tuples (parent, child) or (parent, child, kind), or an array.

    Nodes are kept in the order of ``nodes``, then of their first appearance in ``edges``.
    """
    if isinstance(nodes, str):
        raise TypeError(f"nodes={nodes!r}: expected several names, such as [{nodes!r}]")
    known = list(dict.fromkeys(map(check_name, each(nodes, "nodes"))))
    mask = mask_of(kind)
    if hasattr(edges, "dtype") and hasattr(edges, "shape"):
        array = np.asarray(edges)
        if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iuUT":
            raise ValueError(
                f"edges are an array {array.dtype}{list(array.shape)}: expected integers or "
                f"strings of shape [edges, 2]"
            )
        if array.dtype.kind in "iu":
            return _list_integers(array, known, mask)
        edges = array.tolist()
    return _list_tuples(each(edges, "edges"), known, mask)


def _list_integers(array: np.ndarray, known: list[str], mask: int) -> Listing:
    values, inverse = _first_seen(array.reshape(-1))
    numbers = dict(zip(known, range(len(known)), strict=True))
    place = [numbers.setdefault(name, len(numbers)) for name in map(str, values.tolist())]
    pairs = np.array(place, np.int64)[inverse].reshape(-1, 2)
    return Listing(numbers, pairs[:, 0], pairs[:, 1], np.full(len(pairs), mask, np.uint8))


def _first_seen(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values in the order of their first appearance; and where each one went."""
    if not values.size or values.min() < 0 or values.max() > 4 * values.size + 1024:
        found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    else:
        # Dense values need no sort: a table has the place of the first that was written last.
        table = np.full(int(values.max()) + 1, -1)
        table[values[::-1]] = np.arange(values.size)[::-1]
        found = np.flatnonzero(table >= 0)
        first, inverse = table[found], (np.cumsum(table >= 0) - 1)[values]
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return found[order], rank[inverse.reshape(-1)]


def _list_tuples(edges: list[Any], known: list[str], mask: int) -> Listing:
    if not set(map(type, edges)) <= {tuple, list}:
        _refuse_types(edges)
    lengths = set(map(len, edges))
    if not lengths <= {2, 3}:
        wrong = next(edge for edge in edges if len(edge) not in (2, 3))
        raise ValueError(f"the edge {wrong!r}: expected (parent, child) or (parent, child, kind)")
    masks = np.full(len(edges), mask, np.uint8)
    if lengths == {2}:
        flat = list(chain.from_iterable(edges))
    else:
        flat = [name for edge in edges for name in edge[:2]]
        masks[:] = [mask_of(edge[2]) if len(edge) == 3 else mask for edge in edges]
    try:
        numbers, ends = _numbered(flat, known)
    except TypeError:  # a name that has no hash is no name
        numbers, ends = _numbered(list(map(check_name, flat)), known)
    if not set(map(type, numbers)) <= {str} or "" in numbers:
        numbers, ends = _numbered(list(map(check_name, flat)), known)
    return Listing(numbers, ends[0::2], ends[1::2], masks)


def _numbered(names: list[str], known: list[str]) -> tuple[dict[str, int], np.ndarray]:
    """Numbers of ``known`` and then ``names``, by first appearance; and int64[names]."""
    numbers: defaultdict[str, int] = defaultdict(count(len(known)).__next__)
    numbers.update(zip(known, range(len(known)), strict=True))
    found = np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))
    return dict(numbers), found


def _refuse_types(edges: list[Any]) -> None:
    for edge in edges:
        if not isinstance(edge, (tuple, list)):
            raise TypeError(
                f"the edge {edge!r} is a {type(edge).__name__}: expected a tuple (parent, child) "
                f"or (parent, child, kind)"
            )
