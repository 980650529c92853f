"""Nodes of a tree: where each begins and ends among the leaves, and what it holds beside them.

A part of a tree is put together from its node and its own leaves; no class of the user's ever sees
a placeholder.
"""

import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from mmsb_jax._core.tree.leaves import qualified_name
from mmsb_jax._core.tree.paths import BARE_LEAF, name_of_key, put_together, taken_apart
from mmsb_jax._core.tree.statics import Static

_CONTAINERS = (dict, list, tuple, type(None), OrderedDict, defaultdict)
"""Classes of which the keys of their leaves say all, as long as there are leaves."""
_EMPTY = {dict: "{}", list: "[]", tuple: "()"}


@dataclass(slots=True, eq=False)
class TreeNode:
    """A node or a leaf, without what it holds: it keeps no array alive.

    Attributes:
        name: its path; `BARE_LEAF` for the root.
        kind: its class; None for a leaf.
        treedef: its structure, ``None`` counted as a leaf.
        first, last: its leaves are those from ``first`` up to, not with, ``last``.
        children: the nodes and leaves right below.
        statics: path → what it holds that is no leaf.
    """

    name: str
    kind: type | None
    treedef: Any
    first: int
    last: int
    children: tuple["TreeNode", ...]
    statics: dict[str, Static]

    def walk(self) -> Iterator["TreeNode"]:
        """This node, and all below."""
        yield self
        for child in self.children:
            yield from child.walk()

    def is_same(self, other: "TreeNode") -> bool:
        """Whether another one has the same paths, classes and statics."""
        return (
            (self.name, self.kind, self.statics.keys(), len(self.children))
            == (other.name, other.kind, other.statics.keys(), len(other.children))
            and all(static.is_same(other.statics[path]) for path, static in self.statics.items())
            and all(map(TreeNode.is_same, self.children, other.children))
        )

    def part(self, wanted: Callable[[int], bool], place: str = "") -> "TreeNode | None":
        """The highest node that holds exactly the leaves (by number) that are wanted.

        Args:
            wanted: which leaves.
            place: of several such nodes, one in the other, the one that begins here: ``params/**``
                stands for what lies at ``params`` also where the tree holds nothing else.
        """
        node = self._descend(place)
        selected = sum(map(wanted, range(node.first, node.last)))
        while selected != node.last - node.first:
            if not selected:
                return None
            leaves = (range(child.first, child.last) for child in node.children)
            hits = [sum(map(wanted, numbers)) for numbers in leaves]
            if selected not in hits:
                return None
            node = node.children[hits.index(selected)]
        return node

    def _descend(self, place: str) -> "TreeNode":
        """The node at a path; the last on the way to it."""
        node = self
        while place and node.name != place:
            below = [c for c in node.children if f"{place}/".startswith(f"{c.name}/")]
            if not below:
                break
            node = below[0]
        return node


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, slots=True, eq=False)
class TreePart:
    """A part of a tree that is not put together yet, since its leaves stand for others."""

    treedef: Any
    leaves: tuple[Any, ...]

    def put_together(self) -> Any:
        """The part, now that its leaves are in their places."""
        return put_together(self.treedef, self.leaves, "a part of the tree")

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """For JAX."""
        return self.leaves, self.treedef

    @classmethod
    def tree_unflatten(cls, treedef: Any, leaves: Any) -> "TreePart":
        """For JAX."""
        return cls(treedef, tuple(leaves))


def nodes_of(tree: Any, treedef: Any) -> TreeNode:
    """The root of ``tree``.

    Args:
        tree: any pytree.
        treedef: its structure, with ``None`` counted as a leaf.
    """
    return _node(tree, BARE_LEAF, treedef, 0)


def _node(value: Any, name: str, treedef: Any, first: int) -> TreeNode:
    data = treedef.node_data()
    if data is None:
        return TreeNode(name, None, treedef, first, first + 1, (), _beside_leaf(value, name))
    kind, metadata = data
    below = list(_below(value, kind, metadata))
    children, stop = [], first
    for (key, child), inner in zip(below, treedef.children(), strict=True):
        children.append(_node(child, _inside(name, key), inner, stop))
        stop = children[-1].last
    statics = {
        name if key is None else _inside(name, key): static
        for key, static in _beside(value, kind, metadata, [key for key, _ in below])
    }
    return TreeNode(name, kind, treedef, first, stop, tuple(children), statics)


def _inside(name: str, key: Any) -> str:
    return name_of_key(key) if name == BARE_LEAF else f"{name}/{name_of_key(key)}"


def _below(value: Any, kind: type, metadata: Any) -> Iterator[tuple[Any, Any]]:
    """The children of a node, with their keys."""
    if kind is dict:
        yield from ((DictKey(key), value[key]) for key in metadata)
    elif kind in (list, tuple):
        yield from ((SequenceKey(i), child) for i, child in enumerate(value))
    else:
        flatten = jax.tree_util.tree_flatten_with_path
        below, _ = taken_apart(flatten, value, lambda node: node is not value)
        yield from ((path[0], child) for path, child in below)


def _beside_leaf(value: Any, name: str) -> dict[str, Static]:
    """What a function is beside its name: arguments of a partial one, the object of a method."""
    if not callable(value):
        return {}
    static = Static.of(value)
    return {} if static.text == f"function {qualified_name(value)}" else {name: static}


def _beside(
    value: Any, kind: type, metadata: Any, keys: Sequence[Any]
) -> Iterator[tuple[Any, Static]]:
    """What a node holds beside its children, with the key of a field; None for all of it."""
    fields = _static_fields(value, metadata, keys)
    if fields is not None:
        yield from ((GetAttrKey(name), Static.of(held)) for name, held in fields.items())
    is_said = fields is not None or kind in _CONTAINERS or _says_keys(metadata, keys)
    static = Static() if is_said else Static.of(metadata)
    if not keys:
        static.text = " ".join(filter(None, (_EMPTY.get(kind, kind.__qualname__), static.text)))
    if static.text:
        yield None, static


def _static_fields(value: Any, metadata: Any, keys: Sequence[Any]) -> dict[str, Any] | None:
    """The fields of a dataclass that are no children, where these are all of its metadata."""
    if not dataclasses.is_dataclass(value):
        return None
    children = {getattr(key, "name", None) for key in keys}
    names = [f.name for f in dataclasses.fields(value) if f.name not in children]
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    if any(base.__module__.startswith("equinox.") for base in type(value).__mro__):
        return fields  # beside them its metadata has what it wraps
    held = () if metadata is None else metadata
    if type(held) is not tuple or len(held) != len(fields):
        return None
    is_each = (item is kept for item, kept in zip(held, fields.values(), strict=True))
    return fields if all(is_each) else None


def _says_keys(metadata: Any, keys: Sequence[Any]) -> bool:
    """Whether the metadata of a node only repeat what its children are called, or say nothing."""
    if metadata is None:
        return True
    said = [getattr(key, "key", getattr(key, "name", None)) for key in keys]
    plain = isinstance(metadata, list | tuple) and all(type(m) in (str, int) for m in metadata)
    return plain and list(metadata) == said
