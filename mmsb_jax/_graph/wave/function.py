"""The graph of a bus as a function of typed arrays: pure, without words, cutoffs or a log."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from mmsb_jax._base.arguments import check_kind, check_text
from mmsb_jax._base.errors import ArrayNotFoundError, RecomputeError, StructureError
from mmsb_jax._compile.body import Body, Slot, put_together
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.tree.nodes import TreePart
from mmsb_jax._core.tree.paths import is_same_treedef
from mmsb_jax._graph.dag.graph import PageGraph
from mmsb_jax._graph.dag.kinds import each
from mmsb_jax._graph.run.node import Node
from mmsb_jax._graph.wave.compiled import CompiledWave


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

    def compile(self, layout: Layout, also: Iterable[str] = ()) -> CompiledWave:
        """The wave of this graph as a pure function of pages: ``wave(pages, delta)``.

        It can be jitted, scanned and vmapped, knows no bus, and stays as it is when the bus goes
        on. What is computed when somebody reads it (``when="read"``) it leaves as it is.

        Args:
            layout: where the arrays stand; `Bus.layout` has them all.
            also: names of what was derived with ``when="read"``, to be computed too.

        Returns:
            A `CompiledWave`.

        Raises:
            ArrayNotFoundError: a name in ``also`` that is not derived.
            StructureError: an array that the layout does not have, or has in another shape or
                dtype; one to which an edge of kind control leads.
            RecomputeError: a function that is not attached, or that may refuse its input (a check
                of `checkify`): there is nobody to raise to.

        Cost: a sort of the nodes; nothing is compiled before the first call.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"x": jnp.arange(3.0)})
        >>> _ = bus.derive("sum", ["x"], jnp.sum)
        >>> wave, layout = bus.graph.compile(bus.layout), bus.layout
        >>> pages, _ = wave.start(layout.pack({"x": jnp.arange(3.0), "sum": jnp.float32(0)}))
        >>> delta = mmsb.diff(pages, layout.set(pages, "x", jnp.ones(3)))
        >>> pages, done = wave(pages, delta)
        >>> float(layout.get(pages, "sum")), done.ran.tolist()
        (3.0, [True])
        """
        check_kind("layout", layout, Layout, "; bus.layout is one")
        nodes = self._to_run({self._node(name) for name in each(also, "also")})
        for node in nodes:
            self._check_compiled(node, layout)
        return CompiledWave(layout, nodes)

    def _node(self, name: str) -> Node:
        check_text("also", name, "a name")
        for node in self._makers.values():
            if name in (node.name, *node.outputs):
                return node
        raise ArrayNotFoundError(f"also={name!r}: expected what is derived, such as a name in it.")

    def _to_run(self, asked: set[Node]) -> list[Node]:
        """What is computed with each commit, what is asked for, and what they need; in order."""
        eager = {node for node in self._makers.values() if node.rule.when == "commit"} | asked
        waiting = list(eager)
        while waiting:
            for name in waiting.pop().inputs:
                node = self._makers.get(name)
                if node is not None and node not in eager:
                    eager.add(node)
                    waiting.append(node)
        return self._parents_first(eager)

    def _check_compiled(self, node: Node, layout: Layout) -> None:
        """Refuse a node that cannot be computed in pages of ``layout``."""
        title = node.rule.title
        if node.recipe is None:
            raise RecomputeError(f"{title}: its function is not attached. Derive it again first.")
        bodies = [node.recipe.body, node.recipe.cutoff]
        if any(isinstance(body, Body) and body.has_checks for body in bodies):
            raise RecomputeError(
                f"{title} checks its input (checkify), and a pure function has nobody to raise to. "
                f"Return a flag beside the result, and read it from the pages."
            )
        gates = [gate for name in node.outputs for gate in self.parents(name, "control")]
        if gates:
            raise StructureError(
                f"{title}: an edge of kind control leads to it from {gates[0]!r}, so that it is "
                f"computed when somebody asks. Expected edges of kind data: unlink it first."
            )
        outputs = zip(node.outputs, node.recipe.body.outputs, strict=True)
        for name, spec in (*zip(node.reads, node.specs, strict=True), *outputs):
            try:
                region = layout.region(name)
            except ArrayNotFoundError as error:
                raise StructureError(
                    f"{title} needs {name!r}, which the layout does not have. Expected a layout "
                    f"of all arrays of the graph: bus.layout."
                ) from error
            if (region.spec.dtype, region.shape) != (spec.dtype, spec.shape):
                raise StructureError(
                    f"{title} was traced over {name!r} as {spec}; the layout has {region.spec}. "
                    f"Expected the layout of the bus that it was derived on."
                )

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
        return self._parents_first(found.values())

    def _parents_first(self, nodes: Iterable[Node]) -> list[Node]:
        """``nodes``, parents first."""
        return sorted(nodes, key=lambda node: (self.level(node.outputs[0]), node.serial))


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
