"""The flow: which nodes there are, what they read and make, and what follows from what.

Changes are journalled. What takes a change back is entered before the change is made, leaves the
journal after it was done, and may be done twice: an exception at any place, an interrupt too,
leaves what `NodeTable.commit` or `NodeTable.revert` brings to the same end when it is called again.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from mmsb_jax._graph.dag.graph import PageGraph
from mmsb_jax._graph.dag.kinds import KINDS
from mmsb_jax._graph.run.node import Node

Mark = Literal["new", "dirty", "pending"]
"""Why a node is stale: it has no value yet; an input has changed since it ran; or only one
upstream of it is stale."""


class NodeTable:
    """The nodes of a bus. Changes are journalled, so that a wave that fails takes them back.

    Attributes:
        graph: arrays and the edges between them.
        gates: array → those that an edge of kind control leads to from it; none without.
        nodes: rule name → node.
        makers: array → the node that makes it.
        patterned: the nodes with an input that is a pattern, or stands for several arrays.
        epoch: grows with every change.
    """

    def __init__(self) -> None:
        self.graph = PageGraph()
        self.gates: Mapping[str, tuple[str, ...]] = {}
        self.nodes: dict[str, Node] = {}
        self.makers: dict[str, Node] = {}
        self.patterned: dict[str, Node] = {}
        self.epoch = 0
        self._readers: dict[str, dict[str, Node]] = {}
        self._eager: dict[str, bool] = {}
        self._below: dict[frozenset[str], frozenset[str]] = {}
        self._journal: list[Callable[[], None]] = []

    def add(self, node: Node) -> None:
        """Add a node, in the place of one of the same name."""
        graph, old = self.graph, self.nodes.get(node.name)
        gone = [] if old is None else [n for n in old.outputs if n not in node.outputs]
        gates = self._gates_at(gone)
        if old is not None:
            for name in old.outputs:
                graph = graph.remove_node(name) if name in gone else _cut(graph, name, "data")
        for name in node.outputs:
            graph = graph.add_node(name)
        graph = graph.extend((i, o, "data") for i in node.inputs for o in node.outputs)
        self._set_graph(graph, gates)
        if old is not None:
            self._take(old)
        self._put(node)

    def remove(self, name: str) -> None:
        """Remove a node."""
        node, graph = self.nodes[name], self.graph
        for output in node.outputs:
            graph = graph.remove_node(output)
        self._set_graph(graph, self._gates_at(node.outputs))
        self._take(node)

    def forget(self, array: str) -> None:
        """Remove an array that is gone, with the edges at it."""
        if array in self.graph:
            self._set_graph(self.graph.remove_node(array), self._gates_at([array]))

    def link(self, edges: Iterable[tuple[str, str, str]]) -> None:
        """Add edges that are no data."""
        edges = list(edges)
        self._set_graph(self.graph.extend(edges), [parent for parent, _, _ in edges])

    def unlink(self, edges: Iterable[tuple[str, str, str]]) -> None:
        """Remove edges that are no data."""
        graph, edges = self.graph, list(edges)
        for edge in edges:
            graph = graph.remove(*edge)
        self._set_graph(graph, [parent for parent, _, _ in edges])

    @property
    def is_settled(self) -> bool:
        """Whether no change is left to be kept or taken back."""
        return not self._journal

    def commit(self) -> None:
        """Keep the changes made since the last `commit` or `revert`; may be called again."""
        self._journal.clear()

    def revert(self) -> None:
        """Take back the changes made since the last `commit` or `revert`; may be called again."""
        while self._journal:
            self._journal[-1]()
            self._changed()
            self._journal.pop()

    def _set_graph(self, graph: PageGraph, gates: Iterable[str] = ()) -> None:
        """Take another graph, with other edges of kind control from ``gates``."""
        before, known = self.graph, self.gates

        def undo() -> None:
            self.graph, self.gates = before, known

        self._journal.append(undo)
        after = {n: graph.children(n, "control") if n in graph else () for n in gates}
        if after:
            merged = {**known, **after}
            self.gates = {name: led_to for name, led_to in merged.items() if led_to}
        self.graph = graph
        self._changed()

    def _gates_at(self, arrays: Iterable[str]) -> list[str]:
        """The arrays from which edges of kind control lead, with ``arrays`` at one of the ends."""
        if not self.gates:
            return []
        known = [name for name in arrays if name in self.graph]
        return [*known, *(gate for name in known for gate in self.graph.parents(name, "control"))]

    def _changed(self) -> None:
        self.epoch += 1
        self._eager.clear()
        self._below.clear()

    def _put(self, node: Node) -> None:
        self._journal.append(lambda: self._drop(node))
        self._enter(node)

    def _take(self, node: Node) -> None:
        self._journal.append(lambda: self._enter(node))
        self._drop(node)

    def _enter(self, node: Node) -> None:
        self.nodes[node.name] = node
        if node.reads != node.rule.inputs:
            self.patterned[node.name] = node
        for name in node.outputs:
            self.makers[name] = node
        for name in node.inputs:
            self._readers.setdefault(name, {})[node.name] = node

    def _drop(self, node: Node) -> None:
        self.nodes.pop(node.name, None)
        self.patterned.pop(node.name, None)
        for name in node.outputs:
            self.makers.pop(name, None)
        for name in node.inputs:
            self._readers.get(name, {}).pop(node.name, None)

    def readers(self, array: str) -> Iterable[Node]:
        """The nodes that read an array."""
        return self._readers.get(array, {}).values()

    def links_at(self, array: str) -> list[tuple[str, str, str]]:
        """The edges at an array that are no data."""
        if array not in self.graph:
            return []
        kinds = [kind for kind in KINDS if kind != "data"]
        leading = [(p, array, k) for k in kinds for p in self.graph.parents(array, k)]
        return leading + [(array, c, k) for k in kinds for c in self.graph.children(array, k)]

    def is_watched(self, array: str) -> bool:
        """Whether anything follows from a change of an array."""
        return bool(self._readers.get(array)) or array in self.graph

    def is_read(self, array: str) -> bool:
        """Whether any edge leads from an array."""
        return array in self.graph and bool(self.graph.children(array))

    def is_held(self, array: str) -> bool:
        """Whether only its user writes an array, and an edge of kind control leads to it."""
        return (
            array in self.graph
            and array not in self.makers
            and (bool(self.graph.parents(array, "control")))
        )

    def below(self, arrays: frozenset[str]) -> frozenset[str]:
        """The names of the nodes that follow from ``arrays`` through data."""
        if not arrays:
            return arrays
        if arrays not in self._below:
            first = {node.name: node for name in arrays for node in self.readers(name)}
            found = self.descendants(first.values())
            self._below[arrays] = frozenset([*first, *(node.name for node in found)])
        return self._below[arrays]

    def is_gated(self, node: Node) -> bool:
        """Whether an edge of kind control leads to a node."""
        return any(self.graph.parents(name, "control") for name in node.outputs)

    def is_eager(self, node: Node) -> bool:
        """Whether a node is computed with each commit: it is meant to be, or one that reads it."""
        if node.rule.when == "commit":
            return True
        if node.name not in self._eager:
            below = self.descendants([node])
            self._eager[node.name] = any(other.rule.when == "commit" for other in below)
        return self._eager[node.name]

    def descendants(self, nodes: Iterable[Node]) -> list[Node]:
        """The nodes that follow from ``nodes`` through data, without these; in any order."""
        first = list(nodes)
        found: dict[str, Node] = {}
        waiting = first.copy()
        while waiting:
            for name in waiting.pop().outputs:
                for reader in self.readers(name):
                    if reader.name not in found:
                        found[reader.name] = reader
                        waiting.append(reader)
        return list(found.values())

    def affected(self, arrays: Iterable[str], nodes: Iterable[Node]) -> list[Node]:
        """All that may follow from a change of ``arrays``, and ``nodes``; parents first."""
        found: dict[str, Node] = {}
        waiting: list[Node] = []

        def meet(node: Node) -> None:
            if node.name not in found:
                found[node.name] = node
                waiting.append(node)

        for node in nodes:
            meet(node)
        for array in arrays:
            self._meet_followers(array, meet)
        while waiting:
            for name in waiting.pop().outputs:
                self._meet_followers(name, meet)
        return self.ordered(found.values())

    def _meet_followers(self, array: str, meet: Callable[[Node], None]) -> None:
        for node in self._readers.get(array, {}).values():
            meet(node)
        if array in self.graph:
            for name in self.graph.children(array, "control"):
                if name in self.makers:
                    meet(self.makers[name])

    def ordered(self, nodes: Iterable[Node]) -> list[Node]:
        """``nodes`` with parents first."""
        level = self.graph.level
        return sorted(nodes, key=lambda node: (level(node.outputs[0]), node.serial))


def _cut(graph: PageGraph, name: str, kind: str) -> PageGraph:
    """``graph`` without the edges of a kind that lead to an array."""
    if name in graph:
        for parent in graph.parents(name, kind):
            graph = graph.remove(parent, name, kind)
    return graph
