"""Inputs: what the names and patterns of a derived array stand for, as a function's arguments."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import StructureError
from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.trees.tree import TreeShape, constant_of, part_of_pattern, spec_of
from mmsb_jax._compile.body import Slot
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._core.tree.leaves import LeafSpec, is_holdable
from mmsb_jax._core.tree.nodes import TreePart
from mmsb_jax._graph.run.node import Arguments, Node, Rule
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.state.overlay import TableOverlay
from mmsb_jax._store.state.state import Table


class Arrays(TableOverlay):
    """The arrays and constants as a draft leaves them.

    Attributes:
        shape: structure of the committed tree after it, where that is known.
    """

    def __init__(self, table: Table, draft: Draft, shape: TreeShape | None) -> None:
        super().__init__(table, draft.ops)
        self.shape = shape
        self._draft = draft

    def has_constant(self, name: str) -> bool:
        """Whether a leaf that is kept by value has the name."""
        values = self._draft.values if name in self._draft.values else self.table.values
        return values.get(name) is not None

    def constants(self) -> dict[str, str]:
        """The leaves that are kept by value."""
        after = self.table.values | self._draft.values
        return {name: value for name, value in after.items() if value is not None}


def arguments_of(
    inputs: Iterable[str], arrays: Arrays, own: Collection[str], nodes: Mapping[str, Node]
) -> Arguments:
    """What a function that reads ``inputs`` is called with.

    A name is its array. A pattern, or the path of a part of a tree, is that part: in the structure
    of the committed tree where this process knows it, else a dict by name.

    Args:
        inputs: names and patterns.
        arrays: the arrays there are.
        own: arrays that the function makes; no pattern selects them.
        nodes: what is derived, to find the structure of its results.
    """
    arguments = Arguments()
    arguments.trees = tuple(_one(name, arrays, own, nodes, arguments) for name in inputs)
    return arguments


def names_of(pattern: str, arrays: Arrays, own: Collection[str] = ()) -> list[str]:
    """The arrays that a name or pattern selects; may be none."""
    if arrays.find(pattern) is not None:
        return [pattern]
    wanted = matcher([pattern])
    return [name for name in arrays.names() if wanted.fullmatch(name) and name not in own]


def _one(
    pattern: str,
    arrays: Arrays,
    own: Collection[str],
    nodes: Mapping[str, Node],
    arguments: Arguments,
) -> Any:
    info = arrays.find(pattern)
    if info is not None:
        return _slot(arguments, pattern, info)
    names = names_of(pattern, arrays, own)
    if not names:
        raise array_not_found(pattern, arrays.names())
    slots: dict[str, Any] = {}
    for name in names:
        info = arrays.find(name)
        assert info is not None
        slots[name] = _slot(arguments, name, info)
    node = nodes.get(pattern)
    if node is not None and node.traced is not None:
        return TreePart(node.traced.treedef, tuple(slots[n] for n in node.outputs))
    return _part_of_tree(slots, arrays, pattern) or slots


def unattached(rule: Rule, serial: int, outputs: Sequence[str], arrays: Arrays) -> Node:
    """The node of a rule whose function is not here: what it reads and makes is known, no more."""
    reads = tuple(name for text in rule.inputs for name in names_of(text, arrays, outputs))
    return Node(rule, serial, tuple(dict.fromkeys(reads)), tuple(outputs), reads)


def _slot(arguments: Arguments, name: str, info: ArrayInfo) -> Slot:
    """The place of one more array."""
    spec = spec_of(info)
    _check_computable(name, spec)
    if spec.kind in ("numpy", "scalar"):  # to a function these are arrays like any other
        spec = dataclasses.replace(spec, kind="jax")
    return arguments.add(name, spec)


def _part_of_tree(slots: dict[str, Slot], arrays: Arrays, pattern: str) -> Any:
    """The part of the committed tree that holds exactly these arrays; None where there is none.

    Of several, one in the other, it is the one that the pattern begins with: ``params/**`` stands
    for what lies at ``params`` also where the tree holds nothing else.
    """
    shape = arrays.shape
    if shape is None or not slots.keys() <= set(shape.names):
        return None
    if not shape.constants.keys() <= arrays.constants().keys():
        return None
    # Strings and None that the pattern selects belong to the part; they are no arrays.
    selects, constants = matcher([pattern]).fullmatch, arrays.constants()
    wanted = {*slots, *filter(selects, shape.constants)}
    node = shape.part(wanted.__contains__, part_of_pattern(pattern))
    if node is None:
        return None
    return TreePart(
        node.treedef,
        tuple(
            shape.leaves_of(
                node, lambda n: slots[n] if n in slots else constant_of(constants[n]).value
            )
        ),
    )


def _check_computable(name: str, spec: LeafSpec) -> None:
    with jax.enable_x64(True):
        if is_holdable(np.dtype(parse_dtype(spec.dtype))):
            return
    raise StructureError(
        f"{name!r} is {spec}, which JAX cannot compute with. Derive from arrays of numbers."
    )
