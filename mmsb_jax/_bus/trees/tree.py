"""Trees against the table of arrays: is this the structure that is recorded, and if not, what
differs; and trees back from bytes."""

import functools
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.errors import CorruptionError, FormatError, StructureError
from mmsb_jax._base.texts import MAX_DIGITS, MAX_INTEGER, encoded, from_decimal, to_decimal
from mmsb_jax._bus.trees.compare import differing_leaves, differing_statics, is_same_kind
from mmsb_jax._bus.trees.living import LivingLeaves
from mmsb_jax._bus.trees.recorded import changed_entries, entries_of, show_pair, statics_in
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.tree.leaves import Constant, LeafSpec, describe, qualified_name, view_as
from mmsb_jax._core.tree.nodes import TreeNode, nodes_of
from mmsb_jax._core.tree.paths import (
    flatten_with_names,
    is_same_treedef,
    name_of_path,
    put_together,
    taken_apart,
)
from mmsb_jax._store.format.record import GRAPH_PREFIX, MAX_NAME_BYTES, ArrayInfo, Op, OpCode
from mmsb_jax._store.state.state import Table

_INT64 = range(-(2**63), 2**63)
_MOST_EARLIER = 15
"""So many structures of earlier versions are kept."""

Leaves = dict[str, LeafSpec | Constant]
"""Name → what the leaf is."""


def tag_constant(constant: Constant) -> str:
    """A constant as the log keeps it."""
    prefix = {"none": "n", "str": "s", "int": "i", "function": "f"}[constant.kind]
    if isinstance(constant.value, int):
        return f"{prefix}:{to_decimal(constant.value)}"
    return f"{prefix}:{constant.value or ''}"


def constant_of(tagged: str) -> Constant:
    """The constant that `tag_constant` wrote."""
    prefix, _, text = tagged.partition(":")
    kind = {"n": "none", "s": "str", "i": "int", "f": "function"}.get(prefix)
    if kind is None:
        raise FormatError(
            f"a constant of unknown kind: {tagged[:80]!r}. Upgrade mmsb-jax to read it."
        )
    if kind != "int":
        return Constant(kind, None if kind == "none" else text)
    try:
        return Constant(kind, from_decimal(text))
    except ValueError as error:
        raise CorruptionError(f"{tagged[:80]!r} is recorded as a number, and is none") from error


class TreeShape:
    """The structure of a tree, and a quick way to see that another tree has it.

    Attributes:
        layout: regions and constants, by name.
        root: its nodes, and what they hold that is no leaf.
        leaf_names: name of every leaf, in the order of the tree.
        names: name of every data leaf.
        constants: name → tagged value of the leaves kept by value.
        is_recorded: whether the log says all of it; else the next commit looks at it anew.
        since: the version that had it first, as far as this process knows.
        earlier: structures that versions before had, newest first.
    """

    def __init__(self, tree: Any, page_bytes: int) -> None:
        check_references(tree)
        self.layout = Layout.of(tree, page_bytes)
        self.leaf_names, leaves, treedef = flatten_with_names(tree)
        self.root = nodes_of(tree, treedef)
        self._rest = dict(self.layout.constants)
        self.names = [region.name for region in self.layout.regions]
        self.constants = {
            self.leaf_names[i]: tag_constant(_constant(leaf, self.leaf_names[i]))
            for i, leaf in self._rest.items()
        }
        self.statics = {path: s for node in self.root.walk() for path, s in node.statics.items()}
        self.weak = {
            name
            for name, leaf in zip(self.leaf_names, leaves, strict=True)
            if getattr(leaf, "weak_type", False)
        }
        _check_names([*self.leaf_names, *self.statics])
        plain, self._plain_treedef = jax.tree_util.tree_flatten(tree)
        kept = iter(i for i, leaf in enumerate(leaves) if leaf is not None)
        self._plain = [_Signature(leaf, next(kept) not in self._rest) for leaf in plain]
        self._is_watched = any(static.can_change for static in self.statics.values())
        self.is_recorded = True
        self.since = 0
        self.earlier: tuple[TreeShape, ...] = ()

    @functools.cached_property
    def parts(self) -> frozenset[str]:
        """The paths of the parts of the tree that hold more than one leaf, or one further down."""
        return frozenset(
            name[:i] for name in self.leaf_names for i, c in enumerate(name) if c == "/"
        )

    @property
    def entries(self) -> dict[str, str]:
        """What is recorded of it beside its leaves."""
        return entries_of(self.texts, self.weak)

    @property
    def leaves(self) -> "Leaves":
        """What each leaf is, by name."""
        arriving: Leaves = {region.name: region.spec for region in self.layout.regions}
        return arriving | {name: constant_of(value) for name, value in self.constants.items()}

    @property
    def texts(self) -> dict[str, str]:
        """What is recorded of that which is no leaf, by path."""
        return {path: static.text for path, static in self.statics.items()}

    def fits(self, leaves: "Leaves", texts: Mapping[str, str] | None) -> bool:
        """Whether a tree of this structure may take the place of one of these leaves and statics.

        Args:
            leaves: what each leaf is, by name.
            texts: what is no leaf, by path; None where that is not known.
        """
        if any(differing_leaves(leaves, self.leaves)):
            return False
        return texts is None or not any(differing_statics(texts, self.statics))

    def succeed(self, before: "TreeShape | None", version: int) -> None:
        """Take the place of the structure ``before``, from ``version`` on."""
        self.since = version
        if before is None or before is self:
            return
        if before.root.is_same(self.root):  # strings and functions are others, no more
            self.since, self.earlier = before.since, before.earlier
        else:
            self.earlier = (before, *before.earlier)[:_MOST_EARLIER]
        before.earlier = ()

    def data_of(
        self, tree: Any, seen: LivingLeaves | None = None
    ) -> tuple[list[Any], Sequence[int]] | None:
        """The data leaves of a tree of this very structure; None for any other.

        Args:
            tree: the tree.
            seen: data leaves that were of this structure, and need not be looked at again.

        Returns:
            The leaves, and which of them are not those that were seen.

        Cost: about 0.2 µs a leaf that was not seen. Where a node holds an array, or what can be
        changed in place, beside its leaves, all nodes are looked at: about 10 µs each.
        """
        if not self.is_recorded:
            return None
        try:
            leaves, treedef = jax.tree_util.tree_flatten(tree)
        except Exception:  # a new `TreeShape` says what is wrong
            return None
        if not (self._has_same_nodes(tree) if self._is_watched else self._is_as(treedef)):
            return None
        is_data_alone = not self._rest
        places = seen.others(leaves) if seen is not None and is_data_alone else range(len(leaves))
        for i in places:
            leaf, known = leaves[i], self._plain[i]
            if type(leaf) is not known.type or not known.matches(leaf):
                return None
        if is_data_alone:
            return leaves, places
        data = [leaf for leaf, known in zip(leaves, self._plain, strict=True) if known.is_data]
        return data, range(len(data)) if seen is None else seen.others(data)

    def _is_as(self, treedef: Any) -> bool:
        return is_same_treedef(treedef, self._plain_treedef)

    def _has_same_nodes(self, tree: Any) -> bool:
        _, _, treedef = flatten_with_names(tree)
        return nodes_of(tree, treedef).is_same(self.root)

    def data_leaves(self, tree: Any) -> list[Any]:
        """The data leaves of the tree that this is the shape of."""
        leaves = flatten_with_names(tree)[1]
        return [leaf for i, leaf in enumerate(leaves) if i not in self._rest]

    def part(self, wanted: Callable[[str], bool], place: str = "") -> TreeNode | None:
        """The node that holds exactly the leaves whose name is wanted; see `TreeNode.part`."""
        return self.root.part(lambda i: wanted(self.leaf_names[i]), place)

    def leaves_of(self, node: TreeNode, leaf_of: Callable[[str], Any]) -> list[Any]:
        """The leaves of a node, by their names; functions are those of the tree.

        Args:
            node: one of this structure.
            leaf_of: gives any other leaf.
        """
        named = enumerate(self.leaf_names[node.first : node.last], node.first)
        return [
            self._rest[i] if callable(self._rest.get(i)) else leaf_of(name) for i, name in named
        ]

    def build(self, leaf_of: Callable[[str], Any], node: TreeNode | None = None) -> Any:
        """A tree of this structure, or one node of it, of what ``leaf_of`` gives for each name."""
        node = self.root if node is None else node
        return put_together(node.treedef, self.leaves_of(node, leaf_of), repr(node.name))


def _check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot be recorded."""
    for name in names:
        if name.startswith(GRAPH_PREFIX):
            raise StructureError(f"the path {name!r} begins with NUL. Rename the key.")
        raw = encoded(name, "the path")
        if len(raw) > MAX_NAME_BYTES:
            raise StructureError(
                f"a path of {len(raw)} bytes: {name[:80]}… At most {MAX_NAME_BYTES} bytes can be "
                f"recorded; shorten the keys of the tree."
            )


class _Signature:
    """What a leaf must be to be the same leaf as before."""

    __slots__ = ("aval", "dtype", "is_data", "shape", "type", "value")

    def __init__(self, leaf: Any, is_data: bool) -> None:
        self.type = type(leaf)
        self.is_data = is_data
        self.aval = leaf.aval if isinstance(leaf, jax.Array) else None
        self.shape = getattr(leaf, "shape", None) if is_data else None
        self.dtype = getattr(leaf, "dtype", None) if is_data else None
        self.value = None if is_data else leaf

    def matches(self, leaf: Any) -> bool:
        if not self.is_data:
            return leaf is self.value or (type(leaf) in (str, int) and leaf == self.value)
        if self.aval is not None:
            return self._is_as(leaf.aval)
        if self.dtype is not None:
            return leaf.shape == self.shape and leaf.dtype == self.dtype
        return type(leaf) is not int or leaf in _INT64

    def _is_as(self, aval: Any) -> bool:
        known: Any = self.aval
        return aval is known or (
            aval.shape == known.shape
            and aval.dtype == known.dtype
            and aval.weak_type == known.weak_type
        )


def _constant(leaf: Any, name: str) -> Constant:
    described = describe(leaf, name)
    assert isinstance(described, Constant)
    if isinstance(described.value, str):
        encoded(described.value, f"{name}: the text")
    elif described.value is not None and abs(described.value) > MAX_INTEGER:
        raise StructureError(
            f"{name}: an int of more than {MAX_DIGITS} digits, which cannot be recorded. Record "
            f"its bytes (int.to_bytes) as an array."
        )
    return described


def check_references(tree: Any) -> None:
    """Refuse what would come back as copies: Variables of Flax NNX that a tree holds twice."""
    if "flax.nnx" not in sys.modules:
        return
    flatten, paths = jax.tree_util.tree_flatten_with_path, {}
    for path, node in taken_apart(flatten, tree, lambda node: _is_nnx(node, "Variable"))[0]:
        name = name_of_path(path)
        if _is_nnx(node, "Variable"):
            if id(node) in paths:
                raise StructureError(
                    f"{paths[id(node)]} and {name} are one {qualified_name(type(node))}, and would "
                    f"come back as two. Commit nnx.state(model), and put it back with "
                    f"nnx.update(model, state)."
                )
            paths[id(node)] = name
        elif _is_nnx(node, "Module"):
            raise StructureError(
                f"{name}: a {qualified_name(type(node))} is no pytree in this version of Flax. "
                f"Commit nnx.state(model), and put it back with nnx.update(model, state)."
            )


def _is_nnx(node: Any, name: str) -> bool:
    """Whether a node is an instance of a class of `flax.nnx`, which is not imported for it."""
    return any(
        kind.__name__ == name and kind.__module__.startswith("flax.nnx")
        for kind in type(node).__mro__
    )


def spec_of(info: ArrayInfo) -> LeafSpec:
    """What an array of the table is."""
    return LeafSpec(info.kind, info.dtype, info.shape)


def info_of(array_id: int, name: str, spec: LeafSpec, member: bool) -> ArrayInfo:
    """An array for the table."""
    return ArrayInfo(array_id, name, spec.kind, spec.dtype, spec.shape, member)


@dataclass(slots=True)
class Reconciled:
    """How a tree enters the log: operations before it, constants, and the id of each data leaf."""

    ops: list[Op] = field(default_factory=list)
    values: dict[str, str | None] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)


def reconcile(
    table: Table,
    shape: TreeShape,
    allow_new: bool,
    made: Collection[str] = (),
    before: TreeShape | None = None,
) -> Reconciled:
    """What must happen to the table for a tree of ``shape`` to be committed.

    Args:
        table: what is recorded.
        shape: structure of the tree.
        allow_new: whether it may be another structure.
        made: names of arrays that are recorded before it, and have the next ids.
        before: the structure of the newest tree, where this process knows it.
    """
    members = {info.name: info for info in table.arrays.values() if info.member}
    if not allow_new and (members or table.values or statics_in(table) is not None):
        differing = differences(table, shape, before)
        if differing:
            listed = "\n".join(f"  {line}" for line in differing)
            raise StructureError(
                f"the tree differs from the structure recorded at {len(differing)} paths:\n"
                f"{listed}\nCommit a tree of the same structure, or record the new one with "
                f"commit(tree, structure='new')."
            )
    _refuse_taken([*shape.names, *shape.constants], (table.ids.keys() - members.keys()) | set(made))
    return _reconcile(table, shape, members, table.next_id + len(made))


def _refuse_taken(names: Sequence[str], taken: Collection[str]) -> None:
    twice = [name for name in names if name in taken]
    if twice:
        raise StructureError(
            f"the tree has leaves at {', '.join(map(repr, twice))}, and arrays of these names were "
            f"made with bus.create, bus.clone or bus.derive. Delete those, or rename the leaves."
        )


def _reconcile(
    table: Table, shape: TreeShape, members: Mapping[str, ArrayInfo], next_id: int
) -> Reconciled:
    done = Reconciled()
    arriving = {region.name: region.spec for region in shape.layout.regions}
    for name, info in members.items():
        if name not in arriving or not is_same_kind(spec_of(info), arriving[name]):
            done.ops.append(Op(OpCode.DELETE, info))
    gone = {op.info.name for op in done.ops}
    for name, spec in arriving.items():
        info = members.get(name)
        if info is None or name in gone:
            info = info_of(next_id, name, spec, member=True)
            next_id += 1
            done.ops.append(Op(OpCode.CREATE, info))
        elif spec_of(info) != spec:
            info = info_of(info.id, name, spec, member=True)
            done.ops.append(Op(OpCode.UPDATE, info))
        done.ids.append(info.id)
    for name in table.values:
        if name not in shape.constants:
            done.values[name] = None
    for name, value in shape.constants.items():
        if table.values.get(name) != value:
            done.values[name] = value
    done.values |= changed_entries(table, shape.entries)
    return done


def recorded_leaves(table: Table) -> Leaves:
    """What each leaf of the committed tree is, by name."""
    recorded: Leaves = {info.name: spec_of(info) for info in table.arrays.values() if info.member}
    return recorded | {name: constant_of(value) for name, value in table.values.items()}


def differences(table: Table, shape: TreeShape, before: TreeShape | None = None) -> list[str]:
    """A line a path at which a tree differs from what is recorded.

    Args:
        table: what is recorded.
        shape: structure of the tree.
        before: the structure recorded, where this process knows it.
    """
    lines = [
        f"{path}: new, {now}"
        if was is None
        else f"{path}: missing, was {was}"
        if now is None
        else f"{path}: {now}, was {was}"
        for path, was, now in differing_leaves(recorded_leaves(table), shape.leaves)
    ]
    return lines + _static_lines(table, shape, before)


def _static_lines(table: Table, shape: TreeShape, before: TreeShape | None) -> list[str]:
    recorded, known = statics_in(table), {} if before is None else before.statics
    if recorded is None:
        if before is None:
            return []  # the log is older than statics: this tree gives them
        recorded = {path: static.text for path, static in known.items()}
    lines = {
        path: f"new, static {now}"
        if was is None
        else f"missing, was static {was}"
        if now is None
        else "static {}, was {}".format(*show_pair(now, was))
        for path, was, now in differing_statics(recorded, shape.statics)
    }
    for path, static in shape.statics.items():
        if path in lines or path not in known or known[path].text != static.text:
            continue
        if not static.is_same(known[path]):
            lines[path] = f"static {static.text}, which does not equal (==) the one before"
    return [f"{path}: {line}" for path, line in sorted(lines.items())]


def part_of_pattern(pattern: str) -> str:
    """The path that a pattern begins with, in whole keys: ``params`` for ``params/**``."""
    place = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return place if place == pattern else place.rpartition("/")[0]


def as_array(words: np.ndarray, spec: LeafSpec) -> np.ndarray:
    """A copy of an array's words as the array, held by nobody else."""
    return view_as(spec, words.view(np.uint8)[: spec.nbytes].copy())
