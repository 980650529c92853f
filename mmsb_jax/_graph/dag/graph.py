"""PageGraph: what follows from what. Immutable, without cycles, levelled."""

from collections.abc import Iterable, Iterator
from typing import Any

from mmsb_jax._graph.dag import draw, reach
from mmsb_jax._graph.dag.bulk import Listing, build, list_edges
from mmsb_jax._graph.dag.convert import Convertible
from mmsb_jax._graph.dag.kinds import check_name, each, kinds_of, mask_of, wanted
from mmsb_jax._graph.dag.levels import add_edge, remove_edge, remove_node, settle
from mmsb_jax._graph.dag.records import Records
from mmsb_jax._graph.dag.refusals import edge_not_found, node_not_found

_BULK_SHARE = 4
"""Adding this part of a graph's edges at once is done by building it anew."""

_SHOWN_NODES = 100
"""Nodes that ``str`` shows."""


class PageGraph(Convertible):
    """Arrays and what follows from them: a directed graph without cycles, over names.

    An edge leads from a parent to a child that is made from it, and has a kind: ``"data"``,
    ``"control"``, ``"device_sync"`` or ``"compiler"``. Edges of several kinds may join the same
    two nodes; all kinds count for cycles, and the same edge twice is one.

    A graph never changes: `add` and the like return another one, which shares with this one all
    that they have in common. Nodes are kept in the order in which they were added; the *level* of
    a node is the length of the longest path that leads to it from a root.

    Equal are graphs with the same nodes and the same edges, in whatever order they were added.

    >>> graph = PageGraph().add("a", "c").add("b", "c").add("c", "d").add("b", "d", kind="control")
    >>> graph
    PageGraph(4 nodes, 4 edges, depth 3)
    >>> print(graph)
    PageGraph: 4 nodes, 4 edges, 3 levels
    0  a
       b
    1  c ← a, b
    2  d ← c, b (control)
    >>> graph.add("d", "a")
    Traceback (most recent call last):
        ...
    mmsb_jax.GraphCycleError: the edge d → a closes the cycle a → c → d → a. ...

    Cost: adding and removing cost what is affected, whatever the size of the graph; levels are
    brought up to date when somebody asks for them or for an order, from what was affected since.
    """

    __slots__ = ("__weakref__", "_hash", "_order", "_records")

    _records: Records
    _order: tuple[str, ...] | None
    _hash: int | None

    def __init__(self) -> None:
        self._hold(Records())

    def _hold(self, records: Records) -> "PageGraph":
        self._records, self._order, self._hash = records, None, None
        return self

    @classmethod
    def _of(cls, records: Records) -> "PageGraph":
        return object.__new__(cls)._hold(records)

    @classmethod
    def _built(cls, listing: Listing) -> "PageGraph":
        return cls._of(Records(build(listing)))

    @classmethod
    def from_edges(cls, edges: Any, nodes: Iterable[str] = (), kind: str = "data") -> "PageGraph":
        """A whole graph at once.

        Args:
            edges: tuples (parent, child) or (parent, child, kind); or an array [edges, 2] of
                names or of integers, which become the names ``"0"``, ``"1"`` and so on.
            nodes: nodes that come first, in this order, with edges or without; the others follow
                in the order in which the edges name them.
            kind: the kind of the edges that name none.

        Raises:
            GraphCycleError: the edges close a cycle; the message shows one.
            TypeError, ValueError: edges of another form, a name that is no string or is empty, an
                unknown kind.

        Cost: about two sorts of the edges and one visit of each; 10,000 nodes and 40,000 edges
        take 15 ms as names and 10 ms as integers.

        >>> graph = PageGraph.from_edges([("a", "b"), ("b", "c", "control")], nodes=["z"])
        >>> graph.nodes
        ('z', 'a', 'b', 'c')
        """
        return cls._built(list_edges(edges, nodes, kind))

    # Changing

    def add(self, parent: str, child: str, kind: str = "data") -> "PageGraph":
        """The graph with an edge from ``parent`` to ``child``, and with them as nodes.

        Raises:
            GraphCycleError: the edge closes a cycle; the message shows it.
            TypeError, ValueError: a name that is no string or is empty, an unknown kind.

        Cost: microseconds for an edge from a lower level to a higher one; against that order, the
        edges of what follows from ``child`` or of what ``parent`` follows from, as far as levels
        have to move, whichever are fewer.

        >>> PageGraph().add("a", "b").add("a", "b", kind="control").kinds("a", "b")
        ('data', 'control')
        """
        records = self._records.copy()
        add_edge(records, check_name(parent), check_name(child), mask_of(kind))
        return self._of(records)

    def add_node(self, name: str) -> "PageGraph":
        """The graph with a node, which has no edges if it is new.

        Raises:
            TypeError, ValueError: the name is no string, or is empty.

        Cost: microseconds.

        >>> PageGraph().add_node("a").roots
        ('a',)
        """
        if check_name(name) in self:
            return self
        records = self._records.copy()
        records.add_node(name, label=0)
        return self._of(records)

    def extend(self, edges: Any, kind: str = "data") -> "PageGraph":
        """The graph with many edges: all of them are added, or, with an exception, none.

        Equivalent to `add` for each; ``edges`` and ``kind`` as for `from_edges`.

        Raises:
            GraphCycleError: the edges close a cycle; the message shows one.
            TypeError, ValueError: as `from_edges`.

        Cost: that of the single edges; where they are many beside the graph, that of `from_edges`.

        >>> PageGraph().add("a", "b").extend([("b", "c"), ("a", "d", "control")]).leaves
        ('c', 'd')
        """
        new = list_edges(edges, (), kind)
        if len(new.masks) * _BULK_SHARE >= self.edge_count + len(self):
            return self._built(reach.joined(self._records, new))
        names, records = list(new.numbers), self._records.copy()
        for parent, child, mask in zip(*(part.tolist() for part in new[1:]), strict=True):
            add_edge(records, names[parent], names[child], mask)
        return self._of(records)

    def remove(self, parent: str, child: str, kind: str | None = None) -> "PageGraph":
        """The graph without the edge of that kind, without those of every kind for None.

        The nodes stay.

        Raises:
            ArrayNotFoundError: an unknown node, or no such edge; the message names what is near.
            ValueError: an unknown kind.

        Cost: microseconds; levels that sink are found when somebody asks for levels.

        >>> PageGraph().add("a", "b").remove("a", "b").roots
        ('a', 'b')
        """
        mask = wanted(kind)
        above, below = self._number(parent), self._number(child)
        if not self._records.mask(above, below) & mask:
            existing, children = self.kinds(parent, child), self.children(parent)
            raise edge_not_found(parent, child, kind, existing, children)
        records = self._records.copy()
        remove_edge(records, above, below, mask)
        return self._of(records)

    def remove_node(self, name: str) -> "PageGraph":
        """The graph without a node and without its edges.

        Raises:
            ArrayNotFoundError: no node has that name; the message names those that are near it.

        Cost: the edges of the node.

        >>> PageGraph().add("a", "b").add("b", "c").remove_node("b").nodes
        ('a', 'c')
        """
        number = self._number(name)
        records = self._records.copy()
        remove_node(records, number)
        return self._of(records)

    # Asking

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes, in the order in which they were added.

        >>> PageGraph().add("b", "a").nodes
        ('b', 'a')
        """
        return self._names(self._records.live())

    @property
    def edge_count(self) -> int:
        """How many edges there are; several kinds between the same two nodes count each.

        >>> PageGraph().add("a", "b").add("a", "b", kind="control").edge_count
        2
        """
        return self._records.edges

    def __len__(self) -> int:
        return self._records.size

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._records.number(name) is not None

    def edges(self, kind: str | None = None) -> Iterator[tuple[str, str, str]]:
        """The edges of one kind, of every kind for None, as (parent, child, kind).

        By parent and then by child, both in the order of `nodes`, then by kind in the order of
        the class's description.

        Raises:
            ValueError: an unknown kind.

        >>> list(PageGraph().add("a", "b", kind="control").add("a", "b").edges())
        [('a', 'b', 'data'), ('a', 'b', 'control')]
        """
        return reach.edges(self._records, wanted(kind))

    def kinds(self, parent: str, child: str) -> tuple[str, ...]:
        """The kinds of the edges from one node to another; empty for none.

        Raises:
            ArrayNotFoundError: an unknown node; the message names those that are near it.

        >>> PageGraph().add("a", "b").kinds("b", "a")
        ()
        """
        return kinds_of(self._records.mask(self._number(parent), self._number(child)))

    def parents(self, name: str, kind: str | None = None) -> tuple[str, ...]:
        """The nodes with an edge of that kind to this one, in the order of `nodes`.

        Raises:
            ArrayNotFoundError: no node has that name; the message names those that are near it.
            ValueError: an unknown kind.

        >>> PageGraph().add("a", "c").add("b", "c", kind="control").parents("c", kind="data")
        ('a',)
        """
        return self._names(sorted(self._records.parents(self._number(name), wanted(kind))))

    def children(self, name: str, kind: str | None = None) -> tuple[str, ...]:
        """The nodes with an edge of that kind from this one, in the order of `nodes`.

        Raises:
            ArrayNotFoundError: no node has that name; the message names those that are near it.
            ValueError: an unknown kind.

        >>> PageGraph().add("a", "b").add("a", "c", kind="control").children("a")
        ('b', 'c')
        """
        return self._names(sorted(self._records.children(self._number(name), wanted(kind))))

    def ancestors(self, names: str | Iterable[str], kind: str | None = None) -> tuple[str, ...]:
        """The nodes from which a path along edges of that kind leads to any of ``names``.

        In the order of `order`. One of ``names`` is among them only if a path leads from it to
        another one.

        Raises:
            ArrayNotFoundError: no node has such a name; the message names those that are near it.
            ValueError: an unknown kind.

        Cost: the edges of what is found, and sorting it.

        >>> PageGraph().add("a", "b").add("b", "c").ancestors("c")
        ('a', 'b')
        """
        return self._reached(names, self._settled().parents, wanted(kind))

    def descendants(self, names: str | Iterable[str], kind: str | None = None) -> tuple[str, ...]:
        """The nodes to which a path along edges of that kind leads from any of ``names``.

        In the order of `order`, so that each comes after all that it follows from. One of
        ``names`` is among them only if a path leads to it from another one.

        Raises:
            ArrayNotFoundError: no node has such a name; the message names those that are near it.
            ValueError: an unknown kind.

        Cost: the edges of what is found, and sorting it.

        >>> PageGraph().add("a", "b").add("b", "c").descendants(["a", "b"])
        ('b', 'c')
        """
        return self._reached(names, self._settled().children, wanted(kind))

    def _reached(self, names: str | Iterable[str], step: Any, mask: int) -> tuple[str, ...]:
        found = reach.reached(self._numbers(names), lambda number: step(number, mask))
        return self._ordered(found)

    def level(self, name: str) -> int:
        """The length of the longest path that leads to a node: 0 for a root.

        Raises:
            ArrayNotFoundError: no node has that name; the message names those that are near it.

        Cost: that of bringing levels up to date, if any were affected since they were asked for.

        >>> PageGraph().add("a", "b").add("b", "c").add("a", "c").level("c")
        2
        """
        return self._settled().label(self._number(name))

    def levels(self) -> dict[str, int]:
        """The level of every node, in the order of `order`.

        >>> PageGraph().add("a", "b").levels()
        {'a': 0, 'b': 1}
        """
        records = self._settled()
        ordered = reach.by_level(records, records.live())
        return dict(zip(self._names(ordered), map(records.label, ordered), strict=True))

    def order(self) -> tuple[str, ...]:
        """All nodes, each after all that it follows from: by level, then as they were added.

        Cost: one visit of each node, once a graph.

        >>> PageGraph().add("b", "c").add("a", "b").order()
        ('a', 'b', 'c')
        """
        if self._order is None:
            self._order = self._ordered(self._records.live())
        return self._order

    @property
    def depth(self) -> int:
        """How many levels there are: the nodes on the longest path.

        >>> PageGraph().add("a", "b").depth
        2
        """
        order = self.order()
        return self.level(order[-1]) + 1 if order else 0

    @property
    def roots(self) -> tuple[str, ...]:
        """The nodes without parents, in the order of `nodes`.

        >>> PageGraph().add("a", "b").roots
        ('a',)
        """
        records = self._settled()
        return self._names([n for n in records.live() if not records.label(n)])

    @property
    def leaves(self) -> tuple[str, ...]:
        """The nodes without children, in the order of `nodes`.

        >>> PageGraph().add("a", "b").leaves
        ('b',)
        """
        records = self._records
        return self._names([n for n in records.live() if not records.links_below(n)])

    # Deriving

    def subgraph(self, names: str | Iterable[str]) -> "PageGraph":
        """Some of the nodes, and the edges between them; nodes keep their order.

        Raises:
            ArrayNotFoundError: no node has such a name; the message names those that are near it.

        Cost: the edges from these nodes.

        >>> list(PageGraph().add("a", "b").add("b", "c").subgraph(["c", "b"]).edges())
        [('b', 'c', 'data')]
        """
        return self._built(reach.induced(self._records, set(self._numbers(names))))

    def closure(self, kind: str | None = None) -> "PageGraph":
        """The same nodes, with an edge wherever a path of one edge or more leads.

        Paths are of edges of that kind, and so are the edges of the result. For None, paths may
        mix kinds, and the edges of the result are ``"data"``.

        Raises:
            ValueError: an unknown kind.

        Cost: a bit for each pair of a node with children and any node, combined once an edge; and
        the result itself, which may have as many edges as there are pairs (a chain of n nodes:
        n²/2, each about 100 bytes).

        >>> sorted(PageGraph().add("a", "b").add("b", "c").closure().children("a"))
        ['b', 'c']
        """
        made = mask_of("data" if kind is None else kind)
        return self._built(reach.closed(self._settled(), wanted(kind), made))

    # Showing

    def draw(self, limit: int | None = None) -> str:
        """The graph as text: a node a line, by level, with its parents.

        Args:
            limit: nodes to draw at most; None for all.

        >>> print(PageGraph().add("a", "b").add("a", "c", kind="control").draw())
        PageGraph: 3 nodes, 2 edges, 2 levels
        0  a
        1  b ← a
           c ← a (control)
        """
        return draw.text(self, limit)

    def __str__(self) -> str:
        return self.draw(_SHOWN_NODES)

    def __repr__(self) -> str:
        return f"PageGraph({draw.counts(self)}, depth {self.depth})"

    def _repr_svg_(self) -> str:
        return draw.svg(self)

    # Comparing

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageGraph):
            return NotImplemented
        if self is other or self._records is other._records:
            return True
        if len(self) != len(other) or self.edge_count != other.edge_count:
            return False
        if None not in (self._hash, other._hash) and self._hash != other._hash:
            return False
        return self._content() == other._content()

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self._content())
        return self._hash

    def _content(self) -> tuple[frozenset[str], frozenset[tuple[str, str, str]]]:
        return frozenset(self.nodes), frozenset(self.edges())

    def __reduce__(self) -> tuple[Any, ...]:
        return PageGraph.from_edges, (self.to_edges(), self.nodes)

    # Inside

    def _settled(self) -> Records:
        """The records, with levels for labels."""
        records = self._records
        if records.unsettled:
            records = records.copy()
            settle(records)
            # Another thread may do the same: it finds the same levels.
            self._records = records
        return records

    def _ordered(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return self._names(reach.by_level(self._settled(), numbers))

    def _names(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(map(self._records.name, numbers))

    def _number(self, name: str) -> int:
        number = self._records.number(check_name(name))
        if number is None:
            raise node_not_found(name, self.nodes)
        return number

    def _numbers(self, names: str | Iterable[str]) -> list[int]:
        several = [names] if isinstance(names, str) else each(names, "names")
        return list(map(self._number, several))
