"""Kinds of edges, and what a name is. A set of kinds is a mask: one bit a kind."""

from collections.abc import Iterable
from typing import Any

from mmsb_jax._base.arguments import show

KINDS: tuple[str, ...] = ("data", "control", "device_sync", "compiler")
"""What an edge may be, in the order in which several of them between two nodes are listed."""

ALL_KINDS = (1 << len(KINDS)) - 1
"""The mask of every kind."""

_MASKS = {kind: 1 << position for position, kind in enumerate(KINDS)}
_LISTED = tuple(
    tuple(kind for kind, bit in _MASKS.items() if mask & bit) for mask in range(ALL_KINDS + 1)
)


def mask_of(kind: Any) -> int:
    """The mask of one kind."""
    # What cannot be hashed is no kind either.
    mask = _MASKS.get(kind) if isinstance(kind, str) else None
    if mask is None:
        raise ValueError(f"kind={show(kind)}: expected one of {', '.join(map(repr, KINDS))}")
    return mask


def wanted(kind: Any) -> int:
    """The mask that a query for ``kind`` selects: every kind for None."""
    return ALL_KINDS if kind is None else mask_of(kind)


def kinds_of(mask: int) -> tuple[str, ...]:
    """The kinds in a mask, in the order of `KINDS`."""
    return _LISTED[mask]


def check_name(name: Any) -> str:
    """``name`` if it can name a node."""
    if not isinstance(name, str):
        raise TypeError(
            f"{show(name)} is a {type(name).__name__}: expected the name of a node, a string"
        )
    if not name:
        raise ValueError("the name of a node is empty: expected at least one character")
    return str(name)


def each(several: Any, what: str) -> list[Any]:
    """``several`` as a list."""
    if not isinstance(several, Iterable):
        raise TypeError(
            f"{what}={show(several)} is a {type(several).__name__}: expected several, as a list"
        )
    return several if isinstance(several, list) else list(several)
