"""Comparing structures: every difference, for commits, checkouts and `like`."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._core.tree.leaves import Constant, LeafSpec
from mmsb_jax._core.tree.statics import Static

Leaf = LeafSpec | Constant
_PYTHON_KINDS = {"bool": "b", "int": "i", "float": "f", "complex": "c"}


class Difference(NamedTuple):
    """A path at which two structures differ.

    Attributes:
        path: where.
        was: what is recorded there; None for nothing.
        now: what is there now; None for nothing.
    """

    path: str
    was: Any
    now: Any


def differing_leaves(recorded: Mapping[str, Leaf], now: Mapping[str, Leaf]) -> Iterator[Difference]:
    """Where leaves differ, by path."""
    for path in sorted(recorded.keys() | now.keys()):
        was, leaf = recorded.get(path), now.get(path)
        if was is None or leaf is None or not is_compatible(was, leaf):
            yield Difference(path, was, leaf)


def differing_statics(
    recorded: Mapping[str, str], now: Mapping[str, Static]
) -> Iterator[Difference]:
    """Where what is no leaf differs, by path: its texts."""
    for path in sorted(recorded.keys() | now.keys()):
        was, text = recorded.get(path), now[path].text if path in now else None
        if was != text:
            yield Difference(path, was, text)


def is_same_kind(recorded: LeafSpec, arriving: LeafSpec) -> bool:
    """Whether a leaf may take the place of another without a new structure.

    The same shape and dtype, in JAX or in NumPy; or scalars of one kind: a Python float and a 0-d
    array of any float. Which of them it was is recorded with the commit.
    """
    if recorded.kind.startswith("key:") or arriving.kind.startswith("key:"):
        return recorded == arriving
    if recorded.shape != arriving.shape:
        return False
    if recorded.dtype == arriving.dtype:
        return True
    has_python = recorded.kind in _PYTHON_KINDS or arriving.kind in _PYTHON_KINDS
    return has_python and _number_kind(recorded.dtype) == _number_kind(arriving.dtype)


def _number_kind(dtype: str) -> str:
    kind = parse_dtype(dtype).kind
    return {"u": "i", "V": "f"}.get(kind, kind)


def is_compatible(was: LeafSpec | Constant, now: LeafSpec | Constant) -> bool:
    """Whether a leaf may take the place of another without a new structure."""
    if isinstance(was, LeafSpec) and isinstance(now, LeafSpec):
        return is_same_kind(was, now)
    if isinstance(was, Constant) and isinstance(now, Constant):
        # Strings and large integers are values; a function or None is structure.
        return was == now or (was.kind == now.kind and was.kind in ("str", "int"))
    return _is_integer(was) and _is_integer(now)


def _is_integer(leaf: LeafSpec | Constant) -> bool:
    """Whether a Python int may stand there: of 64 bits an array, beyond them a constant."""
    if isinstance(leaf, Constant):
        return leaf.kind == "int"
    is_number = leaf.shape == () and not leaf.kind.startswith("key:")
    return is_number and _number_kind(leaf.dtype) == "i"
