"""The graph of a bus as a function of typed arrays: pure, without words, cutoffs or a log."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from mmsb_jax._base.errors import ArrayNotFoundError, RecomputeError, StructureError
from mmsb_jax._compile.body import Slot, put_together
from mmsb_jax._core.tree.nodes import TreePart
from mmsb_jax._core.tree.paths import is_same_treedef
from mmsb_jax._graph.dag.graph import PageGraph
from mmsb_jax._graph.dag.kinds import each
from mmsb_jax._graph.run.node import Node


class DerivedGraph(PageGraph):
    """A graph that knows the functions of its derived arrays; `Bus.graph` gives one."""

    __slots__ = ("_makers",)

    _makers: Mapping[str, Node]

    @classmethod
    def _of(cls, records: Any) -> PageGraph:
        return PageGraph._of(records)  # a part of it, or more than it, has no functions

    @classmethod
    def of(cls, graph: PageGraph, nodes: Iterable[Node]) -> "DerivedGraph":
        """``graph`` with the functions of ``nodes``."""
        derived = object.__new__(cls)
        derived._hold(graph._records)
        derived._makers = {name: node for node in nodes for name in node.outputs}
        return derived

    def as_function(
        self, inputs: str | Sequence[str], outputs: str | Sequence[str]
    ) -> Callable[..., Any]:
        """What leads from ``inputs`` to ``outputs``, as a pure function of typed arrays.

        It can be jitted, vmapped over many states, and differentiated; it touches no bus.

        Args:
            inputs: one an argument: the name of an array; or a pattern as it was given to
                `derive`, for the part of a tree that it stands for.
            outputs: names of arrays, or of what was derived, for a pytree of several arrays. One
                name gives its value, a sequence a tuple of values.

        Returns:
            ``f(*values)``, one value an input.

        Raises:
            ArrayNotFoundError: a name that is not in the graph, or not derived.
            StructureError: the outputs need arrays that are not among the inputs; all are named.
            RecomputeError: a function on the way is not attached.

        >>> import jax
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"x": jax.numpy.array(3.0)})
        >>> _ = bus.derive("y", ["x"], lambda x: x * x)
        >>> float(jax.grad(bus.graph.as_function("x", "y"))(2.0))
        4.0
        """
        given = [inputs] if isinstance(inputs, str) else each(inputs, "inputs")
        wanted = [outputs] if isinstance(outputs, str) else each(outputs, "outputs")
        trees = [self._input(text) for text in given]
        results = [self._output(name) for name in wanted]
        known = {name for tree in trees for name in _names(tree)}
        path = self._path(known, [name for tree in results for name in _names(tree)])

        def function(*values: Any) -> Any:
            if len(values) != len(trees):
                raise TypeError(f"expected {len(trees)} values, for {given}; got {len(values)}")
            arrays: dict[str, Any] = {}
            for text, tree, value in zip(given, trees, values, strict=True):
                arrays |= _taken(text, tree, value)
            for node in path:
                arrays |= _called(node, arrays)
            found = put_together(
                jax.tree_util.tree_map(arrays.__getitem__, tree, is_leaf=_is_name)
                for tree in results
            )
            return found[0] if isinstance(outputs, str) else tuple(found)

        return function

    def _input(self, text: str) -> Any:
        """The tree of names that an input stands for."""
        if text in self:
            return text
        for node in self._makers.values():
            for pattern, tree in zip(node.rule.inputs, node.arguments or (), strict=False):
                if pattern == text:
                    return jax.tree_util.tree_map(
                        lambda leaf, reads=node.reads: (
                            reads[leaf.place] if isinstance(leaf, Slot) else None
                        ),
                        tree,
                        is_leaf=lambda leaf: isinstance(leaf, Slot),
                    )
        raise ArrayNotFoundError(
            f"{text!r} is no array of the graph, and no input of what is derived. Expected one of "
            f"{', '.join(map(repr, self.roots[:8]))}."
        )

    def _output(self, name: str) -> Any:
        if name in self:
            return name
        for node in self._makers.values():
            if node.name == name and node.traced is not None:
                return TreePart(node.traced.treedef, node.outputs)
        raise ArrayNotFoundError(f"{name!r} is no array of the graph. Expected what is derived.")

    def _path(self, known: set[str], wanted: Sequence[str]) -> list[Node]:
        """The nodes between ``known`` and ``wanted``, parents first."""
        found: dict[str, Node] = {}
        missing, waiting, seen = [], list(wanted), set(known)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self._makers.get(name)
            if node is None:
                missing.append(name)
                continue
            if node.rule.function is None:
                raise RecomputeError(
                    f"{node.rule.title}: its function is not attached. Derive it again first."
                )
            found[node.name] = node
            waiting += node.inputs
        if missing:
            raise StructureError(
                f"{', '.join(map(repr, sorted(missing)))} must be among the inputs: "
                f"{', '.join(map(repr, wanted))} cannot be made without."
            )
        return sorted(found.values(), key=lambda node: (self.level(node.outputs[0]), node.serial))


def _is_name(leaf: Any) -> bool:
    return isinstance(leaf, str)


def _names(tree: Any) -> list[str]:
    return [leaf for leaf in jax.tree_util.tree_leaves(tree) if isinstance(leaf, str)]


def _taken(text: str, tree: Any, value: Any) -> dict[str, Any]:
    """The arrays of one input."""
    if isinstance(tree, str):
        return {tree: value}
    names, structure = jax.tree_util.tree_flatten(tree)
    if isinstance(tree, TreePart):
        names, structure = tree.leaves, tree.treedef
    for is_leaf in (None, lambda leaf: leaf is None):  # a part of the committed tree counts None
        leaves, found = jax.tree_util.tree_flatten(value, is_leaf=is_leaf)
        if is_same_treedef(found, structure):
            pairs = zip(names, leaves, strict=True)
            return {name: leaf for name, leaf in pairs if name is not None}  # no string is an array
    raise StructureError(f"{text!r}: a tree of {found} arrived, {structure} was expected.")


def _called(node: Node, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What a node makes."""
    assert node.rule.function is not None
    arguments = jax.tree_util.tree_map(
        lambda leaf: arrays[node.reads[leaf.place]] if isinstance(leaf, Slot) else leaf,
        node.arguments,
        is_leaf=lambda leaf: isinstance(leaf, Slot),
    )
    made = jax.tree_util.tree_leaves(node.rule.function(*put_together(arguments)))
    return dict(zip(node.outputs, made, strict=True))
