"""Nodes and edges of one graph: a base made at once, and over it what was changed since.

Persistent maps (`rpds`) hold the changes: a new graph shares with the old one everything that
they have in common, and the old one stays as it is.
"""

from collections.abc import Iterable
from typing import NamedTuple

from rpds import HashTrieMap

from mmsb_jax._graph.dag.bulk import EMPTY, Base, Links, compact
from mmsb_jax._graph.dag.kinds import ALL_KINDS


class NodeEntry(NamedTuple):
    """A node that was changed.

    Attributes:
        name: its name.
        label: greater than those of its parents; its level once the records are settled.
        parents, children: its neighbours.
    """

    name: str
    label: int
    parents: Links
    children: Links


class Records:
    """Nodes by number, in the order in which they were added.

    A copy costs a few assignments. A method that changes something replaces what this object
    holds, so it is called on a copy of one's own only.

    Attributes:
        base: nodes that were made at once.
        numbers: numbers of names that are not as in the base; None for one that was removed.
        changed: nodes that are not as in the base; None for one that was removed.
        unsettled: nodes whose label may not be their level; True where the levels of the children
            may be wrong even if that of the node is right.
        next_number: the number of the next node.
        size: how many nodes there are.
        edges: how many edges there are; several kinds between two nodes count each.
    """

    __slots__ = ("base", "changed", "edges", "next_number", "numbers", "size", "unsettled")

    def __init__(self, base: Base = EMPTY):
        self.base = base
        self.numbers: HashTrieMap[str, int | None] = HashTrieMap()
        self.changed: HashTrieMap[int, NodeEntry | None] = HashTrieMap()
        self.unsettled: HashTrieMap[int, bool] = HashTrieMap()
        self.next_number = self.size = len(base.names)
        self.edges = base.edges

    def copy(self) -> "Records":
        """The same records, to be changed."""
        twin = object.__new__(Records)
        for field in self.__slots__:
            setattr(twin, field, getattr(self, field))
        return twin

    def number(self, name: str) -> int | None:
        """The number of a name, None where no node has it."""
        number = self.numbers.get(name, -1)
        return self.base.numbers.get(name) if number == -1 else number

    def name(self, number: int) -> str:
        """The name of a node."""
        node = self.changed.get(number)
        return self.base.names[number] if node is None else node.name

    def label(self, number: int) -> int:
        """The label of a node."""
        node = self.changed.get(number)
        return self.base.levels[number] if node is None else node.label

    def parents(self, number: int, mask: int = ALL_KINDS) -> Iterable[int]:
        """Nodes with an edge to this one, in no order."""
        node = self.changed.get(number)
        return self.base.parents.of(number, mask) if node is None else _pick(node.parents, mask)

    def children(self, number: int, mask: int = ALL_KINDS) -> Iterable[int]:
        """Nodes with an edge from this one, in no order."""
        node = self.changed.get(number)
        return self.base.children.of(number, mask) if node is None else _pick(node.children, mask)

    def node(self, number: int) -> NodeEntry:
        """A node, to be changed."""
        node = self.changed.get(number)
        if node is not None:
            return node
        base = self.base
        return NodeEntry(
            base.names[number],
            base.levels[number],
            base.parents.links(number),
            base.children.links(number),
        )

    def mask(self, parent: int, child: int) -> int:
        """The kinds of the edges from one node to another; 0 for none."""
        return self.links_below(parent).get(child, 0)

    def links_below(self, number: int) -> Links:
        """The children of a node, and the kinds of the edges to them."""
        node = self.changed.get(number)
        return self.base.children.links(number) if node is None else node.children

    def live(self) -> list[int]:
        """The numbers of all nodes, in order."""
        old = len(self.base.names)
        if not self.changed:
            return list(range(old))
        changes = list(self.changed.items())
        gone = {number for number, node in changes if node is None}
        new = sorted(number for number, node in changes if number >= old and node is not None)
        return [number for number in range(old) if number not in gone] + new

    def add_node(self, name: str, label: int) -> int:
        """Add a node without edges."""
        number = self.next_number
        self.next_number += 1
        self.size += 1
        self.numbers = self.numbers.insert(name, number)
        self.changed = self.changed.insert(number, NodeEntry(name, label, {}, {}))
        return number

    def drop_node(self, number: int) -> None:
        """Remove a node and its edges."""
        name, _, parents, children = self.node(number)
        for child, mask in children.items():
            self.edges -= mask.bit_count()
            below = self.node(child)
            links = _with(below.parents, number, 0)
            self.changed = self.changed.insert(child, below._replace(parents=links))
        for parent, mask in parents.items():
            self.edges -= mask.bit_count()
            above = self.node(parent)
            links = _with(above.children, number, 0)
            self.changed = self.changed.insert(parent, above._replace(children=links))
        in_base = number < len(self.base.names)
        self.changed = self.changed.insert(number, None) if in_base else self.changed.remove(number)
        self.numbers = (
            self.numbers.insert(name, None)
            if name in self.base.numbers
            else self.numbers.remove(name)
        )
        self.unsettled = self.unsettled.discard(number)
        self.size -= 1

    def link(self, parent: int, child: int, mask: int) -> None:
        """Let exactly the kinds in ``mask`` lead from one node to another; 0 for none."""
        above, below = self.node(parent), self.node(child)
        self.edges += mask.bit_count() - above.children.get(child, 0).bit_count()
        above = above._replace(children=_with(above.children, child, mask))
        below = below._replace(parents=_with(below.parents, parent, mask))
        self.changed = self.changed.insert(parent, above).insert(child, below)

    def relabel(self, number: int, label: int) -> None:
        """Give a node another label."""
        self.changed = self.changed.insert(number, self.node(number)._replace(label=label))

    def unsettle(self, number: int, children: bool) -> None:
        """Note that the label of a node may not be its level, nor those of its children right."""
        children = children or self.unsettled.get(number, False)
        self.unsettled = self.unsettled.insert(number, children)


def _pick(links: Links, mask: int) -> Iterable[int]:
    if mask == ALL_KINDS:
        return links
    return [neighbour for neighbour, kinds in links.items() if kinds & mask]


def _with(links: Links, number: int, mask: int) -> Links:
    if isinstance(links, dict):
        links = {**links, number: mask}
        if not mask:
            del links[number]
        return compact(links)
    return links.insert(number, mask) if mask else links.remove(number)
